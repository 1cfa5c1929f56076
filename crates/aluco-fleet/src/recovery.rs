//! A generation over all workers that it takes: when one is lost, the next goes on where that one stopped.
//!
//! Events of the worker at hand come through a [`Flight`] to the client's queue. When the connection ends it hands over its flights, who was at
//! fault is decided for all of them at once, and each gets a task that waits for the model (one load for all of them, with the back-off of
//! restarts) and for its turn (`court`), sends the request with how far it had come, and is done.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use aluco_proto::{Command, Failure, FailureKind, GenerationEvent, GenerationSpec, RequestId};
use tokio_util::sync::CancellationToken;

use crate::{
    Fallback, FleetError,
    blame::{Circumstances, Judgement, Record, Suspicion},
    cause::CauseKind,
    connection::{Connection, Death, Route},
    court::Turn,
    error::worker_lost,
    generation::{EventQueue, Overflow},
    loading::{self, Lease},
    progress::Progress,
    quarantine::RequestPrint,
    shared::Shared,
};

/// Workers in a row that a request may lose before one of them takes it.
const ATTEMPTS_MAX: u32 = 5;

/// Interruptions whose places are remembered for the client.
const PLACES_MAX: usize = 64;

/// Numbers flights in the order in which they came.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// What a generation went through.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Recovery {
    /// Workers that were lost while they had it.
    pub restarts: u32,
    /// Tokens that were generated at each loss, of all choices; of the first 64 losses.
    pub resumed_at_tokens: Vec<u32>,
    /// For each of these losses, milliseconds from when the next worker was given the generation until it had a token of it: what it took to put
    /// the memory of what was said already back. `None` if that worker was lost as well, or ended it without another token.
    pub restored_ms: Vec<Option<u64>>,
    /// How the model is run otherwise than configured, if it is.
    pub fallback: Option<Fallback>,
}

/// A generation on its way through workers.
pub(crate) struct Flight {
    shared: Arc<Shared>,
    /// The model, by the name under which it was asked for.
    asked: String,
    spec: GenerationSpec,
    pub(crate) queue: Arc<EventQueue>,
    /// The client is gone.
    abandoned: CancellationToken,
    /// The younger, the greater.
    number: u64,
    state: Mutex<State>,
}

struct State {
    /// Canonical name of the model.
    name: Arc<str>,
    progress: Progress,
    record: Record,
    recovery: Recovery,
    /// Where it runs.
    leg: Option<(Arc<Connection>, RequestId)>,
    /// When it was given to the worker there, until that has a token of it.
    given: Option<Instant>,
    /// Held while it is on trial.
    trial: Option<Turn>,
    last_prefill: Option<(Instant, u32)>,
}

/// What became of an attempt to give a flight to a worker.
pub(crate) enum Sent {
    Taken,
    /// The worker is gone, or about to be.
    Closed,
}

