//! Events of one generation on their way from the worker's socket to a client.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aluco_proto::{Failure, FailureKind, GenerationEvent, LoadedModel};
use tokio::sync::Notify;

use crate::{
    Recovery,
    recovery::Flight,
    shared::{Owner, RequestGuard},
};

/// From this many waiting events on, deltas are merged: a client that lags gets fewer and larger ones.
const MERGE_FROM: usize = 64;

/// A client that lets more than this pile up has its request cancelled.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A running generation. Dropping it cancels the request.
pub struct Generation {
    name: Arc<str>,
    model: Arc<LoadedModel>,
    flight: Arc<Flight>,
    /// Taken from the queue before the generation was handed out.
    first: Option<GenerationEvent>,
    is_over: bool,
    /// The fleet lives while something runs in it.
    _owner: Arc<Owner>,
}

impl Generation {
    pub(crate) fn new(
        name: Arc<str>,
        model: Arc<LoadedModel>,
        flight: Arc<Flight>,
        owner: Arc<Owner>,
    ) -> Self {
        Self {
            name,
            model,
            flight,
            first: None,
            is_over: false,
            _owner: owner,
        }
    }

    /// Waits until the worker has accepted or refused the request.
    pub(crate) async fn accepted(mut self) -> Result<Self, Failure> {
        match self.next().await {
            Some(GenerationEvent::Failed(failure)) => Err(failure),
            first => {
                self.first = first;
                Ok(self)
            }
        }
    }

    /// Canonical name of the model that generates.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The model that generates.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// The workers that were lost on the way, and how the model is run since. Complete once the terminal event has come.
    pub fn recovery(&self) -> Recovery {
        self.flight.recovery()
    }

    /// The next event; `None` after the terminal one. When a worker dies there is a pause, and the stream goes on where it was from another
    /// one; only if none can take it, or the request itself ends workers, `Failed` comes with the cause.
    ///
    /// A client may take its time: deltas that wait are merged, and one that leaves more than 8 MiB unread has its request
    /// cancelled and reads `Failed` with `FailureKind::Overloaded` at the end of what had come.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.is_over {
            return None;
        }
        let event = self.flight.queue.next().await;
        self.is_over = event.is_terminal();
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.flight.abandon();
    }
}

/// A queue that its producer never waits for.
pub(crate) struct EventQueue {
    state: Mutex<State>,
    ready: Notify,
}

struct State {
    events: VecDeque<GenerationEvent>,
    bytes: usize,
    /// Nothing more is to be queued: a terminal event is, or the client is gone.
    is_closed: bool,
    /// The request counts as running until the worker's terminal event, whatever the client does.
    guard: Option<RequestGuard>,
}

/// The client let too much pile up.
#[derive(Debug)]
pub(crate) struct Overflow;

impl EventQueue {
    pub(crate) fn new(guard: Option<RequestGuard>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                events: VecDeque::new(),
                bytes: 0,
                is_closed: false,
                guard,
            }),
            ready: Notify::new(),
        })
    }

    /// Adds an event. At an overflow the queue ends itself with a failure; the request should be cancelled then.
    pub(crate) fn push(&self, event: GenerationEvent) -> Result<(), Overflow> {
        // Declared first, so that it goes after the lock is released: its own end takes another lock.
        let _guard;
        let mut state = self.state();
        if event.is_terminal() {
            _guard = state.guard.take();
        }
        if state.is_closed {
            return Ok(());
        }
        state.is_closed = event.is_terminal();
        state.bytes += size(&event);
        let result = if state.bytes > WAITING_BYTES_MAX && !state.is_closed {
            state.is_closed = true;
            let failure = too_slow(state.bytes);
            state.bytes -= size(&event);
            state.events.push_back(GenerationEvent::Failed(failure));
            Err(Overflow)
        } else {
            state.add(event);
            Ok(())
        };
        self.ready.notify_one();
        result
    }

    async fn next(&self) -> GenerationEvent {
        loop {
            {
                let mut state = self.state();
                if let Some(event) = state.events.pop_front() {
                    state.bytes -= size(&event);
                    return event;
                }
            }
            self.ready.notified().await;
        }
    }

    /// The request is with another worker from here on.
    pub(crate) fn hold(&self, guard: RequestGuard) {
        let before = self.state().guard.replace(guard);
        // Its end takes another lock.
        drop(before);
    }

    /// The request is with no worker.
    pub(crate) fn release(&self) {
        let guard = self.state().guard.take();
        drop(guard);
    }

    /// True if nobody waits for more.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// The client is gone; true if the request is to be cancelled.
    pub(crate) fn abandon(&self) -> bool {
        let mut state = self.state();
        let was_running = !state.is_closed;
        state.is_closed = true;
        state.events.clear();
        was_running
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Queues an event, merged into an earlier one if the client lags.
    fn add(&mut self, event: GenerationEvent) {
        if self.events.len() < MERGE_FROM {
            self.events.push_back(event);
            return;
        }
        match event {
            GenerationEvent::Delta {
                choice,
                text,
                tokens,
                logprobs,
                speculated,
            } => {
                // Deltas of different choices have no order among them, so a later delta may join an earlier one of its choice.
                let earlier = self
                    .events
                    .iter_mut()
                    .rev()
                    .map_while(|event| match event {
                        GenerationEvent::Delta {
                            choice,
                            text,
                            tokens,
                            logprobs,
                            ..
                        } => Some((*choice, text, tokens, logprobs)),
                        _ => None,
                    })
                    .find(|earlier| earlier.0 == choice);
                if let Some((_, earlier_text, earlier_tokens, earlier_logprobs)) = earlier {
                    earlier_text.push_str(&text);
                    earlier_tokens.extend(tokens);
                    earlier_logprobs.extend(logprobs);
                } else {
                    self.events.push_back(GenerationEvent::Delta {
                        choice,
                        text,
                        tokens,
                        logprobs,
                        speculated,
                    });
                }
            }
            GenerationEvent::Prefill { .. } => match self.events.back_mut() {
                Some(last @ GenerationEvent::Prefill { .. }) => *last = event,
                _ => self.events.push_back(event),
            },
            event => self.events.push_back(event),
        }
    }
}

