//! Compute buffers: the intermediate results that are alive at once in the largest step.
//!
//! llama.cpp packs the tensors of a graph into one buffer and uses the room of dead ones again. The largest moment is one of these: the
//! logits, of a micro-batch's tokens all at once; the widest feed-forward network or recurrence; attention, which without fusing holds
//! a number for each pair of token and cell. The masks that say which token sees which cell live through all layers.

use super::{Frame, cells};
use crate::{Bytes, Layer, Shape};

/// Bytes of the largest step.
pub(super) struct Graph {
    masks: Bytes,
    inputs: Bytes,
    peak: Bytes,
    is_output_on_device: bool,
}

impl Graph {
    pub(super) fn of(shape: &Shape, frame: &Frame, is_output_on_device: bool) -> Self {
        let tokens = Bytes(4).times(frame.micro_batch);
        let hidden = tokens.times(shape.embedding);
        let masks = masks(shape, frame);
        let widest = |bytes: fn(&Shape, &Layer, &Frame) -> Bytes| {
            let layers = shape.layers.iter();
            layers
                .map(|layer| bytes(shape, layer, frame))
                .max()
                .unwrap_or_default()
        };
        let logits = Bytes(4).times(frame.outputs).times(shape.vocabulary);
        let body = widest(attention)
            .max(widest(feed_forward))
            .max(widest(recurrence))
            + hidden.times(2);
        // Logits that do not fit where the masks were lie behind the last layer's results.
        let last = shape.layers.last();
        let behind = last.map_or(Bytes::ZERO, |layer| last_results(layer, frame)) + hidden;
        Self {
            masks,
            inputs: hidden,
            peak: if logits <= masks {
                body
            } else {
                body.max(behind + logits)
            },
            is_output_on_device,
        }
    }

    /// All of it in one place.
    pub(super) fn whole(&self) -> Bytes {
        self.masks + self.peak
    }

    /// The device's part.
    pub(super) fn device(&self) -> Bytes {
        self.masks + self.peak
    }

    /// What the CPU hands over: the tokens' vectors and the masks.
    pub(super) fn host(&self) -> Bytes {
        if self.is_output_on_device {
            self.masks + self.inputs
        } else {
            self.masks + self.peak
        }
    }
}

/// One mask for all layers that look at everything, another for those with windows.
fn masks(shape: &Shape, frame: &Frame) -> Bytes {
    let element = Bytes(if frame.fused { 2 } else { 4 });
    let of = |is_windowed: bool| {
        let attention = shape
            .layers
            .iter()
            .filter_map(|layer| layer.attention)
            .find(|attention| attention.is_windowed == is_windowed);
        attention.map_or(Bytes::ZERO, |attention| {
            let cells = cells::count(shape, &attention, frame);
            element.times(cells).times(frame.micro_batch)
        })
    };
    of(true) + of(false)
}

fn attention(shape: &Shape, layer: &Layer, frame: &Frame) -> Bytes {
    let Some(attention) = layer.attention else {
        return Bytes::ZERO;
    };
    let tokens = Bytes(4).times(frame.micro_batch);
    let queries = tokens.times(attention.heads).times(attention.key_length);
    let values = tokens.times(attention.heads).times(attention.value_length);
    if frame.fused {
        return queries.times(2) + values;
    }
    let cells = cells::count(shape, &attention, frame);
    // Compressed values are turned over in a copy at f16.
    let copy = if attention.is_compressed {
        Bytes(2).times(cells).times(attention.value_length)
    } else {
        Bytes::ZERO
    };
    queries + values + copy + tokens.times(attention.heads).times(cells)
}

fn feed_forward(shape: &Shape, layer: &Layer, frame: &Frame) -> Bytes {
    let tokens = Bytes(4).times(frame.micro_batch);
    // Both factors, their product, and the hole that packing leaves.
    let dense = tokens.times(layer.feed_forward).times(4);
    let experts = layer.experts.map_or(Bytes::ZERO, |experts| {
        let each = tokens.times(experts.used);
        each.times(experts.feed_forward).times(2) + each.times(shape.embedding)
    });
    dense.max(experts)
}

/// What the last layer leaves below the logits.
fn last_results(layer: &Layer, frame: &Frame) -> Bytes {
    let tokens = Bytes(4).times(frame.micro_batch);
    let experts = layer.experts.map_or(0, |experts| {
        experts.used.saturating_mul(experts.feed_forward)
    });
    let width = experts.max(layer.feed_forward);
    match layer.state {
        Some(state) if width == 0 => {
            let states = Bytes(4).times(frame.sequences).times(state.recurrent);
            tokens.times(state.inner) + states.max(tokens.times(state.inner))
        }
        _ => tokens.times(width),
    }
}

fn recurrence(_: &Shape, layer: &Layer, frame: &Frame) -> Bytes {
    let Some(state) = layer.state else {
        return Bytes::ZERO;
    };
    let tokens = Bytes(4).times(frame.micro_batch);
    let states = Bytes(4)
        .times(frame.sequences)
        .times(state.recurrent.saturating_add(state.rolling));
    let channels = state.width.saturating_mul(2);
    tokens.times(channels.saturating_add(state.inner.saturating_mul(3))) + states
}
