//! The way up: events to the supervisor, from any thread.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aluco_proto::{
    Event, FRAME_BYTES_MAX, Failure, FailureKind, FrameError, GenerationEvent, RequestId,
    write_frame,
};

/// Sends events. Clones share one socket; each frame is written whole.
#[derive(Debug, Clone)]
pub struct Outbox {
    stream: Arc<Mutex<UnixStream>>,
}

impl Outbox {
    /// An outbox on the worker's end of the socket.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(Mutex::new(stream)),
        }
    }

    /// Sends an event. Nobody is told if the supervisor is gone: the reading side notices and ends the process.
    pub fn send(&self, event: &Event) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(FrameError::TooLarge { bytes }) = write_frame(&mut *stream, event)
            && let Some(instead) = too_large(event, bytes)
        {
            let _ = write_frame(&mut *stream, &instead);
        }
    }

    /// Tells that a prompt is being prepared, or has been.
    pub fn preparing(&self, request: RequestId, is_over: bool) {
        self.send(&Event::Preparing { request, is_over });
    }

    /// Sends an event of a generation.
    pub fn generation(&self, request: RequestId, event: GenerationEvent) {
        self.send(&Event::Generation { request, event });
    }

    /// Ends a request other than a generation in an error.
    pub fn failed(&self, request: RequestId, failure: Failure) {
        self.send(&Event::Failed { request, failure });
    }
}

/// What a request is told whose answer does not fit into a frame.
fn too_large(event: &Event, bytes: usize) -> Option<Event> {
    let failure = Failure {
        kind: FailureKind::InvalidRequest,
        message: format!("the answer would have {bytes} bytes, and {FRAME_BYTES_MAX} are the most"),
    };
    match event {
        Event::Tokens { request, .. } | Event::Text { request, .. } => {
            let request = *request;
            Some(Event::Failed { request, failure })
        }
        Event::Generation { request, .. } => {
            let (request, event) = (*request, GenerationEvent::Failed(failure));
            Some(Event::Generation { request, event })
        }
        _ => None,
    }
}

/// Signs of life of all models, for the answer to a ping.
#[derive(Debug, Default)]
pub struct Pulse {
    steps: AtomicU64,
    /// Tokens of each step that runs; 0 for other work.
    working: Mutex<Vec<u32>>,
}

/// Work goes on while this lives.
#[derive(Debug)]
pub struct Working<'a> {
    pulse: &'a Pulse,
    tokens: u32,
}

impl Pulse {
    /// Marks the begin of a load, or of other work than a step.
    pub fn work(&self) -> Working<'_> {
        self.step(0)
    }

    /// Marks the begin of a step of so many tokens.
    pub fn step(&self, tokens: u32) -> Working<'_> {
        self.lock().push(tokens);
        Working {
            pulse: self,
            tokens,
        }
    }

    /// Tokens in the step that runs, the largest of those that run together; 0 while none does.
    pub fn step_tokens(&self) -> u32 {
        self.lock().iter().copied().max().unwrap_or(0)
    }

    /// Steps finished so far, of all models.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// True while a step or a load runs.
    pub fn is_working(&self) -> bool {
        self.working() > 0
    }

    /// Steps and loads that run.
    pub fn working(&self) -> u32 {
        self.lock().len() as u32
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.pulse.steps.fetch_add(1, Ordering::Relaxed);
        let mut working = self.pulse.lock();
        if let Some(index) = working.iter().position(|tokens| *tokens == self.tokens) {
            working.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use aluco_proto::read_frame;

    use super::*;

    #[test]
    fn an_answer_that_is_too_large_becomes_a_failure() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(ours);
        let request = RequestId(7);
        let text = "x".repeat(FRAME_BYTES_MAX + 1);
        outbox.send(&Event::Text { request, text });
        let Some(Event::Failed { request, failure }) = read_frame(&mut theirs).unwrap() else {
            panic!("no failure");
        };
        assert_eq!(request, RequestId(7));
        assert_eq!(failure.kind, FailureKind::InvalidRequest);
    }

    #[test]
    fn the_largest_step_that_still_runs_is_told() {
        let pulse = Pulse::default();
        let load = pulse.work();
        let small = pulse.step(4);
        let large = pulse.step(512);
        assert_eq!((pulse.step_tokens(), pulse.working()), (512, 3));
        drop(large);
        assert_eq!((pulse.step_tokens(), pulse.working()), (4, 2));
        drop((small, load));
        assert_eq!((pulse.step_tokens(), pulse.is_working()), (0, false));
        assert_eq!(pulse.steps(), 3);
    }
}
