//! What can go wrong at all. A thing of the machine that cannot be read is no error here: it is a fact that is not known.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a machine could not be looked at, or a bundle not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The root cannot be opened.
    #[error("cannot open {} as the root of a machine", path.display())]
    Root {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A bundle is larger than any that is written.
    #[error("{} is no bundle of a machine: it has more than {bytes_max} bytes", path.display())]
    BundleTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: usize,
    },
    /// A file is no bundle.
    #[error("{} is no bundle of a machine; one is written by: aluco machine capture FILE", path.display())]
    NoBundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: serde_json::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
