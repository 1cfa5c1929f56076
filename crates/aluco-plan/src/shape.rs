//! The part of a GGUF header on which memory depends: layers, what each remembers, how wide its graph is, bytes of tensors.
//!
//! The rules are those of llama.cpp's loaders (build 12032): `llama-model.cpp`, `llama-hparams.cpp` and `models/*.cpp`.

mod kinds;

use aluco_model::{
    ModelError, StoredModel,
    gguf::{GgufFile, Limits, Metadata, TensorInfo, Value},
};
use serde::Serialize;

use crate::Bytes;
use kinds::{HybridRule, SwaRule};

/// Most layers that llama.cpp takes.
const LAYERS_MAX: u64 = 512;

/// A model as far as memory goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    /// Its name in llama.cpp, such as `llama` or `qwen3moe`.
    pub architecture: String,
    /// Layers that are computed, in their order.
    pub layers: Vec<Layer>,
    /// Width of the hidden state.
    pub embedding: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Tokens it was trained for.
    pub context_train: u64,
    /// Tokens that sliding windows look back; 0 without any.
    pub window: u64,
    /// Bytes of what turns tokens into vectors: it stays with the CPU.
    pub input: Bytes,
    /// Bytes of what turns vectors into logits.
    pub output: Bytes,
    /// Bytes of the input's matrix if it serves as the output's too, which takes a copy where the two live apart.
    pub tied: Option<Bytes>,
    /// True if ggml's CPU code keeps that matrix in another order for products.
    pub is_tied_repacked: bool,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Parts of the architecture whose memory is not in these numbers, by their keys. Predictions are then too low.
    pub unknown: Vec<String>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Layer {
    /// Bytes of its tensors.
    pub weights: Bytes,
    /// Its keys and values, if it has any.
    pub attention: Option<Attention>,
    /// Its recurrent state, if it has one.
    pub state: Option<State>,
    /// Width of its dense feed-forward network; 0 without one.
    pub feed_forward: u64,
    /// Its experts, if it has any.
    pub experts: Option<Experts>,
}

/// Attention of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Attention {
    /// Heads.
    pub heads: u64,
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Elements of a key of one head.
    pub key_length: u64,
    /// Elements of a value of one head.
    pub value_length: u64,
    /// True if it looks back [`Shape::window`] tokens only.
    pub is_windowed: bool,
    /// True if keys and values are kept in one compressed form (MLA).
    pub is_compressed: bool,
    /// False if it reads the cells of an earlier layer.
    pub has_cells: bool,
}

/// Recurrent state of a layer, for each sequence, in 32-bit elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct State {
    /// Elements of the inputs that convolutions and token shifts look back on.
    pub rolling: u64,
    /// Elements of the state proper.
    pub recurrent: u64,
    /// Width of what goes through it.
    pub inner: u64,
    /// Elements for each token and channel while it is computed.
    pub width: u64,
}

/// Experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Experts {
    /// How many there are.
    pub count: u64,
    /// How many work on a token.
    pub used: u64,
    /// Width of one.
    pub feed_forward: u64,
}

/// A header that says too little to predict from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The model's files cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A key is missing or makes no sense.
    #[error(
        "the memory of this model cannot be predicted: its header {problem}; `aluco show` has what it says"
    )]
    Header {
        /// What is wrong with it.
        problem: String,
    },
}

impl Shape {
    /// Reads the headers of a stored model.
    pub fn read(model: &StoredModel) -> Result<Self, ShapeError> {
        Self::of(&Self::open(model)?)
    }

    pub(crate) fn open(model: &StoredModel) -> Result<GgufFile, ShapeError> {
        GgufFile::open_parts(&model.files, &Limits::default()).map_err(|error| ShapeError::Header {
            problem: format!("cannot be read: {error}"),
        })
    }

    /// What the headers of an open model say.
    pub fn of(file: &GgufFile) -> Result<Self, ShapeError> {
        let keys = Keys::of(file.metadata())?;
        let (layers_all, embedding) = (
            keys.needed("block_count")?,
            keys.needed("embedding_length")?,
        );
        if layers_all > LAYERS_MAX {
            return Err(ShapeError::Header {
                problem: format!("claims {layers_all} layers"),
            });
        }
        // Layers for the prediction of several tokens are not loaded.
        let layers = layers_all.saturating_sub(keys.number("nextn_predict_layers").unwrap_or(0));
        let swa = SwaRule::of(&keys, layers);
        let hybrid = HybridRule::of(&keys);
        let mut shape = Self {
            architecture: keys.architecture.to_owned(),
            layers: (0..layers)
                .map(|index| keys.layer(index, embedding, &swa, &hybrid))
                .collect(),
            embedding,
            vocabulary: vocabulary(file.metadata(), &keys),
            context_train: keys.number("context_length").unwrap_or(0),
            window: swa.window,
            input: Bytes::ZERO,
            output: Bytes::ZERO,
            tied: Some(Bytes::ZERO),
            is_tied_repacked: false,
            parameters: 0,
            unknown: kinds::unknown(&keys),
        };
        for tensor in file.tensors() {
            shape.add(tensor);
        }
        Ok(shape)
    }

    /// Bytes of all tensors, each once.
    pub fn weights(&self) -> Bytes {
        let layers: Bytes = self.layers.iter().map(|layer| layer.weights).sum();
        self.input + layers + self.output
    }

