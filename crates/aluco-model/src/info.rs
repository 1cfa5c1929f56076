//! What a model's GGUF header says about the model, in words for people and programs.

mod kv_cache;
#[cfg(test)]
mod tests;
mod text;

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{
    ModelError, StoredModel,
    error::Size,
    gguf::{FileType, GgufFile, Limits, Metadata, TensorInfo, TensorType, Value},
};
use text::{BinarySize, Parameters, clean, counted};

/// A model as its files describe it. What a file does not say is `None`. Texts are cut to a sensible length and carry no control
/// characters, whatever the file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Name that its makers gave it, such as `Qwen3 30B A3B`.
    pub name: Option<String>,
    /// How it is built, by the name that llama.cpp has for that, such as `llama` or `qwen3moe`.
    pub architecture: Option<String>,
    /// Size by its makers' count, such as `30B-A3B`.
    pub size_label: Option<String>,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Recipe it was quantised by, such as `Q4_K_M`; without one in the file, the tensor type of most of its elements.
    pub quantisation: Option<String>,
    /// Its tensors by type, the type of most elements first.
    pub tensor_types: Vec<TensorTypeShare>,
    /// Bits of tensors for each element. `None` without tensors, or with one of an unknown type.
    pub bits_per_weight: Option<f64>,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Number of files: more than one if the model is split.
    pub files: usize,
    /// Tokens of context it was trained for.
    pub context_length: Option<u64>,
    /// Width of its hidden state.
    pub embedding_length: Option<u64>,
    /// Layers, with those for the prediction of several tokens.
    pub layers: Option<u64>,
    /// Attention heads of a layer.
    pub heads: Option<PerLayer>,
    /// Heads of keys and values of a layer; fewer than heads under grouped-query attention.
    pub kv_heads: Option<PerLayer>,
    /// Elements of a key of one head.
    pub key_length: Option<u64>,
    /// Elements of a value of one head.
    pub value_length: Option<u64>,
    /// Experts of a layer. `None` for a dense model.
    pub experts: Option<u64>,
    /// Experts that work on one token.
    pub experts_used: Option<u64>,
    /// Tokens that its sliding-window layers look back.
    pub sliding_window: Option<u64>,
    /// Tokens of its vocabulary.
    pub vocabulary: Option<u64>,
    /// Kind of tokenizer, such as `gpt2` (byte pairs) or `llama` (SentencePiece).
    pub tokenizer: Option<String>,
    /// Whether the file has a template for conversations.
    pub has_chat_template: bool,
    /// Licence, such as `apache-2.0`.
    pub licence: Option<String>,
    /// Bytes of KV cache for each token at f16, all layers together. Layers with a sliding window take their share only up to the
    /// window. `None` where such a figure would be wrong: recurrent layers, compressed keys (MLA), models that keep no cache.
    pub kv_bytes_per_token: Option<u64>,
}

/// The tensors of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorTypeShare {
    /// Name of the type, such as `Q4_K`.
    pub name: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Elements of them all.
    pub elements: u64,
}

/// A number that is the same for all layers, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum PerLayer {
    /// For every layer.
    Same(u64),
    /// For each layer, in their order.
    Each(Vec<u64>),
}

impl PerLayer {
    fn of(value: &Value) -> Option<Self> {
        let Some(array) = value.as_array() else {
            return value.as_u64().map(Self::Same);
        };
        let each: Vec<u64> = array
            .whole()?
            .iter()
            .map(Value::as_u64)
            .collect::<Option<_>>()?;
        let first = *each.first()?;
        Some(if each.iter().all(|&number| number == first) {
            Self::Same(first)
        } else {
            Self::Each(each)
        })
    }

    /// The number of the first layer.
    fn first(&self) -> u64 {
        match self {
            Self::Same(number) => *number,
            Self::Each(each) => each[0],
        }
    }

