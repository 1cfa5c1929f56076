//! Carries out what `residency` decides: loads, unloads, and the clock that unloads what nobody uses.

use std::{path::PathBuf, sync::Arc, time::Instant};

use aluco_model::StoredModel;
use aluco_proto::{Command, Event, Failure, FailureKind, ModelHandle};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout_at},
};

use crate::{
    FleetError,
    connection::{CallError, Connection},
    error::{Fault, out_of_step},
    residency::{Ready, Stage, Step},
    shared::{RequestGuard, Shared, State},
};

/// A model that takes requests, and the proof that it will not be unloaded for idleness meanwhile.
pub(crate) struct Lease {
    pub(crate) handle: ModelHandle,
    pub(crate) ready: Ready,
    pub(crate) guard: RequestGuard,
}

/// Waits for the model, which is loaded first if needed. The load goes on if the caller goes away.
pub(crate) async fn acquire(shared: &Arc<Shared>, name: &str) -> Result<Lease, FleetError> {
    let known = {
        let mut state = shared.open_state()?;
        let handle = state.residency.find(name);
        handle
            .map(|handle| admit(shared, &mut state, handle))
            .transpose()?
    };
    let (handle, guard, mut outcome) = if let Some(admitted) = known {
        admitted
    } else {
        let model = look_up(shared, name).await?;
        let mut state = shared.open_state()?;
        let handle = if let Some(handle) = state.residency.find(&model.name) {
            handle
        } else {
            let path = first_file(&model)?;
            let handle = state.residency.insert(model.name, path, Instant::now());
            tokio::spawn(load(shared.clone(), handle));
            handle
        };
        state.residency.add_name(handle, name);
        admit(shared, &mut state, handle)?
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

fn admit(shared: &Arc<Shared>, state: &mut State, handle: ModelHandle) -> Result<Admitted, Fault> {
    let resident = state
        .residency
        .get_mut(handle)
        .expect("the handle was just found under the same lock");
    let config = &shared.config;
    resident.admit(config.load_options.sequences_max, config.queue_max)?;
    let guard = RequestGuard::new(shared.clone(), handle);
    Ok((handle, guard, resident.outcome.subscribe()))
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

/// Loads a queued model and tells all who wait for it.
async fn load(shared: Arc<Shared>, handle: ModelHandle) {
    let result = tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(Fault::ShuttingDown),
        result = try_load(&shared, handle) => result,
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

async fn try_load(shared: &Arc<Shared>, handle: ModelHandle) -> Result<Ready, Fault> {
    wait_for_place(shared, handle).await?;
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
    watch_death(shared, &connection);
    let called = connection.call(|request| Command::Load {
        request,
        model: handle,
        path,
        options: shared.config.load_options.clone(),
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
            Event::Loading { progress, .. } => {
                if let Some(resident) = shared.state().residency.get_mut(handle)
                    && let Stage::Loading { progress: shown } = &mut resident.stage
                {
                    *shown = progress;
                }
            }
            Event::Loaded { model, .. } => {
                return Ok(Ready {
                    loaded: Arc::from(model),
                    connection,
                });
            }
            _ => return Err(out_of_step()),
        }
    }
}

/// Waits for its turn to load, and brings it about by unloading others.
async fn wait_for_place(shared: &Arc<Shared>, handle: ModelHandle) -> Result<(), Fault> {
    let deadline = tokio::time::Instant::now() + shared.config.place_timeout;
    let mut changed = shared.changed.subscribe();
    loop {
        let step = {
            let mut state = shared.state();
            let step = state.residency.next_step(handle, shared.config.models_max);
            if step == Step::Load
                && let Some(resident) = state.residency.get_mut(handle)
            {
                resident.stage = Stage::Loading { progress: 0.0 };
            }
            step
        };
        match step {
            Step::Load => return Ok(()),
            Step::Gone => return Err(unloaded()),
            Step::Evict(victim) => {
                start_unload(shared, victim, "another model needs its place");
            }
            Step::Wait => {
                if timeout_at(deadline, changed.changed()).await.is_err() {
                    let state = shared.state();
                    let waiting = state.residency.get(handle).map_or(0, |it| it.requests);
                    return Err(Fault::Overloaded { waiting });
                }
            }
        }
    }
}

/// Forgets the models of a worker when it ends, so that all who wait for a change look again.
fn watch_death(shared: &Arc<Shared>, connection: &Arc<Connection>) {
    let (shared, connection) = (shared.clone(), connection.clone());
    tokio::spawn(async move {
        connection.ended().await;
        drop(shared.state());
        shared.notify();
    });
}

/// Unloads a model, if it is still loaded and unused; or whatever it does, if `force`. Gives a way to wait for the end of it.
pub(crate) fn start_unload(
    shared: &Arc<Shared>,
    handle: ModelHandle,
    why: &'static str,
) -> Option<tokio::task::JoinHandle<()>> {
    let mut state = shared.state();
    let resident = state.residency.get_mut(handle)?;
    if resident.stage == Stage::Unloading {
        return None;
    }
    tracing::info!(model = resident.name, why, "a model is unloaded");
    let was_ready = resident.stage == Stage::Ready;
    if !was_ready {
        resident.outcome.send_replace(Some(Err(unloaded())));
    }
    let Some(connection) = resident.connection.clone() else {
        // It never reached a worker; its load finds itself gone.
        state.residency.remove(handle);
        drop(state);
        shared.notify();
        return None;
    };
    resident.stage = Stage::Unloading;
    drop(state);
    let shared = shared.clone();
    Some(tokio::spawn(async move {
        let called = connection.call(|request| Command::Unload {
            request,
            model: handle,
        });
        if let Ok(mut replies) = called {
            // A worker that dies instead has freed the model as well.
            let _ = replies.next().await;
        }
        shared.state().residency.remove(handle);
        shared.notify();
    }))
}

/// Unloads models that nobody has used for the time they are kept. Ends with the fleet.
pub(crate) async fn unload_idle(shared: Arc<Shared>, keep_alive: std::time::Duration) {
    let mut changed = shared.changed.subscribe();
    loop {
        let (expired, next) = shared.state().residency.expired(keep_alive, Instant::now());
        for handle in expired {
            start_unload(&shared, handle, "nobody has used it for a while");
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

fn unloaded() -> Fault {
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
