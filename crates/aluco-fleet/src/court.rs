//! Where requests wait while suspects are tried: the docket, and who is told of its changes.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{sync::watch, time::timeout_at};

use crate::{
    blame::Suspicion,
    docket::{Call, Docket, Ticket},
};

/// The order among requests that go on. Of two that are equally suspect the younger one is tried first.
#[derive(Debug, Default)]
pub(crate) struct Court {
    docket: Mutex<Docket<(Suspicion, u64)>>,
    changed: watch::Sender<()>,
}

/// A suspect's place in the docket. Dropping it gives the turn to the next one.
#[derive(Debug)]
pub(crate) struct Turn {
    court: Arc<Court>,
    ticket: Ticket,
}

impl Court {
    /// A worker has died with these suspects in it; gives the place of each.
    pub(crate) fn convene(self: &Arc<Self>, suspects: &[(Suspicion, u64)]) -> Vec<Turn> {
        let tickets = self.docket().convene(suspects.iter().copied());
        self.changed.send_replace(());
        let turn = |ticket| Turn {
            court: self.clone(),
            ticket,
        };
        tickets.into_iter().map(turn).collect()
    }

    /// True if anybody may go on who is no suspect.
    pub(crate) fn is_open(&self) -> bool {
        self.docket().call_others(Instant::now()) == Call::Go
    }

    /// Waits until that is so.
    pub(crate) async fn opened(&self) {
        self.called(Docket::call_others).await;
    }

    async fn called(&self, call: impl Fn(&Docket<(Suspicion, u64)>, Instant) -> Call) -> Call {
        let mut changed = self.changed.subscribe();
        loop {
            let called = call(&self.docket(), Instant::now());
            match called {
                Call::Go | Call::GoOnTrial => return called,
                Call::Wait(Some(until)) => {
                    let _ = timeout_at(until.into(), changed.changed()).await;
                }
                // The sender lives as long as this.
                Call::Wait(None) => drop(changed.changed().await),
            }
        }
    }

    fn docket(&self) -> MutexGuard<'_, Docket<(Suspicion, u64)>> {
        self.docket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Waits until the suspect may go on; true if that is on trial.
    pub(crate) async fn called(&self) -> bool {
        let ticket = self.ticket;
        let call = self
            .court
            .called(|docket, now| docket.call(ticket, now))
            .await;
        call == Call::GoOnTrial
    }

    /// True if it may go on now, on trial or not.
    pub(crate) fn is_called(&self, is_on_trial: bool) -> bool {
        let call = self.court.docket().call(self.ticket, Instant::now());
        call == if is_on_trial {
            Call::GoOnTrial
        } else {
            Call::Go
        }
    }

    /// The suspect is in the worker.
    pub(crate) fn begin(&self) {
        self.court.docket().begin(self.ticket, Instant::now());
        // Who waits has a limit from here on.
        self.court.changed.send_replace(());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.court.docket().leave(self.ticket);
        self.court.changed.send_replace(());
    }
}
