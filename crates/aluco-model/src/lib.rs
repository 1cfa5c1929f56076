//! Models as files: GGUF headers, names, the store on disk, downloads.

mod error;
mod store;

pub use error::ModelError;
pub use store::{Store, StoreConfig, StoredModel};
