//! What all handles and tasks of one fleet share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Instant,
};

use aluco_plan::Tight;
use aluco_proto::ModelHandle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    FleetConfig, court::Court, error::Fault, faults::Faults, memory::Memory, residency::Residency,
    slot::Slot, speed::Speedometer, worker::Nursery,
};

/// The state of a fleet.
pub(crate) struct Shared {
    /// What it began with. Some of it can change; see [`Shared::settings`].
    pub(crate) config: FleetConfig,
    pub(crate) settings: RwLock<Arc<FleetConfig>>,
    pub(crate) slot: Slot,
    pub(crate) nursery: Nursery,
    /// Cancelled when loads, starts and measurements must be given up.
    pub(crate) stop: CancellationToken,
    /// Decides who goes on when requests are suspected of killing workers.
    pub(crate) court: Arc<Court>,
    /// Held by who brings what is held below the budget.
    pub(crate) relief: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    faults: Mutex<Faults>,
}

/// What changes; held for moments only, never across an await.
pub(crate) struct State {
    pub(crate) residency: Residency,
    pub(crate) memory: Memory,
    pub(crate) speedometer: Speedometer,
    /// Names of models that only load with the prefix store off: the worker died while it found out how to keep their memory.
    pub(crate) without_store: HashSet<Arc<str>>,
    /// Measurements that run.
    pub(crate) benches: usize,
    pub(crate) is_shutting_down: bool,
}

impl State {
    /// Notes of each model what its leaving gives of one memory.
    pub(crate) fn price(&mut self, tight: Tight) {
        for (handle, resident) in self.residency.iter_mut() {
            resident.room_bytes = Some(self.memory.held_by(handle, tight).0);
        }
    }
}

impl Shared {
    pub(crate) fn new(config: FleetConfig) -> Self {
        Self {
            slot: Slot::new(&config),
            settings: RwLock::new(Arc::new(config.clone())),
            nursery: Nursery::default(),
            stop: CancellationToken::new(),
            court: Arc::default(),
            relief: tokio::sync::Mutex::default(),
            state: Mutex::new(State {
                residency: Residency::on_disk(config.disk_rate),
                memory: Memory::new(&config),
                speedometer: Speedometer::default(),
                without_store: HashSet::new(),
                benches: 0,
                is_shutting_down: false,
            }),
            config,
            faults: Mutex::default(),
        }
    }

    /// The state, without the models of dead workers and what models have reserved that are gone.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        state.residency.remove_dead();
        state.memory.keep(|model| state.residency.contains(model));
        guard
    }

    /// What is remembered of deaths.
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the fleet is shutting down.
    pub(crate) fn open_state(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.state();
        if state.is_shutting_down || self.stop.is_cancelled() {
            return Err(Fault::ShuttingDown);
        }
        Ok(state)
    }

    /// Told of every change that somebody could wait for, the end of a worker included.
    pub(crate) fn changed(&self) -> &watch::Sender<()> {
        &self.nursery.changed
    }

    /// Wakes all who wait for a change.
    pub(crate) fn notify(&self) {
        self.changed().send_replace(());
    }
}

/// Handles own the fleet through this; when the last one goes, so do all tasks and processes.
pub(crate) struct Owner(pub(crate) Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop.cancel();
        self.0.nursery.kill.cancel();
    }
}

/// One request in flight, counted until this is dropped.
pub(crate) struct RequestGuard {
    shared: Arc<Shared>,
    handle: ModelHandle,
    client: Arc<str>,
}

impl RequestGuard {
    /// For a request that [`crate::residency::Resident::admit`] has counted in.
    pub(crate) fn new(shared: Arc<Shared>, handle: ModelHandle, client: Arc<str>) -> Self {
        Self {
            shared,
            handle,
            client,
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if let Some(resident) = self.shared.state().residency.get_mut(self.handle) {
            resident.release(&self.client, Instant::now());
        }
        self.shared.notify();
    }
}
