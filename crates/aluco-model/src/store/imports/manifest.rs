//! What Aluco writes beside the files of an import.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{ModelError, ShortName, name::variant::strip_gguf, store::sync_folder};

/// What the file is called.
pub(super) const MANIFEST: &str = "manifest.json";
/// The format that this program writes, and the only one that it reads.
pub(super) const MANIFEST_VERSION: u32 = 1;
/// A manifest has some hundred bytes per file.
const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What an import is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) name: ShortName,
    pub(super) files: Vec<ManifestFile>,
    pub(super) size_bytes: u64,
    pub(super) source: PathBuf,
    pub(super) imported_at_s: u64,
}

/// A file of it, as it was at the import.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ManifestFile {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    /// The manifest in a folder; `None` if there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, ModelError> {
        let path = folder.join(MANIFEST);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ModelError::io("read", &path)(error)),
        };
        let damaged = |reason: String| ModelError::Damaged {
            path: path.clone(),
            reason,
        };
        let manifest: Self =
            serde_json::from_reader(io::BufReader::new(file.take(MANIFEST_BYTES_MAX)))
                .map_err(|error| damaged(error.to_string()))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(ModelError::ImportVersion {
                path: folder.to_owned(),
                version: manifest.version,
            });
        }
        let plain =
            |file: &ManifestFile| !file.name.contains('/') && strip_gguf(&file.name).is_some();
        if manifest.files.is_empty() || !manifest.files.iter().all(plain) {
            return Err(damaged("its list of files makes no sense".into()));
        }
        Ok(Some(manifest))
    }

    /// Writes it to the disk, not only to memory.
    pub(super) fn write(&self, folder: &Path) -> Result<(), ModelError> {
        let path = folder.join(MANIFEST);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| ModelError::io("write", &path)(io::Error::other(error)))?;
        text.push(b'\n');
        let mut file = File::create(&path).map_err(ModelError::io("create", &path))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(ModelError::io("write", &path))?;
        sync_folder(folder)
    }
}
