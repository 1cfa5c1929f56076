//! What a test tells the fake worker to do.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use aluco_proto::{
    Backend, CacheActivity, CacheReport, DeviceMemory, PROTOCOL_VERSION, WorkerHello,
};
use serde::{Deserialize, Serialize};

/// Time between two looks at a gate that is shut.
const GATE_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// A model that is made up: its answers, its pace, its accidents. The default answers at once and never fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// The answer to every prompt, token by token; then the model ends it.
    pub tokens: Vec<String>,
    /// Answer with the prompt's own words (of a conversation, its last message) in place of `tokens`.
    pub echo: bool,
    /// Begin `tokens` again at their end, until `tokens_max`, a stop string, the context or a cancel ends it.
    pub endless: bool,
    /// Wait before each token, in milliseconds.
    pub delay_ms: u64,
    /// From when this file is there, tokens come without that wait: what would last for ever ends when the test has seen enough.
    pub delay_until: Option<PathBuf>,
    /// How many `Prefill` events a prompt gives.
    pub prefill_events: u32,
    /// Wait before each `Prefill` event, in milliseconds.
    pub prefill_delay_ms: u64,
    /// Claimed length of every prompt. `None`: its words.
    pub prompt_tokens: Option<u32>,
    /// What the prefix store claims to have done for every prompt.
    pub cache: CacheReport,
    /// What the prefix store claims to hold and to have done since the load.
    pub cache_activity: CacheActivity,
    /// Claimed guesses of every generation.
    pub drafted_tokens: u32,
    /// How many of them are claimed to have been right.
    pub accepted_tokens: u32,
    /// Tokens that are claimed to have been left out of every prompt.
    pub dropped_tokens: u32,
    /// Context, unless the load asks for another.
    pub context_tokens: u32,
    /// Claimed bytes of weights, in the CPU's memory.
    pub weights_bytes: u64,
    /// The same before the load, when it is asked what the model would take. `None`: `weights_bytes`.
    pub weights_bytes_predicted: Option<u64>,
    /// Time that a load takes, in milliseconds, with ten `Loading` events on the way.
    pub load_ms: u64,
    /// The load fails with this message.
    pub load_error: Option<String>,
    /// The load ends in `crash`.
    pub crash_on_load: bool,
    /// The load ends in `crash` unless it asks for no prefix store, as that of a model whose memory cannot be exported.
    pub crash_on_probe: bool,
    /// A question for the tokens of a text ends in `crash`.
    pub crash_on_tokenize: bool,
    /// The preparation of a prompt ends in `crash`, before its request waits for its turn.
    pub crash_on_prepare: bool,
    /// The process ends by `crash` after this many tokens of a request.
    pub crash_after: Option<u32>,
    /// Crashes and hangs happen so often at most, over all workers: each leaves a line `accident` in the journal. `None`: always.
    pub accidents_max: Option<u32>,
    /// How many requests have to come to the place of the first accident before it happens, how many to that of the second, and so on over all
    /// workers; one where this says nothing. Those that come first wait there.
    pub crowds: Vec<u32>,
    /// Crashes in preparations, and crashes and hangs after tokens, befall only requests whose prompt has this in it.
    pub culprit: Option<String>,
    /// Crashes happen only if the model is loaded with a larger micro-batch than this.
    pub micro_batch_safe: Option<u32>,
    /// How it ends.
    pub crash: Crash,
    /// Lines written to standard error right before the crash.
    pub last_words: Vec<String>,
    /// Everything stands still by `hang` after this many tokens of a request.
    pub hang_after: Option<u32>,
    /// What stands still.
    pub hang: Hang,
    /// Places where it waits until the test lets it go on.
    pub gates: Vec<Gate>,
    /// A file to which a line is appended for each command about this model and each end of a generation, such as `load`,
    /// `generate 3`, `cancel 3`, `finished 3`, `cache 1000` (a budget for stored prompts), `unload`.
    pub journal: Option<PathBuf>,
    /// A file to which what was asked for is appended, one JSON object a line: `{"load": LoadOptions}` for each load,
    /// `{"generate": GenerationSpec}` for each generation.
    pub record: Option<PathBuf>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            tokens: ["Hello", ",", " world", "!"].map(str::to_owned).to_vec(),
            echo: false,
            endless: false,
            delay_ms: 0,
            delay_until: None,
            prefill_events: 1,
            prefill_delay_ms: 0,
            prompt_tokens: None,
            cache: CacheReport::default(),
            cache_activity: CacheActivity::default(),
            drafted_tokens: 0,
            accepted_tokens: 0,
            dropped_tokens: 0,
            context_tokens: 4096,
            weights_bytes: 4_000,
            weights_bytes_predicted: None,
            load_ms: 0,
            load_error: None,
            crash_on_load: false,
            crash_on_probe: false,
            crash_on_tokenize: false,
            crash_on_prepare: false,
            crash_after: None,
            accidents_max: None,
            crowds: Vec::new(),
            culprit: None,
            micro_batch_safe: None,
            crash: Crash::Abort,
            last_words: Vec::new(),
            hang_after: None,
            hang: Hang::Process,
            gates: Vec::new(),
            journal: None,
            record: None,
        }
    }
}

