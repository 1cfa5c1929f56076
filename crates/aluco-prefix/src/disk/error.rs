//! What can go wrong between the store and a disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::format::Flaw;
use crate::Key;

/// Why something was not read, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No room, or none left to this user. Removing entries helps.
    #[error("cannot write {}: {source}", path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be believed. Whoever reads the entry has to compute it again.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: Flaw,
    },
    /// What was given to be written does not fit together.
    #[error("entry {key:.12} cannot be written: {reason}")]
    Unwritable {
        /// Which.
        key: Key,
        /// Why not.
        reason: Flaw,
    },
    /// There is no such entry.
    #[error("there is no entry {key:.12}")]
    Missing {
        /// The key that was asked for.
        key: Key,
    },
}

impl DiskError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path, source }
            }
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}
