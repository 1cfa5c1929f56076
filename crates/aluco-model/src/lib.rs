//! Models as files: GGUF headers, names, the store on disk, downloads.

mod catalogue;
mod error;
pub mod gguf;
mod hub;
mod info;
mod name;
pub mod rfc3339;
mod store;

pub use catalogue::{CatalogueEntry, catalogue};
pub use error::{ModelError, Size};
pub use gguf::GgufError;
pub use hub::{Hub, HubConfig, PullProgress, PullStage};
pub use info::{ModelInfo, PerLayer, TensorTypeShare};
pub use name::{HubRef, ModelRef, RepoId, ShortName, Tag};
pub use store::{
    FreeSpace, ImportMode, ImportOptions, ImportProgress, ModelSource, Store, StoreConfig,
    StoredModel,
};
