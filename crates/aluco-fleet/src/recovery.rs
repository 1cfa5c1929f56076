//! A generation over all workers that it takes: when one is lost, the next goes on where that one stopped.
//!
//! Events of the worker at hand come through a [`Flight`] to the client's queue. When the connection ends it hands over its flights, who was at
//! fault is decided for all of them at once, and each gets a task that waits for the model (one load for all of them, with the back-off of
//! restarts), sends the request with how far it had come, and is done.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use aluco_proto::{Command, Failure, FailureKind, GenerationEvent, GenerationSpec, RequestId};
use tokio_util::sync::CancellationToken;

use crate::{
    Fallback, FleetError,
    blame::{Circumstances, Judgement, Record},
    cause::CauseKind,
    connection::{Connection, Death, Route},
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

/// What a generation went through.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Recovery {
    /// Workers that were lost while they had it.
    pub restarts: u32,
    /// Tokens that were generated at each loss, of all choices; of the first 64 losses.
    pub resumed_at_tokens: Vec<u32>,
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
    /// Cancelled at the end of a trial.
    trial: Option<CancellationToken>,
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
            state: Mutex::new(State {
                name: Arc::from(asked),
                progress,
                record: Record::default(),
                recovery: Recovery::default(),
                leg: None,
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

    /// An event of the worker at hand.
    pub(crate) fn event(
        &self,
        connection: &Connection,
        event: GenerationEvent,
    ) -> Result<(), Overflow> {
        let now = Instant::now();
        let event = {
            let mut state = self.state();
            if let GenerationEvent::Prefill {
                processed_tokens, ..
            } = event
            {
                self.watch_prefill(&mut state, connection, processed_tokens, now);
            }
            let is_over = event.is_terminal();
            let event = state.progress.note(event, now);
            let place = state.progress.place();
            if state.trial.is_some() && (is_over || state.record.is_acquitted(place)) {
                state.end_trial();
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
        self.state().end_trial();
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

    /// True if the worker had begun with it.
    fn is_running(&self) -> bool {
        self.state().progress.is_running()
    }

    /// Notes the loss of the worker, and says how to go on.
    fn lost(&self, circumstances: Circumstances) -> Judgement {
        let mut state = self.state();
        state.leg = None;
        let place = state.progress.place();
        let judgement = state.record.died(place, circumstances);
        state.end_trial();
        state.progress.lost();
        state.recovery.restarts += 1;
        if state.recovery.resumed_at_tokens.len() < PLACES_MAX {
            state
                .recovery
                .resumed_at_tokens
                .push(place.generated_tokens);
        }
        judgement
    }

    /// Goes on in the next worker.
    async fn recover(self: Arc<Self>, cause: String, judgement: Judgement) {
        let outcome = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => {
                self.queue.release();
                return;
            }
            () = self.shared.stop.cancelled() => Err(shutting_down(&cause)),
            outcome = self.go_on(&cause, judgement) => outcome,
        };
        if let Err(failure) = outcome {
            self.fail(failure);
        }
    }

    async fn go_on(self: &Arc<Self>, cause: &str, judgement: Judgement) -> Result<(), Failure> {
        let turn = match judgement {
            Judgement::Trial => Some(self.shared.trials.lock().await),
            Judgement::GoOn | Judgement::Convicted { .. } => None,
        };
        let mut last = cause.to_owned();
        for _ in 0..ATTEMPTS_MAX {
            let lease =
                match loading::acquire_again(&self.shared, &self.asked, &self.spec.client).await {
                    Ok(lease) => lease,
                    Err(FleetError::WorkerLost { cause }) => {
                        last = cause;
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
            let over = turn.as_ref().map(|_| self.begin_trial());
            match self.send(lease)? {
                Sent::Closed => self.state().end_trial(),
                Sent::Taken => {
                    self.shared.nursery.tally.resumed();
                    tracing::info!(model = self.asked, "a stream goes on in another worker");
                    if let Some(over) = over {
                        over.cancelled().await;
                    }
                    return Ok(());
                }
            }
        }
        Err(worker_lost(&last))
    }

    fn begin_trial(&self) -> CancellationToken {
        let over = CancellationToken::new();
        let mut state = self.state();
        state.record.try_alone();
        state.trial = Some(over.clone());
        over
    }
}

impl State {
    fn end_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            trial.cancel();
        }
    }
}

/// A worker is lost with these flights in it: decides who was at fault, and sends the others on.
pub(crate) fn after(mut flights: Vec<Arc<Flight>>, death: &Death) {
    flights.retain(|flight| {
        let is_wanted = !flight.queue.is_closed();
        if !is_wanted {
            flight.queue.release();
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
    // Those that waited for their turn have done nothing; unless all did, and it was a prompt on its way.
    let running = flights.iter().filter(|flight| flight.is_running()).count();
    let is_external = death.kind.is_external();
    let suspects = if running > 0 { running } else { flights.len() };
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut has_culprit = false;
    for flight in flights {
        let is_suspect = running == 0 || flight.is_running();
        let judgement = flight.lost(Circumstances {
            is_external: is_external || !is_suspect,
            requests: suspects,
        });
        let name = flight.state().name.clone();
        if let Judgement::Convicted { deaths } = judgement {
            has_culprit = true;
            flight.convict(&name, deaths, death);
        } else {
            // The next one needs what this one holds.
            flight.queue.release();
            tokio::spawn(flight.recover(death.cause.clone(), judgement));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // A culprit has been counted already, and the others only shared its fate.
    if !is_external && !has_culprit {
        for name in names {
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
