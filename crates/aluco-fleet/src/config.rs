//! How a fleet works.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use aluco_plan::speed::BytesPerSecond;
use aluco_proto::{Backend, LoadOptions};

use crate::{KeepAlive, KernelLog};

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
    pub backend: Option<Backend>,
    /// How models are loaded unless a request says otherwise.
    pub load_options: LoadOptions,
    /// What is different for some models, by any of their names.
    pub models: BTreeMap<String, ModelConfig>,
    /// Models loaded at once; the one that is missed least goes when another is needed. At least 1.
    pub models_max: usize,
    /// Requests that may wait per model before the next is turned away. A quarter more may, of clients with few requests.
    pub queue_max: usize,
    /// How long a request waits for a busy model to make place for its own before it is turned away.
    pub place_timeout: Duration,
    /// How long an idle model stays loaded, unless `models` or a request says otherwise.
    pub keep_alive: KeepAlive,
    /// How long a worker may take from its start to its first frame.
    pub hello_timeout: Duration,
    /// Reads the kernel's log after a worker's death, for the cause. `None`: it is not read.
    pub kernel_log: Option<KernelLog>,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// A worker that does not answer a heartbeat for this long is killed.
    pub heartbeat_timeout: Duration,
    /// A worker that a signal has stopped is killed after so long without an answer, so that its streams go on soon.
    pub stopped_timeout: Duration,
    /// A worker that answers heartbeats but finishes no step for this long while it works is killed: its device hangs. A step of
    /// a large model on a slow CPU takes minutes. Once the usual time of such steps is known, twenty times that is the limit instead, but not
    /// less than 20 s.
    pub stall_timeout: Duration,
    /// After so many deaths within ten minutes that nothing from outside explains, a model is run in a safer way: smaller micro-batch, no flash
    /// attention, another backend, the CPU. So it is after any such death in the midst of its load. `None`: never.
    pub fallback_after_deaths: Option<u32>,
    /// Where the kernel's and the driver's files lie that tell of memory: `/`, or a folder with copies.
    pub memory_root: PathBuf,
    /// Most bytes that all models may hold together. `None`: what the machine has, without the reserve.
    pub memory_limit: Option<u64>,
    /// Bytes of memory that are left free. `None`: 4 %, at least 2 GiB, at most an eighth.
    pub memory_reserve: Option<u64>,
    /// How fast files of models are read that are not in memory, if that was measured: what a model costs that has to be loaded again.
    pub disk_rate: Option<BytesPerSecond>,
    /// Time between two looks at the machine's memory while models are loaded.
    pub memory_interval: Duration,
    /// First wait before a dead worker is started again; doubles up to `restart_backoff_max`.
    pub restart_backoff: Duration,
    /// Longest wait before a dead worker is started again.
    pub restart_backoff_max: Duration,
}

/// What is different for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ModelConfig {
    /// How long it stays loaded when it is idle. `None`: as long as others.
    pub keep_alive: Option<KeepAlive>,
    /// Once loaded it stays: neither time nor another model makes it go.
    pub pin: bool,
}

impl FleetConfig {
    /// Defaults: workers beside the running executable (or in `../libexec/aluco` and `../lib/aluco` from there), two heartbeats
    /// per second, three models, five minutes of keep-alive.
    pub fn new(store: aluco_model::Store) -> Self {
        Self {
            store,
            worker_folders: worker_folders(),
            worker_binary: None,
            backend: None,
            load_options: LoadOptions::default(),
            models: BTreeMap::new(),
            models_max: 3,
            queue_max: 512,
            place_timeout: Duration::from_secs(60),
            keep_alive: KeepAlive::default(),
            hello_timeout: Duration::from_secs(30),
            kernel_log: None,
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_timeout: Duration::from_secs(15),
            stopped_timeout: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(10 * 60),
            fallback_after_deaths: Some(3),
            memory_root: PathBuf::from("/"),
            memory_limit: None,
            memory_reserve: None,
            disk_rate: None,
            memory_interval: Duration::from_secs(1),
            restart_backoff: Duration::from_millis(250),
            restart_backoff_max: Duration::from_secs(30),
        }
    }
}

fn worker_folders() -> Vec<PathBuf> {
    let Some(folder) = std::env::current_exe()
        .ok()
        .and_then(|executable| executable.parent().map(PathBuf::from))
    else {
        return Vec::new();
    };
    let mut folders = vec![folder.clone()];
    if let Some(prefix) = folder.parent() {
        folders.push(prefix.join("libexec/aluco"));
        folders.push(prefix.join("lib/aluco"));
    }
    folders
}
