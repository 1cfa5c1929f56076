//! Models to processes: the fleet starts workers, loads models into them, routes requests, and notices when a worker dies.
//!
//! It knows nothing of HTTP, terminals or environment variables: values come in, values go out.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

pub use aluco_proto as proto;
use aluco_proto::{
    BenchReport, BenchSpec, ChatPrompt, Failure, GenerationEvent, GenerationSpec, LoadOptions,
    LoadedModel, ModelActivity, Token, WorkerHello,
};

/// How a fleet works. [`FleetConfig::new`] gives defaults.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Where models are looked up.
    pub store: aluco_model::Store,
    /// Folders in which worker binaries (`aluco-worker-*`) are looked for, best first.
    pub worker_folders: Vec<PathBuf>,
    /// Use this worker binary and no other.
    pub worker_binary: Option<PathBuf>,
    /// Use this backend and no other. `None`: the best that works.
    pub backend: Option<proto::Backend>,
    /// How models are loaded unless a request says otherwise.
    pub load_options: LoadOptions,
    /// Models loaded at once; the one idle for longest goes when another is needed.
    pub models_max: usize,
    /// Requests that may wait per model before the next is turned away.
    pub queue_max: usize,
    /// How long an idle model stays loaded. `None`: for ever.
    pub keep_alive: Option<Duration>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// A worker that does not answer a heartbeat for this long is killed.
    pub heartbeat_timeout: Duration,
    /// First wait before a dead worker is started again; doubles up to `restart_backoff_max`.
    pub restart_backoff: Duration,
    /// Longest wait before a dead worker is started again.
    pub restart_backoff_max: Duration,
}

impl FleetConfig {
    /// Defaults: workers beside the running executable, one heartbeat per second, and so on.
    pub fn new(store: aluco_model::Store) -> Self {
        let _ = store;
        todo!()
    }
}

/// Why the fleet could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// No such model is on this machine; the message says how to get it.
    #[error(transparent)]
    Model(#[from] aluco_model::ModelError),
    /// No worker binary fits this machine.
    #[error("no worker for this machine: {reason}")]
    NoWorker {
        /// What was looked for, where, and what each candidate said.
        reason: String,
    },
    /// The worker died (or hung and was killed) while the request ran.
    #[error("the worker process ended: {cause}")]
    WorkerLost {
        /// Exit status or signal, and its last words.
        cause: String,
    },
    /// The queue of the model is full. Try again later.
    #[error("{waiting} requests already wait for this model")]
    Overloaded {
        /// Requests that wait.
        waiting: usize,
    },
    /// The worker refused or failed the request.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The fleet is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Workers and the models in them. Clones share one fleet.
#[derive(Clone)]
pub struct Fleet {}

/// A running generation. Dropping it cancels the request.
pub struct Generation {}

/// What a fleet does at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FleetStatus {
    /// One per running worker process.
    pub workers: Vec<WorkerSummary>,
    /// One per loaded or loading model.
    pub models: Vec<ModelSummary>,
}

/// One worker process.
#[derive(Debug, Clone, serde::Serialize)]
pub struct WorkerSummary {
    /// Who it is.
    pub hello: WorkerHello,
    /// When it was started.
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

impl Fleet {
    /// A fleet without workers; they start on demand. Must be called within a tokio runtime.
    pub fn new(config: FleetConfig) -> Self {
        let _ = config;
        todo!()
    }

    /// Starts a generation; loads the model first if needed. Comes back when the worker has accepted the request.
    pub async fn generate(
        &self,
        model: &str,
        spec: GenerationSpec,
    ) -> Result<Generation, FleetError> {
        let _ = (model, spec);
        todo!()
    }

    /// Loads a model, or touches one that is loaded.
    pub async fn load(&self, model: &str) -> Result<LoadedModel, FleetError> {
        let _ = model;
        todo!()
    }

    /// Unloads a model; its running requests end as cancelled. False if it was not loaded.
    pub async fn unload(&self, model: &str) -> Result<bool, FleetError> {
        let _ = model;
        todo!()
    }

    /// Text to tokens.
    pub async fn tokenize(
        &self,
        model: &str,
        text: String,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>, FleetError> {
        let _ = (model, text, add_special, parse_special);
        todo!()
    }

    /// Tokens to text.
    pub async fn detokenize(&self, model: &str, tokens: Vec<Token>) -> Result<String, FleetError> {
        let _ = (model, tokens);
        todo!()
    }

    /// The prompt text that the model's chat template makes of a conversation.
    pub async fn render_chat(&self, model: &str, chat: ChatPrompt) -> Result<String, FleetError> {
        let _ = (model, chat);
        todo!()
    }

    /// Measures a model in a worker; `progress` hears (done, total) repetitions.
    pub async fn bench(
        &self,
        model: &str,
        spec: BenchSpec,
        progress: impl FnMut(u32, u32) + Send,
    ) -> Result<BenchReport, FleetError> {
        let _ = (model, spec, progress);
        todo!()
    }

    /// What the fleet does now.
    pub async fn status(&self) -> FleetStatus {
        todo!()
    }

    /// Where models are looked up.
    pub fn store(&self) -> &aluco_model::Store {
        todo!()
    }

    /// Refuses new requests, lets running ones finish for at most `limit`, cancels the rest, ends all workers.
    pub async fn shutdown(&self, limit: Duration) {
        let _ = limit;
        todo!()
    }
}

impl Generation {
    /// The model that generates.
    pub fn model(&self) -> &LoadedModel {
        todo!()
    }

    /// The next event; `None` after the terminal one. A worker's death comes as `Failed` with `FailureKind::WorkerLost`.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        todo!()
    }
}