    /// The sum over the first `layers` layers. `None` if there are not as many, or the sum is too large.
    fn sum(&self, layers: u64) -> Option<u64> {
        match self {
            Self::Same(number) => number.checked_mul(layers),
            Self::Each(each) => each
                .get(..usize::try_from(layers).ok()?)?
                .iter()
                .try_fold(0_u64, |sum, &number| sum.checked_add(number)),
        }
    }
}

impl fmt::Display for PerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(number) => write!(f, "{number}"),
            Self::Each(each) => {
                let least = each.iter().min().copied().unwrap_or(0);
                let most = each.iter().max().copied().unwrap_or(0);
                write!(f, "{least} to {most} by layer")
            }
        }
    }
}

impl ModelInfo {
    /// Reads the headers of a model's files. Fails if one is damaged, or not all there.
    pub fn read(model: &StoredModel) -> Result<Self, ModelError> {
        let file = GgufFile::open_parts(&model.files, &Limits::default())
            .map_err(|error| ModelError::gguf(&model.name, error))?;
        Ok(Self::of(&file))
    }

    /// What the headers of an open model say.
    pub fn of(file: &GgufFile) -> Self {
        let metadata = file.metadata();
        let text = |key: &str| metadata.str(key).and_then(clean);
        // The name as it stands in the file, for it begins the other keys.
        let prefix = metadata.str("general.architecture").unwrap_or_default();
        let of_architecture = |key: &str| metadata.get(&format!("{prefix}.{key}"));
        let number = |key: &str| of_architecture(key).and_then(Value::as_u64);
        let some = |key: &str| number(key).filter(|&number| number > 0);

        let embedding_length = number("embedding_length");
        let heads = of_architecture("attention.head_count").and_then(PerLayer::of);
        let kv_heads = match of_architecture("attention.head_count_kv") {
            Some(value) => PerLayer::of(value),
            None => heads.clone(),
        };
        // As in llama.cpp: by default a head takes its share of the hidden state.
        let head_length = heads.as_ref().and_then(|heads| {
            embedding_length.and_then(|length| length.checked_div(heads.first()))
        });
        let key_length = number("attention.key_length").or(head_length);
        let value_length = number("attention.value_length").or(head_length);

        let parameters = file
            .tensors()
            .map(TensorInfo::elements)
            .fold(0, u64::saturating_add);
        let tensor_types = tensor_types(file);
        let quantisation = match metadata.u64("general.file_type").map(u32::try_from) {
            Some(Ok(number)) => Some(FileType(number).to_string()),
            _ => tensor_types.first().map(|share| share.name.clone()),
        };
        let mut info = Self {
            name: text("general.name"),
            architecture: text("general.architecture"),
            size_label: text("general.size_label"),
            parameters,
            quantisation,
            tensor_types,
            bits_per_weight: bits_per_weight(file, parameters),
            file_bytes: file.file_bytes(),
            files: file.parts().len(),
            context_length: some("context_length"),
            embedding_length,
            layers: number("block_count"),
            heads,
            kv_heads,
            key_length,
            value_length,
            experts: some("expert_count"),
            experts_used: some("expert_used_count"),
            sliding_window: some("attention.sliding_window"),
            vocabulary: metadata
                .array("tokenizer.ggml.tokens")
                .map(|tokens| tokens.length)
                .or_else(|| number("vocab_size")),
            tokenizer: text("tokenizer.ggml.model"),
            has_chat_template: metadata.get("tokenizer.chat_template").is_some()
                || metadata.get("tokenizer.chat_templates").is_some(),
            licence: licence(metadata),
            kv_bytes_per_token: None,
        };
        info.kv_bytes_per_token = kv_cache::bytes_per_token(&info, metadata, prefix);
        info
    }

