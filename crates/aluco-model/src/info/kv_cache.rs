//! What a token costs in the KV cache.

use super::ModelInfo;
use crate::gguf::Metadata;

/// Bytes of one element at f16.
const ELEMENT_BYTES: u64 = 2;

/// Keys (the part after the architecture's name) of models whose cache is no plain list of keys and values for each layer:
/// layers with a state instead, keys and values in compressed form, caches shared along a map, other caches beside it.
const IRREGULAR: [&str; 14] = [
    "ssm.",
    "wkv.",
    "kda.",
    "shortconv.",
    "full_attention_interval",
    "attention.recurrent_layers",
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "attention.indexer.",
    "attention.compress_ratios",
    "attention.kv_source_",
    // The decoder's own layers are counted by this, and its cache of the encoder's output is extra.
    "decoder_block_count",
    "attention.value_expert_count",
];

/// Bytes for each token at f16 over all layers that have a cache, or `None` where a plain figure would be wrong or cannot be had.
/// The rules are those by which llama.cpp lays out its cache.
pub(super) fn bytes_per_token(info: &ModelInfo, metadata: &Metadata, prefix: &str) -> Option<u64> {
    let irregular = metadata.iter().any(|(key, _)| {
        key.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| IRREGULAR.iter().any(|start| rest.starts_with(start)))
    });
    let full = |key: &str| format!("{prefix}.{key}");
    let causal = metadata.bool(&full("attention.causal")).unwrap_or(true);
    if irregular || !causal {
        return None;
    }
    let number = |key: &str| metadata.u64(&full(key));
    let (key_length, value_length) = (info.key_length?, info.value_length?);
    // Which layers have the window is known to llama.cpp alone for some architectures, so both kinds must have one size.
    let window_key_length = number("attention.key_length_swa").unwrap_or(key_length);
    let window_value_length = number("attention.value_length_swa").unwrap_or(value_length);
    if (window_key_length, window_value_length) != (key_length, value_length) {
        return None;
    }
    // The last layers may predict further tokens, which is not in use, or read the cache of an earlier layer.
    let layers = info
        .layers?
        .checked_sub(number("nextn_predict_layers").unwrap_or(0))?
        .checked_sub(number("attention.shared_kv_layers").unwrap_or(0))?;
    let kv_heads = info.kv_heads.as_ref()?.sum(layers)?;
    key_length
        .checked_add(value_length)?
        .checked_mul(kv_heads)?
        .checked_mul(ELEMENT_BYTES)
}
