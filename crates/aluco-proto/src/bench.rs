//! Measuring prefill and decode inside a worker, in the way of `llama-bench`.

use serde::{Deserialize, Serialize};

use crate::{LoadOptions, LoadedModel};

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchSpec {
    /// How to load the model. The context is made as large as the tests need.
    pub options: LoadOptions,
    /// The tests, each measured on its own.
    pub tests: Vec<BenchTest>,
    /// Measured repetitions of each test.
    pub repetitions: u32,
    /// One unmeasured run before each test.
    pub warm_up: bool,
}

/// One test: prefill of random tokens, then decode, at some depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchTest {
    /// Tokens to prefill.
    pub prompt_tokens: u32,
    /// Tokens to decode one by one.
    pub generated_tokens: u32,
    /// Tokens that lie in the KV cache before the clock starts.
    pub depth_tokens: u32,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The model as it was loaded.
    pub model: LoadedModel,
    /// Build number of llama.cpp.
    pub build_number: i32,
    /// Commit of llama.cpp.
    pub build_commit: String,
    /// ggml's names of the backends in use, such as `CPU`.
    pub backends: String,
    /// What the CPU calls itself.
    pub cpu_info: String,
    /// What the GPUs call themselves; empty without.
    pub gpu_info: String,
    /// One entry per test, in order.
    pub tests: Vec<BenchTestResult>,
}

/// The repetitions of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchTestResult {
    /// The test.
    pub test: BenchTest,
    /// Seconds since the Unix epoch when it began.
    pub started_at_s: u64,
    /// Wall time of each repetition, in nanoseconds.
    pub samples_ns: Vec<u64>,
}

/// What a device does per second, without any model. A worker prints a list of these as JSON when it is started with `measure`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpeed {
    /// ggml's name, such as `CPU` or `Vulkan0`.
    pub device: String,
    /// What the device calls itself.
    pub description: String,
    /// Bytes per second from the memory of the process into that of the device.
    pub upload: f64,
    /// Bytes per second the other way.
    pub download: f64,
    /// Bytes per second of a copy within the device, each byte counted as read and as written.
    pub copy: f64,
    /// Floating-point operations per second of an f16 by f32 matrix product of 4096 x 4096 x 512.
    pub matrix: f64,
}