    /// What there is to say, as labels and values for people, in the order in which to show it.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let tokens = |number: u64| counted(number, "token");
        let plain = |number: u64| counted(number, "");
        let rows = [
            ("name", self.name.clone()),
            ("architecture", self.architecture.clone()),
            ("size", self.size_label.clone()),
            ("parameters", Some(Parameters(self.parameters).to_string())),
            ("quantisation", self.quantisation_row()),
            ("on disk", Some(self.files_row())),
            ("context", self.context_length.map(tokens)),
            ("layers", self.layers.map(plain)),
            ("embedding", self.embedding_length.map(plain)),
            ("attention", self.attention_row()),
            ("experts", self.experts_row()),
            ("sliding window", self.sliding_window.map(tokens)),
            ("KV cache", self.kv_cache_row()),
            ("vocabulary", self.vocabulary.map(tokens)),
            ("tokenizer", self.tokenizer.clone()),
            (
                "chat template",
                Some(if self.has_chat_template { "yes" } else { "no" }.into()),
            ),
            ("licence", self.licence.clone()),
        ];
        rows.into_iter()
            .filter_map(|(label, value)| value.map(|value| (label, value)))
            .collect()
    }

    fn quantisation_row(&self) -> Option<String> {
        let name = self.quantisation.as_ref()?;
        Some(match self.bits_per_weight {
            Some(bits) => format!("{name}, {bits:.2} bits per weight"),
            None => name.clone(),
        })
    }

    fn files_row(&self) -> String {
        let size = Size(self.file_bytes);
        if self.files == 1 {
            size.to_string()
        } else {
            format!("{size} in {}", counted(self.files as u64, "part"))
        }
    }

    fn attention_row(&self) -> Option<String> {
        let mut row = vec![format!("{} heads", self.heads.as_ref()?)];
        if let Some(kv_heads) = &self.kv_heads {
            row.push(format!("{kv_heads} for keys and values"));
        }
        match (self.key_length, self.value_length) {
            (Some(key), Some(value)) if key == value => row.push(format!("of {key}")),
            (Some(key), Some(value)) => row.push(format!("keys of {key}, values of {value}")),
            _ => {}
        }
        Some(row.join(", "))
    }

    fn experts_row(&self) -> Option<String> {
        let experts = counted(self.experts?, "");
        Some(match self.experts_used {
            Some(used) => format!("{experts}, {used} for each token"),
            None => experts,
        })
    }

    fn kv_cache_row(&self) -> Option<String> {
        let size = BinarySize(self.kv_bytes_per_token?);
        Some(match self.sliding_window {
            Some(_) => format!("up to {size} per token at f16, less beyond the sliding window"),
            None => format!("{size} per token at f16"),
        })
    }
}

/// The types of the tensors, the one of most elements first.
fn tensor_types(file: &GgufFile) -> Vec<TensorTypeShare> {
    let mut shares = BTreeMap::<TensorType, (u64, u64)>::new();
    for tensor in file.tensors() {
        let (tensors, elements) = shares.entry(tensor.tensor_type()).or_default();
        *tensors += 1;
        *elements = elements.saturating_add(tensor.elements());
    }
    let mut shares: Vec<_> = shares
        .into_iter()
        .map(|(tensor_type, (tensors, elements))| TensorTypeShare {
            name: tensor_type.to_string(),
            tensors,
            elements,
        })
        .collect();
    shares.sort_by_key(|share| Reverse(share.elements));
    shares
}

fn bits_per_weight(file: &GgufFile, parameters: u64) -> Option<f64> {
    let bytes = file.tensors().try_fold(0_u64, |sum, tensor| {
        tensor.bytes().map(|bytes| sum.saturating_add(bytes))
    })?;
    (parameters > 0).then(|| bytes as f64 * 8.0 / parameters as f64)
}

/// `other` is what the hub's list of licences says of all that are not on it; the name is then in a key of its own.
fn licence(metadata: &Metadata) -> Option<String> {
    let text = |key: &str| metadata.str(key).and_then(clean);
    match text("general.license") {
        Some(short) if short == "other" => text("general.license.name").or(Some(short)),
        None => text("general.license.name"),
        short => short,
    }
}
