//! The tensors of each kind, as the loaders of llama.cpp (`src/models/*.cpp`, build 12032) ask for them.

use aluco_model::gguf::Value;

use crate::{
    CONTEXT_LENGTH, Kind, SLIDING_WINDOW,
    block::{
        CONVOLUTION, DELTA_HEADS, DELTA_WIDTH, EXPERT_WIDTH, FEED_FORWARD, HEAD_WIDTH, HEADS,
        KV_HEADS, MAMBA_HEADS, MAMBA_STATE, MAMBA_WIDTH, SHORT_CONVOLUTION, WIDTH,
    },
    model::{Layer, Model},
    vocabulary,
};

/// Size of an embedding beside what a layer adds: small, so that the context has more weight than the last token.
const EMBEDDING_SIZE: f32 = 0.5;
/// Spread of the logits of plain characters, and of all other tokens, which are drawn next to never.
const LOGIT_SPREAD: f32 = 4.0;
const LOGIT_SPREAD_OTHERS: f32 = 0.5;

pub(crate) fn model(kind: Kind) -> Model {
    let base = base(kind);
    match kind {
        Kind::FullAttention => full_attention(base),
        Kind::Moe => moe(base),
        Kind::SlidingWindow => sliding_window(base),
        Kind::SlidingWindowMoe => sliding_window_moe(base),
        Kind::Hybrid => hybrid(base),
        Kind::HybridConvolution => hybrid_convolution(base),
        Kind::HybridDeltaNet => hybrid_delta_net(base),
        Kind::Recurrent => recurrent(base),
    }
}

/// What all have: vocabulary, embeddings, the last norm and the output.
fn base(kind: Kind) -> Model {
    let (output_norm, embedding_size) = match kind {
        Kind::HybridConvolution => ("token_embd_norm.weight", EMBEDDING_SIZE),
        // gemma3 multiplies its embeddings by the root of the width.
        Kind::SlidingWindow => ("output_norm.weight", EMBEDDING_SIZE / (WIDTH as f32).sqrt()),
        _ => ("output_norm.weight", EMBEDDING_SIZE),
    };
    Model::new(kind.architecture(), &format!("Tiny {kind}"))
        .describe(vocabulary::describe)
        .key("context_length", CONTEXT_LENGTH)
        .key("embedding_length", WIDTH as u32)
        .key("feed_forward_length", FEED_FORWARD as u32)
        .key("vocab_size", vocabulary::TOKENS as u32)
        .key("attention.layer_norm_rms_epsilon", 1e-5_f32)
        .random("token_embd.weight", &[WIDTH, vocabulary::TOKENS], |_| {
            embedding_size
        })
        .constant(output_norm, &[WIDTH], 1.0)
        .random("output.weight", &[WIDTH, vocabulary::TOKENS], |token| {
            let spread = if vocabulary::is_plain(token) {
                LOGIT_SPREAD
            } else {
                LOGIT_SPREAD_OTHERS
            };
            spread / (WIDTH as f32).sqrt()
        })
}

fn full_attention(model: Model) -> Model {
    attention_keys(model, KV_HEADS).layers(4, |layer| layer.attention().feed_forward())
}

fn moe(model: Model) -> Model {
    const EXPERTS: u64 = 8;
    expert_keys(attention_keys(model, KV_HEADS), EXPERTS).layers(4, |layer| {
        layer.normed_attention().norm("ffn_norm").experts(EXPERTS)
    })
}

fn sliding_window(model: Model) -> Model {
    // Without a key that says otherwise, every sixth layer of gemma3 looks at all tokens.
    attention_keys(model, KV_HEADS)
        .key("attention.sliding_window", SLIDING_WINDOW)
        .layers(6, |layer| {
            layer
                .normed_attention()
                .norm("post_attention_norm")
                .feed_forward()
                .norm("post_ffw_norm")
        })
}

