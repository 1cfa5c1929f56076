//! The folder of the journals, `/var/lib/aluco-tune/journal`, which appears and goes as a whole.
//!
//! It is not below `/var/lib/aluco`, which belongs to the user that the server runs as: whoever can write a journal decides what root
//! does at the next undo.
//!
//! It is made, with its parents that are missing, under another name beside where it will be, and renamed; so there is no moment
//! at which folders exist of which nobody knows whether they were there before. It goes the same way when the last apply was
//! taken back.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use super::{
    disk::{Attributes, Disk},
    error::TuneError,
    journal::{Journal, read_all},
    tree::{Tree, is_absent},
};

const PATH: &str = "/var/lib/aluco-tune/journal";
/// Lists the folders that were made for the journals.
const MADE_FILE: &str = "made-folders.json";
/// The name under which folders come and go.
const PASSING: &str = ".aluco-tune-passing";

/// The folder of the journals.
#[derive(Debug)]
pub(crate) struct StateFolder<'a> {
    tree: &'a Tree,
    /// Links followed.
    resolved: PathBuf,
}

/// Held while settings are changed; given up when dropped or when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _root: OwnedFd,
}

/// Takes the lock of the tree. It lies on the root folder itself, so that no file has to be made for it.
pub(crate) fn lock(tree: &Tree) -> Result<Lock, TuneError> {
    let failed = |error: rustix::io::Errno| TuneError::io("lock", tree.root())(error.into());
    let root = open(
        tree.root(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    match flock(&root, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _root: root }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(TuneError::Busy),
        Err(error) => Err(failed(error)),
    }
}

impl<'a> StateFolder<'a> {
    pub(crate) fn find(tree: &'a Tree) -> Result<Self, TuneError> {
        let resolved = tree.resolve(Path::new(PATH))?;
        Ok(Self { tree, resolved })
    }

    /// Where it lies for us.
    pub(crate) fn host(&self) -> PathBuf {
        self.tree.host(&self.resolved)
    }

    /// The journals in it, oldest first. One that others than root and this user can write is not trusted.
    pub(crate) fn journals(&self) -> Result<Vec<Journal>, TuneError> {
        let host = self.host();
        let me = rustix::process::geteuid().as_raw();
        for folder in self.resolved.ancestors().take(2) {
            let Ok(found) = fs::symlink_metadata(self.tree.host(folder)) else {
                continue;
            };
            if ![0, me].contains(&found.uid()) || found.mode() & 0o022 != 0 {
                return Err(TuneError::JournalDamaged {
                    path: folder.to_owned(),
                    line: 1,
                    why: "others than root can write it, so it cannot be trusted".to_owned(),
                });
            }
        }
        read_all(&host)
    }

    /// Makes it if it is not there.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), TuneError> {
        self.sweep(disk)?;
        if self.host().is_dir() {
            return Ok(());
        }
        let mut missing: Vec<&Path> = self
            .resolved
            .ancestors()
            .take_while(|folder| !self.tree.host(folder).is_dir())
            .collect();
        missing.reverse();
        let Some((outermost, parent)) = missing
            .first()
            .and_then(|first| Some((*first, first.parent()?)))
        else {
            return Ok(());
        };
        let passing = self.tree.host(&parent.join(PASSING));
        let mut inner = passing.clone();
        for (at, folder) in missing.iter().enumerate() {
            if at > 0 {
                inner.push(folder.file_name().unwrap_or_default());
            }
            let is_ours = *folder == self.resolved || Some(*folder) == self.resolved.parent();
            let mode = if is_ours { 0o700 } else { 0o755 };
            disk.create_folder(&inner, mode)
                .map_err(TuneError::io("make the folder", &inner))?;
        }
        let list = inner.join(MADE_FILE);
        let json = serde_json::to_vec(&missing).expect("paths of ours are text");
        let attributes = Attributes {
            mode: 0o600,
            owner: None,
            like: None,
        };
        disk.write_new(&list, &json, attributes)
            .map_err(TuneError::io("write", &list))?;
        disk.sync(&list).map_err(TuneError::io("write", &list))?;
        disk.sync(&inner).map_err(TuneError::io("write", &inner))?;
        self.pass(disk, &passing, &self.tree.host(outermost))
    }

    /// Takes it away if no journal is in it, and its parents that were made for it and hold nothing else.
    pub(crate) fn remove(&self, disk: &dyn Disk) -> Result<(), TuneError> {
        self.sweep(disk)?;
        let host = self.host();
        let Ok(json) = fs::read(host.join(MADE_FILE)) else {
            return Ok(());
        };
        if entries(&host) != [MADE_FILE] {
            return Ok(());
        }
        let made: Vec<PathBuf> = serde_json::from_slice(&json).unwrap_or_default();
        // From the innermost outwards, as long as they hold nothing but the one before.
        let mut outermost = self.resolved.clone();
        while let (Some(name), Some(parent)) = (outermost.file_name(), outermost.parent()) {
            if !made.iter().any(|folder| folder == parent)
                || entries(&self.tree.host(parent)) != [name.to_string_lossy()]
            {
                break;
            }
            outermost = parent.to_owned();
        }
        let Some(parent) = outermost.parent() else {
            return Ok(());
        };
        let passing = self.tree.host(&parent.join(PASSING));
        self.pass(disk, &self.tree.host(&outermost), &passing)?;
        self.clear(disk, &passing)
    }

    /// Removes what a crash left under the passing name.
    fn sweep(&self, disk: &dyn Disk) -> Result<(), TuneError> {
        for folder in self.resolved.ancestors().skip(1) {
            let passing = self.tree.host(&folder.join(PASSING));
            if fs::symlink_metadata(&passing).is_ok_and(|found| found.is_dir()) {
                self.clear(disk, &passing)?;
            }
        }
        Ok(())
    }

    /// Removes the folder of the passing name with what lies in it: folders of ours, each with at most one entry.
    fn clear(&self, disk: &dyn Disk, passing: &Path) -> Result<(), TuneError> {
        let mut chain = vec![passing.to_owned()];
        while let [.., innermost] = chain.as_slice() {
            let Some(next) = self
                .resolved
                .components()
                .filter(|part| matches!(part, Component::Normal(_)))
                .map(|name| innermost.join(name))
                .find(|folder| folder.is_dir())
            else {
                break;
            };
            chain.push(next);
        }
        for folder in chain.iter().rev() {
            let list = folder.join(MADE_FILE);
            match disk.remove_file(&list) {
                Err(error) if !is_absent(&error) => {
                    return Err(TuneError::io("remove", list)(error));
                }
                _ => {}
            }
            disk.remove_folder(folder)
                .map_err(TuneError::io("remove the folder", folder))?;
        }
        Ok(())
    }

    fn pass(&self, disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), TuneError> {
        disk.rename(from, to)
            .map_err(TuneError::io("rename", from))?;
        let parent = to.parent().unwrap_or_else(|| self.tree.root());
        disk.sync(parent).map_err(TuneError::io("write", parent))
    }
}

fn entries(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}
