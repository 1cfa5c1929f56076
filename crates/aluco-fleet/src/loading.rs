//! Carries out what `residency` decides: loads, unloads, and the clock that unloads what nobody uses.

use std::{path::PathBuf, sync::Arc, time::Instant};

use aluco_model::StoredModel;
use aluco_plan::Bytes;
use aluco_proto::{Command, Event, Failure, FailureKind, LoadOptions, ModelHandle};
use tokio::{sync::watch, task::JoinHandle, time::sleep_until};

use crate::{
    FleetError,
    cause::CauseKind,
    connection::{CallError, Connection, Death},
    error::{Fault, larger_than_predicted, out_of_step},
    placing, relief,
    residency::{self, Ready, Stage, Terms},
    shared::{RequestGuard, Shared, State},
    wanted::Wanted,
};

/// How often the loads of one model go on when workers are killed from outside.
const KILLS_MAX: u32 = 3;

/// A model that takes requests, and the proof that it will not be unloaded for idleness meanwhile.
pub(crate) struct Lease {
    pub(crate) handle: ModelHandle,
    pub(crate) ready: Ready,
    pub(crate) guard: RequestGuard,
}

/// Waits for the model on behalf of a client; it is loaded first if needed. The load goes on if the caller goes away.
pub(crate) async fn acquire(
    shared: &Arc<Shared>,
    name: &str,
    client: &str,
) -> Result<Lease, FleetError> {
    let queue_max = shared.settings().queue_max;
    acquire_within(shared, name, client, queue_max).await
}

/// The same for a request that was let in before, so that it is not turned away.
pub(crate) async fn acquire_again(
    shared: &Arc<Shared>,
    name: &str,
    client: &str,
) -> Result<Lease, FleetError> {
    acquire_within(shared, name, client, usize::MAX).await
}

async fn acquire_within(
    shared: &Arc<Shared>,
    name: &str,
    client: &str,
    queue_max: usize,
) -> Result<Lease, FleetError> {
    let client = Arc::from(client);
    let known = {
        let mut state = shared.open_state()?;
        let handle = state.residency.find(name);
        handle
            .map(|handle| admit(shared, &mut state, handle, &client, queue_max))
            .transpose()?
    };
    let (handle, guard, mut outcome) = if let Some(admitted) = known {
        admitted
    } else {
        let model = look_up(shared, name).await?;
        let terms = terms(shared, name, &model.name).await;
        let mut state = shared.open_state()?;
        let handle = if let Some(handle) = state.residency.find(&model.name) {
            handle
        } else {
            let path = first_file(&model)?;
            let now = Instant::now();
            let name = model.name.clone();
            let handle = state.residency.insert(name, path, terms, now);
            tokio::spawn(load(shared.clone(), handle, model));
            handle
        };
        state.residency.add_name(handle, name);
        admit(shared, &mut state, handle, &client, queue_max)?
    };
    let outcome = match outcome.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        // The model was forgotten with its worker, or with the fleet.
        Err(_) => None,
    };
    let ready = outcome.unwrap_or(Err(Fault::ShuttingDown))?;
    Ok(Lease {
        handle,
        ready,
        guard,
    })
}

type Admitted = (
    ModelHandle,
    RequestGuard,
    watch::Receiver<Option<Result<Ready, Fault>>>,
);

fn admit(
    shared: &Arc<Shared>,
    state: &mut State,
    handle: ModelHandle,
    client: &Arc<str>,
    queue_max: usize,
) -> Result<Admitted, Fault> {
    let resident = state
        .residency
        .get_mut(handle)
        .expect("the handle was just found under the same lock");
    let config = shared.settings();
    resident.admit(client, config.load_options.sequences_max, queue_max)?;
    let outcome = resident.outcome.subscribe();
    state.residency.touch(handle, Instant::now());
    let guard = RequestGuard::new(shared.clone(), handle, client.clone());
    Ok((handle, guard, outcome))
}

