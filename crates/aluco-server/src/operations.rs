//! What whoever runs the server may change while it runs: its configuration and its log.
//!
//! Only the program around the server knows where the configuration is and where the log goes, so it does the work, as an
//! [`Operator`]; this module asks it and tells clients what came of it.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};

use crate::{
    ServerConfig, Telemetry,
    app::App,
    body::JsonBody,
    config::{Isolation, bind_refusal},
    error::ApiError,
};

/// The program around the server.
pub trait Operator: Send + Sync + 'static {
    /// Reads the configuration again, asks whether the server accepts its part, and then puts in place what is not the server's. May
    /// block. On an error, which is told to whoever asked, everything stays as it was.
    fn reload(&self, accept: &Acceptance<'_>) -> Result<Reload, String>;

    /// The levels of the log, as in `info,aluco::worker=warn`.
    fn log_filter(&self) -> String;

    /// Changes the levels of the log, until they are changed again; the error says what is wrong with them.
    fn set_log_filter(&self, filter: &str) -> Result<(), String>;

    /// How the machine does now, if the program watches it. May block for a second or two.
    fn telemetry(&self) -> Option<Telemetry> {
        None
    }
}

/// Says whether the server can go on under a configuration; if not, why.
pub type Acceptance<'a> = dyn Fn(&ServerConfig) -> Result<(), String> + 'a;

/// A configuration that was read again.
#[derive(Debug, Clone)]
pub struct Reload {
    /// The server's part of it.
    pub config: ServerConfig,
    /// What came of it.
    pub outcome: Reloaded,
}

/// What came of a reload, by the names of settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Those that hold now and did not before.
    pub changed: Vec<String>,
    /// Those that hold for models that are loaded from now on.
    pub next_load: Vec<String>,
    /// Those that hold only after a restart.
    pub needs_restart: Vec<String>,
}

impl App {
    /// Has the configuration read again. Streams that run go on.
    pub(crate) async fn reload(&self) -> Result<Reloaded, ApiError> {
        // A client that goes away must not leave it half done.
        let app = self.clone();
        let reloading = tokio::spawn(async move { app.reload_now().await });
        reloading
            .await
            .unwrap_or_else(|error| Err(invalid(format!("the reload failed: {error}"))))
    }

    async fn reload_now(&self) -> Result<Reloaded, ApiError> {
        let operator = self.operator()?.clone();
        // One after the other, so that the configuration that was read last is the one that holds.
        let _turn = self.reloading().lock().await;
        let address = self.address();
        let accept = move |config: &ServerConfig| {
            let refusal = address.and_then(|address| bind_refusal(&address, &config.api_keys));
            refusal.map_or(Ok(()), |refusal| {
                Err(format!(
                    "{refusal}; everything stays as it was. Stop the server to run it without keys"
                ))
            })
        };
        let reload = tokio::task::spawn_blocking(move || operator.reload(&accept)).await;
        let reload = reload
            .map_err(|error| invalid(format!("reading the configuration failed: {error}")))?
            .map_err(invalid)?;
        warn_of(&reload.config);
        self.reconfigure(reload.config);
        tracing::info!(
            changed = reload.outcome.changed.join(","),
            next_load = reload.outcome.next_load.join(","),
            needs_restart = reload.outcome.needs_restart.join(","),
            "the configuration was read again"
        );
        Ok(reload.outcome)
    }
}

fn invalid(reason: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_configuration", reason)
}

/// Tells what in the configuration cannot be meant.
pub(crate) fn warn_of(config: &ServerConfig) {
    if config.isolation == Isolation::Key && config.api_keys.is_empty() {
        tracing::warn!(
            "each API key is to have computed prompts of its own, but there are no API keys: all clients share them"
        );
    }
}

pub(crate) async fn reload(State(app): State<App>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(app.reload().await?))
}

/// The levels of the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct LogBody {
    filter: String,
}

pub(crate) async fn log(State(app): State<App>) -> Result<Json<LogBody>, ApiError> {
    let filter = app.operator()?.log_filter();
    Ok(Json(LogBody { filter }))
}

pub(crate) async fn set_log(
    State(app): State<App>,
    JsonBody(body): JsonBody<LogBody>,
) -> Result<Json<LogBody>, ApiError> {
    let operator = app.operator()?;
    operator
        .set_log_filter(&body.filter)
        .map_err(|reason| ApiError::invalid_value("filter", reason))?;
    let filter = operator.log_filter();
    tracing::info!(filter, "log levels changed");
    Ok(Json(LogBody { filter }))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use aluco_fleet::{Fleet, FleetConfig};

    use super::*;

    /// Has a configuration without keys.
    #[derive(Default)]
    struct Careless {
        /// It has put its own part in place.
        is_done: AtomicBool,
    }

    impl Operator for Careless {
        fn reload(&self, accept: &Acceptance<'_>) -> Result<Reload, String> {
            accept(&ServerConfig::default())?;
            self.is_done.store(true, Ordering::SeqCst);
            Ok(Reload {
                config: ServerConfig::default(),
                outcome: Reloaded::default(),
            })
        }

        fn log_filter(&self) -> String {
            String::new()
        }

        fn set_log_filter(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_server_that_others_reach_does_not_lose_its_last_key() {
        for (address, may_lose_it) in [("127.0.0.1:1", true), ("192.0.2.1:1", false)] {
            let nowhere = aluco_model::StoreConfig {
                hub_cache: "/nonexistent".into(),
                models: "/nonexistent".into(),
            };
            let fleet = Fleet::new(FleetConfig::new(aluco_model::Store::new(nowhere)));
            let config = ServerConfig {
                api_keys: vec!["key".to_owned()],
                ..ServerConfig::default()
            };
            let careless = Arc::new(Careless::default());
            let app = App::new(fleet, config, Some(careless.clone()));
            app.listens_at(address.parse().unwrap());
            assert_eq!(app.reload().await.is_ok(), may_lose_it, "{address}");
            assert_eq!(app.keys().is_empty(), may_lose_it, "{address}");
            let is_done = careless.is_done.load(Ordering::SeqCst);
            assert_eq!(is_done, may_lose_it, "{address}");
        }
    }
}
