//! The fleet with the real worker and a real model. `make test` builds and fetches what it takes and runs these; by themselves they need
//! `ALUCO_TEST_WORKER` and `ALUCO_TEST_MODEL`, two paths.

mod deaths;
mod memory;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aluco_fleet::{
    Fleet, FleetStatus,
    proto::{GenerationSpec, Prompt, Sampling},
};
use aluco_model::{Store, StoreConfig};
use tempfile::TempDir;

/// A machine that runs other things beside takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A file that the environment names.
fn named(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
        panic!("{variable} is not set; run this by: make test");
    };
    assert!(path.is_file(), "{variable}: no file {}", path.display());
    path
}

fn model() -> String {
    let model = named("ALUCO_TEST_MODEL");
    model.to_str().expect("the path is UTF-8").to_owned()
}

/// An empty one: models are named by their paths.
fn store(folder: &TempDir) -> Store {
    Store::new(StoreConfig {
        hub_cache: folder.path().join("hub"),
        models: folder.path().join("models"),
    })
}

/// One choice of so many tokens at most.
fn spec(prompt: Prompt, sampling: Sampling, tokens_max: u32) -> GenerationSpec {
    GenerationSpec {
        prompt,
        sampling,
        choices: 1,
        tokens_max: Some(tokens_max),
        truncate: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
    }
}

/// Has a machine that is made up have 64 GiB, of which so much is available. What else runs here puts no pressure on it.
fn machine(root: &Path, available_mib: u64) {
    aluco_fake_worker::set_memory(root, 64 << 10, available_mib).unwrap();
}

/// One that has memory enough.
fn roomy_machine(folder: &TempDir) -> PathBuf {
    let root = folder.path().join("machine");
    machine(&root, 48 << 10);
    root
}

async fn until(fleet: &Fleet, what: &str, is_so: impl Fn(&FleetStatus) -> bool) -> FleetStatus {
    let began = Instant::now();
    loop {
        let status = fleet.status().await;
        if is_so(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "never seen: {what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
