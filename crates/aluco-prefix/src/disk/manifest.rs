//! What a folder is for, in words: nothing depends on it, but without it nobody could tell whose entries these are.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{DiskError, files::Files, format};

/// Name of its file.
pub(super) const NAME: &str = "manifest.json";

/// More than this is no manifest.
const BYTES_MAX: u64 = 1 << 20;

/// The facts behind a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the form of the entries.
    pub format: u32,
    /// When the folder was made: `2026-01-31T12:00:00Z`.
    pub created: String,
    /// Names and values, in the order in which they were given.
    pub facts: Vec<(String, String)>,
}

impl Manifest {
    pub(super) fn new(facts: &[(String, String)]) -> Self {
        Self {
            format: format::VERSION,
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            facts: facts.to_vec(),
        }
    }

    /// The value of the first fact with this name.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts
            .iter()
            .find(|(fact, _)| fact == name)
            .map(|(_, value)| value.as_str())
    }

    /// The manifest in a folder; `None` if there is none that can be read.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let mut text = Vec::new();
        let file = File::open(folder.join(NAME)).ok()?;
        file.take(BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Puts it into the folder. `temporary`: a name in the same file system that nobody uses.
    pub(super) fn write(
        &self,
        files: &dyn Files,
        folder: &Path,
        temporary: &Path,
    ) -> Result<(), DiskError> {
        let path: PathBuf = folder.join(NAME);
        let mut text = serde_json::to_vec_pretty(self).expect("texts and a number are JSON");
        text.push(b'\n');
        super::replace(files, temporary, &path, &[&text])
    }
}