impl Script {
    /// Writes the script where it can be loaded as a model.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
    }

    /// Reads a script back.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// What happens where `present` requests have come to the place of the next accident; an accident is counted.
    pub(crate) fn accident(&self, micro_batch_tokens: u32, present: u32) -> Accident {
        if self
            .micro_batch_safe
            .is_some_and(|safe| micro_batch_tokens <= safe)
        {
            return Accident::None;
        }
        if self.accidents_max.is_none() && self.crowds.is_empty() {
            return Accident::Now;
        }
        let happened = self.noted("accident");
        if self
            .accidents_max
            .is_some_and(|most| happened >= most as usize)
        {
            return Accident::None;
        }
        if self
            .crowds
            .get(happened)
            .is_some_and(|crowd| present < *crowd)
        {
            return Accident::Later;
        }
        note(self.journal.as_deref(), "accident");
        Accident::Now
    }

    /// How often a line is in the journal.
    pub(crate) fn noted(&self, line: &str) -> usize {
        let journal = self.journal.as_deref().map(fs::read_to_string);
        let lines = journal.and_then(Result::ok).unwrap_or_default();
        lines.lines().filter(|it| *it == line).count()
    }

    /// Waits at a place until its gates are open. `wait` waits for a moment, and says whether nobody is interested any more.
    pub(crate) fn pass(&self, place: Place, mut wait: impl FnMut(Duration) -> bool) {
        let gates = self.gates.iter().filter(|gate| gate.at == place);
        for gate in gates {
            while !gate.file.exists() && !wait(GATE_LOOK_INTERVAL) {}
        }
    }

    /// The wait before the next token.
    pub(crate) fn delay(&self) -> Duration {
        let is_over = self.delay_until.as_ref().is_some_and(|it| it.exists());
        Duration::from_millis(if is_over { 0 } else { self.delay_ms })
    }

    /// Appends what was asked for to the record, if there is one.
    pub(crate) fn record(&self, verb: &str, asked: &impl Serialize) {
        if self.record.is_some() {
            let line = serde_json::json!({ verb: asked }).to_string();
            note(self.record.as_deref(), &line);
        }
    }
}

/// Whether an accident happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accident {
    /// Not here.
    None,
    /// When more have come.
    Later,
    /// At once.
    Now,
}

/// A place on the way of a model, and the file that lets it go on from there: what a test does meanwhile happens meanwhile, however slow the
/// machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Where it waits.
    pub at: Place,
    /// Shut until this file is there.
    pub file: PathBuf,
}

impl Gate {
    /// Lets everybody pass, now and later.
    pub fn open(&self) -> io::Result<()> {
        fs::write(&self.file, [])
    }
}

/// Where a gate can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Behind so many of the ten `Loading` events of a load.
    Load(u32),
    /// Behind so many `Prefill` events of a request.
    Prefill(u32),
    /// Behind so many tokens of a request, and before the accident there.
    Token(u32),
    /// Before the measurement of this number, as the journal counts them; the first one is 1.
    Bench(u32),
}

