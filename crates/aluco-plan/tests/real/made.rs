//! Models of the size of real ones, with nothing but zeros for weights: the files have holes and take no room on disk.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

use aluco_model::gguf::{Array, TensorType, Value, ValueType, writer::Writer};

/// 8-bit blocks, which ggml's CPU code keeps as they are.
const MATRIX: TensorType = TensorType::Q8_0;
const VECTOR: TensorType = TensorType::F32;

/// How large a model is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) layers: u32,
    pub(crate) embedding: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_length: u64,
    pub(crate) feed_forward: u64,
    pub(crate) vocabulary: u64,
}

/// What a model is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `llama`: keys and values of all tokens.
    Dense,
    /// `qwen3moe`: the same, with experts, which are this many.
    Experts(u64),
    /// `gemma3`: five layers of six look back this many tokens; input and output are one matrix.
    Window(u64),
    /// `granitehybrid`: every tenth layer has attention, the others a Mamba 2 state.
    Hybrid,
    /// `mamba2`: states alone.
    Recurrent,
    /// `deepseek2`: keys and values in a compressed form of 512 elements.
    Compressed,
}

const EXPERTS_USED: u64 = 8;
const CONVOLUTION: u64 = 4;
const STATE: u64 = 128;
const MAMBA_HEAD: u64 = 64;
const LORA: u64 = 512;
const ROPE: u64 = 64;

/// Writes a model.
pub(crate) fn write(kind: Kind, size: Size, path: &Path) -> io::Result<()> {
    let writer = Made {
        architecture: architecture(kind),
        size,
        writer: Writer::new(),
        end: 0,
    }
    .all(kind);
    let mut file = File::create(path)?;
    let mut header = writer.writer.header();
    header.resize(header.len().next_multiple_of(32), 0);
    file.write_all(&header)?;
    file.set_len(header.len() as u64 + writer.end)
}

fn architecture(kind: Kind) -> &'static str {
    match kind {
        Kind::Dense => "llama",
        Kind::Experts(_) => "qwen3moe",
        Kind::Window(_) => "gemma3",
        Kind::Hybrid => "granitehybrid",
        Kind::Recurrent => "mamba2",
        Kind::Compressed => "deepseek2",
    }
}

struct Made {
    architecture: &'static str,
    size: Size,
    writer: Writer,
    end: u64,
}

impl Made {
    fn all(self, kind: Kind) -> Self {
        let size = self.size;
        let mut made = self
            .tokenizer()
            .key("context_length", 131_072_u32)
            .key("embedding_length", size.embedding as u32)
            .key("block_count", size.layers)
            .key("feed_forward_length", size.feed_forward as u32)
            .key("vocab_size", size.vocabulary as u32)
            .key("attention.layer_norm_rms_epsilon", 1e-5_f32)
            .key("rope.freq_base", 10_000_f32)
            .tensor(
                "token_embd.weight",
                &[size.embedding, size.vocabulary],
                MATRIX,
            )
            .vector("output_norm.weight", size.embedding);
        if !matches!(kind, Kind::Window(_)) {
            made = made.tensor("output.weight", &[size.embedding, size.vocabulary], MATRIX);
        }
        made = match kind {
            Kind::Dense => made.attention_keys(Value::U32(size.kv_heads as u32)),
            Kind::Experts(count) => made
                .attention_keys(Value::U32(size.kv_heads as u32))
                .key("expert_count", count as u32)
                .key("expert_used_count", EXPERTS_USED as u32)
                .key("expert_feed_forward_length", size.feed_forward as u32),
            Kind::Window(window) => made
                .attention_keys(Value::U32(size.kv_heads as u32))
                .key("attention.sliding_window", window as u32),
            Kind::Hybrid => {
                let heads: Vec<u32> = (0..size.layers)
                    .map(|layer| u32::from(has_attention(layer)) * size.kv_heads as u32)
                    .collect();
                made.attention_keys(heads.into()).mamba_keys()
            }
            Kind::Recurrent => made.mamba_keys(),
            Kind::Compressed => made.compressed_keys(),
        };
        (0..size.layers).fold(made, |made, layer| made.layer(kind, layer))
    }

