//! What the context remembers: cells of keys and values, states of sequences.

use aluco_proto::{FlashAttention, KvType, LoadOptions};

use super::{CONTEXT_STEP, Frame};
use crate::{Attention, Bytes, Layer, Shape};

/// Cells of a layer: all of them, or as many as windows of all sequences and a micro-batch take (`llama_kv_cache_iswa`).
pub(super) fn count(shape: &Shape, attention: &Attention, frame: &Frame) -> u64 {
    if !attention.is_windowed {
        return frame.cells;
    }
    shape
        .window
        .saturating_mul(frame.sequences)
        .saturating_add(frame.outputs)
        .min(frame.cells)
        .next_multiple_of(CONTEXT_STEP)
}

/// Keys and values of a layer.
pub(super) fn kv(shape: &Shape, layer: &Layer, options: &LoadOptions, frame: &Frame) -> Bytes {
    let Some(attention) = layer.attention.filter(|attention| attention.has_cells) else {
        return Bytes::ZERO;
    };
    let cells = count(shape, &attention, frame);
    let keys = row(
        options.kv_type_k,
        attention.kv_heads.saturating_mul(attention.key_length),
    );
    let values = if attention.is_compressed {
        Bytes::ZERO
    } else {
        row(options.kv_type_v, value_width(shape, &attention, options))
    };
    (keys + values).times(cells) + rotations(&attention, options)
}

/// Values lie across the cells without fused attention, all layers with the width of the widest then.
fn value_width(shape: &Shape, attention: &Attention, options: &LoadOptions) -> u64 {
    let width = |attention: &Attention| attention.kv_heads.saturating_mul(attention.value_length);
    if options.flash_attention != FlashAttention::Off {
        return width(attention);
    }
    let layers = shape.layers.iter();
    layers
        .filter_map(|layer| layer.attention.as_ref().map(width))
        .max()
        .unwrap_or(0)
}

/// Matrices by which llama.cpp turns keys and values of quantised caches, one of each for each layer.
fn rotations(attention: &Attention, options: &LoadOptions) -> Bytes {
    const LEAST: u64 = 64;
    let square = |side: u64| Bytes(4).times(side.saturating_mul(side));
    let turns =
        |kv_type, length: u64| is_quantised(kv_type) && length > 0 && length.is_multiple_of(LEAST);
    let mut bytes = Bytes::ZERO;
    if turns(options.kv_type_k, attention.key_length) {
        // The largest power of two that divides the length.
        bytes += square(1 << attention.key_length.trailing_zeros());
    }
    if turns(options.kv_type_v, attention.value_length) && !attention.is_compressed {
        bytes += square(LEAST);
    }
    bytes
}

/// The state of a layer, for all sequences.
pub(super) fn state(layer: &Layer, frame: &Frame) -> Bytes {
    let state = layer.state.unwrap_or_default();
    let elements = state.rolling.saturating_add(state.recurrent);
    Bytes(4).times(elements).times(frame.sequences)
}

fn is_quantised(kv_type: KvType) -> bool {
    !matches!(kv_type, KvType::F32 | KvType::F16 | KvType::Bf16)
}

/// Bytes of one cell's elements.
pub(crate) fn row(kv_type: KvType, elements: u64) -> Bytes {
    /// Elements of a block of the quantised types.
    const BLOCK: u64 = 32;
    let blocks = |bytes: u64| Bytes(elements.div_ceil(BLOCK)).times(bytes);
    match kv_type {
        KvType::F32 => Bytes(elements).times(4),
        KvType::F16 | KvType::Bf16 => Bytes(elements).times(2),
        KvType::Q8_0 => blocks(34),
        KvType::Q5_1 => blocks(24),
        KvType::Q5_0 => blocks(22),
        KvType::Q4_1 => blocks(20),
        KvType::Q4_0 => blocks(18),
    }
}
