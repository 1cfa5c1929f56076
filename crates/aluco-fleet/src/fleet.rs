//! The fleet as its users see it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aluco_proto::{
    Backend, BenchReport, BenchSpec, ChatPrompt, Command, DeviceSpeed, Event, FailureKind,
    GenerationSpec, LoadOptions, ModelHandle, RequestId, Token, WorkerHello,
};
use tokio::time::{timeout, timeout_at};

use crate::{
    FleetConfig, FleetError, Generation, RequestOptions,
    connection::{CallError, Connection},
    devices,
    error::{Fault, lost_cause, out_of_step},
    loading::{self, Lease},
    memory::{Measurement, Space},
    recovery::{Flight, Sent},
    relief,
    shared::{Owner, Shared},
    wanted::Wanted,
    wishes::NO_MODEL,
    worker::Worker,
};

/// How often a request is given to the next worker because the last one was found dead before it took the request.
const ATTEMPTS_MAX: u32 = 3;

/// The client of what is not a generation: short, and seldom waits.
pub(crate) const NOBODY: &str = "";

/// How long cancelled requests may take to end at shutdown.
const CANCEL_GRACE: Duration = Duration::from_secs(3);

/// How long the reaping of killed processes may take at shutdown.
const REAP_GRACE: Duration = Duration::from_secs(10);

/// Workers and the models in them. Clones share one fleet; when the last clone and the last [`Generation`] are gone, all processes
/// are killed.
#[derive(Clone)]
pub struct Fleet {
    owner: Arc<Owner>,
}

impl Fleet {
    /// A fleet without workers; they start on demand. Must be called within a tokio runtime.
    pub fn new(config: FleetConfig) -> Self {
        let shared = Arc::new(Shared::new(config));
        tokio::spawn(loading::unload_idle(shared.clone()));
        tokio::spawn(relief::watch(shared.clone()));
        Self {
            owner: Arc::new(Owner(shared)),
        }
    }

    /// Starts a generation; loads the model first if needed. Comes back when the worker has accepted the request.
    pub async fn generate(
        &self,
        model: &str,
        spec: GenerationSpec,
    ) -> Result<Generation, FleetError> {
        self.generate_with(model, spec, RequestOptions::default())
            .await
    }

    /// The same, with something to say about the model. It counts from when the model is there, whatever becomes of the generation.
    pub async fn generate_with(
        &self,
        model: &str,
        spec: GenerationSpec,
        options: RequestOptions,
    ) -> Result<Generation, FleetError> {
        let shared = self.shared();
        if let Some(refusal) = shared.faults().refusal(model, &spec) {
            return Err(refusal.into());
        }
        let client = spec.client.clone();
        let flight = Flight::new(shared.clone(), model, spec);
        let mut attempts = 0;
        let mut lease = loading::acquire(shared, model, &client).await?;
        loop {
            // It waits in the model's queue, so that no more come than that has places for.
            while !shared.court.is_open() {
                tokio::select! {
                    () = shared.stop.cancelled() => return Err(FleetError::ShuttingDown),
                    () = shared.court.opened() => {}
                }
                lease = loading::acquire_again(shared, model, &client).await?;
            }
            // While the lease keeps the model: a short generation is over, and its model maybe gone, before anything else is done here.
            shared
                .state()
                .residency
                .wish(lease.handle, options.keep_alive, None);
            let (name, loaded) = (lease.ready.name.clone(), lease.ready.loaded.clone());
            if let Sent::Closed = flight.send(lease)? {
                attempts += 1;
                if attempts == ATTEMPTS_MAX {
                    return Err(self.lost_again().await);
                }
                lease = loading::acquire(shared, model, &client).await?;
                continue;
            }
            // Not before: one that is dropped abandons the flight.
            let generation = Generation::new(name, loaded, flight.clone(), self.owner.clone());
            return generation.accepted().await.map_err(|failure| {
                let lost = (failure.kind == FailureKind::WorkerLost)
                    .then(|| lost_cause(&failure))
                    .flatten();
                lost.map_or_else(|| failure.into(), |cause| FleetError::WorkerLost { cause })
            });
        }
    }

    /// Unloads a model; its running requests end as cancelled. False if it was not loaded.
    pub async fn unload(&self, model: &str) -> Result<bool, FleetError> {
        let shared = self.shared();
        let known = shared.open_state()?.residency.find(model);
        let handle = if known.is_some() {
            known
        } else {
            let stored = loading::look_up(shared, model).await?;
            shared.open_state()?.residency.find(&stored.name)
        };
        let Some(handle) = handle else {
            return Ok(false);
        };
        loading::unload(shared, handle).await;
        Ok(true)
    }

