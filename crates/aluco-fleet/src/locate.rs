//! Which worker binary to start.

use std::{
    cmp::Reverse,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use aluco_proto::{Backend, PROTOCOL_VERSION, WorkerHello};
use serde::de::DeserializeOwned;
use tokio::{io::AsyncReadExt, process::Command, task::JoinSet, time::timeout};

use crate::{
    FleetConfig,
    process::{LineTail, command, describe},
};

/// What every worker's file name begins with; the rest is `-BACKEND` or `-BACKEND-LEVEL`, or nothing.
const NAME: &str = "aluco-worker";

/// How long a worker may take to say who it is. A GPU driver that starts cold takes seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer answers to a probe are not ours.
const PROBE_BYTES_MAX: u64 = 1024 * 1024;

/// A worker binary that runs here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    pub(crate) hello: WorkerHello,
}

/// Worker binaries for this machine, at least one, best first; else what was looked for, where, and what each candidate said.
pub(crate) async fn fitting(config: &FleetConfig) -> Result<Vec<Candidate>, String> {
    let paths = match &config.worker_binary {
        Some(path) => vec![path.clone()],
        None => candidates(&config.worker_folders),
    };
    let mut probes = JoinSet::new();
    let mut answers = vec![None; paths.len()];
    for (index, path) in paths.iter().enumerate() {
        let named = config
            .worker_binary
            .is_none()
            .then(|| backend_in_name(path))
            .flatten();
        match (config.backend, named) {
            (Some(wanted), Some(named)) if wanted != named => {
                answers[index] = Some(Err(format!("is for {named}, and {wanted} is asked for")));
            }
            _ => {
                let path = path.clone();
                probes.spawn(async move { (index, probe(&path).await) });
            }
        }
    }
    while let Some(probed) = probes.join_next().await {
        let (index, answer) = probed.expect("a probe does not panic");
        answers[index] = Some(answer.and_then(|hello| check(hello, config.backend)));
    }
    let mut refusals = Vec::new();
    let mut fitting = Vec::new();
    for (path, answer) in paths.into_iter().zip(answers.into_iter().flatten()) {
        match answer {
            Ok(hello) => fitting.push(Candidate { path, hello }),
            Err(refusal) => refusals.push(format!("{} {refusal}", path.display())),
        }
    }
    if fitting.is_empty() {
        return Err(explain(config, &refusals));
    }
    Ok(best_first(fitting))
}

/// The candidates in the order of preference; equals keep theirs.
fn best_first(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_cached_key(|candidate| {
        Reverse((
            backend_rank(&candidate.hello),
            version_rank(&candidate.hello.version),
            cpu_rank(&candidate.hello.cpu_level),
        ))
    });
    candidates
}

impl Candidate {
    /// False for a GPU's worker that finds no GPU.
    pub(crate) fn is_of_use(&self) -> bool {
        backend_rank(&self.hello) > 0
    }
}

/// A backend for GPUs is worth something only where it finds one.
fn backend_rank(hello: &WorkerHello) -> u8 {
    let has_gpu = hello
        .devices
        .iter()
        .any(|device| !device.device.starts_with("CPU"));
    match hello.backend {
        Backend::Vulkan if has_gpu => 3,
        Backend::Rocm if has_gpu => 2,
        Backend::Cpu => 1,
        Backend::Vulkan | Backend::Rocm => 0,
    }
}

