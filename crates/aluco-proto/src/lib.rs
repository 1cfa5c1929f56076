//! The frames that the Aluco supervisor and its workers exchange.
//!
//! A worker is a process that links llama.cpp; the supervisor is pure Rust. They share one Unix stream socket. Each frame is a
//! little-endian `u32` payload length followed by that many bytes of JSON: a [`Command`] on the way down, an [`Event`] on the
//! way up. JSON is self-describing, so a field that one side does not know is skipped, and a dump of the socket can be read.
//!
//! The first frame down is [`Command::Hello`], the first frame up [`Event::Hello`]; both carry [`PROTOCOL_VERSION`], and a
//! side that reads another version says so and hangs up. After that commands may come in any order, and events of different
//! requests interleave; events of one request keep their order and end with exactly one terminal event.
//!
//! This crate depends on nothing else of Aluco, so that a stand-in worker can be written for tests.

mod bench;
mod cache;
mod command;
mod event;
mod frame;
mod generation;
mod model;

pub use bench::{BenchReport, BenchSpec, BenchTest, BenchTestResult, DeviceSpeed};
pub use cache::{CacheActivity, CacheOptions, CacheReport, Miss};
pub use command::Command;
pub use event::{Event, Failure, FailureKind, LogLevel, ModelActivity, WorkerHello, WorkerStatus};
pub use frame::{
    FRAME_BYTES_MAX, FrameDecoder, FrameError, decode, encode, read_frame, write_frame,
};
pub use generation::{
    Alternative, ChatPrompt, FinishReason, GenerationEvent, GenerationSpec, Prompt, Resume,
    ResumeChoice, Sampling, Speculated, Timings, TokenLogprob, Truncate, Usage,
};
pub use model::{
    Backend, DeviceMemory, FlashAttention, KvType, LoadOptions, LoadedModel, Speculation,
    WeightLoading,
};

use serde::{Deserialize, Serialize};

/// Version of the frames in this crate. It changes whenever an older side could misread a newer one.
pub const PROTOCOL_VERSION: u32 = 4;

/// Names one request on one socket. The supervisor chooses it and never uses it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Names one loaded model on one socket. The supervisor chooses it and never uses it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelHandle(pub u32);

/// A token id in the vocabulary of the model at hand.
pub type Token = i32;

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl std::fmt::Display for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
