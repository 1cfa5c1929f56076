//! What a token costs, from the tensors of a header.

use aluco_model::{
    StoredModel,
    gguf::{GgufFile, TensorInfo},
};
use aluco_proto::LoadOptions;
use serde::Serialize;

use crate::{Attention, Bytes, Shape, ShapeError, predict};

/// What decoding, prefill and loading cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Layers that are computed.
    pub layers: u64,
    /// What every token needs: all but experts, and of what turns tokens into vectors no more than one row, which is not counted.
    pub dense: Part,
    /// The part of it that turns vectors into logits. A prompt needs that once.
    pub output: Part,
    /// Experts that work on one token.
    pub experts: Part,
    /// Bytes of the files.
    pub file: Bytes,
    /// Recurrent states, which are read and written.
    pub state: Bytes,
    /// True if the architecture has caches whose bytes are not known.
    pub has_unknown_caches: bool,
    #[serde(skip)]
    pub(super) attention: Vec<Attention>,
    #[serde(skip)]
    pub(super) window: u64,
}

/// Weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Part {
    /// Bytes of the tensors.
    pub bytes: Bytes,
    /// Elements of the tensors.
    pub parameters: u64,
}

/// Keys and values that decoding a token reads.
pub(super) struct Cells {
    pub(super) plain: Bytes,
    pub(super) compressed: Bytes,
}

impl Part {
    fn add(&mut self, tensor: &TensorInfo) {
        self.bytes += Bytes(tensor.bytes().unwrap_or(0));
        self.parameters = self.parameters.saturating_add(tensor.elements());
    }

    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            parameters: self.parameters.saturating_add(other.parameters),
        }
    }

    /// So many parts of so many.
    fn share(self, used: u64, count: u64) -> Self {
        let share = used.min(count) as f64 / count.max(1) as f64;
        Self {
            bytes: Bytes((self.bytes.0 as f64 * share) as u64),
            parameters: (self.parameters as f64 * share) as u64,
        }
    }
}

impl Work {
    /// Reads the headers of a stored model.
    ///
    /// # Errors
    /// They cannot be read, or say too little.
    pub fn read(model: &StoredModel) -> Result<Self, ShapeError> {
        Self::of(&Shape::open(model)?)
    }

    /// What the headers of an open model say.
    ///
    /// # Errors
    /// They say too little.
    pub fn of(file: &GgufFile) -> Result<Self, ShapeError> {
        let shape = Shape::of(file)?;
        let mut tensors = Tensors::default();
        for tensor in file.tensors() {
            tensors.add(tensor, shape.layers.len());
        }
        if !tensors.has_output {
            tensors.output = tensors.output.plus(tensors.input);
        }
        // Where only some layers have experts, all of those have as many.
        let experts = shape.layers.iter().find_map(|layer| layer.experts);
        let (used, count) = experts.map_or((1, 1), |experts| (experts.used, experts.count));
        let states = shape.layers.iter().filter_map(|layer| layer.state);
        let elements: u64 = states
            .map(|state| state.rolling.saturating_add(state.recurrent))
            .fold(0, u64::saturating_add);
        Ok(Self {
            layers: shape.layers.len() as u64,
            dense: tensors.dense.plus(tensors.output),
            output: tensors.output,
            experts: tensors.experts.share(used, count),
            file: tensors.all,
            // 32-bit elements, in and out.
            state: Bytes(elements).times(8),
            has_unknown_caches: !shape.unknown.is_empty(),
            attention: shape
                .layers
                .iter()
                .filter_map(|layer| layer.attention)
                .collect(),
            window: shape.window,
        })
    }

    /// What is read of a context that holds so many tokens.
    pub(super) fn cells(&self, options: &LoadOptions, depth: u64) -> Cells {
        let mut cells = Cells {
            plain: Bytes::ZERO,
            compressed: Bytes::ZERO,
        };
        for attention in &self.attention {
            let tokens = if attention.is_windowed {
                depth.min(self.window)
            } else {
                depth
            };
            let keys = predict::row(
                options.kv_type_k,
                attention.kv_heads.saturating_mul(attention.key_length),
            );
            let values = predict::row(
                options.kv_type_v,
                attention.kv_heads.saturating_mul(attention.value_length),
            );
            if attention.is_compressed {
                cells.compressed += keys.times(tokens);
            } else {
                cells.plain += (keys + values).times(tokens);
            }
        }
        cells
    }
}

#[derive(Default)]
struct Tensors {
    dense: Part,
    experts: Part,
    input: Part,
    output: Part,
    has_output: bool,
    all: Bytes,
}

impl Tensors {
    fn add(&mut self, tensor: &TensorInfo, layers: usize) {
        self.all += Bytes(tensor.bytes().unwrap_or(0));
        let name = tensor.name();
        if let Some(rest) = name.strip_prefix("blk.") {
            let index = rest.split('.').next().and_then(|text| text.parse().ok());
            // Layers that guess further tokens are not computed.
            if index.is_none_or(|index: usize| index >= layers) {
                return;
            }
            // `ffn_up_exps.weight`, but not `ffn_up_shexp.weight`, which every token needs.
            if rest.contains("exps.") {
                self.experts.add(tensor);
            } else {
                self.dense.add(tensor);
            }
            return;
        }
        match name {
            "token_embd.weight" => self.input.add(tensor),
            "per_layer_token_embd.weight" => {}
            "output.weight" => {
                self.has_output = true;
                self.output.add(tensor);
            }
            _ => self.dense.add(tensor),
        }
    }
}
