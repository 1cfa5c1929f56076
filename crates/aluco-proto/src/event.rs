//! What a worker tells the supervisor.

use serde::{Deserialize, Serialize};

use crate::{
    Backend, BenchReport, CacheActivity, DeviceMemory, GenerationEvent, LoadedModel, ModelHandle,
    RequestId, Token,
};

/// A frame from a worker to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First frame: who is speaking.
    Hello(WorkerHello),
    /// A load goes on.
    Loading {
        /// The load.
        request: RequestId,
        /// Share of the weights read, 0 to 1.
        progress: f32,
    },
    /// A load is done; the model takes requests.
    Loaded {
        /// The load.
        request: RequestId,
        /// What was loaded.
        model: Box<LoadedModel>,
    },
    /// A model's memory is free again.
    Unloaded {
        /// The unload.
        request: RequestId,
        /// What was freed.
        model: ModelHandle,
    },
    /// The prompt of a generation is being rendered and tokenized, or has been. If the worker dies in between, that may be the prompt's doing
    /// although nothing of it has been computed.
    Preparing {
        /// The generation.
        request: RequestId,
        /// It is over: the generation waits for its turn.
        is_over: bool,
    },
    /// A generation goes on or ends.
    Generation {
        /// The generation.
        request: RequestId,
        /// What happened.
        event: GenerationEvent,
    },
    /// Answer to `Tokenize`.
    Tokens {
        /// The question.
        request: RequestId,
        /// The ids.
        tokens: Vec<Token>,
    },
    /// Answer to `Detokenize` and `RenderChat`.
    Text {
        /// The question.
        request: RequestId,
        /// The text.
        text: String,
    },
    /// One repetition of one test is done.
    BenchProgress {
        /// The measurement.
        request: RequestId,
        /// Repetitions done so far, of all tests.
        done: u32,
        /// Repetitions in all.
        total: u32,
    },
    /// A measurement is done.
    Bench {
        /// The measurement.
        request: RequestId,
        /// The figures.
        report: Box<BenchReport>,
    },
    /// Answer to `Estimate`.
    Estimated {
        /// The question.
        request: RequestId,
        /// What a load would take, by device, as llama.cpp would account for it.
        memory: Vec<DeviceMemory>,
    },
    /// Answer to `SetCacheBudget`.
    CacheBudget {
        /// The change.
        request: RequestId,
        /// Whose prompts.
        model: ModelHandle,
        /// Bytes of memory that they take now.
        ram_bytes: u64,
        /// Most bytes that they may take; 0 for a model that was loaded without a store.
        ram_bytes_max: u64,
    },
    /// A request other than a generation ended in an error.
    Failed {
        /// The request.
        request: RequestId,
        /// Why.
        failure: Failure,
    },
    /// Answer to `Ping`.
    Pong {
        /// From the ping.
        sequence: u64,
        /// Steps (calls of `llama_decode`) that all models have finished since the worker started.
        steps: u64,
        /// True while a step or a load runs. If `steps` then stands still for long, the device hangs.
        working: bool,
        /// Tokens in the step that runs, the largest if there are several; 0 while none does.
        #[serde(default)]
        step_tokens: u32,
    },
    /// Answer to `Status`.
    Status {
        /// The question.
        request: RequestId,
        /// The state.
        status: WorkerStatus,
    },
    /// A line for the log, from the worker or from llama.cpp.
    Log {
        /// How grave.
        level: LogLevel,
        /// Which part speaks, as in `tracing` targets, such as `llama.cpp`.
        target: String,
        /// One line, without its end.
        message: String,
    },
}

/// Who a worker is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// The worker's [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Version of the worker, the workspace's version.
    pub version: String,
    /// What it computes on.
    pub backend: Backend,
    /// Build of llama.cpp inside, as it names itself, such as `b12032 (0a1b2c3)`.
    pub engine_build: String,
    /// Instruction-set level that its CPU code was built for, such as `x86-64-v3`.
    pub cpu_level: String,
    /// CPU features that ggml was compiled with, such as `AVX2`, in ggml's spelling.
    pub cpu_features: Vec<String>,
    /// Process id.
    pub pid: u32,
    /// Devices that it found, the CPU included.
    pub devices: Vec<DeviceMemory>,
}

/// A worker's state at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// One entry per loaded model.
    pub models: Vec<ModelActivity>,
}

/// A loaded model's state at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelActivity {
    /// Which.
    pub model: ModelHandle,
    /// Sequences being prefilled or decoded.
    pub sequences_running: u32,
    /// Requests that wait for a sequence or for KV cells.
    pub requests_waiting: u32,
    /// KV cells in use.
    pub cells_used: u32,
    /// KV cells in all.
    pub cells_total: u32,
    /// The prefix store.
    #[serde(default)]
    pub cache: CacheActivity,
    /// Prompt tokens computed since the load.
    pub prefill_tokens: u64,
    /// Tokens generated since the load.
    pub decode_tokens: u64,
    /// Memory by device, as llama.cpp accounts for it.
    pub memory: Vec<DeviceMemory>,
}

/// How a request failed. `kind` says what the caller can do about it, `message` what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: FailureKind,
    /// A sentence for a person.
    pub message: String,
}

/// What the caller of a failed request can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Mend the request.
    InvalidRequest,
    /// Shorten the prompt, or load with a larger context.
    ContextExceeded {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens that one sequence can hold.
        context_tokens: u32,
    },
    /// Load the model first.
    ModelNotLoaded,
    /// Give another file: this one is missing, damaged or of an unknown architecture.
    LoadFailed,
    /// Free memory or ask for less.
    OutOfMemory,
    /// Try again later.
    Overloaded,
    /// Report it: the engine failed.
    Engine,
    /// Nothing: the worker is going away, or is gone.
    WorkerLost,
}

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is wrong, and the work goes on.
    Warn,
    /// A milestone.
    Info,
    /// For those who look into a problem.
    Debug,
    /// Everything.
    Trace,
}
