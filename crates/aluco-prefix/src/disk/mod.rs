//! The disk tier: entries as files.
//!
//! ```text
//! <root>/<fingerprint>/manifest.json          what the fingerprint stands for
//!                      note                   what else is known of it: see `note`
//!                      <first 2 digits>/<key>.kv    an entry: see `format`
//!                      <first 2 digits>/<key>.pin   empty; the entry is to be kept
//!                      new/                   files that are being written
//! ```
//!
//! The folder is the only truth: no index lies beside it that could disagree. Whoever wants one reads the headers ([`Folder::scan`]). A file is
//! written under another name, renamed when it is complete, and never changed after. So any number of processes may share a folder without
//! locks: a reader finds a whole file or none, two writers of one entry put the same in the same place, and a file that
//! somebody else removed is a miss.
//!
//! Nothing is synced. A process that is killed leaves at most a temporary name, because what was renamed was handed to the kernel in full. After a loss
//! of power a file may lack its contents; the checksums tell. Losing an entry costs what it took to compute, so waiting for the disk on every write
//! would cost more than it saves.

mod error;
mod files;
mod folder;
pub mod format;
mod listing;
mod manifest;
mod note;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use error::DiskError;
pub use folder::Folder;
pub use listing::{Damage, FolderInfo, Found, Survey, folders};
pub use manifest::Manifest;
pub use note::read_note;

use files::Files;

#[cfg(test)]
mod tests;

/// Bytes that this user could still write to the file system where `root` is, or will be.
pub fn free_bytes(root: &Path) -> io::Result<u64> {
    let existing: PathBuf = root
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("."))
        .to_owned();
    let state = rustix::fs::statvfs(&existing)?;
    Ok(state.f_bavail.saturating_mul(state.f_frsize))
}

/// Puts these pieces, one after the other, into the file `path`: all or nothing.
fn replace(
    files: &dyn Files,
    temporary: &Path,
    path: &Path,
    pieces: &[&[u8]],
) -> Result<(), DiskError> {
    let file = files
        .create(temporary)
        .map_err(DiskError::io("create", temporary))?;
    let written = pieces
        .iter()
        .try_for_each(|piece| files::write_all(files, &file, piece))
        .map_err(DiskError::io("write", temporary))
        .and_then(|()| rename(files, temporary, path));
    if written.is_err() {
        let _ = files.remove(temporary);
    }
    written
}

/// Renames, and makes the folder if somebody took it away or nobody needed it before.
fn rename(files: &dyn Files, from: &Path, to: &Path) -> Result<(), DiskError> {
    match (files.rename(from, to), to.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            files
                .create_folder(folder)
                .map_err(DiskError::io("create", folder))?;
            files.rename(from, to)
        }
        (result, _) => result,
    }
    .map_err(DiskError::io("write", to))
}
