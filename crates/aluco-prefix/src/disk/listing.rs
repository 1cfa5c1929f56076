//! What there is: the entries of a folder, and the folders below a root.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, DirEntry},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    DiskError, Folder, Manifest,
    folder::{ENTRY_SUFFIX, PIN_SUFFIX},
    format::Flaw,
};
use crate::{Entry, Fingerprint, Key};

/// An entry whose header is sound. Its payload was not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it holds.
    pub entry: Entry,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// When it was last written or used.
    pub used_at: SystemTime,
    /// Somebody wants it kept.
    pub pinned: bool,
}

/// A file that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub reason: Flaw,
    /// Its length.
    pub file_bytes: u64,
}

/// What lies in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Entries, in no order. The parents of some may be missing.
    pub found: Vec<Found>,
    /// Files that are worth nothing.
    pub damaged: Vec<Damage>,
    /// Marks of entries that are gone.
    pub stray_pins: Vec<PathBuf>,
}

impl Folder {
    /// Reads the headers of all entries, and removes the files that cannot be believed. Entries of a later Aluco are passed over and left alone, and so are
    /// files that the system does not let be read.
    pub fn scan(&self) -> Vec<Found> {
        let Survey {
            found,
            damaged,
            stray_pins,
        } = self.survey();
        for damage in damaged {
            tracing::warn!(path = %damage.path.display(), reason = %damage.reason, "removing a damaged entry");
            if let Err(error) = self.remove_damaged(&damage) {
                tracing::warn!(%error, "a damaged entry stays");
            }
        }
        for pin in stray_pins {
            let _ = self.discard(&pin);
        }
        found
    }

    /// As [`scan`](Self::scan), but removes nothing.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        for folder in key_folders(self.path()) {
            self.survey_folder(&folder, &mut survey);
        }
        survey
    }

    fn survey_folder(&self, folder: &Path, survey: &mut Survey) {
        let mut entries = Vec::new();
        let mut pins = HashSet::new();
        for file in files(folder) {
            let name = file.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(ENTRY_SUFFIX) {
                entries.push(file.path());
            } else if name.ends_with(PIN_SUFFIX) {
                pins.insert(file.path());
            }
        }
        for path in entries {
            let pinned = pins.remove(&path.with_extension("pin"));
            match self.find(&path, pinned) {
                Ok(found) => survey.found.extend(found),
                Err(DiskError::Damaged {
                    reason: Flaw::NewerVersion(_),
                    ..
                }) => {}
                Err(DiskError::Damaged { path, reason }) => survey.damaged.push(Damage {
                    file_bytes: length(&path),
                    path,
                    reason,
                }),
                Err(error) => tracing::warn!(%error, "passing over an entry"),
            }
        }
        // Asked again, because a listing may miss what is renamed while it is made.
        let strays = pins
            .into_iter()
            .filter(|pin| !pin.with_extension("kv").exists());
        survey.stray_pins.extend(strays);
    }

    /// Reads the header of a file; `None` if it was removed meanwhile.
    fn find(&self, path: &Path, pinned: bool) -> Result<Option<Found>, DiskError> {
        let (header, used_at) = match self.header_at(path) {
            Ok(read) => read,
            Err(DiskError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let flawed = |reason| DiskError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let key = header.entry.key;
        header
            .belongs_to(self.fingerprint(), &key)
            .map_err(flawed)?;
        if self.entry_path(&key) != path {
            return Err(flawed(Flaw::Name));
        }
        Ok(Some(Found {
            payload_bytes: header.payload_bytes,
            file_bytes: header.bytes() as u64 + header.payload_bytes,
            used_at,
            pinned,
            entry: header.entry,
        }))
    }

    /// Removes a damaged file and its mark. Gives the bytes freed.
    pub fn remove_damaged(&self, damage: &Damage) -> Result<u64, DiskError> {
        self.discard(&damage.path.with_extension("pin"))?;
        self.discard(&damage.path)
    }
}

/// One folder below a root.
#[derive(Debug, Clone)]
pub struct FolderInfo {
    /// What it is for.
    pub fingerprint: Fingerprint,
    /// What that stands for, if it says so.
    pub manifest: Option<Manifest>,
    /// Files of entries, sound or not.
    pub entries: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// When the last of them was written or used; `None` if there are none.
    pub newest: Option<SystemTime>,
    path: PathBuf,
}

impl FolderInfo {
    /// The folder, as it is: nothing is made or cleaned.
    pub fn folder(&self) -> Folder {
        let manifest = self.manifest.clone().unwrap_or_else(|| Manifest::new(&[]));
        Folder::found(self.path.clone(), self.fingerprint, manifest)
    }
}

/// All folders below a root, by fingerprint. Nothing but names and lengths is looked at.
pub fn folders(root: &Path) -> Vec<FolderInfo> {
    let mut infos: Vec<FolderInfo> = subfolders(root)
        .filter_map(|folder| {
            // Both are 64 digits.
            let name: Key = folder.file_name().to_str()?.parse().ok()?;
            let path = folder.path();
            let mut info = FolderInfo {
                fingerprint: Fingerprint::from_bytes(*name.as_bytes()),
                manifest: Manifest::read(&path),
                entries: 0,
                bytes: 0,
                newest: None,
                path,
            };
            for file in key_folders(&info.path).flat_map(|folder| files(&folder)) {
                if has_suffix(&file.file_name(), ENTRY_SUFFIX)
                    && let Ok(metadata) = file.metadata()
                {
                    info.entries += 1;
                    info.bytes += metadata.len();
                    info.newest = info.newest.max(metadata.modified().ok());
                }
            }
            Some(info)
        })
        .collect();
    infos.sort_by_key(|info| info.fingerprint);
    infos
}

/// The folders named by two digits.
fn key_folders(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    subfolders(folder)
        .filter(|folder| {
            let name = folder.file_name();
            name.len() == 2 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit)
        })
        .map(|folder| folder.path())
}

fn subfolders(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    entries(folder).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn files(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    entries(folder).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
}

/// What is in a folder; nothing if it is not there.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    let listing = fs::read_dir(folder).inspect_err(|error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(folder = %folder.display(), %error, "cannot list a folder");
        }
    });
    listing.into_iter().flatten().flatten()
}

fn has_suffix(name: &OsStr, suffix: &str) -> bool {
    name.as_encoded_bytes().ends_with(suffix.as_bytes())
}

fn length(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.len())
}
