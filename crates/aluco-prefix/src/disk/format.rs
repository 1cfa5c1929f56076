//! The form of an entry's file.
//!
//! All numbers are little-endian. The header has 144 bytes, the tokens, and its own checksum; the payload follows at once and ends with the
//! file.
//!
//! | offset    | bytes | what                                                        |
//! |-----------|-------|-------------------------------------------------------------|
//! | 0         | 8     | `ALUCO-KV`                                                  |
//! | 8         | 4     | version of this form: 1                                     |
//! | 12        | 4     | number of tokens `n`, 1 to 1,048,576                        |
//! | 16        | 4     | position of the first token in the sequence                 |
//! | 20        | 4     | 0: a block; 1: a tail                                       |
//! | 24        | 8     | bytes of the payload                                        |
//! | 32        | 16    | XXH3-128 of the payload                                     |
//! | 48        | 32    | fingerprint                                                 |
//! | 80        | 32    | key                                                         |
//! | 112       | 32    | key of the parent                                           |
//! | 144       | 4 n   | tokens, signed                                              |
//! | 144 + 4 n | 16    | XXH3-128 of everything before                               |
//! | 160 + 4 n |       | payload                                                     |
//!
//! The magic and the version keep their places in every version to come. A file is believed only if all of it fits together: lengths with the
//! file's, checksums with the bytes, the key with parent and tokens. The checksums guard against accidents, not against forgers: whoever can write
//! here is the user.

use xxhash_rust::xxh3::xxh3_128;

use crate::{Entry, Fingerprint, Key, Kind};

/// What a file begins with.
pub const MAGIC: [u8; 8] = *b"ALUCO-KV";

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// Most tokens of one entry, which may be a whole sequence. So a header never has more than 4 MiB.
pub const TOKENS_MAX: usize = 1 << 20;

/// Bytes before the tokens: as much as is needed to know the length of the header.
pub const START_BYTES: usize = 144;

const CHECKSUM_BYTES: usize = 16;

/// Why a file is not believed, or an entry not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It ends before its header does.
    #[error("it ends within its header")]
    CutShort,
    /// Something else altogether.
    #[error("it is no file of the prefix store")]
    Magic,
    /// From an earlier Aluco.
    #[error("its format {0} is no longer read")]
    OlderVersion(u32),
    /// From a later Aluco, which may still want it.
    #[error("its format {0} is of a later Aluco")]
    NewerVersion(u32),
    /// No tokens, too many, or beyond the positions that there are.
    #[error("it claims {count} tokens from position {begin} on")]
    Tokens {
        /// How many it claims.
        count: u32,
        /// Where they are said to begin.
        begin: u32,
    },
    /// Neither block nor tail.
    #[error("its kind {0} is unknown")]
    Kind(u32),
    /// The file has another length than its header says.
    #[error("it has {found} bytes where its header says {expected}")]
    Length {
        /// As the header says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// The header has changed since it was written.
    #[error("the checksum of its header does not match")]
    HeaderChecksum,
    /// The payload has changed since it was written.
    #[error("the checksum of its payload does not match")]
    PayloadChecksum,
    /// Computed by something else than what this folder is for.
    #[error("it is from another model, engine or setting")]
    Fingerprint,
    /// The key is not the one of its parent and tokens.
    #[error("its key does not belong to its tokens")]
    Key,
    /// The file is named after another key.
    #[error("it lies under another entry's name")]
    Name,
}

/// What a file says before its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What computed it.
    pub fingerprint: Fingerprint,
    /// What it holds.
    pub entry: Entry,
    /// Bytes after the header.
    pub payload_bytes: u64,
    /// XXH3-128 of them.
    pub payload_checksum: u128,
}

impl Header {
    /// The header of a file that is to be written.
    pub fn new(fingerprint: Fingerprint, entry: Entry, payload: &[u8]) -> Result<Self, Flaw> {
        let count = u32::try_from(entry.tokens.len()).unwrap_or(u32::MAX);
        check_tokens(count, entry.begin)?;
        check_key(&entry)?;
        Ok(Self {
            fingerprint,
            entry,
            payload_bytes: payload.len() as u64,
            payload_checksum: xxh3_128(payload),
        })
    }

    /// Bytes of the header itself.
    pub fn bytes(&self) -> usize {
        bytes_with(self.entry.tokens.len())
    }

