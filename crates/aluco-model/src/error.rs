//! What can go wrong with models on disk and on the network.

/// Why a model could not be found, read or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such model on this machine.
    #[error("model {name} is not on this machine; get it with: aluco pull {name}")]
    NotFound {
        /// The name as it was given.
        name: String,
    },
}