    /// Text to tokens.
    pub async fn tokenize(
        &self,
        model: &str,
        text: String,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>, FleetError> {
        let answer = self
            .ask(model, |request, model| Command::Tokenize {
                request,
                model,
                text: text.clone(),
                add_special,
                parse_special,
            })
            .await?;
        match answer {
            Event::Tokens { tokens, .. } => Ok(tokens),
            _ => Err(out_of_step().into()),
        }
    }

    /// Tokens to text.
    pub async fn detokenize(&self, model: &str, tokens: Vec<Token>) -> Result<String, FleetError> {
        let answer = self
            .ask(model, |request, model| Command::Detokenize {
                request,
                model,
                tokens: tokens.clone(),
            })
            .await?;
        match answer {
            Event::Text { text, .. } => Ok(text),
            _ => Err(out_of_step().into()),
        }
    }

    /// The prompt text that the model's chat template makes of a conversation.
    pub async fn render_chat(&self, model: &str, chat: ChatPrompt) -> Result<String, FleetError> {
        let answer = self
            .ask(model, |request, model| Command::RenderChat {
                request,
                model,
                chat: chat.clone(),
            })
            .await?;
        match answer {
            Event::Text { text, .. } => Ok(text),
            _ => Err(out_of_step().into()),
        }
    }

    /// Measures a model in a worker of its own, so that it does not disturb the running one (nor the other way round, but for the
    /// machine that they share); `progress` hears (done, total) repetitions. If the caller goes away, the worker is killed. What it takes is
    /// booked like a model, but no model goes for it: what does not fit beside those that are loaded is refused.
    pub async fn bench(
        &self,
        model: &str,
        spec: BenchSpec,
        mut progress: impl FnMut(u32, u32) + Send,
    ) -> Result<BenchReport, FleetError> {
        let shared = self.shared();
        let mut running = RunningBench::begin(shared)?;
        let stored = loading::look_up(shared, model).await?;
        let path = loading::first_file(&stored)?;
        let measure = async {
            let binary = shared.slot.binary(&shared.config).await?;
            let options = options_of_bench(&spec);
            let wanted = Wanted::of(shared, &stored, options).await?.measured();
            running.book(&wanted)?;
            let worker = Worker::start(&binary.path, &shared.config, &shared.nursery).await?;
            running.runs_in(worker.hello.pid);
            let report = ask_for_bench(&worker.connection, path, spec, &mut progress).await;
            worker.stop().await;
            report
        };
        let report = tokio::select! {
            biased;
            () = shared.stop.cancelled() => Err(Fault::ShuttingDown),
            report = measure => report,
        };
        Ok(report?)
    }

    /// The worker binary that the fleet uses, and what it says of itself. Nothing is started but for that question.
    pub async fn worker(&self) -> Result<(PathBuf, WorkerHello), FleetError> {
        let shared = self.shared();
        let binary = shared.slot.binary(&shared.config).await?;
        Ok((binary.path, binary.hello))
    }

    /// How fast the devices of each backend are that has a worker here, or why that worker could not tell. Takes seconds, and no model.
    pub async fn device_speeds(
        &self,
    ) -> Result<Vec<(Backend, Result<Vec<DeviceSpeed>, String>)>, FleetError> {
        let answers = devices::speeds(&self.shared().config).await;
        answers.map_err(|reason| FleetError::NoWorker { reason })
    }

    /// Where models are looked up.
    pub fn store(&self) -> &aluco_model::Store {
        &self.shared().config.store
    }

    /// Refuses new requests, lets running ones finish for at most `limit`, cancels the rest, ends all workers.
    pub async fn shutdown(&self, limit: Duration) {
        let shared = self.shared();
        shared.state().is_shutting_down = true;
        let deadline = tokio::time::Instant::now() + limit;
        let is_idle = timeout_at(deadline, self.idle()).await.is_ok();
        shared.stop.cancel();
        if !is_idle && let Some(worker) = shared.slot.running() {
            tracing::info!("requests that still run are cancelled");
            worker.connection.cancel_all();
            let _ = timeout(CANCEL_GRACE, self.idle()).await;
        }
        if let Some(worker) = shared.slot.last() {
            worker.stop().await;
        }
        shared.nursery.kill.cancel();
        shared.nursery.keepers.close();
        if timeout(REAP_GRACE, shared.nursery.keepers.wait())
            .await
            .is_err()
        {
            tracing::error!("the kernel has not yet been able to end a worker process");
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Waits until nothing runs.
    async fn idle(&self) {
        let mut changed = self.shared().changed().subscribe();
        loop {
            let running = {
                let state = self.shared().state();
                state.residency.requests() + state.benches
            };
            if running == 0 || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// One question about a loaded model, one answer.
    async fn ask(
        &self,
        model: &str,
        command: impl Fn(RequestId, ModelHandle) -> Command + Send,
    ) -> Result<Event, FleetError> {
        let mut losses = 0;
        for _ in 0..ATTEMPTS_MAX {
            let Lease {
                handle,
                ready,
                guard: _guard,
            } = loading::acquire(self.shared(), model, NOBODY).await?;
            match ready.connection.call(|request| command(request, handle)) {
                Ok(mut replies) => match replies.next().await {
                    // It may be the question that ended the worker, so it is asked once more and no third time.
                    Err(Fault::WorkerLost(_)) if losses == 0 => losses += 1,
                    answer => return Ok(answer?),
                },
                Err(CallError::Closed) => {}
                Err(CallError::Refused(failure)) => return Err(failure.into()),
            }
        }
        Err(self.lost_again().await)
    }

    /// Workers died one after the other before they could take a request.
    async fn lost_again(&self) -> FleetError {
        let cause = match self.shared().slot.last() {
            Some(worker) if !worker.connection.is_open() => {
                worker.connection.ended().await.cause.clone()
            }
            _ => "it died again before it could take the request".to_owned(),
        };
        FleetError::WorkerLost { cause }
    }
}

/// A measurement counts as something that runs, and holds memory.
struct RunningBench {
    shared: Arc<Shared>,
    booked: Option<Measurement>,
}

impl RunningBench {
    fn begin(shared: &Arc<Shared>) -> Result<Self, Fault> {
        shared.open_state()?.benches += 1;
        Ok(Self {
            shared: shared.clone(),
            booked: None,
        })
    }

    /// Reserves what it will take, or says why that cannot be.
    fn book(&mut self, wanted: &Wanted) -> Result<(), Fault> {
        let mut guard = self.shared.open_state()?;
        let state = &mut *guard;
        match state.memory.space(NO_MODEL, wanted, &state.residency) {
            Space::Free(_) => {}
            Space::Busy(refusal) => return Err(Fault::NoRoom(refusal)),
            Space::Missing { refusal, .. } | Space::Never(refusal) => {
                return Err(Fault::DoesNotFit(refusal));
            }
        }
        let booked = state.memory.book_measurement(wanted);
        self.booked = Some(booked.map_err(Fault::DoesNotFit)?);
        Ok(())
    }

    fn runs_in(&self, pid: u32) {
        if let Some(booked) = self.booked {
            self.shared.state().memory.measure_in(booked, pid);
        }
    }
}

impl Drop for RunningBench {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.benches -= 1;
        if let Some(booked) = self.booked {
            state.memory.release_measurement(booked);
        }
        drop(state);
        self.shared.notify();
    }
}

/// How a measurement loads its model: one sequence, a context for the largest test, and no prompt is kept.
fn options_of_bench(spec: &BenchSpec) -> LoadOptions {
    let tokens = spec.tests.iter().map(|test| {
        let parts = [test.prompt_tokens, test.generated_tokens, test.depth_tokens];
        parts.into_iter().fold(0_u32, u32::saturating_add)
    });
    let mut options = LoadOptions {
        context_tokens: tokens.max(),
        sequences_max: 1,
        ..spec.options.clone()
    };
    options.cache.ram_bytes = Some(0);
    options
}

async fn ask_for_bench(
    connection: &Arc<Connection>,
    path: std::path::PathBuf,
    spec: BenchSpec,
    progress: &mut (impl FnMut(u32, u32) + Send),
) -> Result<BenchReport, Fault> {
    let called = connection.call(|request| Command::Bench {
        request,
        path,
        spec,
    });
    let mut replies = match called {
        Ok(replies) => replies,
        Err(CallError::Closed) => {
            return Err(Fault::WorkerLost(connection.ended().await.cause.clone()));
        }
        Err(CallError::Refused(failure)) => return Err(Fault::Failed(failure)),
    };
    loop {
        match replies.next().await? {
            Event::BenchProgress { done, total, .. } => progress(done, total),
            Event::Bench { report, .. } => return Ok(*report),
            _ => return Err(out_of_step()),
        }
    }
}
