//! Why something below a root could not be read.

use std::fmt::{self, Display};

use rustix::io::Errno;

use crate::facts::Because;

/// Why a file, folder or command gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// The path below the root, with a leading slash, or the command as one would type it.
    pub what: String,
    /// Why.
    pub because: Because,
    /// More about it, for people: a limit, the system's own words. Empty if `because` says it all.
    pub detail: String,
}

impl ReadError {
    /// An error with nothing to add to its reason.
    pub fn new(what: impl Into<String>, because: Because) -> Self {
        Self {
            what: what.into(),
            because,
            detail: String::new(),
        }
    }

    /// Adds more for people.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    pub(super) fn of(what: &str, errno: Errno) -> Self {
        let because = match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO => Because::Absent,
            Errno::ACCESS | Errno::PERM => Because::Permission,
            Errno::LOOP => Because::Loop,
            Errno::ISDIR => Because::NotAFile,
            _ => Because::Failed,
        };
        let error = Self::new(what, because);
        if because == Because::Failed {
            error.detail(errno.to_string())
        } else {
            error
        }
    }
}

impl Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, detail, .. } = self;
        match self.because {
            Because::Absent if !what.starts_with('/') => {
                let program = what.split(' ').next().unwrap_or(what);
                write!(f, "{program} is not installed")?;
            }
            Because::Absent => write!(f, "no {what}")?,
            Because::Permission => write!(f, "{what} is not readable by this user")?,
            Because::Loop => write!(f, "the links of {what} lead in a circle")?,
            because => write!(f, "{what}: {because}")?,
        }
        if !detail.is_empty() {
            write!(f, " ({detail})")?;
        }
        Ok(())
    }
}

impl std::error::Error for ReadError {}
