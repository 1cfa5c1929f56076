//! What can go wrong while the machine's settings are changed or put back.

use std::{io, path::PathBuf};

use super::runner::CommandLine;

/// Why a change of settings, or taking it back, failed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// Another process changes settings below the same root.
    #[error("another aluco changes the settings at the moment; wait until it is done")]
    Busy,
    /// A path leads out of the root, or is not absolute.
    #[error("{path} leads out of the machine's root; it is not touched", path = path.display())]
    Outside {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// Symbolic links that lead in a circle.
    #[error("{path} is a circle of symbolic links", path = path.display())]
    LinkLoop {
        /// The path as it was asked for.
        path: PathBuf,
    },
    /// A device, a socket, a folder where a file is expected.
    #[error("{path} is not a plain file; it is not touched", path = path.display())]
    NotPlain {
        /// The path below the root.
        path: PathBuf,
    },
    /// Larger than any settings file is.
    #[error("{path} has {bytes} bytes, too many for a file of settings; it is not touched", path = path.display())]
    TooLarge {
        /// The path below the root.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file system said no.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was being done: `write`, `rename`.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is no longer what it was when the plan was made.
    #[error("{path} changed since the plan was made; make a new plan", path = path.display())]
    ChangedUnderneath {
        /// The path below the root.
        path: PathBuf,
    },
    /// Files that somebody changed after they were written; putting the old content back would lose that.
    #[error("changed by somebody since they were written: {list}; nothing was taken back", list = list(paths))]
    ChangedSince {
        /// The paths below the root.
        paths: Vec<PathBuf>,
    },
    /// A command did not succeed.
    #[error("`{command}` failed: {why}")]
    Command {
        /// The command.
        command: CommandLine,
        /// Its exit status and what it said.
        why: String,
    },
    /// An apply or an undo was broken off, by a crash or a power cut.
    #[error(
        "an earlier change of settings was broken off; take it back first with `aluco tune undo`"
    )]
    Unfinished,
    /// The journal cannot be read, so that what it tells is not certain.
    #[error("the journal {path} is damaged at line {line}: {why}", path = path.display())]
    JournalDamaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The person asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// An apply failed and what it had done was taken back.
    #[error("{cause}; everything was put back as it was")]
    TakenBack {
        /// Why it failed.
        cause: Box<TuneError>,
    },
    /// An apply failed, and so did taking it back.
    #[error(
        "{cause}; and not everything could be put back: {rollback}; `aluco tune undo` tries again"
    )]
    HalfDone {
        /// Why the apply failed.
        cause: Box<TuneError>,
        /// Why taking back failed.
        rollback: Box<TuneError>,
    },
    /// A size that cannot be.
    #[error("{0}")]
    Size(String),
}

impl TuneError {
    /// For `map_err`: an error of the file system, with what was done and where.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Whether root's rights would help.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::TakenBack { cause } => cause.is_permission(),
            Self::HalfDone { cause, rollback } => cause.is_permission() || rollback.is_permission(),
            _ => false,
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}
