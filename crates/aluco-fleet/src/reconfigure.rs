//! Other settings for a fleet that runs.

use std::sync::{Arc, PoisonError};

use crate::{Fleet, FleetConfig, loading, shared::Shared};

impl Fleet {
    /// Puts those settings in place that can change while models are loaded and requests run: how long models stay and which are
    /// pinned, how many there may be and how many requests may wait, and how the next models are loaded. The store, the workers and
    /// their supervision stay as they were.
    pub async fn reconfigure(&self, config: FleetConfig) {
        let shared = self.shared();
        shared.take_over(config);
        let names: Vec<_> = {
            let state = shared.state();
            let residents = state.residency.iter();
            residents
                .map(|(handle, resident)| (handle, resident.name.clone()))
                .collect()
        };
        for (handle, name) in names {
            let terms = loading::terms(shared, &name, &name).await;
            if let Some(resident) = shared.state().residency.get_mut(handle) {
                resident.terms = terms;
            }
        }
        shared.notify();
    }
}

impl Shared {
    /// The settings that hold now.
    pub(crate) fn settings(&self) -> Arc<FleetConfig> {
        let settings = self.settings.read();
        settings.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take_over(&self, new: FleetConfig) {
        let settings = FleetConfig {
            load_options: new.load_options,
            models: new.models,
            models_max: new.models_max,
            queue_max: new.queue_max,
            place_timeout: new.place_timeout,
            keep_alive: new.keep_alive,
            memory_limit: new.memory_limit,
            memory_reserve: new.memory_reserve,
            ..self.config.clone()
        };
        let place = self.settings.write();
        *place.unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
