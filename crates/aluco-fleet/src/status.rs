//! What a fleet does at one moment.

use std::time::SystemTime;

use aluco_proto::{LoadedModel, ModelActivity, WorkerHello};

/// What a fleet does at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FleetStatus {
    /// One per running worker process.
    pub workers: Vec<WorkerSummary>,
    /// One per loaded or loading model, in the order of their names.
    pub models: Vec<ModelSummary>,
}

/// One worker process.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkerSummary {
    /// Who it is.
    pub hello: WorkerHello,
    /// When it was started.
    #[serde(serialize_with = "aluco_model::rfc3339::serialize")]
    pub started_at: SystemTime,
    /// How often this worker has been started again after a death.
    pub restarts: u32,
}

/// One model of the fleet.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ModelSummary {
    /// The name under which it was asked for, in its canonical form.
    pub name: String,
    /// Where it stands.
    pub state: ModelState,
    /// What was loaded, once it is.
    pub loaded: Option<LoadedModel>,
    /// What it does, once it is loaded.
    pub activity: Option<ModelActivity>,
    /// Requests in flight.
    pub requests: usize,
    /// When it will be unloaded if nobody asks for it. `None`: not by time.
    #[serde(serialize_with = "aluco_model::rfc3339::serialize_option")]
    pub expires_at: Option<SystemTime>,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Its weights are being read.
    Loading {
        /// Share done, 0 to 1.
        progress: f32,
    },
    /// It takes requests.
    Ready,
}