/// The number in names such as `x86-64-v4`; 0 without.
fn cpu_rank(level: &str) -> u32 {
    level
        .rsplit_once("-v")
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

/// The numbers of a version such as `0.1.0`, compared one by one.
fn version_rank(version: &str) -> Vec<u64> {
    let numbers = version
        .split_once(['-', '+'])
        .map_or(version, |(numbers, _)| numbers);
    numbers
        .split('.')
        .map(|number| number.parse().unwrap_or(0))
        .collect()
}

fn check(hello: WorkerHello, wanted: Option<Backend>) -> Result<WorkerHello, String> {
    if hello.protocol != PROTOCOL_VERSION {
        return Err(format!(
            "speaks protocol {}, this supervisor {PROTOCOL_VERSION}; install both from one build",
            hello.protocol
        ));
    }
    match wanted {
        Some(wanted) if wanted != hello.backend => Err(format!(
            "is for {}, and {wanted} is asked for",
            hello.backend
        )),
        _ => Ok(hello),
    }
}

fn explain(config: &FleetConfig, refusals: &[String]) -> String {
    if !refusals.is_empty() {
        return refusals.join("; ");
    }
    let folders: Vec<_> = config
        .worker_folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    format!(
        "no {NAME}-* in {}",
        if folders.is_empty() {
            "any folder, since none is configured".to_owned()
        } else {
            folders.join(", ")
        }
    )
}

/// Worker binaries in these folders: in the order of the folders, then of the names; each file once.
fn candidates(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for folder in folders {
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_worker_name(path) && is_executable(path))
            .collect();
        paths.sort();
        for path in paths {
            let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.contains(&identity) {
                seen.push(identity);
                found.push(path);
            }
        }
    }
    found
}

fn name_suffix(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(NAME)
}

fn is_worker_name(path: &Path) -> bool {
    name_suffix(path).is_some_and(|suffix| {
        suffix.is_empty()
            || suffix.strip_prefix('-').is_some_and(|rest| {
                !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            })
    })
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn backend_in_name(path: &Path) -> Option<Backend> {
    let backend = name_suffix(path)?.strip_prefix('-')?.split('-').next()?;
    [Backend::Cpu, Backend::Vulkan, Backend::Rocm]
        .into_iter()
        .find(|candidate| candidate.name() == backend)
}

/// Asks a binary who it is.
async fn probe(path: &Path) -> Result<WorkerHello, String> {
    match timeout(PROBE_TIMEOUT, ask(path, "probe")).await {
        Ok(answer) => answer,
        // The process is killed when its handle goes.
        Err(_) => Err(format!(
            "did not say who it is within {} s",
            PROBE_TIMEOUT.as_secs()
        )),
    }
}

/// Starts a worker with a verb that it answers with a line of JSON and its end. If the caller goes away, the process is killed.
pub(crate) async fn ask<T: DeserializeOwned>(path: &Path, verb: &str) -> Result<T, String> {
    answer(command(path, verb).stdin(Stdio::null())).await
}

/// The same about a model's file, with one line on its standard input.
pub(crate) async fn ask_about<T: DeserializeOwned>(
    path: &Path,
    verb: &str,
    file: &Path,
    mut line: Vec<u8>,
) -> Result<T, String> {
    line.push(b'\n');
    let (ours, theirs) = std::io::pipe().map_err(|error| format!("cannot be asked: {error}"))?;
    // A pipe takes so few bytes at once, whether anybody reads them or not.
    let written = { theirs }.write_all(&line);
    written.map_err(|error| format!("cannot be asked: {error}"))?;
    answer(command(path, verb).arg(file).stdin(ours)).await
}

async fn answer<T: DeserializeOwned>(command: &mut Command) -> Result<T, String> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut stdout = child.stdout.take().expect("standard output is piped");
    let mut stderr = child.stderr.take().expect("standard error is piped");
    let mut answer = Vec::new();
    let mut complaints = Vec::new();
    let mut answer_reader = (&mut stdout).take(PROBE_BYTES_MAX);
    let mut complaints_reader = (&mut stderr).take(PROBE_BYTES_MAX);
    let (read, _) = tokio::join!(
        answer_reader.read_to_end(&mut answer),
        complaints_reader.read_to_end(&mut complaints)
    );
    read.map_err(|error| format!("cannot be read: {error}"))?;
    // A process that has more to say than we read would wait for ever.
    drop((stdout, stderr));
    let status = child
        .wait()
        .await
        .map_err(|error| format!("cannot be waited for: {error}"))?;
    if !status.success() {
        return Err(refusal(status, &complaints));
    }
    serde_json::from_slice(&answer)
        .map_err(|error| format!("did not answer in a way that is understood: {error}"))
}

