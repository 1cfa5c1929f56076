//! A folder with made-up models, and a fleet over it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use aluco_fake_worker::{Gate, Persona, Place, Script};
use aluco_fleet::{
    Fleet, FleetConfig, FleetError, FleetStatus, Generation,
    proto::{Failure, GenerationEvent, GenerationSpec, Prompt, Sampling},
};
use aluco_model::{Store, StoreConfig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing in these tests may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) config: FleetConfig,
}

impl World {
    /// A fleet with the fake worker on a machine that has memory enough, and with heartbeats and back-off fast enough for tests.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(StoreConfig {
            hub_cache: folder.path().join("hub"),
            models: folder.path().join("models"),
        });
        let config = FleetConfig {
            worker_binary: Some(aluco_fake_worker::binary()),
            heartbeat_interval: Duration::from_millis(100),
            heartbeat_timeout: Duration::from_secs(10),
            restart_backoff: Duration::from_millis(20),
            memory_root: folder.path().join("machine"),
            ..FleetConfig::new(store)
        };
        let world = Self { folder, config };
        std::fs::create_dir_all(world.path("machine/proc")).unwrap();
        world.set_memory(64 << 10, 48 << 10);
        world
    }

    /// Has the machine have so much memory, of which so much is available.
    pub(crate) fn set_memory(&self, total_mib: u64, available_mib: u64) {
        aluco_fake_worker::set_memory(&self.path("machine"), total_mib, available_mib).unwrap();
    }

    pub(crate) fn fleet(&self) -> Fleet {
        Fleet::new(self.config.clone())
    }

    /// Writes a model that does what the script says, and gives its name.
    pub(crate) fn model(&self, name: &str, script: &Script) -> String {
        let path = self.path(&format!("{name}.gguf"));
        let script = Script {
            journal: Some(self.path(&format!("{name}.journal"))),
            ..script.clone()
        };
        script.write(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Has the fleet use a worker with this persona, whose starts are noted in the journal `worker`.
    pub(crate) fn worker(&mut self, persona: &Persona) -> PathBuf {
        let persona = self.persona(persona);
        let path = aluco_fake_worker::install(self.folder.path(), "aluco-worker-cpu", &persona);
        let path = path.unwrap();
        self.config.worker_binary = Some(path.clone());
        path
    }

    /// A persona whose starts are noted in the journal `worker`.
    pub(crate) fn persona(&self, persona: &Persona) -> Persona {
        Persona {
            journal: Some(self.path("worker.journal")),
            ..persona.clone()
        }
    }

    /// A gate that holds a model there until it is opened.
    pub(crate) fn gate(&self, at: Place) -> Gate {
        let file = self.path(&format!("{at:?}"));
        Gate { at, file }
    }

    /// How often a line came up in a journal so far.
    pub(crate) fn count(&self, journal: &str, line: &str) -> usize {
        let lines = self.journal(journal);
        lines.iter().filter(|it| it.starts_with(line)).count()
    }

    /// Process ids of the workers that were started so far.
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.journal("worker")
            .iter()
            .filter_map(|line| line.strip_prefix("serve "))
            .map(|pid| pid.parse().unwrap())
            .collect()
    }

    /// What happened to a model so far, in the words of the worker.
    pub(crate) fn journal(&self, name: &str) -> Vec<String> {
        std::fs::read_to_string(self.path(&format!("{name}.journal")))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

/// Writes a file at once, so that nobody reads half of it.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Plain text, one choice, seed 1.
pub(crate) fn spec(prompt: &str) -> GenerationSpec {
    GenerationSpec {
        prompt: Prompt::Text(prompt.to_owned()),
        sampling: Sampling {
            seed: Some(1),
            ..Sampling::default()
        },
        choices: 1,
        tokens_max: None,
        truncate: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
    }
}

/// All events to the end.
pub(crate) async fn events(mut generation: Generation) -> Vec<GenerationEvent> {
    let mut events = Vec::new();
    while let Some(event) = within(generation.next()).await {
        events.push(event);
    }
    events
}

/// The text of the first choice.
pub(crate) fn text(events: &[GenerationEvent]) -> String {
    events
        .iter()
        .filter_map(|event| match event {
            GenerationEvent::Delta {
                choice: 0, text, ..
            } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// The failure that ends the events.
pub(crate) fn failure(events: &[GenerationEvent]) -> &Failure {
    match events.last() {
        Some(GenerationEvent::Failed(failure)) => failure,
        other => panic!("ended by {other:?}"),
    }
}

/// Waits for something that must come soon.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this takes too long")
}

/// Looks until something outside of this process is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// Process id of the one running worker.
pub(crate) async fn worker_pid(fleet: &Fleet) -> u32 {
    let status = within(fleet.status()).await;
    assert_eq!(status.workers.len(), 1, "{status:?}");
    status.workers[0].hello.pid
}

/// True while a process exists, be it as a zombie.
pub(crate) fn exists(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// True if a process does nothing any more: it is reaped, or waits for the reaper of orphans.
pub(crate) fn gone(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    })
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Reads up to the first piece of text.
pub(crate) async fn first_delta(generation: &mut Generation) {
    loop {
        match within(generation.next()).await {
            Some(GenerationEvent::Delta { .. }) => return,
            Some(event) if !event.is_terminal() => {}
            other => panic!("no text came, but {other:?}"),
        }
    }
}

/// Looks at the fleet until something is so.
pub(crate) async fn until_status(
    fleet: &Fleet,
    what: &str,
    mut is_so: impl FnMut(&FleetStatus) -> bool,
) -> FleetStatus {
    let looking = async {
        loop {
            let status = fleet.status().await;
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("never seen: {what}"))
}

/// Generates and gives all of the text.
pub(crate) async fn answer(fleet: &Fleet, model: &str) -> Result<String, FleetError> {
    let generation = within(fleet.generate(model, spec("x"))).await?;
    Ok(text(&events(generation).await))
}

/// Tokens without end, one each millisecond.
pub(crate) fn endless() -> Script {
    Script {
        endless: true,
        delay_ms: 1,
        context_tokens: 1_000_000_000,
        ..Script::default()
    }
}
