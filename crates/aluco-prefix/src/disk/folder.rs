//! The entries of one fingerprint.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use xxhash_rust::xxh3::Xxh3;

use super::{
    DiskError, Manifest,
    files::{Files, System},
    format::{Flaw, Header, START_BYTES},
};
use crate::{Entry, Fingerprint, Key};

/// Ending of an entry's file.
pub(super) const ENTRY_SUFFIX: &str = ".kv";

/// Ending of the mark beside an entry that is to be kept.
pub(super) const PIN_SUFFIX: &str = ".pin";

/// Where files lie while they are being written.
pub(super) const NEW: &str = "new";

/// A temporary file that nobody has written to for this long has lost its writer. Its age and not a process number tells, because workers may run
/// in containers, where numbers mean something else.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Read at once while a payload is only checked.
const PIECE_BYTES: u64 = 1 << 20;

/// The entries of one fingerprint. Clones are the same folder; so are those of other processes.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    fingerprint: Fingerprint,
    manifest: Manifest,
    files: Arc<dyn Files>,
}

impl Folder {
    /// Opens the folder of a fingerprint below `root`, makes it if need be, and removes what writers that died have left behind.
    ///
    /// `facts`: what the fingerprint stands for, for people to read. A folder that has them already keeps them.
    pub fn open(
        root: &Path,
        fingerprint: Fingerprint,
        facts: &[(String, String)],
    ) -> Result<Self, DiskError> {
        Self::open_with(root, fingerprint, facts, Arc::new(System))
    }

    pub(super) fn open_with(
        root: &Path,
        fingerprint: Fingerprint,
        facts: &[(String, String)],
        files: Arc<dyn Files>,
    ) -> Result<Self, DiskError> {
        let path = root.join(fingerprint.to_string());
        let manifest = Manifest::read(&path).unwrap_or_else(|| Manifest::new(facts));
        let folder = Self {
            path,
            fingerprint,
            manifest,
            files,
        };
        folder.prepare()?;
        folder.remove_abandoned();
        Ok(folder)
    }

