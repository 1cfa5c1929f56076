//! One look at a server: its status and what it tells of its machine.

use std::{collections::BTreeMap, time::Duration};

use aluco_plan::LedgerReport;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{
        Client, ClientError,
        wire::{self, ModelStatus},
    },
    watching::MachineReport,
};

/// A server that does not answer for so long counts as gone until it answers again.
pub(super) const PATIENCE_LIVE: Duration = Duration::from_secs(5);

/// The same where there is no second look: a machine that is about to load a model is slow for a while.
pub(super) const PATIENCE_ONCE: Duration = Duration::from_secs(15);

/// What was seen in one look.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) models: Vec<ModelStatus>,
    pub(super) worker: Option<Worker>,
    /// Absent if the server keeps none.
    pub(super) ledger: Option<LedgerReport>,
    pub(super) mishaps: Mishaps,
    /// Absent if the server does not watch its machine.
    pub(super) machine: Option<MachineReport>,
}

/// The worker process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Worker {
    pub(super) hello: Hello,
    #[serde(default)]
    pub(super) restarts: u64,
}

/// Who it is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Hello {
    pub(super) backend: String,
    pub(super) pid: Option<u32>,
    #[serde(default)]
    pub(super) engine_build: String,
}

/// What went wrong and was made good.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Mishaps {
    pub(super) worker_deaths: BTreeMap<String, u64>,
    pub(super) streams_resumed: u64,
}

/// Looks, and gives what came as it came.
pub(super) async fn raw(client: &Client, patience: Duration) -> Result<Value, ClientError> {
    let both = async { tokio::join!(client.status_json(), client.telemetry_json()) };
    let (status, telemetry) = timeout(patience, both)
        .await
        .map_err(|_| ClientError::Broken {
            url: client.url().to_owned(),
            reason: format!("no answer within {} s", patience.as_secs()),
        })?;
    // Not every server tells how its machine does.
    Ok(json!({ "status": status?, "telemetry": telemetry.ok() }))
}

/// Looks.
pub(super) async fn look(client: &Client, patience: Duration) -> Result<Look, ClientError> {
    let raw = raw(client, patience).await?;
    Look::read(raw).map_err(|error| ClientError::Broken {
        url: client.url().to_owned(),
        reason: format!("the server's status cannot be read: {error}"),
    })
}

impl Look {
    /// What was seen, from what [`raw`] gave. Parts beside the models that cannot be read are absent.
    pub(super) fn read(mut raw: Value) -> Result<Self, serde_json::Error> {
        let status = raw["status"].take();
        Ok(Self {
            worker: optional(&status["workers"][0]),
            ledger: optional(&status["ledger"]),
            mishaps: optional(&status["mishaps"]).unwrap_or_default(),
            machine: optional(&raw["telemetry"]),
            models: serde_json::from_value::<wire::Status>(status)?.models,
        })
    }
}

fn optional<'a, T: Deserialize<'a>>(value: &'a Value) -> Option<T> {
    Option::deserialize(value).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_tells_little_is_understood() {
        let look = Look::read(json!({ "status": { "models": [] } })).unwrap();
        assert!(look.ledger.is_none() && look.machine.is_none() && look.worker.is_none());
        let strange =
            json!({ "status": { "models": [], "ledger": 7, "mishaps": [] }, "telemetry": "x" });
        assert!(Look::read(strange).unwrap().ledger.is_none());
        assert!(Look::read(json!({ "status": 1 })).is_err());
    }
}
