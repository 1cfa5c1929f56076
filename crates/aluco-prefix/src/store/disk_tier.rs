//! The files of one model's entries, within the budget that all models share.

use std::{
    collections::{HashMap, HashSet},
    path::{Path as FsPath, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use super::{DiskOptions, Shared};
use crate::{
    Entry, Key,
    disk::{self, DiskError, Folder},
    tree::{Payload, Tree},
};

/// Room that is left on the file system whatever the budget says.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// What is left of the budget after making room.
const TRIM_TO: f64 = 0.9;

/// The tier below memory.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) folder: Folder,
    root: PathBuf,
    pub(super) bytes_max: u64,
    /// Bytes below the root, as far as is known.
    pub(super) bytes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

impl Disk {
    pub(super) fn new(folder: Folder, options: DiskOptions) -> Self {
        let bytes = total_bytes(&options.root);
        Self {
            folder,
            root: options.root,
            bytes_max: options.bytes,
            bytes: AtomicU64::new(bytes),
            written_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn index(&self, tree: &mut Tree) {
        let found = self.folder.scan();
        let entries = found.into_iter().map(|found| (found.entry, found.pinned));
        for orphan in tree.add_from_disk(entries) {
            remove(&self.folder, &orphan);
        }
    }

    /// The payload of an entry, if it is there and what it should be.
    pub(super) fn read(&self, entry: &Entry) -> Result<Option<Payload>, DiskError> {
        let read = self.folder.read(&entry.key)?;
        Ok(read
            .filter(|(found, _)| found == entry)
            .map(|(_, payload)| Payload::new(payload)))
    }

    /// Writes an entry. False if there is no room.
    pub(super) fn write(
        &self,
        entry: &Entry,
        payload: &[u8],
        tree: &Mutex<Tree>,
    ) -> Result<bool, DiskError> {
        let bytes = payload.len() as u64;
        if self.bytes.load(Ordering::Relaxed) + bytes > self.bytes_max {
            self.trim(bytes, tree);
            if self.bytes.load(Ordering::Relaxed) + bytes > self.bytes_max {
                return Ok(false);
            }
        }
        if disk::free_bytes(&self.root).is_ok_and(|free| free < FREE_BYTES_MIN + bytes) {
            return Ok(false);
        }
        let written = self.folder.write(entry, payload)?;
        self.bytes.fetch_add(written, Ordering::Relaxed);
        self.written_bytes.fetch_add(written, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes what a block that was just written makes superfluous.
    pub(super) fn remove_superseded(&self, block: &Entry, shared: &Shared) {
        let tails = shared.tree().superseded(block);
        for key in tails {
            match self.folder.remove(&key) {
                Ok(bytes) => {
                    self.count_freed(bytes);
                    shared.tree().discarded(&key);
                }
                // It goes when room is made.
                Err(error) => tracing::debug!("a stored prompt could not be removed: {error}"),
            }
        }
    }

    /// Removes the file of an entry that was rejected, and may have been written once more before that was known here.
    pub(super) fn clear(&self, key: &Key, tree: &Mutex<Tree>) {
        match self.folder.clear(key) {
            Ok(bytes) => self.count_freed(bytes),
            Err(error) => tracing::warn!("a stored prompt could not be removed: {error}"),
        }
        tree.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .damaged(key);
    }

    fn count_freed(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Makes room for so many bytes: of all models, what was not used for longest goes, ends before beginnings.
    fn trim(&self, bytes: u64, tree: &Mutex<Tree>) {
        let folders = disk::folders(&self.root);
        let folders: Vec<Folder> = folders.iter().map(disk::FolderInfo::folder).collect();
        let mut all = Vec::new();
        for (index, folder) in folders.iter().enumerate() {
            all.extend(folder.scan().into_iter().map(|found| (index, found)));
        }
        let mut total: u64 = all.iter().map(|(_, found)| found.file_bytes).sum();
        let goal = ((self.bytes_max as f64 * TRIM_TO) as u64).saturating_sub(bytes);
        // What leads to something pinned is pinned, and was used no earlier than what it leads to.
        let mut kept: HashSet<Key> = all
            .iter()
            .filter(|(_, found)| found.pinned)
            .map(|(_, found)| found.entry.key)
            .collect();
        let mut used_at: HashMap<Key, SystemTime> = HashMap::new();
        all.sort_by_key(|(_, found)| std::cmp::Reverse(found.entry.begin));
        for (_, found) in &all {
            let (key, parent) = (found.entry.key, found.entry.parent);
            if kept.contains(&key) {
                kept.insert(parent);
            }
            let used = used_at
                .get(&key)
                .map_or(found.used_at, |at| found.used_at.max(*at));
            used_at.insert(key, used);
            let parent = used_at.entry(parent).or_insert(used);
            *parent = used.max(*parent);
        }
        // Stable: of those used at one time the ends still come first.
        all.sort_by_key(|(_, found)| used_at[&found.entry.key]);
        for (index, found) in &all {
            if total <= goal {
                break;
            }
            if kept.contains(&found.entry.key) {
                continue;
            }
            let key = &found.entry.key;
            if remove(&folders[*index], key) {
                total -= found.file_bytes;
                if folders[*index].fingerprint() == self.folder.fingerprint() {
                    tree.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .lost(key);
                }
            }
        }
        self.bytes.store(total, Ordering::Relaxed);
    }
}

fn remove(folder: &Folder, key: &Key) -> bool {
    match folder.remove(key) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("a stored prompt could not be removed: {error}");
            false
        }
    }
}

pub(super) fn total_bytes(root: &FsPath) -> u64 {
    disk::folders(root).iter().map(|folder| folder.bytes).sum()
}