    /// A folder as it was found: nothing is made or removed.
    pub(super) fn found(path: PathBuf, fingerprint: Fingerprint, manifest: Manifest) -> Self {
        Self {
            path,
            fingerprint,
            manifest,
            files: Arc::new(System),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is for.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What its fingerprint stands for.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Makes what has to be there before anything can be written.
    fn prepare(&self) -> Result<(), DiskError> {
        let new = self.path.join(NEW);
        self.files
            .create_folder(&new)
            .map_err(DiskError::io("create", &new))?;
        if Manifest::read(&self.path).is_none() {
            let temporary = self.temporary("manifest");
            // For people only; entries can be read without it.
            if let Err(error) = self
                .manifest
                .write(self.files.as_ref(), &self.path, &temporary)
            {
                tracing::warn!(%error, "the folder stays without its manifest");
            }
        }
        Ok(())
    }

    fn remove_abandoned(&self) {
        let now = SystemTime::now();
        for file in fs::read_dir(self.path.join(NEW))
            .into_iter()
            .flatten()
            .flatten()
        {
            let age = file
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            if age.is_some_and(|age| age > ABANDONED_AFTER) {
                tracing::debug!(path = %file.path().display(), "removing what a writer left behind");
                let _ = self.files.remove(&file.path());
            }
        }
    }

    /// A name that no other writer uses, in this process or another.
    fn temporary(&self, name: &str) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since_1970.unwrap_or_default().as_nanos();
        let process = std::process::id();
        self.path
            .join(NEW)
            .join(format!("{name}.{process}-{nanos}-{count}"))
    }

    /// Where an entry is or would be.
    pub fn entry_path(&self, key: &Key) -> PathBuf {
        self.beside(key, ENTRY_SUFFIX)
    }

    fn pin_path(&self, key: &Key) -> PathBuf {
        self.beside(key, PIN_SUFFIX)
    }

    fn beside(&self, key: &Key, suffix: &str) -> PathBuf {
        let name = key.to_string();
        self.path.join(&name[..2]).join(format!("{name}{suffix}"))
    }

    /// Reads an entry, all of it checked. `None`: there is none, or only one of a later Aluco. A damaged one is removed, and the error says why.
    pub fn read(&self, key: &Key) -> Result<Option<(Entry, Vec<u8>)>, DiskError> {
        let path = self.entry_path(key);
        let result = self.open_entry(&path, key).and_then(|opened| {
            let Some((file, header)) = opened else {
                return Ok(None);
            };
            let mut payload = Vec::new();
            self.files
                .read(&file, header.payload_bytes, &mut payload)
                .map_err(DiskError::io("read", &path))?;
            header
                .check_payload(&payload)
                .map_err(damaged(&path))
                .map(|()| Some((header.entry, payload)))
        });
        match result {
            Err(DiskError::Damaged {
                reason: Flaw::NewerVersion(_),
                ..
            }) => Ok(None),
            Err(DiskError::Damaged { path, reason }) => {
                self.discard(&path)?;
                Err(DiskError::Damaged { path, reason })
            }
            result => result,
        }
    }

    /// Checks an entry without keeping its payload, and removes nothing. Gives the bytes of its file; `None` if there is none. `progress` is
    /// told the bytes of each piece as it is read.
    pub fn verify(
        &self,
        key: &Key,
        mut progress: impl FnMut(u64),
    ) -> Result<Option<u64>, DiskError> {
        let path = self.entry_path(key);
        let Some((file, header)) = self.open_entry(&path, key)? else {
            return Ok(None);
        };
        let mut hasher = Xxh3::new();
        let mut left = header.payload_bytes;
        let mut piece = Vec::new();
        while left > 0 {
            piece.clear();
            self.files
                .read(&file, left.min(PIECE_BYTES), &mut piece)
                .map_err(DiskError::io("read", &path))?;
            if piece.is_empty() {
                break;
            }
            hasher.update(&piece);
            left -= piece.len() as u64;
            progress(piece.len() as u64);
        }
        if left > 0 || hasher.digest128() != header.payload_checksum {
            return Err(damaged(&path)(Flaw::PayloadChecksum));
        }
        Ok(Some(header.bytes() as u64 + header.payload_bytes))
    }

    /// Opens an entry and reads its header, so that the payload comes next.
    fn open_entry(&self, path: &Path, key: &Key) -> Result<Option<(File, Header)>, DiskError> {
        let file = match self.files.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::io("open", path)(error)),
        };
        let (header, _) = self.read_header(&file, path)?;
        header
            .belongs_to(&self.fingerprint, key)
            .map_err(damaged(path))?;
        Ok(Some((file, header)))
    }

    /// Reads a header, and when the file was last used.
    pub(super) fn header_at(&self, path: &Path) -> Result<(Header, SystemTime), DiskError> {
        let file = self.files.open(path).map_err(DiskError::io("open", path))?;
        self.read_header(&file, path)
    }

    fn read_header(&self, file: &File, path: &Path) -> Result<(Header, SystemTime), DiskError> {
        let read = |bytes: usize, into: &mut Vec<u8>| {
            self.files
                .read(file, bytes as u64, into)
                .map_err(DiskError::io("read", path))
        };
        let metadata = file.metadata().map_err(DiskError::io("read", path))?;
        let mut bytes = Vec::new();
        read(START_BYTES, &mut bytes)?;
        let header_bytes = Header::bytes_of(&bytes).map_err(damaged(path))?;
        // What a damaged length claims is not made room for.
        if header_bytes as u64 > metadata.len() {
            return Err(damaged(path)(Flaw::CutShort));
        }
        read(header_bytes.saturating_sub(START_BYTES), &mut bytes)?;
        let header = Header::parse(&bytes, metadata.len()).map_err(damaged(path))?;
        let used_at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        Ok((header, used_at))
    }

    /// Writes an entry. Gives the bytes written; 0 if it is there already.
    pub fn write(&self, entry: &Entry, payload: &[u8]) -> Result<u64, DiskError> {
        let path = self.entry_path(&entry.key);
        // What cannot be read is written anew.
        if let Ok(Some(_))
        | Err(DiskError::Damaged {
            reason: Flaw::NewerVersion(_),
            ..
        }) = self.open_entry(&path, &entry.key)
        {
            return Ok(0);
        }
        let header = Header::new(self.fingerprint, entry.clone(), payload).map_err(|reason| {
            DiskError::Unwritable {
                key: entry.key,
                reason,
            }
        })?;
        let header = header.encode();
        self.replace(&path, &entry.key.to_string(), &[&header, payload])?;
        Ok(header.len() as u64 + payload.len() as u64)
    }

    /// Puts these pieces into a file of this name that is no entry.
    pub(super) fn put(&self, name: &str, pieces: &[&[u8]]) -> Result<(), DiskError> {
        self.replace(&self.path.join(name), name, pieces)
    }

    fn replace(&self, path: &Path, name: &str, pieces: &[&[u8]]) -> Result<(), DiskError> {
        let temporary = self.temporary(name);
        let replace = || super::replace(self.files.as_ref(), &temporary, path, pieces);
        match replace() {
            // Somebody removed the folder, which is how a store is emptied while it is in use.
            Err(DiskError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.prepare()?;
                replace()
            }
            result => result,
        }
    }

    /// Notes that an entry was used just now, for whoever has to choose what to evict.
    pub fn touch(&self, key: &Key) {
        let path = self.entry_path(key);
        match self.files.set_used(&path, SystemTime::now()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot note the use of an entry");
            }
        }
    }

    /// Removes an entry, pinned or not. Gives the bytes freed; 0 if it was gone already.
    pub fn remove(&self, key: &Key) -> Result<u64, DiskError> {
        // The mark first: one that outlived its entry would pin the next of this name.
        self.discard(&self.pin_path(key))?;
        self.discard(&self.entry_path(key))
    }

    /// Removes an entry whose place another of the same name is to take. If it is pinned, that one will be. Gives the bytes freed.
    pub fn clear(&self, key: &Key) -> Result<u64, DiskError> {
        self.discard(&self.entry_path(key))
    }

    /// Removes a file. Gives the bytes freed; 0 if it was gone already.
    pub(super) fn discard(&self, path: &Path) -> Result<u64, DiskError> {
        let bytes = fs::symlink_metadata(path).map_or(0, |metadata| metadata.len());
        match self.files.remove(path) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(DiskError::io("remove", path)(error)),
        }
    }

    /// Marks an entry as one to keep, or takes the mark away.
    pub fn pin(&self, key: &Key, pinned: bool) -> Result<(), DiskError> {
        let path = self.pin_path(key);
        if !pinned {
            return self.discard(&path).map(|_| ());
        }
        if !self.entry_path(key).exists() {
            return Err(DiskError::Missing { key: *key });
        }
        match self.files.create(&path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(DiskError::io("create", &path)(error)),
        }
    }

    /// Removes the folder if no entry is left in it. True if it is gone. Whoever still writes to it makes it anew.
    pub fn remove_if_empty(&self) -> bool {
        let folders = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for folder in folders.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            // Fails, as it should, on a folder that is not empty.
            if fs::remove_dir(folder.path()).is_err() {
                return false;
            }
        }
        for name in [super::manifest::NAME, super::note::NAME] {
            let _ = self.files.remove(&self.path.join(name));
        }
        if fs::remove_dir(&self.path).is_ok() {
            return true;
        }
        if self.path.exists() {
            let _ = self.prepare();
        }
        !self.path.exists()
    }
}

fn damaged(path: &Path) -> impl Fn(Flaw) -> DiskError + '_ {
    |reason| DiskError::Damaged {
        path: path.to_owned(),
        reason,
    }
}
