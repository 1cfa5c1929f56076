//! Loading: what is asked, and what came of it.

use serde::{Deserialize, Serialize};

use crate::{CacheOptions, ModelHandle};

/// What a worker computes on. One worker binary has one backend, and the CPU beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// ggml's CPU code.
    Cpu,
    /// Vulkan: RADV, AMDVLK, others.
    Vulkan,
    /// ROCm by HIP.
    Rocm,
}

impl Backend {
    /// The name in file names, options and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Vulkan => "vulkan",
            Self::Rocm => "rocm",
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How to load a model. The default lets the worker decide.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadOptions {
    /// KV cells of the context, shared by all its sequences. `None`: the model's training length, at most 8,192.
    pub context_tokens: Option<u32>,
    /// Sequences that may run at once.
    pub sequences_max: u32,
    /// Most tokens in one call of `llama_decode`.
    pub batch_tokens: u32,
    /// Most tokens in one device step (micro-batch).
    pub micro_batch_tokens: u32,
    /// Threads of the CPU backend. `None`: physical cores within affinity mask and cgroup quota.
    pub threads: Option<u32>,
    /// Element type of the K cache.
    pub kv_type_k: KvType,
    /// Element type of the V cache. Types other than f16, bf16 and f32 need flash attention.
    pub kv_type_v: KvType,
    /// Fused attention.
    pub flash_attention: FlashAttention,
    /// Layers on the device. `None`: all.
    pub gpu_layers: Option<u32>,
    /// How the weights are read.
    pub weight_loading: WeightLoading,
    /// Prompts that were computed before.
    pub cache: CacheOptions,
    /// Longest time between two tokens of a stream that prefill of others may cause, in milliseconds. `None`: half as long again as
    /// without them, by measurement.
    pub tpot_ms: Option<f64>,
    /// Guessing tokens from the conversation itself.
    pub speculation: Speculation,
    /// Jinja source to use in place of the model's own chat template.
    pub chat_template: Option<String>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            context_tokens: None,
            sequences_max: 4,
            batch_tokens: 2048,
            micro_batch_tokens: 512,
            threads: None,
            kv_type_k: KvType::F16,
            kv_type_v: KvType::F16,
            flash_attention: FlashAttention::Auto,
            gpu_layers: None,
            weight_loading: WeightLoading::Auto,
            cache: CacheOptions::default(),
            tpot_ms: None,
            speculation: Speculation::Auto,
            chat_template: None,
        }
    }
}

/// Element type of a KV cache, with the names that llama.cpp gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // The names are the types' own.
pub enum KvType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
}

impl KvType {
    /// The name that llama.cpp's tools use, such as `q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q5_1 => "q5_1",
            Self::Q5_0 => "q5_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
        }
    }
}

/// Whether attention is one fused operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlashAttention {
    /// llama.cpp decides by what the device can do.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// How weights get from the file into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightLoading {
    /// By device: mmap on the CPU and on GPUs with memory of their own, plain reads on GPUs that share the CPU's.
    ///
    /// On the CPU a mapped file is the weights: nothing is copied, nothing is held twice, and a second load finds the pages in memory
    /// (`benches/load-time.py` measures it). The driver of a GPU that shares the memory (Strix Halo's, by Vulkan or ROCm) would have to
    /// pin or copy mapped pages one by one, which is slow or fatal there. Direct I/O is not chosen by itself: it is faster than reads
    /// only when the file is not in memory, and never leaves it there for the next load.
    Auto,
    /// The file is mapped; pages come in at first use.
    Mmap,
    /// The file is read into buffers, by way of the page cache.
    Read,
    /// The file is read past the page cache.
    DirectIo,
}

/// Whether tokens are guessed from the conversation (n-gram speculation). The output is the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// Where it measures faster.
    Auto,
    /// Never.
    Off,
}

/// What a loaded model is and takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// Its name on this socket.
    pub model: ModelHandle,
    /// Architecture, as in `general.architecture`, such as `llama`.
    pub architecture: String,
    /// llama.cpp's one-line description, such as `llama 135M Q4_1`.
    pub description: String,
    /// Parameters.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub weights_bytes: u64,
    /// Length that the model was trained for, in tokens.
    pub context_train_tokens: u32,
    /// KV cells of the context: the longest sequence.
    pub context_tokens: u32,
    /// Sequences that may run at once.
    pub sequences_max: u32,
    /// Most tokens in one call of `llama_decode`.
    pub batch_tokens: u32,
    /// Most tokens in one device step.
    pub micro_batch_tokens: u32,
    /// Threads that the CPU backend uses.
    pub threads: u32,
    /// Size of the vocabulary.
    pub vocabulary: u32,
    /// True if the file brings a chat template; without one llama.cpp's ChatML is used.
    pub has_chat_template: bool,
    /// True if state can only be kept as a whole (recurrent or hybrid architectures).
    pub recurrent: bool,
    /// Time that loading took, in milliseconds.
    pub load_ms: f64,
    /// Memory by device, as llama.cpp accounts for it.
    pub memory: Vec<DeviceMemory>,
}

/// Memory of one device: what the worker's models hold, and what the device has.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// ggml's name of the device or of its buffer type, such as `CPU`, `CPU_REPACK`, `Vulkan0`.
    pub device: String,
    /// What the device calls itself, such as `Radeon 8060S Graphics`; empty for buffer types.
    pub description: String,
    /// Bytes of weights.
    pub weights_bytes: u64,
    /// Bytes of KV cache and recurrent state.
    pub context_bytes: u64,
    /// Bytes of compute buffers.
    pub compute_bytes: u64,
    /// Bytes that are free for allocation, if the device tells.
    pub free_bytes: Option<u64>,
    /// Bytes in all, if the device tells.
    pub total_bytes: Option<u64>,
}
