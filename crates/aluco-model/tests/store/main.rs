//! The store as its users see it: a hub cache that others fill, files anywhere, and imports.

mod damaged;
mod files;
mod hub_cache;
mod imports;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aluco_model::{ImportMode, ImportOptions, ModelError, Store, StoreConfig, StoredModel};
use tempfile::TempDir;

pub(crate) const REPO: &str = "unsloth/Qwen3-30B-A3B-GGUF";
pub(crate) const NEW: &str = "2222222222222222222222222222222222222222";

pub(crate) struct Fixture {
    pub(crate) root: TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(StoreConfig {
            hub_cache: root.path().join("hub"),
            models: root.path().join("models"),
        });
        Self { root, store }
    }

    pub(crate) fn repo_folder(&self) -> PathBuf {
        self.root
            .path()
            .join("hub/models--unsloth--Qwen3-30B-A3B-GGUF")
    }

    /// Lays a file into the cache as huggingface_hub does: the contents as a blob, a relative link in the snapshot.
    pub(crate) fn cache_file(&self, commit: &str, path: &str, blob: &str, bytes: usize) {
        let repo = self.repo_folder();
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("blobs").join(blob), gguf(bytes)).unwrap();
        fs::write(repo.join("refs/main"), commit).unwrap();
        let link = repo.join("snapshots").join(commit).join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(2 + path.matches('/').count());
        symlink(format!("{up}blobs/{blob}"), link).unwrap();
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let models = self.store.list().unwrap();
        models.into_iter().map(|model| model.name).collect()
    }

    pub(crate) fn write(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, gguf(bytes)).unwrap();
        path
    }

    pub(crate) fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        mode: ImportMode,
    ) -> Result<StoredModel, ModelError> {
        let options = ImportOptions {
            name: name.map(|name| name.parse().unwrap()),
            mode,
        };
        self.store.import(file, &options, &mut |_| ())
    }
}

/// A file of this size that begins like a GGUF file without tensors and metadata.
pub(crate) fn gguf(bytes: usize) -> Vec<u8> {
    let mut contents = b"GGUF\x03\0\0\0".to_vec();
    contents.resize(bytes.max(24), 0);
    contents
}

#[test]
fn an_empty_machine_has_no_models_and_says_how_to_get_one() {
    let f = Fixture::new();
    assert!(f.names().is_empty());
    for name in ["smollm2:135m", "no-such-model", "a/b:Q4_0"] {
        let error = f.store.find(name).unwrap_err().to_string();
        assert!(error.contains(&format!("aluco pull {name}")), "{error}");
    }
    assert!(matches!(
        f.store.find("a/../b"),
        Err(ModelError::InvalidName { .. })
    ));
}
