//! The conversation with one worker: commands down, events up and to whoever waits for them.
//!
//! The reader never waits for a consumer, so a slow client cannot stall a worker: generations queue their events within bounds
//! (`generation`), the few events of other requests go through unbounded channels to tasks of the fleet. Commands down are queued
//! without a bound of their own because admission bounds the requests.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use aluco_proto::{
    Command, Event, Failure, FailureKind, FrameDecoder, FrameError, GenerationEvent, LogLevel,
    RequestId, WorkerHello, encode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{SetOnce, mpsc},
};

use crate::{
    cause::{Cause, CauseKind},
    error::Fault,
    heartbeat::Pulse,
    process::ReadEnd,
    recovery::{self, Flight},
};

const READ_BYTES: usize = 64 * 1024;

/// One worker's end of the talk, as the rest of the fleet sees it.
pub(crate) struct Connection {
    frames: mpsc::UnboundedSender<Vec<u8>>,
    routes: Mutex<Routes>,
    next_request: AtomicU64,
    hello: SetOnce<WorkerHello>,
    death: SetOnce<Death>,
    pulse: Mutex<Pulse>,
    was_useful: AtomicBool,
}

/// When and why a worker ended.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    pub(crate) at: Instant,
    pub(crate) kind: CauseKind,
    pub(crate) cause: String,
    /// It had generated something.
    pub(crate) was_useful: bool,
}

struct Routes {
    is_open: bool,
    by_request: HashMap<RequestId, Route>,
}

/// Where the events of one request go.
pub(crate) enum Route {
    /// To a client.
    Generation(Arc<Flight>),
    /// To a task of the fleet.
    Replies(mpsc::UnboundedSender<Event>),
}

/// The worker is gone, or about to be.
#[derive(Debug)]
pub(crate) struct Closed;