impl Flight {
    pub(crate) fn new(shared: Arc<Shared>, asked: &str, spec: GenerationSpec) -> Arc<Self> {
        let progress = Progress::new(spec.choices, Instant::now());
        Arc::new(Self {
            shared,
            asked: asked.to_owned(),
            spec,
            queue: EventQueue::new(None),
            abandoned: CancellationToken::new(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                name: Arc::from(asked),
                progress,
                record: Record::default(),
                recovery: Recovery::default(),
                leg: None,
                given: None,
                trial: None,
                last_prefill: None,
            }),
        })
    }

    /// Gives the request to the worker that has the model.
    pub(crate) fn send(self: &Arc<Self>, lease: Lease) -> Result<Sent, Failure> {
        let connection = lease.ready.connection;
        let resume = {
            let mut state = self.state();
            state.name = lease.ready.name;
            state.last_prefill = None;
            state.given = Some(Instant::now());
            state.progress.resume()
        };
        let Ok(request) = connection.open(Route::Generation(self.clone())) else {
            return Ok(Sent::Closed);
        };
        self.state().leg = Some((connection.clone(), request));
        self.queue.hold(lease.guard);
        let command = Command::Generate {
            request,
            model: lease.handle,
            spec: Box::new(self.spec.clone()),
            resume: resume.map(Box::new),
        };
        if let Err(failure) = connection.send(&command) {
            connection.close(request);
            return Err(failure);
        }
        if self.abandoned.is_cancelled() {
            connection.cancel(request);
        }
        Ok(Sent::Taken)
    }

    /// An event of the worker at hand. What another one says is not for the client any more: it was asked of the next one.
    pub(crate) fn event(
        &self,
        connection: &Connection,
        event: GenerationEvent,
    ) -> Result<(), Overflow> {
        let now = Instant::now();
        let event = {
            let mut state = self.state();
            let leg = state.leg.as_ref();
            if !leg.is_some_and(|(present, _)| std::ptr::eq(&raw const **present, connection)) {
                return Ok(());
            }
            if let GenerationEvent::Prefill {
                processed_tokens, ..
            } = event
            {
                self.watch_prefill(&mut state, connection, processed_tokens, now);
            }
            if matches!(&event, GenerationEvent::Delta { tokens, .. } if !tokens.is_empty()) {
                state.restored(now);
            }
            let is_over = event.is_terminal();
            let event = state.progress.note(event, now);
            if state.trial.is_some() {
                let place = state.progress.place();
                if is_over || state.record.is_acquitted(&place) {
                    state.trial = None;
                }
            }
            event
        };
        event.map_or(Ok(()), |event| self.queue.push(event))
    }

    /// A prompt has come on: tells if that took far longer than usual.
    fn watch_prefill(
        &self,
        state: &mut State,
        connection: &Connection,
        processed_tokens: u32,
        now: Instant,
    ) {
        let last = state.last_prefill.replace((now, processed_tokens));
        let Some((last_at, last_tokens)) = last else {
            return;
        };
        if connection.requests() > 1 {
            return;
        }
        let tokens = processed_tokens.saturating_sub(last_tokens);
        let decay =
            self.shared
                .faults()
                .prefill_speed(&state.name)
                .observe(tokens, now - last_at, now);
        if let Some(decay) = decay {
            tracing::warn!(
                model = &*state.name,
                usual_per_second = decay.usual_per_second.round(),
                now_per_second = decay.now_per_second.round(),
                "prefill has become far slower than usual: the device may be too hot, or about to fail"
            );
        }
    }

    /// The client is gone.
    pub(crate) fn abandon(&self) {
        self.abandoned.cancel();
        if !self.queue.abandon() {
            return;
        }
        let leg = self.state().leg.clone();
        if let Some((connection, request)) = leg {
            connection.cancel(request);
        }
    }

    /// Ends it in an error.
    fn fail(&self, failure: Failure) {
        self.state().trial = None;
        let _ = self.queue.push(GenerationEvent::Failed(failure));
    }

    /// What it went through so far.
    pub(crate) fn recovery(&self) -> Recovery {
        let state = self.state();
        Recovery {
            fallback: self.shared.faults().fallback(&state.name),
            ..state.recovery.clone()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker at hand prepares its prompt, or has done so.
    pub(crate) fn preparing(&self, is_over: bool) {
        self.state().progress.prepare(is_over);
    }

    /// True if the worker was doing something for it.
    fn was_at_work(&self) -> bool {
        self.state().progress.is_at_work()
    }

    /// Notes the loss of the worker, and says how to go on.
    fn lost(&self, circumstances: Circumstances) -> Judgement {
        let mut state = self.state();
        state.leg = None;
        state.given = None;
        let place = state.progress.place();
        let judgement = state.record.died(&place, circumstances);
        state.trial = None;
        state.progress.lost();
        state.recovery.restarts += 1;
        if state.recovery.resumed_at_tokens.len() < PLACES_MAX {
            let tokens = state.progress.generated_tokens();
            state.recovery.resumed_at_tokens.push(tokens);
            state.recovery.restored_ms.push(None);
        }
        judgement
    }

    /// Goes on in the next worker; a suspect when it is its turn.
    async fn recover(self: Arc<Self>, cause: String, turn: Option<Turn>) {
        let outcome = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => {
                self.queue.release();
                return;
            }
            () = self.shared.stop.cancelled() => Err(shutting_down(&cause)),
            outcome = self.go_on(&cause, turn) => outcome,
        };
        if let Err(failure) = outcome {
            self.fail(failure);
        }
    }

    async fn go_on(self: &Arc<Self>, cause: &str, mut turn: Option<Turn>) -> Result<(), Failure> {
        let mut last = cause.to_owned();
        let mut attempts = 0;
        while attempts < ATTEMPTS_MAX {
            let is_trial = if let Some(turn) = &turn {
                turn.called().await
            } else {
                self.shared.court.opened().await;
                false
            };
            let lease =
                match loading::acquire_again(&self.shared, &self.asked, &self.spec.client).await {
                    Ok(lease) => lease,
                    Err(FleetError::WorkerLost { cause }) => {
                        last = cause;
                        attempts += 1;
                        continue;
                    }
                    Err(FleetError::Failed(failure)) => return Err(failure),
                    Err(FleetError::ShuttingDown) => return Err(shutting_down(cause)),
                    Err(error) => {
                        return Err(Failure {
                            kind: FailureKind::WorkerLost,
                            message: format!("the worker process ended: {cause}; then {error}"),
                        });
                    }
                };
            let may_go = match &turn {
                Some(turn) => turn.is_called(is_trial),
                None => self.shared.court.is_open(),
            };
            if !may_go {
                // Another death has come between.
                continue;
            }
            if is_trial {
                self.begin_trial(turn.take());
            }
            match self.send(lease)? {
                Sent::Closed => {
                    attempts += 1;
                    if is_trial {
                        let mut state = self.state();
                        state.record.adjourn();
                        turn = state.trial.take();
                    }
                }
                Sent::Taken => {
                    self.shared.nursery.tally.resumed();
                    tracing::info!(
                        model = self.asked,
                        is_trial,
                        "a stream goes on in another worker"
                    );
                    return Ok(());
                }
            }
        }
        Err(worker_lost(&last))
    }

    fn begin_trial(&self, turn: Option<Turn>) {
        let mut state = self.state();
        state.record.begin_trial();
        if let Some(turn) = &turn {
            turn.begin();
        }
        state.trial = turn;
    }
}

