//! Where the files of a repository go in the hub cache. The layout is described in [`crate::store::hub_cache`].

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{listing::RemoteFile, partial};
use crate::{
    ModelError, RepoId,
    store::{
        hub_cache::{LINK_SUFFIX, pull_lock, repo_folder, with_suffix},
        sync_folder,
    },
};

/// A repository's folder in the hub cache.
#[derive(Debug, Clone)]
pub(super) struct RepoFolder {
    folder: PathBuf,
    pull_lock: PathBuf,
}

impl RepoFolder {
    /// The folder that there is for the name that was asked for, else where one is to be for the name that the hub gave.
    /// Only its lock can be used before [`Self::create`], so that no folder is made that another process is deleting.
    pub(super) fn locate(
        cache: &Path,
        asked: &RepoId,
        named: RepoId,
    ) -> Result<(RepoId, Self), ModelError> {
        let (repo, folder) = repo_folder(cache, asked)?.unwrap_or_else(|| {
            let folder = cache.join(named.cache_folder());
            (named, folder)
        });
        let pull_lock = pull_lock(cache, &repo);
        let located = Self { folder, pull_lock };
        let locks = located.locks();
        fs::create_dir_all(locks).map_err(ModelError::io("create", locks))?;
        Ok((repo, located))
    }

    /// Makes what is not there yet.
    pub(super) fn create(&self) -> Result<(), ModelError> {
        for new in [self.blobs(), self.folder.join("refs")] {
            fs::create_dir_all(&new).map_err(ModelError::io("create", &new))?;
        }
        Ok(())
    }

    /// Where contents lie.
    pub(super) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    /// Where the contents of a file lie, or will.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.blobs().join(file.hash.as_str())
    }

    fn locks(&self) -> &Path {
        self.pull_lock.parent().unwrap_or(&self.folder)
    }

    /// Held while a model of this repository is pulled or removed.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.pull_lock.clone()
    }

    /// Held while a blob is written, by whatever program.
    pub(super) fn blob_lock_path(&self, file: &RemoteFile) -> PathBuf {
        self.locks().join(format!("{}.lock", file.hash.as_str()))
    }

    fn in_snapshot(&self, commit: &str, file: &RemoteFile) -> PathBuf {
        self.folder.join("snapshots").join(commit).join(&file.path)
    }

    /// True if a file needs no downloading.
    pub(super) fn is_here(&self, commit: &str, file: &RemoteFile) -> Result<bool, ModelError> {
        for path in [self.blob(file), self.in_snapshot(commit, file)] {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() && metadata.len() == file.size_bytes => {
                    return Ok(true);
                }
                Err(error) if !is_absence(&error) => {
                    return Err(ModelError::io("read", &path)(error));
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Bytes of a file that need no downloading.
    pub(super) fn bytes_here(&self, commit: &str, file: &RemoteFile) -> Result<u64, ModelError> {
        if self.is_here(commit, file)? {
            return Ok(file.size_bytes);
        }
        Ok(partial::bytes_noted(&self.blob(file), file))
    }

    /// Makes a file appear in the snapshot of a commit.
    pub(super) fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), ModelError> {
        let link = self.in_snapshot(commit, file);
        let depth = 2 + file.path.matches('/').count();
        let target = PathBuf::from("../".repeat(depth))
            .join("blobs")
            .join(file.hash.as_str());
        if fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(());
        }
        if !self.blob(file).is_file() {
            // On a file system without links the snapshot holds the file itself.
            return Ok(());
        }
        let parent = link.parent().unwrap_or(&self.folder);
        fs::create_dir_all(parent).map_err(ModelError::io("create", parent))?;
        // Renamed into place, because there may be a link to other contents.
        let fresh = with_suffix(&link, LINK_SUFFIX);
        let _ = fs::remove_file(&fresh);
        symlink(&target, &fresh).map_err(ModelError::io("create", &fresh))?;
        fs::rename(&fresh, &link).map_err(ModelError::io("create", &link))?;
        sync_folder(parent)
    }

    /// Notes which commit `main` is at.
    pub(super) fn set_main(&self, commit: &str) -> Result<(), ModelError> {
        let path = self.folder.join("refs/main");
        if fs::read_to_string(&path).is_ok_and(|there| there.trim() == commit) {
            return Ok(());
        }
        replace(&path, commit.as_bytes())
    }
}

/// Writes a small file so that either the old or the new contents are there, whatever happens.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), ModelError> {
    let fresh = with_suffix(path, ".tmp");
    let mut file = fs::File::create(&fresh).map_err(ModelError::io("create", &fresh))?;
    file.write_all(contents)
        .and_then(|()| file.sync_all())
        .map_err(ModelError::io("write", &fresh))?;
    fs::rename(&fresh, path).map_err(ModelError::io("write", path))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_lock_is_held_nothing_is_made_but_the_folder_for_locks() {
        let root = tempfile::tempdir().unwrap();
        let repo: RepoId = "owner/repo".parse().unwrap();
        let (_, located) = RepoFolder::locate(root.path(), &repo, repo.clone()).unwrap();
        assert!(located.locks().is_dir());
        assert!(!located.folder.exists());
        located.create().unwrap();
        assert!(located.blobs().is_dir());
    }
}
