//! Models on this machine.

use std::path::PathBuf;

use crate::ModelError;

/// Where models lie.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The Hugging Face hub cache, such as `~/.cache/huggingface/hub`.
    pub hub_cache: PathBuf,
    /// Aluco's own models (imports), such as `~/.local/share/aluco/models`.
    pub models: PathBuf,
}

/// The models on this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {}

/// One model on this machine.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredModel {
    /// Canonical name, such as `unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M`, `smollm2:135m`, or an absolute path.
    pub name: String,
    /// The GGUF files; several if it is split, in order.
    pub files: Vec<PathBuf>,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// When it came here.
    pub modified: std::time::SystemTime,
}

impl Store {
    /// A store over these folders, which need not exist yet.
    pub fn new(config: StoreConfig) -> Self {
        let _ = config;
        todo!()
    }

    /// The model of this name or path.
    pub fn find(&self, name: &str) -> Result<StoredModel, ModelError> {
        let _ = name;
        todo!()
    }

    /// All models, in the order of their names.
    pub fn list(&self) -> Result<Vec<StoredModel>, ModelError> {
        todo!()
    }
}