/// How the process ends by accident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crash {
    /// SIGABRT, as a failed assertion gives.
    Abort,
    /// SIGSEGV, as a driver's bug gives.
    Segv,
    /// Exit with status 7.
    Exit,
    /// SIGKILL, as the kernel gives when memory runs out.
    KillSelf,
    /// Bytes that are no frame; the process lives on.
    Garbage,
    /// The socket closes; the process lives on.
    HangUp,
}

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hang {
    /// The whole process: it answers no heartbeat.
    Process,
    /// The device: heartbeats are answered, and steps stand still.
    Device,
}

/// Appends a line to a journal, if there is one. Journals are for tests, so a failure is only told.
pub(crate) fn note(journal: Option<&Path>, line: &str) {
    let Some(path) = journal else {
        return;
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("the journal {} cannot be written: {error}", path.display());
    }
}

/// Who the worker claims to be. Read from the file that is named as the executable with `.json` appended, if there is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Persona {
    /// As in [`WorkerHello`].
    pub protocol: u32,
    /// As in [`WorkerHello`].
    pub version: String,
    /// As in [`WorkerHello`].
    pub backend: Backend,
    /// As in [`WorkerHello`].
    pub cpu_level: String,
    /// Names of the devices beside the CPU, such as `Vulkan0`.
    pub gpus: Vec<String>,
    /// Say this on standard error and exit with status 3, as a build for another CPU does.
    pub wrong_cpu: Option<String>,
    /// `probe` never answers.
    pub probe_hangs: bool,
    /// `serve` never says hello.
    pub serve_hangs: bool,
    /// `serve` says this on standard error and exits with status 1 at once.
    pub serve_fails: Option<String>,
    /// `serve` does nothing until this file exists.
    pub serve_waits_for: Option<PathBuf>,
    /// A file to which each start appends a line of its verb and its process id, such as `serve 123`, and an end in order such as
    /// `shutdown 123`.
    pub journal: Option<PathBuf>,
}

impl Default for Persona {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            backend: Backend::Cpu,
            cpu_level: "x86-64-v3".to_owned(),
            gpus: Vec::new(),
            wrong_cpu: None,
            probe_hangs: false,
            serve_hangs: false,
            serve_fails: None,
            serve_waits_for: None,
            journal: None,
        }
    }
}

impl Persona {
    /// The persona of the running executable; the default one if no file gives another.
    pub fn of_this_executable() -> io::Result<Self> {
        match fs::read(Self::file(&std::env::current_exe()?)) {
            Ok(json) => Ok(serde_json::from_slice(&json)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Gives the copy of the fake worker at that path this persona, from its next start on.
    pub fn write(&self, executable: &Path) -> io::Result<()> {
        fs::write(Self::file(executable), serde_json::to_vec_pretty(self)?)
    }

    /// Where the persona of an executable lies.
    fn file(executable: &Path) -> PathBuf {
        let mut name = executable.as_os_str().to_owned();
        name.push(".json");
        PathBuf::from(name)
    }

    /// Notes a start in the journal.
    pub fn note(&self, verb: &str) {
        let line = format!("{verb} {}", std::process::id());
        note(self.journal.as_deref(), &line);
    }

    /// What the worker says of itself.
    pub fn hello(&self) -> WorkerHello {
        let devices = std::iter::once("CPU")
            .chain(self.gpus.iter().map(String::as_str))
            .map(|device| DeviceMemory {
                device: device.to_owned(),
                description: format!("pretended {device}"),
                total_bytes: Some(1 << 34),
                free_bytes: Some(1 << 33),
                ..DeviceMemory::default()
            })
            .collect();
        WorkerHello {
            protocol: self.protocol,
            version: self.version.clone(),
            backend: self.backend,
            engine_build: "pretended".to_owned(),
            cpu_level: self.cpu_level.clone(),
            cpu_features: vec!["AVX2".to_owned()],
            pid: std::process::id(),
            devices,
        }
    }
}