impl Connection {
    /// A connection, and the frames that its writer is to write.
    pub(crate) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (frames, queue) = mpsc::unbounded_channel();
        let connection = Self {
            frames,
            routes: Mutex::new(Routes {
                is_open: true,
                by_request: HashMap::new(),
            }),
            next_request: AtomicU64::new(1),
            hello: SetOnce::new(),
            death: SetOnce::new(),
            pulse: Mutex::default(),
            was_useful: AtomicBool::new(false),
        };
        (Arc::new(connection), queue)
    }

    /// Registers a request, so that its events find their way.
    pub(crate) fn open(&self, route: Route) -> Result<RequestId, Closed> {
        let mut routes = self.routes();
        if !routes.is_open {
            return Err(Closed);
        }
        let request = RequestId(self.next_request.fetch_add(1, Ordering::Relaxed));
        routes.by_request.insert(request, route);
        Ok(request)
    }

    /// Sends a command; fails only if it is too large for a frame.
    pub(crate) fn send(&self, command: &Command) -> Result<(), Failure> {
        let frame = encode(command).map_err(|error| Failure {
            kind: FailureKind::InvalidRequest,
            message: match error {
                FrameError::TooLarge { bytes } => {
                    format!("the request is too large: {bytes} bytes")
                }
                error => format!("the request cannot be passed on: {error}"),
            },
        })?;
        // A closed channel is a worker that died: its routes are told.
        let _ = self.frames.send(frame);
        Ok(())
    }

    /// Sends a command that has an answer of its own.
    pub(crate) fn call(
        self: &Arc<Self>,
        command: impl FnOnce(RequestId) -> Command,
    ) -> Result<Replies, CallError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let request = self
            .open(Route::Replies(sender))
            .map_err(|Closed| CallError::Closed)?;
        let replies = Replies {
            connection: self.clone(),
            request,
            receiver,
        };
        self.send(&command(request)).map_err(CallError::Refused)?;
        Ok(replies)
    }

    /// Asks for the end of a generation.
    pub(crate) fn cancel(&self, request: RequestId) {
        let _ = self.send(&Command::Cancel { request });
    }

    /// Asks for the end of all generations.
    pub(crate) fn cancel_all(&self) {
        let requests: Vec<_> = self.routes().by_request.keys().copied().collect();
        for request in requests {
            self.cancel(request);
        }
    }

    /// Forgets a request that was never sent.
    pub(crate) fn close(&self, request: RequestId) {
        let route = self.routes().by_request.remove(&request);
        drop(route);
    }

    /// Requests that it has.
    pub(crate) fn requests(&self) -> usize {
        self.routes().by_request.len()
    }

    /// True while the worker takes requests.
    pub(crate) fn is_open(&self) -> bool {
        self.routes().is_open
    }

    /// The worker's first frame.
    pub(crate) async fn hello(&self) -> &WorkerHello {
        self.hello.wait().await
    }

    /// When and why the worker ended; waits for that.
    pub(crate) async fn ended(&self) -> &Death {
        self.death.wait().await
    }

    /// The last signs of life.
    pub(crate) fn pulse(&self) -> Pulse {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker is about to end: no new requests.
    pub(crate) fn ending(&self) {
        self.routes().is_open = false;
    }

    /// The worker has ended: generations go on elsewhere, all other requests end with it.
    pub(crate) fn end(&self, cause: Cause) {
        let routes = {
            let mut routes = self.routes();
            routes.is_open = false;
            std::mem::take(&mut routes.by_request)
        };
        let death = Death {
            at: Instant::now(),
            kind: cause.kind,
            cause: cause.text,
            was_useful: self.was_useful.load(Ordering::Relaxed),
        };
        let _ = self.death.set(death.clone());
        let flights = routes
            .into_values()
            .filter_map(|route| match route {
                Route::Generation(flight) => Some(flight),
                // It learns of the end from its channel's.
                Route::Replies(_) => None,
            })
            .collect();
        recovery::after(flights, &death);
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dispatch(&self, event: Event) {
        {
            let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
            match &event {
                Event::Pong {
                    sequence,
                    steps,
                    working,
                    step_tokens,
                } => {
                    pulse.sequence = *sequence;
                    pulse.steps = *steps;
                    pulse.is_working = *working;
                    pulse.step_tokens = *step_tokens;
                }
                Event::Loading { .. }
                | Event::Loaded { .. }
                | Event::Unloaded { .. }
                | Event::Generation { .. }
                | Event::BenchProgress { .. }
                | Event::Bench { .. } => pulse.progress_frames += 1,
                // A worker whose device hangs still gives these.
                Event::Hello(_)
                | Event::Log { .. }
                | Event::Preparing { .. }
                | Event::Status { .. }
                | Event::Tokens { .. }
                | Event::Text { .. }
                | Event::Estimated { .. }
                | Event::CacheBudget { .. }
                | Event::Failed { .. } => {}
            }
        }
        match event {
            Event::Pong { .. } => {}
            Event::Hello(hello) => {
                if self.hello.set(hello).is_err() {
                    tracing::warn!(target: "aluco::worker", "a second hello is ignored");
                }
            }
            Event::Log {
                level,
                target,
                message,
            } => log(level, &target, &message),
            Event::Preparing { request, is_over } => {
                if let Some(Route::Generation(flight)) = self.routes().by_request.get(&request) {
                    flight.preparing(is_over);
                }
            }
            Event::Generation { request, event } => self.dispatch_generation(request, event),
            Event::Failed { request, failure } => {
                let route = self.routes().by_request.remove(&request);
                match route {
                    Some(Route::Generation(flight)) => {
                        let _ = flight.event(self, GenerationEvent::Failed(failure));
                    }
                    Some(Route::Replies(sender)) => {
                        let _ = sender.send(Event::Failed { request, failure });
                    }
                    None => {}
                }
            }
            Event::Loading { request, .. } | Event::BenchProgress { request, .. } => {
                if let Some(Route::Replies(sender)) = self.routes().by_request.get(&request) {
                    let _ = sender.send(event);
                }
            }
            Event::Loaded { request, .. }
            | Event::Unloaded { request, .. }
            | Event::Tokens { request, .. }
            | Event::Text { request, .. }
            | Event::Estimated { request, .. }
            | Event::CacheBudget { request, .. }
            | Event::Bench { request, .. }
            | Event::Status { request, .. } => {
                let route = self.routes().by_request.remove(&request);
                if let Some(Route::Replies(sender)) = route {
                    let _ = sender.send(event);
                }
            }
        }
    }

    fn dispatch_generation(&self, request: RequestId, event: GenerationEvent) {
        if matches!(event, GenerationEvent::Delta { .. }) {
            self.was_useful.store(true, Ordering::Relaxed);
        }
        let flight = {
            let mut routes = self.routes();
            let flight = match routes.by_request.get(&request) {
                Some(Route::Generation(flight)) => flight.clone(),
                Some(Route::Replies(_)) | None => return,
            };
            if event.is_terminal() {
                routes.by_request.remove(&request);
            }
            flight
        };
        if flight.event(self, event).is_err() {
            tracing::warn!(%request, "a client reads too slowly; its request is cancelled");
            self.cancel(request);
        }
    }
}

/// The answers to one [`Connection::call`].
pub(crate) struct Replies {
    connection: Arc<Connection>,
    request: RequestId,
    receiver: mpsc::UnboundedReceiver<Event>,
}

/// Why a call was not even sent.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The worker is gone, or about to be; another one may take it.
    Closed,
    /// The command is too large.
    Refused(Failure),
}