/// What a binary said that exited with an error.
fn refusal(status: ExitStatus, complaints: &[u8]) -> String {
    let mut tail = LineTail::default();
    tail.push(complaints, |_| {});
    tail.finish(|_| {});
    let words = tail.last_words();
    if words.is_empty() {
        format!("does not run here: {}", describe(status))
    } else {
        format!("says: {}", words.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, backend: Backend, gpu: bool, level: &str, version: &str) -> Candidate {
        let device = |name: &str| aluco_proto::DeviceMemory {
            device: name.to_owned(),
            ..aluco_proto::DeviceMemory::default()
        };
        Candidate {
            path: PathBuf::from(name),
            hello: WorkerHello {
                protocol: PROTOCOL_VERSION,
                version: version.to_owned(),
                backend,
                engine_build: String::new(),
                cpu_level: level.to_owned(),
                cpu_features: Vec::new(),
                pid: 1,
                devices: if gpu {
                    vec![device("CPU"), device("Vulkan0")]
                } else {
                    vec![device("CPU")]
                },
            },
        }
    }

    fn best_name(candidates: &[Candidate]) -> String {
        let best = best_first(candidates.to_vec()).remove(0);
        best.path.display().to_string()
    }

    #[test]
    fn a_gpu_beats_the_cpu_and_a_backend_without_its_gpu_does_not() {
        let cpu = candidate("cpu", Backend::Cpu, false, "x86-64-v4", "0.1.0");
        let rocm = candidate("rocm", Backend::Rocm, true, "x86-64-v3", "0.1.0");
        let vulkan = candidate("vulkan", Backend::Vulkan, true, "x86-64-v3", "0.1.0");
        let blind = candidate("blind", Backend::Vulkan, false, "x86-64-v4", "9.0.0");
        assert_eq!(
            best_name(&[cpu.clone(), rocm.clone(), vulkan, blind.clone()]),
            "vulkan"
        );
        assert_eq!(best_name(&[cpu.clone(), rocm, blind.clone()]), "rocm");
        assert_eq!(best_name(&[blind, cpu]), "cpu");
    }

    #[test]
    fn among_one_backend_the_newest_wins_then_the_higher_cpu_level_then_the_first() {
        let old = candidate("v3-old", Backend::Cpu, false, "x86-64-v3", "0.9.0");
        let new = candidate("v3-new", Backend::Cpu, false, "x86-64-v3", "0.10.0");
        let same = candidate("v3-same", Backend::Cpu, false, "x86-64-v3", "0.10.0");
        let high = candidate("v4", Backend::Cpu, false, "x86-64-v4", "0.10.0");
        assert_eq!(best_name(&[old.clone(), high, new.clone()]), "v4");
        assert_eq!(best_name(&[old.clone(), new.clone(), same]), "v3-new");
        let old_high = candidate("v4-old", Backend::Cpu, false, "x86-64-v4", "0.9.0");
        assert_eq!(best_name(&[old_high, old, new]), "v3-new");
    }

    #[test]
    fn only_names_of_workers_are_candidates() {
        for name in ["aluco-worker", "aluco-worker-cpu", "aluco-worker-cpu-v4"] {
            assert!(is_worker_name(Path::new(name)), "{name}");
        }
        for name in [
            "aluco",
            "aluco-worker.d",
            "aluco-worker-",
            "aluco-workers",
            "aluco-worker-cpu.json",
        ] {
            assert!(!is_worker_name(Path::new(name)), "{name}");
        }
        assert_eq!(
            backend_in_name(Path::new("/bin/aluco-worker-vulkan-v4")),
            Some(Backend::Vulkan)
        );
        assert_eq!(backend_in_name(Path::new("aluco-worker")), None);
    }
}
