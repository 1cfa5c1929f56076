//! The prefix store: what it may use, what it did for a request, what it holds.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What the prefix store of a model may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheOptions {
    /// Most KV cells that sequences may keep after their reply. `None`: an eighth of the context.
    pub device_tokens: Option<u32>,
    /// Most bytes of memory. `None`: a sixteenth of the machine's memory, at most 8 GiB.
    pub ram_bytes: Option<u64>,
    /// Folder of the disk tier, shared by all models and workers. `None`: no disk tier.
    pub folder: Option<PathBuf>,
    /// Most bytes in that folder, of all models. `None`: a fifth of what is free on its file system, at most 64 GiB.
    pub disk_bytes: Option<u64>,
}

/// Where the computed beginning of a prompt came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheReport {
    /// Tokens whose KV cells were still on the device.
    pub device_tokens: u32,
    /// Tokens put back from memory.
    pub ram_tokens: u32,
    /// Tokens put back from disk.
    pub disk_tokens: u32,
    /// Why the first computed token had to be computed; `None` if nothing like it had been seen before it: the prompt is new there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss: Option<Miss>,
}

impl CacheReport {
    /// Tokens that were not computed.
    pub fn cached_tokens(&self) -> u32 {
        self.device_tokens + self.ram_tokens + self.disk_tokens
    }
}

/// Why a beginning that might have been stored had to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// Nothing is stored that begins like this prompt.
    NothingStored,
    /// An earlier prompt begins like this one and differs from this token on.
    Diverged {
        /// Position of the first differing token.
        at: u32,
    },
    /// As `Diverged`, and behind the difference both go on alike: something at the start of the prompt changes from request to
    /// request, such as the time of day.
    Volatile {
        /// Position of the first differing token.
        at: u32,
    },
    /// It is stored, but the memory of this model can only go on from checkpoints, and the last one lies before it.
    NoCheckpoint,
    /// It was computed before and has been dropped since, for lack of room.
    Evicted,
    /// The prompts stored for this model were computed in another way: other KV types, another engine build and the like.
    FingerprintChanged,
    /// The store is off, or the memory of this model cannot be stored.
    Off,
}

impl Miss {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingStored => "nothing_stored",
            Self::Diverged { .. } => "diverged",
            Self::Volatile { .. } => "volatile",
            Self::NoCheckpoint => "no_checkpoint",
            Self::Evicted => "evicted",
            Self::FingerprintChanged => "fingerprint_changed",
            Self::Off => "off",
        }
    }
}

/// What the prefix store of a model holds and did since the load.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheActivity {
    /// How the memory of the model can be kept: `blocks` (cut at any token), `checkpoints`, `whole` or `off`.
    pub memory_class: String,
    /// KV cells of sequences that are kept after their reply.
    pub device_tokens: u32,
    /// Bytes in memory.
    pub ram_bytes: u64,
    /// Most bytes in memory.
    pub ram_bytes_max: u64,
    /// Bytes on disk that this model can use.
    pub disk_bytes: u64,
    /// Most bytes on disk, of all models.
    pub disk_bytes_max: u64,
    /// Bytes written to disk.
    pub disk_written_bytes: u64,
    /// Prompt tokens found on the device.
    pub device_hit_tokens: u64,
    /// Prompt tokens put back from memory.
    pub ram_hit_tokens: u64,
    /// Prompt tokens put back from disk.
    pub disk_hit_tokens: u64,
    /// Requests by the reason why their first computed token was not stored, by [`Miss::name`]; `new` for those that went on from all that
    /// was known.
    pub misses: BTreeMap<String, u64>,
}