impl Replies {
    /// The next answer that is not a failure.
    pub(crate) async fn next(&mut self) -> Result<Event, Fault> {
        match self.receiver.recv().await {
            Some(Event::Failed { failure, .. }) => Err(Fault::Failed(failure)),
            Some(event) => Ok(event),
            None => Err(Fault::WorkerLost(
                self.connection.ended().await.cause.clone(),
            )),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.connection.close(self.request);
    }
}

/// Reads frames until the stream ends or makes no sense.
pub(crate) async fn read(mut socket: OwnedReadHalf, connection: Arc<Connection>) -> ReadEnd {
    let mut decoder = FrameDecoder::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match socket.read(&mut buffer).await {
            Ok(0) if decoder.has_partial_frame() => {
                // Bytes of an unfinished frame are what a crash in mid-write leaves; the crash is the better cause.
                tracing::debug!("the worker's stream ended inside a frame");
                return ReadEnd::Closed;
            }
            Ok(0) => return ReadEnd::Closed,
            Ok(bytes) => decoder.push(&buffer[..bytes]),
            // The peer died with unread bytes in its socket.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                return ReadEnd::Closed;
            }
            Err(error) => return ReadEnd::Broken(format!("its socket failed: {error}")),
        }
        loop {
            match decoder.next_message::<Event>() {
                Ok(Some(event)) => connection.dispatch(event),
                Ok(None) => break,
                Err(error) => return ReadEnd::Broken(format!("it broke the protocol: {error}")),
            }
        }
    }
}

/// Writes frames until the worker is gone or nobody has anything more to say.
pub(crate) async fn write(
    mut socket: OwnedWriteHalf,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(frame) = frames.recv().await {
        if socket.write_all(&frame).await.is_err() {
            // The reader notices as well, and knows more.
            return;
        }
    }
}

fn log(level: LogLevel, source: &str, message: &str) {
    match level {
        LogLevel::Error => tracing::error!(target: "aluco::worker", source, "{message}"),
        LogLevel::Warn => tracing::warn!(target: "aluco::worker", source, "{message}"),
        LogLevel::Info => tracing::info!(target: "aluco::worker", source, "{message}"),
        LogLevel::Debug => tracing::debug!(target: "aluco::worker", source, "{message}"),
        LogLevel::Trace => tracing::trace!(target: "aluco::worker", source, "{message}"),
    }
}
