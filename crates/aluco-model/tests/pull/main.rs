//! Downloads as a user sees them, from a hub on this machine.

mod broken;
mod fake_hub;
mod interrupted;
mod refused;
mod whole;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use aluco_model::{Hub, HubConfig, ModelError, PullProgress, Store, StoreConfig, StoredModel};
use fake_hub::FakeHub;
use tempfile::TempDir;

pub(crate) const REPO: &str = "unsloth/Tiny-GGUF";
pub(crate) const NAME: &str = "unsloth/Tiny-GGUF:Q4_K_M";
pub(crate) const FILE: &str = "Tiny-Q4_K_M.gguf";
pub(crate) const PART_BYTES: u64 = 128 * 1024;
/// No multiple of a part.
pub(crate) const FILE_BYTES: u64 = 16 * PART_BYTES + 12_345;
pub(crate) const TOKEN: &str = "hf_TestToken";

/// A machine with an empty cache, and a hub with one model.
pub(crate) struct Fixture {
    pub(crate) root: TempDir,
    pub(crate) server: FakeHub,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with_files(&[(FILE, contents(FILE_BYTES, 1))]).await
    }

    pub(crate) async fn with_files(files: &[(&str, Vec<u8>)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        Self {
            store: Store::new(store_config(root.path())),
            server: FakeHub::serve(REPO, files).await,
            root,
        }
    }

    pub(crate) fn repo_folder(&self) -> PathBuf {
        self.root.path().join("hub/models--unsloth--Tiny-GGUF")
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(hub_config(&self.server.url())).unwrap()
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<StoredModel, ModelError> {
        self.hub().pull(&self.store, name, |_| ()).await
    }

    /// Pulls, and gives all that was reported.
    pub(crate) async fn pull_watched(
        &self,
        name: &str,
    ) -> (Result<StoredModel, ModelError>, Vec<PullProgress>) {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let result = self
            .hub()
            .pull(&self.store, name, |progress| {
                reports.lock().unwrap().push(progress);
            })
            .await;
        let reports = std::mem::take(&mut *reports.lock().unwrap());
        (result, reports)
    }

    /// Names of the files in `blobs`.
    pub(crate) fn blobs(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.repo_folder().join("blobs"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn store_config(root: &Path) -> StoreConfig {
    StoreConfig {
        hub_cache: root.join("hub"),
        models: root.join("models"),
    }
}

pub(crate) fn hub_config(endpoint: &str) -> HubConfig {
    HubConfig {
        endpoint: endpoint.to_owned(),
        token: Some(TOKEN.into()),
        retries: 3,
        retry_wait: Duration::from_millis(1),
        part_bytes: PART_BYTES,
        ..HubConfig::default()
    }
}

/// Bytes that differ from place to place, so that none can stand in for others.
pub(crate) fn contents(bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut contents = b"GGUF".to_vec();
    while (contents.len() as u64) < bytes {
        // A linear congruential generator with Knuth's constants.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        contents.extend_from_slice(&state.to_le_bytes());
    }
    contents.truncate(bytes as usize);
    contents
}