    /// As it stands in the file.
    pub fn encode(&self) -> Vec<u8> {
        let entry = &self.entry;
        let mut bytes = Vec::with_capacity(self.bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(entry.tokens.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&entry.begin.to_le_bytes());
        let kind: u32 = match entry.kind {
            Kind::Block => 0,
            Kind::Tail => 1,
        };
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&self.payload_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.payload_checksum.to_le_bytes());
        bytes.extend_from_slice(self.fingerprint.as_bytes());
        bytes.extend_from_slice(entry.key.as_bytes());
        bytes.extend_from_slice(entry.parent.as_bytes());
        debug_assert_eq!(bytes.len(), START_BYTES);
        for token in &entry.tokens {
            bytes.extend_from_slice(&token.to_le_bytes());
        }
        bytes.extend_from_slice(&xxh3_128(&bytes).to_le_bytes());
        bytes
    }

    /// How many bytes the header has that begins like this, so that no more need be read. `start`: the first [`START_BYTES`] of the file, or all of
    /// it.
    pub fn bytes_of(start: &[u8]) -> Result<usize, Flaw> {
        let mut fields = Fields(start);
        if fields.array()? != MAGIC {
            return Err(Flaw::Magic);
        }
        match fields.u32()? {
            VERSION => {}
            version if version > VERSION => return Err(Flaw::NewerVersion(version)),
            version => return Err(Flaw::OlderVersion(version)),
        }
        let (count, begin) = (fields.u32()?, fields.u32()?);
        check_tokens(count, begin)?;
        Ok(bytes_with(count as usize))
    }

    /// Reads a header. `bytes`: the file up to the length that [`bytes_of`](Self::bytes_of) gave, or more; `file_bytes`: its whole length.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, Flaw> {
        let header_bytes = Self::bytes_of(bytes)?;
        let bytes = bytes.get(..header_bytes).ok_or(Flaw::CutShort)?;
        let (content, checksum) = bytes.split_at(header_bytes - CHECKSUM_BYTES);
        if xxh3_128(content).to_le_bytes() != checksum {
            return Err(Flaw::HeaderChecksum);
        }
        let mut fields = Fields(&content[12..]);
        let _count = fields.u32()?;
        let begin = fields.u32()?;
        let kind = match fields.u32()? {
            0 => Kind::Block,
            1 => Kind::Tail,
            other => return Err(Flaw::Kind(other)),
        };
        let payload_bytes = fields.u64()?;
        let expected = payload_bytes.saturating_add(header_bytes as u64);
        if expected != file_bytes {
            return Err(Flaw::Length {
                expected,
                found: file_bytes,
            });
        }
        let header = Self {
            payload_bytes,
            payload_checksum: u128::from_le_bytes(fields.array()?),
            fingerprint: Fingerprint::from_bytes(fields.array()?),
            entry: Entry {
                key: Key::from_bytes(fields.array()?),
                parent: Key::from_bytes(fields.array()?),
                kind,
                begin,
                tokens: fields.tokens(),
            },
        };
        check_key(&header.entry)?;
        Ok(header)
    }

    /// Whether this is the header of the file with this name in the folder of this fingerprint.
    pub fn belongs_to(&self, fingerprint: &Fingerprint, key: &Key) -> Result<(), Flaw> {
        if self.fingerprint != *fingerprint {
            return Err(Flaw::Fingerprint);
        }
        if self.entry.key != *key {
            return Err(Flaw::Name);
        }
        Ok(())
    }

    /// Whether these bytes are the payload that was written.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), Flaw> {
        if payload.len() as u64 == self.payload_bytes && xxh3_128(payload) == self.payload_checksum
        {
            Ok(())
        } else {
            Err(Flaw::PayloadChecksum)
        }
    }
}

const fn bytes_with(tokens: usize) -> usize {
    START_BYTES + tokens * size_of::<aluco_proto::Token>() + CHECKSUM_BYTES
}

fn check_tokens(count: u32, begin: u32) -> Result<(), Flaw> {
    let possible = 1..=TOKENS_MAX as u32;
    if possible.contains(&count) && begin.checked_add(count).is_some() {
        Ok(())
    } else {
        Err(Flaw::Tokens { count, begin })
    }
}

fn check_key(entry: &Entry) -> Result<(), Flaw> {
    if entry.parent.child(entry.kind, &entry.tokens) == entry.key {
        Ok(())
    } else {
        Err(Flaw::Key)
    }
}

/// What is left to be read of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Flaw::CutShort)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_le_bytes)
    }

    /// All that is left.
    fn tokens(&self) -> Box<[aluco_proto::Token]> {
        let (tokens, rest) = self.0.as_chunks();
        debug_assert!(rest.is_empty());
        tokens
            .iter()
            .map(|token| aluco_proto::Token::from_le_bytes(*token))
            .collect()
    }
}