/// Looks a model up in the store, which reads folders.
pub(crate) async fn look_up(shared: &Shared, name: &str) -> Result<StoredModel, FleetError> {
    let store = shared.config.store.clone();
    let name = name.to_owned();
    let found = tokio::task::spawn_blocking(move || store.find(&name)).await;
    match found {
        Ok(found) => Ok(found?),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(FleetError::ShuttingDown),
    }
}

/// What the configuration says about a model, by whatever name it calls it.
pub(crate) async fn terms(shared: &Shared, asked: &str, canonical: &str) -> Terms {
    let config = shared.settings();
    let mut terms = Terms {
        keep_alive: config.keep_alive,
        is_pinned: false,
    };
    if config.models.is_empty() {
        return terms;
    }
    let (store, models) = (config.store.clone(), config.models.clone());
    let (asked, canonical) = (asked.to_owned(), canonical.to_owned());
    let of_this_model = move || {
        models
            .into_iter()
            .filter(|(name, _)| {
                *name == asked
                    || *name == canonical
                    || store.find(name).is_ok_and(|found| found.name == canonical)
            })
            .map(|(_, model)| model)
            .collect::<Vec<_>>()
    };
    // It can only fail with the runtime, and then nothing is loaded either.
    for model in tokio::task::spawn_blocking(of_this_model)
        .await
        .unwrap_or_default()
    {
        terms.keep_alive = model.keep_alive.unwrap_or(terms.keep_alive);
        terms.is_pinned |= model.pin;
    }
    terms
}

/// Loads a queued model and tells all who wait for it.
async fn load(shared: Arc<Shared>, handle: ModelHandle, model: StoredModel) {
    let result = tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(Fault::ShuttingDown),
        result = try_load(&shared, handle, &model) => result,
    };
    let mut state = shared.state();
    if let Some(resident) = state.residency.get_mut(handle)
        && resident.stage != Stage::Unloading
    {
        match &result {
            Ok(ready) => {
                resident.stage = Stage::Ready;
                resident.idle_since = Instant::now();
                tracing::info!(
                    model = resident.name,
                    load_ms = ready.loaded.load_ms,
                    "a model was loaded"
                );
                resident.outcome.send_replace(Some(result));
            }
            Err(fault) => {
                tracing::warn!(model = resident.name, ?fault, "a model was not loaded");
                resident.outcome.send_replace(Some(result));
                state.residency.remove(handle);
            }
        }
    }
    drop(state);
    shared.notify();
}

async fn try_load(
    shared: &Arc<Shared>,
    handle: ModelHandle,
    model: &StoredModel,
) -> Result<Ready, Fault> {
    let name: Arc<str> = {
        let mut state = shared.state();
        let resident = state.residency.get_mut(handle).ok_or_else(unloaded)?;
        Arc::from(resident.name.as_str())
    };
    let mut kills = 0;
    let (mut is_store_doubted, mut has_stepped) = (false, false);
    loop {
        let mut options = options(shared, &name);
        if is_store_doubted {
            turn_store_off(&mut options);
        }
        let wanted = Wanted::of(shared, model, options).await?;
        placing::wait_for_place(shared, handle, &wanted).await?;
        let options = &wanted.options;
        let (death, is_read) = match load_once(shared, handle, &name, options).await {
            Ok(ready) => {
                settle(shared, handle, &wanted, &ready).await?;
                if is_store_doubted && !has_stepped {
                    tracing::warn!(
                        model = &*name,
                        "this model only loads with the prefix store off, which stays so until the server is started again: its prompts are always computed"
                    );
                    shared.state().without_store.insert(name);
                }
                return Ok(ready);
            }
            Err(LoadError::Died { death, is_read }) => (death, is_read),
            Err(LoadError::Other(fault)) => return Err(fault),
        };
        if death.kind.is_external() {
            kills += 1;
            if death.kind == CauseKind::Unneeded || kills == KILLS_MAX {
                return Err(Fault::WorkerLost(death.cause));
            }
        } else if is_read && !is_store_off(options) {
            is_store_doubted = true;
            tracing::warn!(
                model = &*name,
                cause = death.cause,
                "the worker died when it had read the model, maybe while it tried to keep the model's memory; it is loaded once more with the prefix store off"
            );
        } else if shared.fall_back_after_load(&name, &death, is_read) {
            has_stepped = true;
        } else {
            // Nothing has helped, so nothing of it is kept for the next time: the file may be another by then.
            shared.forget_fallback(&name);
            return Err(Fault::WorkerLost(death.cause));
        }
        begin_again(shared, handle)?;
    }
}