    fn layer(self, kind: Kind, index: u32) -> Self {
        let size = self.size;
        let name = |text: &str| format!("blk.{index}.{text}.weight");
        let normed = self.vector(&name("attn_norm"), size.embedding);
        let dense = |made: Self| {
            made.vector(&name("ffn_norm"), size.embedding)
                .tensor(
                    &name("ffn_gate"),
                    &[size.embedding, size.feed_forward],
                    MATRIX,
                )
                .tensor(
                    &name("ffn_up"),
                    &[size.embedding, size.feed_forward],
                    MATRIX,
                )
                .tensor(
                    &name("ffn_down"),
                    &[size.feed_forward, size.embedding],
                    MATRIX,
                )
        };
        let norms = |made: Self| {
            made.vector(&name("attn_q_norm"), size.head_length)
                .vector(&name("attn_k_norm"), size.head_length)
        };
        match kind {
            Kind::Dense => dense(normed.attention(index)),
            Kind::Experts(count) => norms(normed.attention(index))
                .vector(&name("ffn_norm"), size.embedding)
                .tensor(&name("ffn_gate_inp"), &[size.embedding, count], VECTOR)
                .tensor(
                    &name("ffn_gate_exps"),
                    &[size.embedding, size.feed_forward, count],
                    MATRIX,
                )
                .tensor(
                    &name("ffn_up_exps"),
                    &[size.embedding, size.feed_forward, count],
                    MATRIX,
                )
                .tensor(
                    &name("ffn_down_exps"),
                    &[size.feed_forward, size.embedding, count],
                    MATRIX,
                ),
            Kind::Window(_) => dense(
                norms(normed.attention(index)).vector(&name("post_attention_norm"), size.embedding),
            )
            .vector(&name("post_ffw_norm"), size.embedding),
            Kind::Hybrid if has_attention(index) => dense(normed.attention(index)),
            Kind::Hybrid => dense(normed.mamba(index)),
            Kind::Recurrent => normed.mamba(index),
            Kind::Compressed => dense(normed.compressed_attention(index)),
        }
    }

    fn attention(self, index: u32) -> Self {
        let size = self.size;
        let (queries, values) = (
            size.heads * size.head_length,
            size.kv_heads * size.head_length,
        );
        self.tensor(
            &format!("blk.{index}.attn_q.weight"),
            &[size.embedding, queries],
            MATRIX,
        )
        .tensor(
            &format!("blk.{index}.attn_k.weight"),
            &[size.embedding, values],
            MATRIX,
        )
        .tensor(
            &format!("blk.{index}.attn_v.weight"),
            &[size.embedding, values],
            MATRIX,
        )
        .tensor(
            &format!("blk.{index}.attn_output.weight"),
            &[queries, size.embedding],
            MATRIX,
        )
    }

    fn compressed_attention(self, index: u32) -> Self {
        let Size {
            embedding,
            heads,
            head_length,
            ..
        } = self.size;
        let name = |text: &str| format!("blk.{index}.{text}.weight");
        self.tensor(
            &name("attn_q"),
            &[embedding, heads * (head_length + ROPE)],
            MATRIX,
        )
        .tensor(&name("attn_kv_a_mqa"), &[embedding, LORA + ROPE], MATRIX)
        .vector(&name("attn_kv_a_norm"), LORA)
        .tensor(&name("attn_k_b"), &[head_length, LORA, heads], MATRIX)
        .tensor(&name("attn_v_b"), &[LORA, head_length, heads], MATRIX)
        .tensor(
            &name("attn_output"),
            &[heads * head_length, embedding],
            MATRIX,
        )
    }

