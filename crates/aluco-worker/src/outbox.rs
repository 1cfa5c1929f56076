//! The way up: events to the supervisor, from any thread.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use aluco_proto::{Event, Failure, GenerationEvent, RequestId, write_frame};

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
        let _ = write_frame(&mut *stream, event);
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

/// Signs of life of all models, for the answer to a ping.
#[derive(Debug, Default)]
pub struct Pulse {
    steps: AtomicU64,
    working: AtomicUsize,
}

/// Work goes on while this lives.
#[derive(Debug)]
pub struct Working<'a>(&'a Pulse);

impl Pulse {
    /// Marks the begin of a step or a load.
    pub fn work(&self) -> Working<'_> {
        self.working.fetch_add(1, Ordering::Relaxed);
        Working(self)
    }

    /// Steps finished so far, of all models.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// True while a step or a load runs.
    pub fn is_working(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}
