//! What can be wrong with a GGUF file.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a GGUF file cannot be used. Offsets are in bytes from the start of the file; `subject` says what was being read there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file is something else.
    #[error("this is no GGUF file but {}", Kind(*magic))]
    NotGguf {
        /// Its first four bytes.
        magic: [u8; 4],
    },
    /// The file is for big-endian machines.
    #[error(
        "this GGUF file (version {version}) is big-endian, for machines such as IBM Z; get the ordinary little-endian one, or convert it with gguf_convert_endian.py from llama.cpp"
    )]
    BigEndian {
        /// Version of the format.
        version: u32,
    },
    /// The file has another version of the format.
    #[error("this is GGUF version {version}, and only 2 and 3 can be read; {}", VersionAdvice(*version))]
    UnsupportedVersion {
        /// Version of the format.
        version: u32,
    },
    /// The file ends before its header does.
    #[error(
        "the file ends inside its header, at byte {offset} ({subject}): it is incomplete; fetch it again"
    )]
    HeaderCut {
        /// Bytes that there were.
        offset: u64,
        /// What was being read.
        subject: String,
    },
    /// The header claims more than any sane model has.
    #[error(
        "the header claims {claimed} {what} at byte {offset} ({subject}), and no more than {max} are accepted: the file is damaged or hostile; fetch it again or get it from another source"
    )]
    OverLimit {
        /// Where.
        offset: u64,
        /// What was being read.
        subject: String,
        /// What there is too much of, such as `keys`.
        what: &'static str,
        /// How many, by the header.
        claimed: u64,
        /// How many are accepted, see [`super::Limits`].
        max: u64,
    },
    /// The header contradicts itself or the format.
    #[error(
        "the header is wrong at byte {offset} ({subject}): {problem}; the file is damaged or was made by a faulty program, fetch it again or get it from another source"
    )]
    Malformed {
        /// Where.
        offset: u64,
        /// What was being read.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The header is whole, and tensors are missing.
    #[error(
        "the file is truncated: {} bytes expected, {} present; fetch it again",
        Grouped(*expected_bytes), Grouped(*present_bytes)
    )]
    Truncated {
        /// Bytes up to the end of the last tensor.
        expected_bytes: u64,
        /// Bytes of the file.
        present_bytes: u64,
    },
    /// The parts of a split model do not belong together.
    #[error(
        "this part of a split model does not fit: {problem}; fetch all parts again, from one source"
    )]
    PartMismatch {
        /// What is wrong with it.
        problem: String,
    },
    /// Another part of a split model is not there.
    #[error(
        "this part of a split model is missing ({present} of {total} are here); fetch it into the same folder"
    )]
    MissingPart {
        /// Parts that are here.
        present: u64,
        /// Parts that belong to the model.
        total: u64,
    },
    /// One part of a split model, and its name does not tell where the others are.
    #[error(
        "this is part {number} of {total}, and its name does not end in -{number:05}-of-{total:05}.gguf, so the other parts cannot be found; give it its name back"
    )]
    PartName {
        /// Which part, from 1.
        number: u64,
        /// Parts that belong to the model.
        total: u64,
    },
    /// The path names no file.
    #[error("this is not a file")]
    NotAFile,
    /// The operating system failed to read.
    #[error("could not be read: {0}")]
    Io(#[from] io::Error),
    /// Any of the above, with the file it is about.
    #[error("{}: {error}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: Box<GgufError>,
    },
}

impl GgufError {
    /// For `map_err` where the path is known.
    pub(crate) fn in_file<E: Into<Self>>(path: &Path) -> impl FnOnce(E) -> Self {
        move |error| Self::InFile {
            path: path.to_owned(),
            error: Box::new(error.into()),
        }
    }

    /// What is wrong, without the file it is about.
    pub fn root(&self) -> &Self {
        match self {
            Self::InFile { error, .. } => error.root(),
            other => other,
        }
    }
}

/// What a file is by its first bytes, with a word on what to do.
struct Kind([u8; 4]);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            b"FUGG" => "a byte-swapped one; get the little-endian file",
            b"vers" => "a Git LFS pointer, a note of where the file is; fetch the file itself",
            b"<!do" | b"<!DO" | b"<htm" | b"<HTM" => {
                "a web page; the download went to the wrong address"
            }
            b"PK\x03\x04" => "a zip archive or a PyTorch checkpoint; get the model in GGUF form",
            b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => {
                "a model in an older ggml format; get the model in GGUF form"
            }
            [0, 0, 0, 0] => "zeros, perhaps an unfinished download; fetch it again",
            other => {
                return write!(
                    f,
                    "something that begins with \"{}\"; get the model in GGUF form",
                    other.escape_ascii()
                );
            }
        })
    }
}

struct VersionAdvice(u32);

impl fmt::Display for VersionAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "the file is damaged, fetch it again",
            1 => "version 1 went out of use in 2023, get a newer file of this model",
            _ => "the file is damaged, or newer than this Aluco",
        })
    }
}

/// A name from a file, for a message: control characters escaped, cut if it is long.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 80;
        for character in self.0.chars().take(SHOWN_MAX) {
            write!(f, "{}", character.escape_debug())?;
        }
        if self.0.chars().nth(SHOWN_MAX).is_some() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

/// A number with its thousands set apart.
pub(crate) struct Grouped(pub(crate) u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}
