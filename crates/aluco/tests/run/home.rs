//! A user with nothing but an empty home folder and a model that is made up.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use aluco_fake_worker::Script;
use tempfile::TempDir;

/// Longest wait for something that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A home folder.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    /// One with a model, `model.gguf`, that follows this script.
    pub(crate) fn with(script: &Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        script.write(&folder.path().join("model.gguf")).unwrap();
        Self { folder }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The model's file.
    pub(crate) fn model(&self) -> PathBuf {
        self.path().join("model.gguf")
    }

    /// The files of a machine that has more memory than any test takes, whatever this one has, and on which nothing presses.
    pub(crate) fn roomy_machine(&self) -> PathBuf {
        let machine = self.path().join("machine");
        aluco_fake_worker::set_memory(&machine, 64 << 10, 48 << 10).unwrap();
        machine
    }

    /// `aluco` with these arguments, run in the home folder and without any other setting but a port where nobody listens: a server that
    /// happens to run on this machine is not to be asked.
    pub(crate) fn aluco(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aluco"));
        command
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("HOME", self.path())
            .env("ALUCO_PORT", "1")
            .env("TERM", "xterm");
        command
    }

    /// `aluco serve` at a free port, on a machine with memory enough.
    pub(crate) fn serve(&self) -> Command {
        let mut command = self.aluco(&["serve", "--port", "0", "--memory-root"]);
        command.arg(self.roomy_machine());
        command
    }

    /// `aluco run model.gguf` with these arguments and a server of its own.
    pub(crate) fn run(&self, args: &[&str]) -> Command {
        let mut command = self.aluco(&["run", "model.gguf"]);
        command
            .arg("--worker")
            .arg(aluco_fake_worker::binary())
            .args(args);
        command
    }
}

/// Keeps a report of `aluco machine bench` in this home: of 20 November 2026, by another kernel.
pub(crate) fn measured_before(home: &Home) {
    let report = serde_json::json!({
        "at": 1_795_132_800,
        "versions": { "aluco": "0.1.0", "kernel": "0.0.1", "cpu": "unknown" },
        "bandwidth": {
            "threads": 16, "array_bytes": 1, "read": 108.6e9, "copy": 100.4e9, "triad": 101.5e9,
        },
        "arithmetic": {
            "threads": 16, "instructions": "AVX-512", "one_thread": 163e9, "all_threads": 2300e9,
        },
        "disk": { "Ok": {
            "file": home.model(), "bytes": 1, "direct": null, "buffered": 5.1e9, "cached": 21e9,
        } },
    });
    let folder = home.path().join(".local/share/aluco/measurements");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("machine.jsonl"), format!("{report}\n")).unwrap();
}

/// A loopback address of this process alone, so that nobody else can take a port of it that is free for a moment.
pub(crate) fn own_address() -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f00_0000 | (std::process::id() & 0x00ff_ffff))
}

/// A script that never comes to an end by itself.
pub(crate) fn endless() -> Script {
    Script {
        tokens: vec!["on ".to_owned()],
        endless: true,
        delay_ms: 5,
        context_tokens: 1_000_000,
        ..Script::default()
    }
}

/// The processes that this one started.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if state(pid).is_some_and(|(_, parent_of_it)| parent_of_it == parent) {
            children.push(pid);
        }
    }
    children
}

/// The state of a process, such as `T` of one that a signal has stopped, and its parent; `None` if there is no such process.
fn state(pid: u32) -> Option<(char, u32)> {
    state_at(Path::new(&format!("/proc/{pid}")))
}

/// The same of the process or thread with this folder.
fn state_at(folder: &Path) -> Option<(char, u32)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The name in brackets may hold anything; what follows is the state and then the parent.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Comes back when none of these processes runs any more. Whether somebody has taken note of their end is not their affair.
pub(crate) fn assert_gone(pids: &[u32]) {
    let begun = Instant::now();
    for &pid in pids {
        while let Some((state, _)) = state(pid)
            && !matches!(state, 'Z' | 'X')
        {
            assert!(begun.elapsed() < PATIENCE, "process {pid} is in {state:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Comes back when a signal has stopped all threads of the process: each notices by itself.
pub(crate) fn wait_until_stopped(pid: u32) {
    let begun = Instant::now();
    loop {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        // One that has ended meanwhile has no state.
        let states: Vec<_> = threads
            .filter_map(|thread| state_at(&thread.ok()?.path()))
            .map(|(state, _)| state)
            .collect();
        if !states.is_empty() && states.iter().all(|&state| state == 'T') {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "threads are in {states:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