impl State {
    /// The worker at hand has a token of it.
    fn restored(&mut self, now: Instant) {
        let Some(given) = self.given.take() else {
            return;
        };
        // The first worker restores nothing, and of the last of very many losses nothing is told.
        let losses = self.recovery.restarts as usize;
        if losses == self.recovery.restored_ms.len()
            && let Some(restored_ms) = self.recovery.restored_ms.last_mut()
        {
            *restored_ms = Some((now - given).as_millis() as u64);
        }
    }
}

/// A worker is lost with these flights in it: decides who was at fault, and sends the others on.
pub(crate) fn after(mut flights: Vec<Arc<Flight>>, death: &Death) {
    flights.retain(|flight| {
        let is_wanted = !flight.queue.is_closed();
        if !is_wanted {
            flight.queue.release();
            flight.state().trial = None;
        }
        is_wanted
    });
    let Some(shared) = flights.first().map(|flight| flight.shared.clone()) else {
        return;
    };
    if death.kind == CauseKind::Unneeded {
        for flight in flights {
            flight.fail(worker_lost(&death.cause));
        }
        return;
    }
    // Those that waited for their turn have done nothing; unless all did, and what was done for one is not known yet.
    let at_work = flights.iter().filter(|flight| flight.was_at_work()).count();
    let is_external = death.kind.is_external();
    let suspects = if at_work > 0 { at_work } else { flights.len() };
    let mut names: Vec<Arc<str>> = Vec::new();
    let (mut has_culprit, mut has_suspects) = (false, false);
    let mut others = Vec::new();
    let mut accused: Vec<(Suspicion, Arc<Flight>)> = Vec::new();
    for flight in flights {
        let is_suspect = at_work == 0 || flight.was_at_work();
        let name = flight.state().name.clone();
        let judgement = flight.lost(Circumstances {
            is_external: is_external || !is_suspect,
            requests: suspects,
            configuration: shared.configuration(&name),
        });
        if !names.contains(&name) {
            names.push(name.clone());
        }
        if let Judgement::Convicted { deaths } = judgement {
            has_culprit = true;
            flight.convict(&name, deaths, death);
            continue;
        }
        // The next one needs what this one holds.
        flight.queue.release();
        match judgement {
            Judgement::Trial(suspicion) => {
                has_suspects |= is_suspect;
                accused.push((suspicion, flight));
            }
            _ => others.push(flight),
        }
    }
    // By now nobody who was in the dead worker holds a turn any more.
    let suspicions: Vec<_> = accused
        .iter()
        .map(|(suspicion, flight)| (*suspicion, flight.number))
        .collect();
    let turns = shared.court.convene(&suspicions).into_iter().map(Some);
    let accused = accused.into_iter().map(|(_, flight)| flight);
    for (flight, turn) in accused
        .zip(turns)
        .chain(others.into_iter().map(|flight| (flight, None)))
    {
        tokio::spawn(flight.recover(death.cause.clone(), turn));
    }
    // A culprit has been counted already, and the others only shared its fate.
    if is_external || has_culprit {
        return;
    }
    for name in names {
        if has_suspects {
            shared.suspect_requests(&name, death);
        } else {
            shared.fall_back_after_death(&name, death);
        }
    }
}

impl Flight {
    fn convict(&self, name: &Arc<str>, deaths: u32, death: &Death) {
        tracing::warn!(
            model = &**name,
            deaths,
            cause = death.cause,
            "a request ends workers whenever it comes to one place; it ends, and is refused for a while"
        );
        let print = RequestPrint::of(&self.asked, &self.spec);
        let now = Instant::now();
        self.shared
            .faults()
            .quarantine
            .add(print, death.cause.clone(), now);
        self.fail(Failure {
            kind: FailureKind::Engine,
            message: format!(
                "this request has ended {deaths} workers at the same place, so it is not tried again; the last one: {}",
                death.cause
            ),
        });
        self.shared.fall_back_after_conviction(name, death);
    }
}

fn shutting_down(cause: &str) -> Failure {
    Failure {
        kind: FailureKind::WorkerLost,
        message: format!(
            "the server is shutting down, so the request cannot go on after its worker ended: {cause}"
        ),
    }
}

#[cfg(test)]
mod tests;
