//! Bytes of a load before it happens, by consumer.
//!
//! Weights and cells are exact where the architecture is known: they follow llama.cpp's layout (build 12032). Compute buffers depend on how
//! its allocator packs the largest graph, and are an estimate; a worker that answers `Estimate` knows them exactly.

mod cells;
mod compute;
mod told;

use aluco_proto::{Backend, FlashAttention, LoadOptions};
use serde::{Deserialize, Serialize};

use crate::{Bytes, Shape};
pub(crate) use cells::row;
use compute::Graph;

/// Context of a model that was trained for more, unless asked otherwise, in tokens: the worker's own default.
pub const CONTEXT_TOKENS_DEFAULT: u32 = 8192;

/// llama.cpp rounds contexts up to this many tokens.
const CONTEXT_STEP: u64 = 256;

/// Caches that are not predicted are taken for one part of so many of the keys and values, which is more than an index of them takes.
const UNKNOWN_CACHES_SHARE: u64 = 3;

/// An allowance for what a worker holds beside what llama.cpp accounts for: the vocabulary, work memory of CPU code, stacks.
const WORKER_BYTES: Bytes = Bytes(48 << 20);
const WORKER_BYTES_PER_VOCABULARY: Bytes = Bytes(512);

/// Where bytes lie. On a machine whose CPU and GPU share memory both are in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Memory of the CPU.
    Host,
    /// Memory of the GPU.
    Device,
}

/// What bytes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    /// Tensors of the model.
    Weights,
    /// Keys and values of the context's tokens.
    KvCache,
    /// States of recurrent layers, for each sequence.
    RecurrentState,
    /// Intermediate results of the largest step.
    Compute,
    /// Prompts that were computed before, kept in memory: blocks and checkpoints. Grows up to this.
    PrefixStore,
    /// Encoder of images or sound.
    Projector,
    /// Small model that guesses ahead.
    Draft,
    /// The worker's own: program, vocabulary, stacks.
    Worker,
    /// Programs that are not Aluco's.
    OtherPrograms,
    /// Left free for the system and for what cannot be foreseen.
    Reserve,
}

impl Consumer {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::KvCache => "KV cache",
            Self::RecurrentState => "recurrent state",
            Self::Compute => "compute buffers",
            Self::PrefixStore => "stored prompts",
            Self::Projector => "projector",
            Self::Draft => "draft model",
            Self::Worker => "worker",
            Self::OtherPrograms => "other programs",
            Self::Reserve => "reserve",
        }
    }
}

/// Bytes of one consumer in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Where.
    pub place: Place,
    /// What for.
    pub consumer: Consumer,
    /// How many.
    pub bytes: Bytes,
}

/// What a load will take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// By place and consumer, the largest first; nothing of zero bytes.
    pub items: Vec<Item>,
    /// Cells of the context, rounded up as llama.cpp does.
    pub context_tokens: u64,
    /// How far the sum may be off, as a share of it. Larger where the architecture has caches that are not predicted.
    pub error_share: f64,
}

/// What a prediction needs to know beside the model and the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// On what it will be computed.
    pub backend: Backend,
    /// Bytes of stored prompts unless the options say; see [`crate::pool::Pool::default_store`].
    pub store: Bytes,
}

/// A context as llama.cpp makes it of the options.
#[derive(Debug, Clone, Copy)]
struct Frame {
    cells: u64,
    /// One more than may run, for what the worker takes out and puts in.
    sequences: u64,
    micro_batch: u64,
    outputs: u64,
    fused: bool,
}

impl Frame {
    fn of(shape: &Shape, options: &LoadOptions) -> Self {
        let trained = shape.context_train.max(1);
        let asked = options
            .context_tokens
            .map_or_else(|| trained.min(CONTEXT_TOKENS_DEFAULT.into()), u64::from);
        let running = u64::from(options.sequences_max.clamp(1, 255));
        let can_share = shape.architecture != "deepseek4";
        let batch = u64::from(options.batch_tokens).max(running + 1).min(asked);
        let micro_batch = u64::from(options.micro_batch_tokens.max(1)).min(batch);
        let sequences = running + u64::from(can_share);
        Self {
            cells: asked.next_multiple_of(CONTEXT_STEP),
            sequences,
            // The largest graph has as many tokens of each sequence.
            micro_batch: micro_batch.next_multiple_of(sequences),
            outputs: micro_batch,
            fused: options.flash_attention != FlashAttention::Off,
        }
    }
}

