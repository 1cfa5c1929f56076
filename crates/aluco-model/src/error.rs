//! What can go wrong with models on disk and on the network.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::GgufError;

/// Why a model could not be found, read or fetched. Every message says what to do next where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such model on this machine.
    #[error(
        "model {name} is not on this machine{}; get it with: aluco pull {name}",
        similar.as_ref().map_or_else(String::new, |similar| format!(", but {similar} is"))
    )]
    NotFound {
        /// The name as it was given.
        name: String,
        /// A model that is here and may have been meant.
        similar: Option<String>,
    },
    /// A model was asked for by path, and nothing is there.
    #[error("there is no file {}; check the path", path.display())]
    NoSuchFile {
        /// The path in its absolute form.
        path: PathBuf,
    },
    /// A name that cannot be one.
    #[error(
        "{name:?} is not a model name: {reason}. Names look like smollm2:135m, unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M, or ./file.gguf"
    )]
    InvalidName {
        /// The name as it was given, cut if it is long.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A short name that neither the catalogue nor this machine knows.
    #[error(
        "no model is called {name} in the catalogue{}; a Hugging Face repository can be named in full, such as unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M",
        Suggestion(near)
    )]
    NotInCatalogue {
        /// The name as it was given.
        name: String,
        /// Names in the catalogue that resemble it.
        near: Vec<String>,
    },
    /// A split model of which only some parts are here.
    #[error(
        "{} has only {present} of its {total} parts here; get the others with aluco pull, or put them into the same folder",
        path.display()
    )]
    MissingParts {
        /// One of the parts, or the name of the model.
        path: PathBuf,
        /// Parts that are here.
        present: usize,
        /// Parts that belong to it.
        total: usize,
    },
    /// A file that is not a GGUF model.
    #[error("{} is not a usable GGUF file: {reason}", path.display())]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A GGUF file that is damaged, not all there, or of a kind that cannot be read.
    #[error("{} cannot be used: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// An import under a name that is taken.
    #[error(
        "a model called {name} has been imported before, with other contents; choose another name, or remove it first with: aluco rm {name}"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// An import of a file that belongs to an import.
    #[error(
        "{} lies in the folder of Aluco's own models, so it has been imported already; aluco list tells its name",
        path.display()
    )]
    AlreadyImported {
        /// The file.
        path: PathBuf,
    },
    /// An import in a format that this version does not know.
    #[error(
        "{} was written by another version of Aluco (format {version}); use that version, or remove it and import the model again",
        path.display()
    )]
    ImportVersion {
        /// Its folder.
        path: PathBuf,
        /// The number of the format.
        version: u32,
    },
    /// A file that was given by path is not Aluco's to delete.
    #[error("{} was not stored by Aluco, so Aluco does not delete it; use rm", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Something in the store cannot be read as what it should be.
    #[error("{} is damaged: {reason}; remove it and fetch or import the model again", path.display())]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A removal from a repository that another process works on.
    #[error(
        "another process is downloading or deleting models of the repository of {name}; wait for it or stop it first"
    )]
    Busy {
        /// The name.
        name: String,
    },
    /// The disk is too small.
    #[error(
        "not enough space on the disk that holds {}: {} needed, {} free; free some space (aluco list, aluco rm) or use another disk",
        path.display(), Size(*needed_bytes), Size(*free_bytes)
    )]
    NoSpace {
        /// The folder that was to be written to.
        path: PathBuf,
        /// Bytes still to be written.
        needed_bytes: u64,
        /// Bytes that are free for this user.
        free_bytes: u64,
    },
    /// The operating system refused.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The address of the hub is none.
    #[error("{endpoint:?} is not the address of a hub: {reason}")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing can be downloaded on this machine.
    #[error(
        "could not prepare HTTPS: {reason}; check that the system's certificates (ca-certificates) are installed"
    )]
    HttpSetup {
        /// What is wrong.
        reason: String,
    },
    /// The hub could not be reached, or the connection broke, too many times in a row.
    #[error(
        "{what} failed after {tries} tries: {reason}; check the network (and proxy), then run the same command again: it goes on where it stopped"
    )]
    Network {
        /// What was tried.
        what: String,
        /// How often.
        tries: u32,
        /// What went wrong the last time.
        reason: String,
    },
    /// The repository wants its terms accepted first.
    #[error(
        "{repo} is gated: accept its terms at {url}, then set HF_TOKEN to a token of that account{}",
        InBrackets(detail)
    )]
    Gated {
        /// The repository.
        repo: String,
        /// Where the terms are.
        url: String,
        /// What the hub said.
        detail: String,
    },
    /// The hub does not know the token.
    #[error(
        "the hub refuses the access token (HF_TOKEN){}; make a new one in the account's settings, or unset it for public models",
        InBrackets(detail)
    )]
    BadToken {
        /// What the hub said.
        detail: String,
    },
    /// No such repository, or a private one.
    #[error(
        "there is no public model repository {repo} at {endpoint}; check the spelling, or set HF_TOKEN if it is private"
    )]
    RepoNotFound {
        /// The repository.
        repo: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The repository has no GGUF model.
    #[error("{repo} holds no GGUF model; look for a repository with GGUF in its name")]
    NoGgufInRepo {
        /// The repository.
        repo: String,
    },
    /// The repository has no such quantisation.
    #[error("{repo} has no {tag}; it has {}", available.join(", "))]
    NoSuchTag {
        /// The repository.
        repo: String,
        /// What was asked for.
        tag: String,
        /// What there is.
        available: Vec<String>,
    },
    /// The hub answered something that makes no sense or that retrying will not change.
    #[error("the hub's answer for {url} cannot be used: {reason}")]
    HubAnswer {
        /// What was asked.
        url: String,
        /// What came.
        reason: String,
    },
    /// The bytes that came are not the bytes that were published.
    #[error(
        "{file} arrived damaged: its hash is {actual}, published is {expected}; the download was thrown away, try again (if it happens twice, suspect memory, disk or a proxy)"
    )]
    HashMismatch {
        /// The file within the repository.
        file: String,
        /// Hash as published, in hex.
        expected: String,
        /// Hash of what came, in hex.
        actual: String,
    },
}

impl ModelError {
    /// An error of a model's files. Nearly all name their file; for one that does not, the model's name has to do.
    pub(crate) fn gguf(model: &str, error: GgufError) -> Self {
        let (path, source) = match error {
            GgufError::InFile { path, error } => (path, *error),
            other => (model.into(), other),
        };
        Self::Gguf { path, source }
    }

    /// For `map_err` on file operations.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A number of bytes as disks and downloads are measured: in powers of 1000, such as `18.6 GB`.
#[derive(Debug, Clone, Copy)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.1} GB", bytes / 1e9),
        }
    }
}

struct Suggestion<'a>(&'a [String]);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " (it has {})", self.0.join(", "))
    }
}

/// A detail in brackets, or nothing.
struct InBrackets<'a>(&'a str);

impl fmt::Display for InBrackets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.0)
    }
}