fn sliding_window_moe(model: Model) -> Model {
    const EXPERTS: u64 = 4;
    // Every other layer of gpt-oss looks at all tokens.
    expert_keys(attention_keys(model, KV_HEADS), EXPERTS)
        .key("attention.sliding_window", SLIDING_WINDOW)
        .layers(4, |layer| {
            layer
                .attention()
                .attention_sinks()
                .norm("post_attention_norm")
                .experts(EXPERTS)
                .expert_biases(EXPERTS)
        })
}

/// For each of four layers, whether it has keys and values.
type HasAttention = [bool; 4];

fn hybrid(model: Model) -> Model {
    const HAS_ATTENTION: HasAttention = [false, false, true, false];
    mamba_keys(attention_keys(model, kv_heads(HAS_ATTENTION))).layers(4, |layer| {
        if HAS_ATTENTION[layer.index as usize] {
            layer.attention().feed_forward()
        } else {
            layer.mamba().feed_forward()
        }
    })
}

fn hybrid_convolution(model: Model) -> Model {
    const HAS_ATTENTION: HasAttention = [false, true, false, true];
    attention_keys(model, kv_heads(HAS_ATTENTION))
        .key("shortconv.l_cache", SHORT_CONVOLUTION as u32)
        .layers(4, |layer| {
            if HAS_ATTENTION[layer.index as usize] {
                layer.normed_attention().feed_forward()
            } else {
                layer.short_convolution().feed_forward()
            }
        })
}

fn hybrid_delta_net(model: Model) -> Model {
    const EXPERTS: u64 = 4;
    const ATTENTION_EVERY: u32 = 4;
    expert_keys(attention_keys(model, KV_HEADS), EXPERTS)
        .key("expert_shared_feed_forward_length", EXPERT_WIDTH as u32)
        .key("rope.dimension_sections", vec![11, 11, 10, 0])
        .key("full_attention_interval", ATTENTION_EVERY)
        .key("ssm.conv_kernel", CONVOLUTION as u32)
        .key("ssm.inner_size", DELTA_WIDTH as u32)
        .key("ssm.state_size", HEAD_WIDTH as u32)
        .key("ssm.time_step_rank", DELTA_HEADS as u32)
        .key("ssm.group_count", DELTA_HEADS as u32)
        .layers(4, |layer| {
            let layer = if (layer.index + 1).is_multiple_of(ATTENTION_EVERY) {
                layer.gated_attention()
            } else {
                layer.delta_net()
            };
            layer
                .norm("post_attention_norm")
                .experts(EXPERTS)
                .shared_expert()
        })
}

fn recurrent(model: Model) -> Model {
    mamba_keys(model).layers(4, Layer::mamba)
}

fn attention_keys(model: Model, kv_heads: impl Into<Value>) -> Model {
    model
        .key("attention.head_count", HEADS as u32)
        .key("attention.head_count_kv", kv_heads)
        .key("attention.key_length", HEAD_WIDTH as u32)
        .key("attention.value_length", HEAD_WIDTH as u32)
        .key("rope.dimension_count", HEAD_WIDTH as u32)
        .key("rope.freq_base", 10_000_f32)
}

/// The heads of each layer; a recurrent layer is one with none.
fn kv_heads(has_attention: HasAttention) -> Vec<u32> {
    has_attention.map(|has| u32::from(has) * KV_HEADS).into()
}

fn expert_keys(model: Model, experts: u64) -> Model {
    model
        .key("expert_count", experts as u32)
        .key("expert_used_count", 2_u32)
        .key("expert_feed_forward_length", EXPERT_WIDTH as u32)
}

fn mamba_keys(model: Model) -> Model {
    model
        .key("ssm.conv_kernel", CONVOLUTION as u32)
        .key("ssm.inner_size", MAMBA_WIDTH as u32)
        .key("ssm.state_size", MAMBA_STATE as u32)
        .key("ssm.time_step_rank", MAMBA_HEADS as u32)
        .key("ssm.group_count", 1_u32)
}