    /// Bits of tensors for each parameter.
    pub fn bits_per_weight(&self) -> f64 {
        self.weights().0 as f64 * 8.0 / self.parameters.max(1) as f64
    }

    fn add(&mut self, tensor: &TensorInfo) {
        /// Tensors begin at multiples of this in memory.
        const ALIGNMENT: u64 = 32;
        let bytes = tensor.bytes().unwrap_or(0);
        let bytes = Bytes(bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(bytes));
        let name = tensor.name();
        if let Some(rest) = name.strip_prefix("blk.") {
            let index = rest.split('.').next().and_then(|text| text.parse().ok());
            let Some(layer) = index.and_then(|index: usize| self.layers.get_mut(index)) else {
                return;
            };
            layer.weights += bytes;
            // Which layers have experts is told by their tensors alone.
            if layer.experts.is_some() && rest.contains(".ffn_gate.") {
                layer.experts = None;
            }
        } else if name == "token_embd.weight" {
            self.input += bytes;
            self.tied = self.tied.map(|_| bytes);
            let repacked = ["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"];
            self.is_tied_repacked = tensor
                .tensor_type()
                .name()
                .is_some_and(|name| repacked.contains(&name));
        } else if name == "per_layer_token_embd.weight" {
            self.input += bytes;
        } else {
            if name == "output.weight" {
                self.tied = None;
            }
            self.output += bytes;
        }
        self.parameters = self.parameters.saturating_add(tensor.elements());
    }
}

/// The keys of one architecture.
pub(crate) struct Keys<'a> {
    metadata: &'a Metadata,
    pub(crate) architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn of(metadata: &'a Metadata) -> Result<Self, ShapeError> {
        match metadata.str("general.architecture") {
            Some(architecture) => Ok(Self {
                metadata,
                architecture,
            }),
            None => Err(ShapeError::Header {
                problem: "names no architecture".to_owned(),
            }),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    fn needed(&self, key: &str) -> Result<u64, ShapeError> {
        self.number(key).ok_or_else(|| ShapeError::Header {
            problem: format!("has no {}.{key}", self.architecture),
        })
    }

    /// A number of a layer, from a key with one number for all or one for each.
    pub(crate) fn at(&self, key: &str, index: u64) -> Option<u64> {
        let value = self.get(key)?;
        let Some(array) = value.as_array() else {
            return value.as_u64();
        };
        array.whole()?.get(usize::try_from(index).ok()?)?.as_u64()
    }

    /// Names of the keys, without that of the architecture.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        let (metadata, architecture) = (self.metadata, self.architecture);
        metadata
            .iter()
            .filter_map(move |(key, _)| key.strip_prefix(architecture)?.strip_prefix('.'))
    }

    /// Elements of a key and of a value. As in llama.cpp, the first layer's heads decide on the defaults for all.
    fn head_lengths(&self, embedding: u64) -> (u64, u64) {
        let heads = self.at("attention.head_count", 0).unwrap_or(0);
        let Some(default) = embedding.checked_div(heads) else {
            return (0, 0);
        };
        let length = |key| self.number(key).unwrap_or(default);
        (
            length("attention.key_length"),
            length("attention.value_length"),
        )
    }

    fn layer(&self, index: u64, embedding: u64, swa: &SwaRule, hybrid: &HybridRule) -> Layer {
        let heads = self.at("attention.head_count", index).unwrap_or(0);
        let kv_heads = self.at("attention.head_count_kv", index).unwrap_or(heads);
        let feed_forward = self.at("feed_forward_length", index).unwrap_or(0);
        let is_windowed = swa.is_windowed(index);
        let (mut key_length, mut value_length) = self.head_lengths(embedding);
        if is_windowed {
            key_length = self
                .number("attention.key_length_swa")
                .unwrap_or(key_length);
            value_length = self
                .number("attention.value_length_swa")
                .unwrap_or(value_length);
        }
        let attention = hybrid
            .has_attention(index, kv_heads, feed_forward)
            .then_some(Attention {
                heads,
                kv_heads,
                key_length,
                value_length,
                is_windowed,
                is_compressed: self
                    .number("attention.key_length_mla")
                    .is_some_and(|n| n > 0),
                has_cells: !kinds::reads_earlier_cells(self, index),
            });
        let state = hybrid
            .has_state(index, kv_heads, feed_forward)
            .then(|| kinds::state(self, embedding, heads, key_length));
        let experts = self.number("expert_count").filter(|&count| count > 0);
        let expert_width = self.at("expert_feed_forward_length", index);
        let experts = experts.map(|count| Experts {
            count,
            used: self.at("expert_used_count", index).unwrap_or(1),
            feed_forward: expert_width.unwrap_or(feed_forward),
        });
        let is_dense = index < self.number("leading_dense_block_count").unwrap_or(0);
        Layer {
            weights: Bytes::ZERO,
            attention,
            state,
            feed_forward,
            experts: experts.filter(|_| !is_dense),
        }
    }
}

fn vocabulary(metadata: &Metadata, keys: &Keys<'_>) -> u64 {
    let tokens = metadata.array("tokenizer.ggml.tokens");
    tokens
        .map(|tokens| tokens.length)
        .or_else(|| keys.number("vocab_size"))
        .unwrap_or(0)
}
