//! Models of a few megabytes with random weights, one of each kind of memory that llama.cpp has, for tests and benches.
//!
//! What a worker may do with a sequence depends on what its model remembers: keys and values of all tokens, those of a window,
//! a recurrent state, or several of these at once. A model that was trained is large and shows one of these kinds; these models
//! are made in a moment, the same bytes on every machine, and show all of them.
//!
//! Each is a whole model as far as llama.cpp and Aluco can tell: a context of 8192 tokens, a ChatML template, and a vocabulary in
//! which token `n` is byte `n` (see [`Kind`] for the three that follow). What they say has no meaning. But it depends on the whole
//! context, or on as much of it as that kind of memory keeps, and it is printable ASCII nearly always, so that a wrong token,
//! position or state shows as another text. `<|im_end|>` is hardly ever drawn: answers end at the limit of tokens.
//!
//! For what has to be shown on a model that was trained there is [`in_full_precision`], which makes the same of it whatever runs beside it.

mod architecture;
mod block;
mod model;
mod precision;
mod quantised;
mod random;
mod vocabulary;

use std::{fmt, io, path::Path, str::FromStr};

pub use precision::in_full_precision;

/// What a model remembers of its context, and the architecture that stands for it.
///
/// All have the same vocabulary: 256 tokens of one byte each, token `n` for byte `n`, then `<|endoftext|>` (256),
/// `<|im_start|>` (257) and `<|im_end|>` (258, which ends a message).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Keys and values of all tokens (`llama`).
    FullAttention,
    /// The same, with two of eight experts at work on each token (`qwen3moe`).
    Moe,
    /// Five layers that look back [`SLIDING_WINDOW`] tokens, then one that looks at all (`gemma3`).
    SlidingWindow,
    /// Every other layer looks back [`SLIDING_WINDOW`] tokens, with attention sinks and experts (`gpt-oss`).
    SlidingWindowMoe,
    /// Layers with a recurrent state, one layer of attention among them (`granitehybrid`, whose recurrent layers are Mamba 2).
    Hybrid,
    /// Short convolutions over the last three tokens, every other layer attention (`lfm2`).
    HybridConvolution,
    /// Gated delta nets, every fourth layer attention, with experts (`qwen35moe`).
    HybridDeltaNet,
    /// Nothing but recurrent states (`mamba2`).
    Recurrent,
}

/// Tokens that a sliding-window layer looks back.
pub const SLIDING_WINDOW: u32 = 32;

/// Tokens of context that the models claim to be made for.
pub const CONTEXT_LENGTH: u32 = 8192;

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::FullAttention,
        Self::Moe,
        Self::SlidingWindow,
        Self::SlidingWindowMoe,
        Self::Hybrid,
        Self::HybridConvolution,
        Self::HybridDeltaNet,
        Self::Recurrent,
    ];

    /// Its name in files and on command lines, such as `sliding-window`.
    pub fn name(self) -> &'static str {
        match self {
            Self::FullAttention => "full-attention",
            Self::Moe => "moe",
            Self::SlidingWindow => "sliding-window",
            Self::SlidingWindowMoe => "sliding-window-moe",
            Self::Hybrid => "hybrid",
            Self::HybridConvolution => "hybrid-convolution",
            Self::HybridDeltaNet => "hybrid-delta-net",
            Self::Recurrent => "recurrent",
        }
    }

    /// The architecture by llama.cpp's name.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::FullAttention => "llama",
            Self::Moe => "qwen3moe",
            Self::SlidingWindow => "gemma3",
            Self::SlidingWindowMoe => "gpt-oss",
            Self::Hybrid => "granitehybrid",
            Self::HybridConvolution => "lfm2",
            Self::HybridDeltaNet => "qwen35moe",
            Self::Recurrent => "mamba2",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("there is no kind of model {name:?}; there are {}", known()))
    }
}

/// Writes the model of a kind to a file, replacing what was there. The bytes are the same each time.
pub fn write(kind: Kind, path: &Path) -> io::Result<()> {
    architecture::model(kind).write(path)
}
