//! What a fleet does at one moment.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aluco_plan::LedgerReport;
use aluco_proto::{Command, Event, LoadedModel, ModelActivity, WorkerHello};
use tokio::time::timeout;

use crate::{Fallback, Fleet, KeepAlive, Mishaps, Speed, connection::Connection, residency::Stage};

/// How long a worker may take to say what it does.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// What a fleet does at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct FleetStatus {
    /// One per running worker process.
    pub workers: Vec<WorkerSummary>,
    /// One per loaded or loading model, in the order of their names.
    pub models: Vec<ModelSummary>,
    /// Who holds how much of the machine's memory.
    pub ledger: LedgerReport,
    /// What went wrong since the fleet began.
    pub mishaps: Mishaps,
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
    /// How fast it computed in the last seconds. `None` if nobody looked within the last ten seconds: it is counted from look to look.
    pub speed: Option<Speed>,
    /// How it is run otherwise than configured, since its workers kept dying.
    pub fallback: Option<Fallback>,
    /// Requests in flight.
    pub requests: usize,
    /// Neither time nor another model makes it go.
    pub pinned: bool,
    /// How long it stays after its last request, unless it is pinned.
    pub keep_alive: KeepAlive,
    /// When it will be unloaded if nobody asks for it. `None`: not by time, or it is in use.
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

impl Fleet {
    /// What the fleet does now.
    pub async fn status(&self) -> FleetStatus {
        let shared = self.shared();
        let worker = shared.slot.running();
        let activities = match &worker {
            Some(worker) => activities(&worker.connection).await,
            None => Vec::new(),
        };
        let workers = worker
            .into_iter()
            .filter(|worker| worker.connection.is_open())
            .map(|worker| WorkerSummary {
                hello: worker.hello.clone(),
                started_at: worker.started_at,
                restarts: shared.slot.restarts(),
            })
            .collect();
        shared.look_at_memory().await;
        let (now, clock) = (Instant::now(), SystemTime::now());
        let mut state = shared.state();
        state.speedometer.read(now, &activities);
        let residency = &state.residency;
        let mut models: Vec<_> = residency
            .iter()
            .map(|(handle, resident)| ModelSummary {
                name: resident.name.clone(),
                state: match resident.stage {
                    Stage::Queued => ModelState::Loading { progress: 0.0 },
                    Stage::Loading { progress } => ModelState::Loading { progress },
                    Stage::Ready | Stage::Unloading => ModelState::Ready,
                },
                loaded: resident.loaded().map(|loaded| (*loaded).clone()),
                activity: activities
                    .iter()
                    .find(|activity| activity.model == handle)
                    .cloned(),
                speed: state.speedometer.speed(handle),
                fallback: shared.faults().fallback(&resident.name),
                requests: resident.requests,
                pinned: residency.is_pinned(resident),
                keep_alive: residency.keep_alive(resident),
                expires_at: residency
                    .expires_at(resident)
                    .map(|at| clock + at.saturating_duration_since(now)),
            })
            .collect();
        models.sort_by(|one, other| one.name.cmp(&other.name));
        let state = &mut *state;
        FleetStatus {
            workers,
            models,
            ledger: state.memory.report(&state.residency),
            mishaps: shared.nursery.tally.read(),
        }
    }
}

/// What the worker says it does; nothing if it does not say so in time.
pub(crate) async fn activities(connection: &Arc<Connection>) -> Vec<ModelActivity> {
    let Ok(mut replies) = connection.call(|request| Command::Status { request }) else {
        return Vec::new();
    };
    match timeout(STATUS_TIMEOUT, replies.next()).await {
        Ok(Ok(Event::Status { status, .. })) => status.models,
        _ => Vec::new(),
    }
}