    fn mamba(self, index: u32) -> Self {
        let inner = 2 * self.size.embedding;
        let (convolved, heads) = (inner + 2 * STATE, inner / MAMBA_HEAD);
        let embedding = self.size.embedding;
        let name = |text: &str| format!("blk.{index}.{text}");
        self.tensor(
            &name("ssm_in.weight"),
            &[embedding, inner + convolved + heads],
            MATRIX,
        )
        .tensor(
            &name("ssm_conv1d.weight"),
            &[CONVOLUTION, convolved],
            VECTOR,
        )
        .vector(&name("ssm_conv1d.bias"), convolved)
        .vector(&name("ssm_dt.bias"), heads)
        .tensor(&name("ssm_a"), &[1, heads], VECTOR)
        .tensor(&name("ssm_d"), &[1, heads], VECTOR)
        .tensor(&name("ssm_norm.weight"), &[inner, 1], VECTOR)
        .tensor(&name("ssm_out.weight"), &[inner, embedding], MATRIX)
    }

    fn attention_keys(self, kv_heads: Value) -> Self {
        let size = self.size;
        self.key("attention.head_count", size.heads as u32)
            .key("attention.head_count_kv", kv_heads)
            .key("attention.key_length", size.head_length as u32)
            .key("attention.value_length", size.head_length as u32)
            .key("rope.dimension_count", size.head_length as u32)
    }

    fn compressed_keys(self) -> Self {
        let size = self.size;
        self.key("attention.head_count", size.heads as u32)
            .key("attention.head_count_kv", 1_u32)
            .key("attention.key_length", (LORA + ROPE) as u32)
            .key("attention.value_length", LORA as u32)
            .key("attention.key_length_mla", (size.head_length + ROPE) as u32)
            .key("attention.value_length_mla", size.head_length as u32)
            .key("attention.kv_lora_rank", LORA as u32)
            .key("rope.dimension_count", ROPE as u32)
            .key("leading_dense_block_count", size.layers)
            .key("expert_feed_forward_length", size.feed_forward as u32)
            .key("expert_shared_count", 1_u32)
    }

    fn mamba_keys(self) -> Self {
        let inner = 2 * self.size.embedding;
        self.key("ssm.conv_kernel", CONVOLUTION as u32)
            .key("ssm.inner_size", inner as u32)
            .key("ssm.state_size", STATE as u32)
            .key("ssm.time_step_rank", (inner / MAMBA_HEAD) as u32)
            .key("ssm.group_count", 1_u32)
    }

    fn tokenizer(mut self) -> Self {
        let tokens: Vec<String> = (0..self.size.vocabulary)
            .map(|id| format!("t{id}"))
            .collect();
        let merges = Value::Array(Array {
            element_type: ValueType::String,
            length: 0,
            items: Vec::new(),
        });
        self.writer = self
            .writer
            .key("general.architecture", self.architecture)
            .key("general.name", "Made of zeros")
            .key("tokenizer.ggml.model", "gpt2")
            .key("tokenizer.ggml.pre", "gpt-2")
            .key("tokenizer.ggml.tokens", tokens)
            .key("tokenizer.ggml.merges", merges)
            .key("tokenizer.ggml.bos_token_id", 0_u32)
            .key("tokenizer.ggml.eos_token_id", 1_u32);
        self
    }

    fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        let key = format!("{}.{key}", self.architecture);
        self.writer = self.writer.key(&key, value);
        self
    }

    fn vector(self, name: &str, length: u64) -> Self {
        self.tensor(name, &[length], VECTOR)
    }

    fn tensor(mut self, name: &str, dimensions: &[u64], tensor_type: TensorType) -> Self {
        let elements: u64 = dimensions.iter().product();
        let block = tensor_type.block_elements().expect("a known type");
        let bytes = elements / block * tensor_type.block_bytes().expect("a known type");
        self.end = self.end.next_multiple_of(32) + bytes;
        self.writer = self.writer.tensor(name, dimensions, tensor_type);
        self
    }
}

fn has_attention(layer: u32) -> bool {
    layer % 10 == 5
}