/// What a load with these options will take.
pub fn predict(shape: &Shape, options: &LoadOptions, setting: &Setting) -> MemoryPlan {
    let frame = Frame::of(shape, options);
    let split = Split::of(shape, options, setting.backend);
    let graph = Graph::of(shape, &frame, split.is_output_on_device);
    let mut plan = MemoryPlan {
        items: Vec::new(),
        context_tokens: frame.cells,
        error_share: if shape.unknown.is_empty() { 0.03 } else { 0.2 },
    };
    plan.add(Place::Host, Consumer::Weights, split.host_weights);
    plan.add(Place::Device, Consumer::Weights, split.device_weights);
    for (index, layer) in shape.layers.iter().enumerate() {
        let place = split.place(index);
        let kv = cells::kv(shape, layer, options, &frame);
        plan.add(place, Consumer::KvCache, kv);
        if !shape.unknown.is_empty() {
            plan.add(place, Consumer::KvCache, Bytes(kv.0 / UNKNOWN_CACHES_SHARE));
        }
        plan.add(place, Consumer::RecurrentState, cells::state(layer, &frame));
    }
    if split.first_on_device < shape.layers.len() || split.is_output_on_device {
        plan.add(Place::Device, Consumer::Compute, graph.device());
        plan.add(Place::Host, Consumer::Compute, graph.host());
    } else {
        plan.add(Place::Host, Consumer::Compute, graph.whole());
    }
    let store = options.cache.ram_bytes.map_or(setting.store, Bytes);
    plan.add(Place::Host, Consumer::PrefixStore, store);
    let worker = WORKER_BYTES
        + WORKER_BYTES_PER_VOCABULARY.times(shape.vocabulary)
        + Bytes(4).times(shape.vocabulary).times(frame.sequences);
    plan.add(Place::Host, Consumer::Worker, worker);
    plan.items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
    plan
}

impl MemoryPlan {
    /// Bytes in all.
    pub fn total(&self) -> Bytes {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// Bytes of one consumer, wherever they are.
    pub fn of(&self, consumer: Consumer) -> Bytes {
        self.sum(|item| item.consumer == consumer)
    }

    /// Bytes in one place.
    pub fn at(&self, place: Place) -> Bytes {
        self.sum(|item| item.place == place)
    }

    /// Bytes that llama.cpp accounts for: the rest is the worker's own.
    pub fn engine(&self) -> Bytes {
        self.sum(|item| !matches!(item.consumer, Consumer::PrefixStore | Consumer::Worker))
    }

    fn sum(&self, takes: impl Fn(&Item) -> bool) -> Bytes {
        let items = self.items.iter().filter(|item| takes(item));
        items.map(|item| item.bytes).sum()
    }

    fn add(&mut self, place: Place, consumer: Consumer, bytes: Bytes) {
        if bytes.is_zero() {
            return;
        }
        let mut items = self.items.iter_mut();
        match items.find(|item| (item.place, item.consumer) == (place, consumer)) {
            Some(item) => item.bytes += bytes,
            None => self.items.push(Item {
                place,
                consumer,
                bytes,
            }),
        }
    }
}

/// Which weights are where.
struct Split {
    first_on_device: usize,
    is_output_on_device: bool,
    host_weights: Bytes,
    device_weights: Bytes,
}

impl Split {
    /// As llama.cpp: the last layers go to the device first, and the output counts as one more.
    fn of(shape: &Shape, options: &LoadOptions, backend: Backend) -> Self {
        let layers = shape.layers.len();
        let asked = options
            .gpu_layers
            .map_or(usize::MAX, |count| count as usize);
        let on_device = match backend {
            Backend::Cpu => 0,
            Backend::Vulkan | Backend::Rocm => asked.min(layers + 1),
        };
        let first_on_device = layers + 1 - on_device;
        let is_output_on_device = on_device > 0;
        let copied = match (shape.tied, is_output_on_device) {
            (Some(bytes), true) => bytes,
            (Some(bytes), false) if shape.is_tied_repacked => bytes,
            _ => Bytes::ZERO,
        };
        let sum = |layers: &[crate::Layer]| layers.iter().map(|layer| layer.weights).sum::<Bytes>();
        let (host, device) = shape.layers.split_at(first_on_device.min(layers));
        let output = shape.output + copied;
        let (mut host_weights, mut device_weights) = (shape.input + sum(host), sum(device));
        if is_output_on_device {
            device_weights += output;
        } else {
            host_weights += output;
        }
        Self {
            first_on_device,
            is_output_on_device,
            host_weights,
            device_weights,
        }
    }

    fn place(&self, layer: usize) -> Place {
        if layer >= self.first_on_device {
            Place::Device
        } else {
            Place::Host
        }
    }
}
