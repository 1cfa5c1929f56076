//! The place of the running worker: it is started here on demand, and started again after a death.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use aluco_proto::Backend;
use tokio_util::sync::CancellationToken;

use crate::{
    FleetConfig,
    error::Fault,
    locate::{self, Candidate},
    restart::{Decision, Restarts},
    worker::{Nursery, Worker},
};

/// Holds at most one worker.
pub(crate) struct Slot {
    /// Held while a worker is looked for and started; whoever comes meanwhile waits here.
    starting: tokio::sync::Mutex<Starting>,
    /// The last worker that was started, dead or alive.
    current: Mutex<Option<Arc<Worker>>>,
    starts: AtomicU32,
    backends: Mutex<Backends>,
}

/// What there is to choose from, and what was chosen.
#[derive(Default)]
struct Backends {
    /// Best first; empty until a binary was picked, and where there is no choice.
    available: Vec<Backend>,
    wanted: Option<Backend>,
}

struct Starting {
    restarts: Restarts,
    picked: Option<Candidate>,
    /// When the last attempt failed, and why: those who waited for it share its end.
    last_failure: Option<(Instant, Fault)>,
}

impl Slot {
    pub(crate) fn new(config: &FleetConfig) -> Self {
        Self {
            starting: tokio::sync::Mutex::new(Starting {
                restarts: Restarts::new(config.restart_backoff, config.restart_backoff_max),
                picked: None,
                last_failure: None,
            }),
            current: Mutex::new(None),
            starts: AtomicU32::new(0),
            backends: Mutex::default(),
        }
    }

    /// Backends for which there are workers, best first.
    pub(crate) fn backends(&self) -> Vec<Backend> {
        self.lock_backends().available.clone()
    }

    /// Has the next workers be for this backend.
    pub(crate) fn move_to(&self, backend: Backend) {
        self.lock_backends().wanted = Some(backend);
    }

    fn lock_backends(&self) -> MutexGuard<'_, Backends> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running worker, if there is one.
    pub(crate) fn running(&self) -> Option<Arc<Worker>> {
        self.last().filter(|worker| worker.connection.is_open())
    }

    /// The last worker that was started, which may have ended.
    pub(crate) fn last(&self) -> Option<Arc<Worker>> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How often a worker was started after the first time.
    pub(crate) fn restarts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The running worker; starts one if there is none.
    pub(crate) async fn connect(
        &self,
        config: &FleetConfig,
        nursery: &Nursery,
        stop: &CancellationToken,
    ) -> Result<Arc<Worker>, Fault> {
        if let Some(worker) = self.running() {
            return Ok(worker);
        }
        let asked_at = Instant::now();
        let mut starting = self.starting.lock().await;
        if let Some((failed_at, fault)) = &starting.last_failure
            && *failed_at > asked_at
        {
            return Err(fault.clone());
        }
        let started = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Fault::ShuttingDown),
            started = self.start(&mut starting, config, nursery) => started,
        };
        if let Err(fault) = &started {
            starting.last_failure = Some((Instant::now(), fault.clone()));
        }
        started
    }

    /// The binary that workers are started from.
    pub(crate) async fn binary(&self, config: &FleetConfig) -> Result<Candidate, Fault> {
        self.starting.lock().await.pick(self, config).await
    }

    async fn start(
        &self,
        starting: &mut Starting,
        config: &FleetConfig,
        nursery: &Nursery,
    ) -> Result<Arc<Worker>, Fault> {
        if let Some(worker) = self.last() {
            if worker.connection.is_open() {
                return Ok(worker);
            }
            let death = worker.connection.ended().await.clone();
            starting
                .restarts
                .died(death.at, death.cause, death.was_useful);
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        loop {
            match starting.restarts.decide(Instant::now()) {
                Decision::Start => break,
                Decision::WaitUntil(until) => tokio::time::sleep_until(until.into()).await,
                Decision::Refuse(reason) => return Err(Fault::WorkerLost(reason)),
            }
        }
        let candidate = starting.pick(self, config).await?;
        match Worker::start(&candidate.path, config, nursery).await {
            Ok(worker) => {
                let worker = Arc::new(worker);
                self.starts.fetch_add(1, Ordering::Relaxed);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker.clone());
                Ok(worker)
            }
            Err(fault) => {
                // The binary may have been replaced by another build since it was picked.
                starting.picked = None;
                if let Fault::WorkerLost(cause) = &fault {
                    starting.restarts.died(Instant::now(), cause.clone(), false);
                }
                Err(fault)
            }
        }
    }
}

impl Starting {
    async fn pick(&mut self, slot: &Slot, config: &FleetConfig) -> Result<Candidate, Fault> {
        let wanted = slot.lock_backends().wanted;
        let is_right =
            |candidate: &Candidate| wanted.is_none_or(|wanted| candidate.hello.backend == wanted);
        if let Some(candidate) = self.picked.as_ref().filter(|picked| is_right(picked)) {
            return Ok(candidate.clone());
        }
        let fitting = locate::fitting(config).await.map_err(Fault::NoWorker)?;
        let mut available: Vec<Backend> = fitting
            .iter()
            .filter(|candidate| candidate.is_of_use())
            .map(|candidate| candidate.hello.backend)
            .collect();
        available.dedup();
        slot.lock_backends().available = available;
        let at = fitting.iter().position(is_right).unwrap_or(0);
        let candidate = fitting[at].clone();
        tracing::info!(
            binary = %candidate.path.display(),
            backend = %candidate.hello.backend,
            cpu_level = candidate.hello.cpu_level,
            "a worker binary was picked"
        );
        self.picked = Some(candidate.clone());
        Ok(candidate)
    }
}
