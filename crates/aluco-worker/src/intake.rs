//! Requests on their way to the model loop, and their cancellation, which must not wait for the preparation of other prompts.
//!
//! A generation is known from its arrival. While its prompt is rendered and tokenized, a cancel is noted; afterwards it goes to the loop
//! directly. Both happen under one lock, so that no cancel falls between the two.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, mpsc::Sender},
};

use aluco_proto::RequestId;

use crate::model_loop::{LoopCommand, Start};

/// What is on its way to one model's loop.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    to_loop: Option<Sender<LoopCommand>>,
    /// Requests that have not reached the loop; true if they are cancelled.
    preparing: HashMap<RequestId, bool>,
}

impl Intake {
    /// The loop that takes requests from now on; `None` when there is none any more.
    pub(crate) fn connect(&self, to_loop: Option<Sender<LoopCommand>>) {
        self.state().to_loop = to_loop;
    }

    /// A request has come.
    pub(crate) fn announce(&self, request: RequestId) {
        self.state().preparing.insert(request, false);
    }

    /// True if the request was cancelled before its preparation began; then it is forgotten.
    pub(crate) fn take_cancelled(&self, request: RequestId) -> bool {
        let mut state = self.state();
        let is_cancelled = state.preparing.get(&request).copied().unwrap_or(false);
        if is_cancelled {
            state.preparing.remove(&request);
        }
        is_cancelled
    }

    /// Gives a prepared request to the loop, and its cancellation behind it if that has come.
    pub(crate) fn start(&self, start: Start) {
        let mut state = self.state();
        let request = start.request;
        let is_cancelled = state.preparing.remove(&request).unwrap_or(false);
        if let Some(to_loop) = &state.to_loop {
            // The loop ends only after its sender is gone.
            let _ = to_loop.send(LoopCommand::Start(Box::new(start)));
            if is_cancelled {
                let _ = to_loop.send(LoopCommand::Cancel(request));
            }
        }
    }

    /// Forgets a request that could not be prepared.
    pub(crate) fn withdraw(&self, request: RequestId) {
        self.state().preparing.remove(&request);
    }

    /// Cancels a request wherever it is. Unknown ones are ignored.
    pub(crate) fn cancel(&self, request: RequestId) {
        let mut state = self.state();
        if let Some(is_cancelled) = state.preparing.get_mut(&request) {
            *is_cancelled = true;
        } else if let Some(to_loop) = &state.to_loop {
            let _ = to_loop.send(LoopCommand::Cancel(request));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, time::Instant};

    use aluco_prefix::Fetched;
    use aluco_proto::Sampling;

    use super::*;
    use crate::prompt::PreparedPrompt;

    fn start(request: RequestId) -> Start {
        Start {
            request,
            prompt: PreparedPrompt {
                tokens: vec![1],
                stops: Vec::new(),
                borders: Vec::new(),
                dropped_tokens: 0,
            },
            sampling: Sampling::default(),
            seed: 1,
            choices: 1,
            tokens_max: None,
            stop: Vec::new(),
            logprobs: None,
            client: String::new(),
            namespace: String::new(),
            fetched: Fetched::default(),
            resume: Vec::new(),
            tells_prompt: false,
            arrived: Instant::now(),
        }
    }

    #[test]
    fn a_cancel_reaches_a_request_wherever_it_is() {
        let intake = Intake::default();
        let (to_loop, commands) = channel();
        intake.connect(Some(to_loop));
        let [early, during, late] = [RequestId(1), RequestId(2), RequestId(3)];

        intake.announce(early);
        intake.cancel(early);
        assert!(intake.take_cancelled(early));

        intake.announce(during);
        assert!(!intake.take_cancelled(during));
        intake.cancel(during);
        intake.start(start(during));

        intake.announce(late);
        intake.start(start(late));
        intake.cancel(late);

        intake.connect(None);
        let seen: Vec<_> = commands
            .iter()
            .map(|command| match command {
                LoopCommand::Start(start) => ("start", start.request),
                LoopCommand::Cancel(request) => ("cancel", request),
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("start", during),
                ("cancel", during),
                ("start", late),
                ("cancel", late)
            ]
        );
        assert!(intake.state().preparing.is_empty());
    }
}