/// How a model is loaded, by the configuration and by what happened to it before.
pub(crate) fn options(shared: &Shared, name: &str) -> LoadOptions {
    let mut options = shared.settings().load_options.clone();
    shared.faults().apply(name, &mut options);
    if shared.state().without_store.contains(name) {
        turn_store_off(&mut options);
    }
    options
}

/// Without these two the worker keeps nothing, and does not find out how it could.
fn turn_store_off(options: &mut LoadOptions) {
    options.cache.ram_bytes = Some(0);
    options.cache.device_tokens = Some(0);
}

fn is_store_off(options: &LoadOptions) -> bool {
    options.cache.ram_bytes == Some(0) && options.cache.device_tokens == Some(0)
}

/// Why one attempt to load a model failed.
enum LoadError {
    /// The worker died; `is_read` tells whether it had read the weights.
    Died { death: Death, is_read: bool },
    /// Anything else.
    Other(Fault),
}

impl From<Fault> for LoadError {
    fn from(fault: Fault) -> Self {
        Self::Other(fault)
    }
}

/// Loads a model that has its place, in the running worker or a new one.
async fn load_once(
    shared: &Arc<Shared>,
    handle: ModelHandle,
    name: &Arc<str>,
    options: &LoadOptions,
) -> Result<Ready, LoadError> {
    let worker = shared
        .slot
        .connect(&shared.config, &shared.nursery, &shared.stop)
        .await?;
    let connection = worker.connection.clone();
    let path = {
        let mut state = shared.state();
        let resident = state.residency.get_mut(handle).ok_or_else(unloaded)?;
        resident.connection = Some(connection.clone());
        resident.path.clone()
    };
    let called = connection.call(|request| Command::Load {
        request,
        model: handle,
        path,
        options: options.clone(),
    });
    let mut replies = match called {
        Ok(replies) => replies,
        Err(CallError::Closed) => {
            let death = connection.ended().await.clone();
            return Err(LoadError::Died {
                death,
                is_read: false,
            });
        }
        Err(CallError::Refused(failure)) => return Err(Fault::Failed(failure).into()),
    };
    let mut is_read = false;
    loop {
        match replies.next().await {
            Ok(Event::Loading { progress, .. }) => {
                is_read = progress >= 1.0;
                if let Some(resident) = shared.state().residency.get_mut(handle)
                    && let Stage::Loading { progress: shown } = &mut resident.stage
                {
                    *shown = progress;
                }
            }
            Ok(Event::Loaded { model, .. }) => {
                return Ok(Ready {
                    name: name.clone(),
                    loaded: Arc::from(model),
                    connection,
                });
            }
            Ok(_) => return Err(out_of_step().into()),
            Err(Fault::WorkerLost(_)) => {
                let death = connection.ended().await.clone();
                return Err(LoadError::Died { death, is_read });
            }
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// Puts a model whose worker died back to the begin of its load; it keeps its place and those who wait for it.
fn begin_again(shared: &Shared, handle: ModelHandle) -> Result<(), Fault> {
    let mut state = shared.state();
    let resident = state.residency.get_mut(handle).ok_or_else(unloaded)?;
    if resident.stage == Stage::Unloading {
        return Err(unloaded());
    }
    resident.stage = Stage::Loading { progress: 0.0 };
    // With the dead one it would be asked to unload from there.
    resident.connection = None;
    Ok(())
}

/// Puts what was measured of a model in the place of what was predicted. If that is more and there is no room for it, even without idle models,
/// the model goes again.
async fn settle(
    shared: &Arc<Shared>,
    handle: ModelHandle,
    wanted: &Wanted,
    ready: &Ready,
) -> Result<(), Fault> {
    let Err(over) = shared.state().memory.settle(handle, &ready.loaded.memory) else {
        return Ok(());
    };
    let plan = wanted.plan();
    let predicted = plan.engine();
    let measured = Bytes(residency::bytes(&ready.loaded));
    tracing::warn!(model = &*ready.name, %predicted, %measured, "{over}");
    relief::relieve(shared, relief::Hurry::Now).await;
    let (_, excess) = shared.state().memory.excess();
    if excess.is_zero() || measured <= predicted {
        return Ok(());
    }
    let called = ready.connection.call(|request| Command::Unload {
        request,
        model: handle,
    });
    if let Ok(mut replies) = called {
        // A worker that dies instead has freed the model as well.
        let _ = replies.next().await;
    }
    Err(larger_than_predicted(predicted, measured, excess))
}

/// A model that takes no more requests, and is still in its worker.
pub(crate) struct Leaving {
    handle: ModelHandle,
    connection: Arc<Connection>,
}

/// Takes a model out of service, whatever it does. Nothing is left to do if it is on its way out already, or never reached a
/// worker; then its load finds itself gone.
pub(crate) fn take_out_of_service(
    state: &mut State,
    handle: ModelHandle,
    why: &'static str,
) -> Option<Leaving> {
    let resident = state.residency.get_mut(handle)?;
    if resident.stage == Stage::Unloading {
        return None;
    }
    tracing::info!(model = resident.name, why, "a model is unloaded");
    state.residency.forget_wishes(handle);
    let resident = state.residency.get_mut(handle)?;
    if resident.stage != Stage::Ready {
        resident.outcome.send_replace(Some(Err(unloaded())));
    }
    let Some(connection) = resident.connection.clone() else {
        state.residency.remove(handle);
        return None;
    };
    resident.stage = Stage::Unloading;
    Some(Leaving { handle, connection })
}

impl Leaving {
    /// Has the worker free the model, whether anybody waits for that or not.
    pub(crate) fn unload(self, shared: &Arc<Shared>) -> JoinHandle<()> {
        let shared = shared.clone();
        tokio::spawn(async move {
            let called = self.connection.call(|request| Command::Unload {
                request,
                model: self.handle,
            });
            if let Ok(mut replies) = called {
                // A worker that dies instead has freed the model as well.
                let _ = replies.next().await;
            }
            shared.state().residency.remove(self.handle);
            shared.notify();
        })
    }
}

/// Unloads a model, whatever it does; comes back when its memory is free.
pub(crate) async fn unload(shared: &Arc<Shared>, handle: ModelHandle) {
    let leaving = take_out_of_service(&mut shared.state(), handle, "it was asked for");
    shared.notify();
    if let Some(leaving) = leaving {
        // It can only fail with the runtime, and then nobody is left to tell.
        let _ = leaving.unload(shared).await;
    }
}

/// Unloads models that nobody has used for the time they are kept. Ends with the fleet.
pub(crate) async fn unload_idle(shared: Arc<Shared>) {
    let mut changed = shared.changed().subscribe();
    loop {
        let (leaving, next) = {
            let mut state = shared.state();
            let (expired, next) = state.residency.expired(Instant::now());
            let leaving: Vec<_> = expired
                .into_iter()
                .filter_map(|handle| {
                    take_out_of_service(&mut state, handle, "nobody has used it for a while")
                })
                .collect();
            (leaving, next)
        };
        for leaving in leaving {
            leaving.unload(&shared);
        }
        let due = async {
            match next {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = changed.changed() => {}
            () = due => {}
        }
    }
}

pub(crate) fn unloaded() -> Fault {
    Fault::Failed(Failure {
        kind: FailureKind::ModelNotLoaded,
        message: "the model was unloaded while it was being loaded".to_owned(),
    })
}

/// The file that stands for a model: llama.cpp finds the other parts of a split one by itself.
pub(crate) fn first_file(model: &StoredModel) -> Result<PathBuf, Fault> {
    model.files.first().cloned().ok_or_else(|| {
        Fault::Failed(Failure {
            kind: FailureKind::LoadFailed,
            message: format!("the store knows no file of model {}", model.name),
        })
    })
}
