//! A value with where it came from, or the reason why there is none.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::root::ReadError;

/// What a snapshot says of one thing: its value and its source, or why it is not known.
///
/// As JSON it is `{"value": …, "source": "/proc/meminfo"}` or `{"unknown": "no /dev/kfd", "because": "absent"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Known<T> {
    /// It was read.
    Value {
        /// What was read.
        value: T,
        /// The file below the root, or the command, that said so.
        source: String,
    },
    /// It was not.
    Unknown {
        /// Why, in words, with the file or command that was asked.
        unknown: String,
        /// Why, for programs.
        because: Because,
    },
}

/// Why something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// The file, folder or command is not there.
    Absent,
    /// It is there, and this user may not read it.
    Permission,
    /// It is larger than anything that is expected there.
    TooLarge,
    /// It is not text.
    NotText,
    /// Symbolic links lead in a circle.
    Loop,
    /// It is a pipe, a socket, a device or a folder where a file is expected.
    NotAFile,
    /// It was read, and says something that has no meaning there.
    Malformed,
    /// The question makes no sense on this machine.
    NotApplicable,
    /// It did not answer in time.
    TimedOut,
    /// Reading it failed in another way.
    Failed,
    /// Nobody looked.
    NotCollected,
}

impl Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Permission => "no permission",
            Self::TooLarge => "too large",
            Self::NotText => "not text",
            Self::Loop => "links lead in a circle",
            Self::NotAFile => "not a file",
            Self::Malformed => "malformed",
            Self::NotApplicable => "not applicable",
            Self::TimedOut => "no answer in time",
            Self::Failed => "failed",
            Self::NotCollected => "not collected",
        })
    }
}

impl<T> Known<T> {
    /// A value that this source gave.
    pub fn value(value: T, source: impl Into<String>) -> Self {
        Self::Value {
            value,
            source: source.into(),
        }
    }

    /// No value, for this reason.
    pub fn unknown(because: Because, why: impl Into<String>) -> Self {
        Self::Unknown {
            unknown: why.into(),
            because,
        }
    }

    /// What came of reading `source`.
    pub fn of(read: Result<T, ReadError>, source: impl Into<String>) -> Self {
        match read {
            Ok(value) => Self::value(value, source),
            Err(error) => Self::from(error),
        }
    }

    /// The value, if it is known.
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Value { value, .. } => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    /// The value, if it is known.
    pub fn copied(&self) -> Option<T>
    where
        T: Copy,
    {
        self.get().copied()
    }

    /// Where the value came from, if it is known.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Value { source, .. } => Some(source),
            Self::Unknown { .. } => None,
        }
    }

    /// Why it is not known, if it is not.
    pub fn why(&self) -> Option<(Because, &str)> {
        match self {
            Self::Value { .. } => None,
            Self::Unknown { unknown, because } => Some((*because, unknown)),
        }
    }

    /// The same of something that is told from the value.
    #[must_use]
    pub fn map<U>(self, told: impl FnOnce(T) -> U) -> Known<U> {
        match self {
            Self::Value { value, source } => Known::Value {
                value: told(value),
                source,
            },
            Self::Unknown { unknown, because } => Known::Unknown { unknown, because },
        }
    }

    /// This, or if it is not known the other. If neither is, the reason stays that of the first.
    #[must_use]
    pub fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Value { .. } => self,
            Self::Unknown { .. } => match other() {
                known @ Self::Value { .. } => known,
                Self::Unknown { .. } => self,
            },
        }
    }
}

impl<T> From<ReadError> for Known<T> {
    fn from(error: ReadError) -> Self {
        Self::unknown(error.because, error.to_string())
    }
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self::unknown(Because::NotCollected, "nobody looked")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_survive_json() {
        let known = Known::value(3_u32, "/proc/three");
        let unknown = Known::<u32>::unknown(Because::Permission, "/proc/three: no");
        let texts = [&known, &unknown].map(|fact| serde_json::to_string(fact).unwrap());
        assert_eq!(texts[0], r#"{"value":3,"source":"/proc/three"}"#);
        assert_eq!(
            texts[1],
            r#"{"unknown":"/proc/three: no","because":"permission"}"#
        );
        assert_eq!(
            serde_json::from_str::<Known<u32>>(&texts[0]).unwrap(),
            known
        );
        assert_eq!(
            serde_json::from_str::<Known<u32>>(&texts[1]).unwrap(),
            unknown
        );
    }

    #[test]
    fn the_first_reason_is_kept_if_nobody_knows() {
        let absent = || Known::<u32>::unknown(Because::Absent, "no a");
        let refused = || Known::unknown(Because::Permission, "no b");
        assert_eq!(absent().or_else(refused), absent());
        assert_eq!(absent().or_else(|| Known::value(1, "c")).copied(), Some(1));
    }
}
