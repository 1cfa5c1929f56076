//! From settings to the libraries' own configurations.

use std::sync::Arc;

use aluco_fleet::FleetConfig;
use aluco_model::{HubConfig, Store, StoreConfig};
use aluco_server::{PromptRules, ResumeConfig, ServerConfig};

use crate::{
    commands::prediction::disk_rate,
    config::Settings,
    failure::{Failure, Outcome},
    watching::KernelWatch,
};

/// The models on this machine.
pub(crate) fn store(settings: &Settings) -> Store {
    Store::new(StoreConfig {
        hub_cache: settings.hub_cache.clone(),
        models: settings.models_folder.clone(),
    })
}

/// The workers and what they may do.
pub(crate) fn fleet(settings: &Settings) -> FleetConfig {
    FleetConfig {
        worker_binary: settings.worker.clone(),
        backend: settings.backend,
        load_options: settings.load_options(),
        models_max: settings.models_max,
        memory_limit: settings.memory_limit,
        memory_reserve: settings.memory_reserve,
        queue_max: settings.queue_max,
        keep_alive: settings.keep_alive,
        models: settings.model_configs(),
        disk_rate: disk_rate(settings),
        ..FleetConfig::new(store(settings))
    }
}

/// The same, told by the kernel why workers die.
pub(crate) fn watched_fleet(settings: &Settings, kernel: Option<&Arc<KernelWatch>>) -> FleetConfig {
    FleetConfig {
        kernel_log: kernel.map(KernelWatch::for_fleet),
        ..fleet(settings)
    }
}

/// The HTTP server. Reads the prompt rules, if there are any.
pub(crate) fn server(settings: &Settings) -> Outcome<ServerConfig> {
    let prompt_rules = match &settings.prompt_rules {
        Some(path) => PromptRules::read(path).map_err(|error| Failure::new(error.to_string()))?,
        None => PromptRules::default(),
    };
    Ok(ServerConfig {
        api_keys: settings.api_keys.clone(),
        isolation: settings.cache_isolation,
        prompt_rules,
        resume: ResumeConfig {
            streams: settings.resume_streams,
            grace: settings.resume_grace,
            ..ResumeConfig::default()
        },
        body_bytes_max: usize::try_from(settings.body_bytes_max).unwrap_or(usize::MAX),
        shutdown_limit: settings.shutdown_limit,
        ..ServerConfig::default()
    })
}

/// Where models are downloaded from.
pub(crate) fn hub(settings: &Settings) -> HubConfig {
    HubConfig {
        endpoint: settings.hub_endpoint.clone(),
        token: settings.hub_token.clone(),
        ..HubConfig::default()
    }
}
