//! How busy the machine is, for the server's clients.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aluco_machine::{
    facts::{Facts, Request},
    root::Root,
    telemetry::{KernelEvent, Sample, Sampler},
};
use aluco_server::Telemetry;
use serde::{Deserialize, Serialize};

use super::{KernelWatch, gauges::gauges};

/// Kernel events that are told at most; there are seldom any.
const EVENTS_MAX: usize = 32;

/// The answer of `/aluco/v1/telemetry`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineReport {
    /// What machine it is.
    pub(crate) machine: MachineName,
    /// How busy it is.
    pub(crate) sample: Sample,
    /// What the kernel said; `None` where its messages may not be read.
    pub(crate) kernel: Option<KernelTold>,
    /// How long the server has been running.
    pub(crate) uptime_ms: u64,
}

/// What machine it is; `None` for what is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineName {
    /// Such as `Framework Desktop`.
    pub(crate) product: Option<String>,
    /// The processor's model.
    pub(crate) cpu: Option<String>,
    /// Such as `Radeon 8060S`.
    pub(crate) gpu: Option<String>,
}

/// What the kernel said since the server began to watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelTold {
    /// How many messages bode ill and explain no death.
    pub(crate) warnings: u64,
    /// The last ones, oldest first, whatever became of them.
    pub(crate) events: Vec<KernelEvent>,
}

/// Takes samples of the machine that the server runs on.
pub(crate) struct MachineWatch {
    /// `None` until somebody asks: who never does pays nothing for it.
    sampling: Mutex<Option<Sampling>>,
    kernel: Option<Arc<KernelWatch>>,
    started_at: Instant,
}

struct Sampling {
    machine: MachineName,
    sampler: Sampler,
}

impl MachineWatch {
    /// A watch that has not looked yet.
    pub(crate) fn new(kernel: Option<Arc<KernelWatch>>) -> Self {
        Self {
            sampling: Mutex::default(),
            kernel,
            started_at: Instant::now(),
        }
    }

    /// How busy the machine is now. The first call takes a second or two, since it finds out what there is.
    pub(crate) fn telemetry(&self) -> Option<Telemetry> {
        let mut sampling = self.sampling.lock().unwrap_or_else(PoisonError::into_inner);
        if sampling.is_none() {
            *sampling = Sampling::begin();
        }
        let Sampling { machine, sampler } = sampling.as_mut()?;
        let report = MachineReport {
            machine: machine.clone(),
            sample: sampler.sample(),
            kernel: self.kernel.as_ref().map(|kernel| told(kernel)),
            uptime_ms: u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Some(Telemetry {
            gauges: gauges(&report.sample, report.kernel.as_ref()),
            report: serde_json::to_value(&report).ok()?,
        })
    }
}

impl Sampling {
    fn begin() -> Option<Self> {
        let root = Root::live()
            .inspect_err(|error| tracing::debug!(%error, "the machine is not sampled"))
            .ok()?;
        let facts = Facts::collect(&root, &Request::default());
        let mut sampler = Sampler::new(&root, &facts);
        // How busy the cores are is told from the sample before.
        sampler.sample();
        std::thread::sleep(Duration::from_millis(50));
        Some(Self {
            machine: MachineName {
                product: facts.board.product.get().cloned(),
                cpu: facts.cpu.model.get().cloned(),
                gpu: facts.identity.gpu_name.get().cloned(),
            },
            sampler,
        })
    }
}

fn told(kernel: &KernelWatch) -> KernelTold {
    let mut events = kernel.events();
    events.drain(..events.len().saturating_sub(EVENTS_MAX));
    KernelTold {
        warnings: kernel.warnings(),
        events,
    }
}