/// Bytes that an event holds on the heap. Additive: merged deltas weigh what they weighed apart.
fn size(event: &GenerationEvent) -> usize {
    match event {
        GenerationEvent::Delta {
            text,
            tokens,
            logprobs,
            ..
        } => {
            let logprobs: usize = logprobs
                .iter()
                .map(|logprob| {
                    size_of_val(logprob)
                        + logprob.bytes.len()
                        + logprob
                            .top
                            .iter()
                            .map(|alternative| size_of_val(alternative) + alternative.bytes.len())
                            .sum::<usize>()
                })
                .sum();
            text.len() + size_of_val(tokens.as_slice()) + logprobs
        }
        _ => 0,
    }
}

fn too_slow(bytes: usize) -> Failure {
    Failure {
        kind: FailureKind::Overloaded,
        message: format!(
            "the answer was not read: {bytes} bytes of it waited, so the request was cancelled"
        ),
    }
}

/// One token of a choice, for tests.
#[cfg(test)]
pub(crate) fn delta(choice: u32, text: &str) -> GenerationEvent {
    GenerationEvent::Delta {
        choice,
        text: text.to_owned(),
        tokens: vec![7],
        logprobs: Vec::new(),
        speculated: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> GenerationEvent {
        GenerationEvent::Done {
            usage: aluco_proto::Usage::default(),
            timings: aluco_proto::Timings::default(),
        }
    }

    async fn drain(queue: &EventQueue) -> Vec<GenerationEvent> {
        let mut events = Vec::new();
        loop {
            let event = queue.next().await;
            let is_last = event.is_terminal();
            events.push(event);
            if is_last {
                return events;
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_keeps_up_gets_every_event_as_it_was() {
        let queue = EventQueue::new(None);
        for index in 0..1000 {
            queue.push(delta(0, &index.to_string())).unwrap();
            assert_eq!(queue.next().await, delta(0, &index.to_string()));
        }
    }

    #[tokio::test]
    async fn a_client_that_lags_gets_fewer_deltas_and_all_of_the_text() {
        let queue = EventQueue::new(None);
        let mut expected = [String::new(), String::new()];
        for index in 0..10_000_u32 {
            let text = format!("{index} ");
            expected[index as usize % 2] += &text;
            queue.push(delta(index % 2, &text)).unwrap();
        }
        queue.push(done()).unwrap();
        let events = drain(&queue).await;
        assert!(events.len() < 2 * MERGE_FROM, "{} events", events.len());
        let mut texts = [String::new(), String::new()];
        let mut count = 0;
        for event in &events {
            if let GenerationEvent::Delta {
                choice,
                text,
                tokens,
                ..
            } = event
            {
                texts[*choice as usize] += text;
                count += tokens.len();
            }
        }
        assert_eq!(texts, expected);
        assert_eq!(count, 10_000);
        assert_eq!(queue.state().bytes, 0);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_cut_off_with_an_explicit_failure() {
        let queue = EventQueue::new(None);
        let text = "x".repeat(100_000);
        let pushed = (0..1000)
            .take_while(|_| queue.push(delta(0, &text)).is_ok())
            .count();
        assert!(pushed < 100, "{pushed} pushed");
        queue.push(delta(0, "late")).unwrap();
        queue.push(done()).unwrap();
        let events = drain(&queue).await;
        let Some(GenerationEvent::Failed(failure)) = events.last() else {
            panic!("ends with {:?}", events.last());
        };
        assert_eq!(failure.kind, FailureKind::Overloaded);
    }

    #[tokio::test]
    async fn an_abandoned_queue_holds_nothing() {
        let queue = EventQueue::new(None);
        queue.push(delta(0, "text")).unwrap();
        assert!(queue.abandon());
        queue.push(delta(0, "more")).unwrap();
        assert!(queue.state().events.is_empty());
        assert!(!queue.abandon(), "cancelled once only");
    }
}
