//! What callers may say about how long a model stays, and what they are told of its load.

use std::{collections::HashMap, time::Instant};

use aluco_plan::{Fit, Refusal};
use aluco_proto::{LoadedModel, ModelHandle};

use crate::{
    Fleet, FleetError, KeepAlive,
    fleet::NOBODY,
    loading,
    memory::Space,
    residency::{Room, Stage},
    wanted::Wanted,
};

/// Models are numbered from 1.
pub(crate) const NO_MODEL: ModelHandle = ModelHandle(0);

/// What a request says beside what is generated; nothing of it goes to a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestOptions {
    /// How long the model stays loaded after this request and those that follow, until it is unloaded or a request says otherwise.
    pub keep_alive: Option<KeepAlive>,
}

/// What a load says beside the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadWishes {
    /// How long the model stays loaded when it is idle, until it is unloaded or a request says otherwise.
    pub keep_alive: Option<KeepAlive>,
    /// Neither time nor another model makes it go, until it is unloaded by name.
    pub pin: bool,
}

/// What a load would do now.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct LoadPlan {
    /// The model's canonical name.
    pub model: String,
    /// It is loaded, or on its way in: nothing would be done.
    pub is_loaded: bool,
    /// Bytes of its files, which are about those of its weights in memory.
    pub file_bytes: u64,
    /// Models that would be unloaded for it.
    pub unloads: Vec<String>,
    /// It would have to wait: too many models have requests in flight, or are pinned.
    pub waits: bool,
    /// What it would take, if there is room for that now, be it at the cost of prompts that others have stored in memory.
    pub fit: Option<Fit>,
    /// Why there is no room now, and what could be done. If `unloads` names models, there is once those have gone.
    pub refusal: Option<Box<Refusal>>,
    /// There will not be room: a load would be refused.
    pub is_refused: bool,
}

impl Fleet {
    /// Loads a model, or touches one that is loaded.
    pub async fn load(&self, model: &str) -> Result<LoadedModel, FleetError> {
        self.load_with(model, LoadWishes::default()).await
    }

    /// The same, with something to say about how long it stays.
    pub async fn load_with(
        &self,
        model: &str,
        wishes: LoadWishes,
    ) -> Result<LoadedModel, FleetError> {
        let shared = self.shared();
        let lease = loading::acquire(shared, model, NOBODY).await?;
        let is_pinned = wishes.pin.then_some(true);
        shared
            .state()
            .residency
            .wish(lease.handle, wishes.keep_alive, is_pinned);
        Ok((*lease.ready.loaded).clone())
    }

    /// How far the load of a model is, from 0 to 1. `None`: it is loaded, or nobody loads it. Knows names that were asked for.
    pub fn load_progress(&self, model: &str) -> Option<f32> {
        let mut state = self.shared().state();
        let handle = state.residency.find(model)?;
        match state.residency.get_mut(handle)?.stage {
            Stage::Queued => Some(0.0),
            Stage::Loading { progress } => Some(progress),
            Stage::Ready | Stage::Unloading => None,
        }
    }

    /// What a load would do, without doing it.
    pub async fn plan_load(&self, model: &str) -> Result<LoadPlan, FleetError> {
        let shared = self.shared();
        let stored = loading::look_up(shared, model).await?;
        let mut plan = LoadPlan {
            is_loaded: shared.open_state()?.residency.find(&stored.name).is_some(),
            file_bytes: stored.size_bytes,
            unloads: Vec::new(),
            waits: false,
            fit: None,
            refusal: None,
            is_refused: false,
            model: stored.name.clone(),
        };
        if plan.is_loaded {
            return Ok(plan);
        }
        let options = loading::options(shared, &stored.name);
        let wanted = Wanted::of(shared, &stored, options).await?;
        let mut guard = shared.open_state()?;
        let state = &mut *guard;
        let (mut bytes_needed, mut promises) = (0, Vec::new());
        match state.memory.space(NO_MODEL, &wanted, &state.residency) {
            Space::Free(fit) => plan.fit = Some(fit),
            Space::Missing {
                tight,
                bytes,
                fit,
                refusal,
            } => {
                state.price(tight);
                bytes_needed = bytes.0;
                promises = state.stores(NO_MODEL, tight, &HashMap::new());
                plan.refusal = fit.is_none().then_some(refusal);
                plan.fit = fit;
            }
            Space::Busy(refusal) => {
                plan.waits = true;
                plan.refusal = Some(refusal);
            }
            Space::Never(refusal) => {
                plan.is_refused = true;
                plan.refusal = Some(refusal);
            }
        }
        if !plan.waits && !plan.is_refused {
            let room = Room {
                models_max: shared.settings().models_max,
                bytes_needed,
                stores: &promises,
            };
            let unloads = state.residency.would_go(room, Instant::now());
            plan.waits = unloads.is_none();
            plan.unloads = unloads.unwrap_or_default();
        }
        Ok(plan)
    }
}
