//! What clients may ask of the program around the server: to read the configuration again, and to change the log.

use std::sync::{Mutex, PoisonError};

use aluco_fleet::Fleet;
use aluco_server::{Acceptance, Operator, Reload, Reloaded, Telemetry};
use tokio::runtime::Handle;

use crate::{
    config::{Config, Environment, Files, Given, KEYS, Key, Part, Settings, load},
    engine,
    failure::Outcome,
    log::Levels,
    watching::MachineWatch,
};

/// Where the configuration came from, and comes from again.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Variables, as they were at the start.
    pub(crate) environment: Environment,
    /// The files, which are read anew.
    pub(crate) files: Files,
    /// Flags.
    pub(crate) flags: Vec<Given>,
}

impl Sources {
    pub(crate) fn load(&self) -> Outcome<Config> {
        load(&self.environment, &self.files, &self.flags)
    }
}

/// The operator of `aluco serve`.
pub(crate) struct Serving {
    sources: Sources,
    fleet: Fleet,
    levels: Levels,
    machine: MachineWatch,
    /// What still holds of that until a restart.
    at_start: Settings,
    now: Mutex<Settings>,
    runtime: Handle,
}

impl Serving {
    /// Must be called within a runtime.
    pub(crate) fn new(
        sources: Sources,
        settings: &Settings,
        fleet: Fleet,
        levels: Levels,
        machine: MachineWatch,
    ) -> Self {
        Self {
            sources,
            fleet,
            levels,
            machine,
            at_start: settings.clone(),
            now: Mutex::new(settings.clone()),
            runtime: Handle::current(),
        }
    }
}

impl Operator for Serving {
    fn reload(&self, accept: &Acceptance<'_>) -> Result<Reload, String> {
        let config = self
            .sources
            .load()
            .map_err(|failure| failure.in_one_line())?;
        let new = config.settings;
        let server = engine::server(&new).map_err(|failure| failure.in_one_line())?;
        accept(&server)?;
        self.levels.set(&new.log_level)?;
        self.runtime
            .block_on(self.fleet.reconfigure(engine::fleet(&new)));
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = Reloaded {
            changed: differing(&now, &new, Effect::AtOnce),
            next_load: differing(&now, &new, Effect::NextLoad),
            needs_restart: differing(&self.at_start, &new, Effect::Restart),
        };
        *now = new;
        Ok(Reload {
            config: server,
            outcome,
        })
    }

    fn log_filter(&self) -> String {
        self.levels.get()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        self.levels.set(filter)
    }

    fn telemetry(&self) -> Option<Telemetry> {
        self.machine.telemetry()
    }
}

/// When a changed setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    AtOnce,
    /// For models that are loaded from then on.
    NextLoad,
    Restart,
    /// It is none of the server's.
    Never,
}

impl Effect {
    fn of(key: &Key) -> Self {
        match key.name {
            "api_keys" | "cache_isolation" | "prompt_rules" | "keep_alive" | "models" | "pin"
            | "models_max" | "memory_limit" | "memory_reserve" | "queue_max" | "body_max"
            | "shutdown_limit" | "log_level" | "resume_streams" | "resume_grace" => Self::AtOnce,
            "url" | "hub_endpoint" | "hub_token" => Self::Never,
            "backend" | "worker" => Self::Restart,
            _ if key.part == Part::Engine => Self::NextLoad,
            _ => Self::Restart,
        }
    }
}

/// The names of settings of that effect that differ.
fn differing(old: &Settings, new: &Settings, effect: Effect) -> Vec<String> {
    let keys = KEYS.iter().filter(|key| Effect::of(key) == effect);
    keys.filter(|key| (key.get)(old) != (key.get)(new))
        .map(|key| key.name.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_named_where_it_takes_effect() {
        let old = Settings::for_home("/home/owl".as_ref());
        let mut new = old.clone();
        new.port += 1;
        new.queue_max += 1;
        new.api_keys.push("secret".to_owned());
        new.load.context_tokens = Some(1);
        new.hub_token = Some("token".to_owned());
        assert_eq!(
            differing(&old, &new, Effect::AtOnce),
            ["api_keys", "queue_max"]
        );
        assert_eq!(differing(&old, &new, Effect::NextLoad), ["context"]);
        assert_eq!(differing(&old, &new, Effect::Restart), ["port"]);
        assert!(differing(&new, &new, Effect::AtOnce).is_empty());
    }
}
