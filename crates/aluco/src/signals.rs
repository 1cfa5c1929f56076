//! Requests to end (SIGINT, SIGTERM), and to read the configuration again (SIGHUP).

use std::io::{IsTerminal, stderr};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Outcome};

/// Waits for requests to end. From its making on they no longer end the process by themselves.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Must be called within a runtime.
    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next request to end.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for requests to read the configuration again.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// `None` at a terminal: there SIGHUP says that it was closed, and ends the process. Must be called within a runtime.
    pub(crate) fn new() -> Outcome<Option<Self>> {
        if stderr().is_terminal() {
            return Ok(None);
        }
        Ok(Some(Self(listen(SignalKind::hangup())?)))
    }

    /// The next request.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }
}

fn listen(kind: SignalKind) -> Outcome<Signal> {
    signal(kind).map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))
}
