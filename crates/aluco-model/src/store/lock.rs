//! Locks between processes, by `flock`: the kernel lets go of them when their holder ends, however it ends.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::ModelError;

/// An exclusive lock on a file or folder, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock on a file, which is made if it is not there.
    pub(crate) fn wait(path: &Path) -> Result<Self, ModelError> {
        loop {
            if let Some(lock) = lock(path, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock on a file, which is made if it is not there. `None` if another holds it.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>, ModelError> {
        lock(path, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock on a folder. `None` if another holds it.
    pub(crate) fn take_folder(folder: &Path) -> Result<Option<Self>, ModelError> {
        let file = File::open(folder).map_err(ModelError::io("open", folder))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(ModelError::io("lock", folder)(error.into())),
        }
    }
}

/// `None` if another holds the lock, or deleted the file between opening and locking.
fn lock(path: &Path, operation: FlockOperation) -> Result<Option<Lock>, ModelError> {
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .map_err(ModelError::io("open", path))?;
    match flock(&file, operation) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(ModelError::io("lock", path)(error.into())),
    }
    // Some versions of huggingface_hub delete their lock files. A lock on a deleted file excludes nobody.
    let ours = file.metadata().map_err(ModelError::io("lock", path))?;
    match fs::metadata(path) {
        Ok(current) if (current.dev(), current.ino()) == (ours.dev(), ours.ino()) => {
            Ok(Some(Lock { _file: file }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ModelError::io("lock", path)(error)),
    }
}
