//! The parts of which layers are made.

use crate::model::Layer;

/// Width of the hidden state.
pub(crate) const WIDTH: u64 = 128;
/// Width inside a feed-forward block.
pub(crate) const FEED_FORWARD: u64 = 256;
/// Width inside one expert.
pub(crate) const EXPERT_WIDTH: u64 = 64;

pub(crate) const HEADS: u64 = 2;
pub(crate) const KV_HEADS: u32 = 1;
pub(crate) const HEAD_WIDTH: u64 = 64;
const QUERY_WIDTH: u64 = HEADS * HEAD_WIDTH;
const KV_WIDTH: u64 = KV_HEADS as u64 * HEAD_WIDTH;

/// Tokens in the convolution of a short-convolution layer.
pub(crate) const SHORT_CONVOLUTION: u64 = 3;
/// Tokens in the convolution before a recurrent state.
pub(crate) const CONVOLUTION: u64 = 4;

/// Width of Mamba's blocks: twice that of the hidden state, or llama.cpp refuses granitehybrid.
pub(crate) const MAMBA_WIDTH: u64 = 2 * WIDTH;
/// Elements of state for each of them; llama.cpp's CUDA kernel knows 128 and 256 alone.
pub(crate) const MAMBA_STATE: u64 = 128;
pub(crate) const MAMBA_HEADS: u64 = FADING.len() as u64;

/// Heads of a gated delta net, each as wide as one of attention.
pub(crate) const DELTA_HEADS: u64 = 2;
pub(crate) const DELTA_WIDTH: u64 = DELTA_HEADS * HEAD_WIDTH;

/// How fast the state of each recurrent head fades: bias of its time step (which is the softplus of that) and decay per step. The
/// slowest remembers hundreds of tokens. Step and decay shrink together, so that all heads' states have about the same size.
const FADING: [(f32, f32); 4] = [(-3.1, -0.045), (-1.9, -0.14), (-1.0, -0.32), (0.0, -0.7)];

/// How strongly attention prefers some tokens to others. With the mean of all values for a result, which is near zero for random
/// ones, the context would not show.
const ATTENTION_GAIN: f32 = 1.6;

/// Size of gpt-oss's biases.
const BIAS: f32 = 0.1;

impl Layer {
    /// A norm as wide as the hidden state.
    pub(crate) fn norm(self, name: &str) -> Self {
        self.constant(&format!("{name}.weight"), &[WIDTH], 1.0)
    }

    /// Attention, with the norm before it.
    pub(crate) fn attention(self) -> Self {
        self.attention_of(QUERY_WIDTH, ATTENTION_GAIN)
    }

    /// Attention whose queries and keys are normed.
    pub(crate) fn normed_attention(self) -> Self {
        self.attention_of(QUERY_WIDTH, 1.0).query_key_norms()
    }

    /// Attention whose queries and keys are normed, with a gate behind each head's query.
    pub(crate) fn gated_attention(self) -> Self {
        self.attention_of(2 * QUERY_WIDTH, 1.0).query_key_norms()
    }

    fn attention_of(self, query_width: u64, gain: f32) -> Self {
        self.norm("attn_norm")
            .matrix("attn_q.weight", &[WIDTH, query_width], gain)
            .matrix("attn_k.weight", &[WIDTH, KV_WIDTH], gain)
            .matrix("attn_v.weight", &[WIDTH, KV_WIDTH], 1.0)
            .matrix("attn_output.weight", &[QUERY_WIDTH, WIDTH], 1.0)
    }

    fn query_key_norms(self) -> Self {
        self.constant("attn_q_norm.weight", &[HEAD_WIDTH], ATTENTION_GAIN)
            .constant("attn_k_norm.weight", &[HEAD_WIDTH], ATTENTION_GAIN)
    }

    /// What gpt-oss adds to attention.
    pub(crate) fn attention_sinks(self) -> Self {
        self.random("attn_sinks.weight", &[HEADS], 1.0)
            .random("attn_output.bias", &[WIDTH], BIAS)
    }

    /// A feed-forward block, with the norm before it.
    pub(crate) fn feed_forward(self) -> Self {
        self.norm("ffn_norm")
            .matrix("ffn_gate.weight", &[WIDTH, FEED_FORWARD], 1.0)
            .matrix("ffn_up.weight", &[WIDTH, FEED_FORWARD], 1.0)
            .matrix("ffn_down.weight", &[FEED_FORWARD, WIDTH], 1.0)
    }

    /// Experts and their router.
    pub(crate) fn experts(self, experts: u64) -> Self {
        self.matrix("ffn_gate_inp.weight", &[WIDTH, experts], 1.0)
            .matrix("ffn_gate_exps.weight", &[WIDTH, EXPERT_WIDTH, experts], 1.0)
            .matrix("ffn_up_exps.weight", &[WIDTH, EXPERT_WIDTH, experts], 1.0)
            .matrix("ffn_down_exps.weight", &[EXPERT_WIDTH, WIDTH, experts], 1.0)
    }

    /// What gpt-oss adds to experts.
    pub(crate) fn expert_biases(self, experts: u64) -> Self {
        self.random("ffn_gate_inp.bias", &[experts], BIAS)
            .random("ffn_gate_exps.bias", &[EXPERT_WIDTH, experts], BIAS)
            .random("ffn_up_exps.bias", &[EXPERT_WIDTH, experts], BIAS)
            .random("ffn_down_exps.bias", &[WIDTH, experts], BIAS)
    }

    /// An expert for all tokens, and the gate that says how much of it each gets.
    pub(crate) fn shared_expert(self) -> Self {
        self.matrix("ffn_gate_inp_shexp.weight", &[WIDTH], 1.0)
            .matrix("ffn_gate_shexp.weight", &[WIDTH, EXPERT_WIDTH], 1.0)
            .matrix("ffn_up_shexp.weight", &[WIDTH, EXPERT_WIDTH], 1.0)
            .matrix("ffn_down_shexp.weight", &[EXPERT_WIDTH, WIDTH], 1.0)
    }

    /// A Mamba 2 block, with the norm before it.
    pub(crate) fn mamba(self) -> Self {
        const CONVOLVED: u64 = MAMBA_WIDTH + 2 * MAMBA_STATE;
        self.norm("attn_norm")
            .matrix(
                "ssm_in.weight",
                &[WIDTH, MAMBA_WIDTH + CONVOLVED + MAMBA_HEADS],
                1.0,
            )
            .matrix("ssm_conv1d.weight", &[CONVOLUTION, CONVOLVED], 1.0)
            .constant("ssm_conv1d.bias", &[CONVOLVED], 0.0)
            .tensor("ssm_dt.bias", &[MAMBA_HEADS], |head| {
                FADING[head as usize].0
            })
            .tensor("ssm_a", &[1, MAMBA_HEADS], |head| FADING[head as usize].1)
            .constant("ssm_d", &[1, MAMBA_HEADS], 0.2)
            .constant("ssm_norm.weight", &[MAMBA_WIDTH, 1], 1.0)
            .matrix("ssm_out.weight", &[MAMBA_WIDTH, WIDTH], 1.0)
    }

    /// A gated delta net, with the norm before it.
    pub(crate) fn delta_net(self) -> Self {
        const CONVOLVED: u64 = 3 * DELTA_WIDTH;
        self.norm("attn_norm")
            .matrix("attn_qkv.weight", &[WIDTH, CONVOLVED], 1.0)
            .matrix("attn_gate.weight", &[WIDTH, DELTA_WIDTH], 1.0)
            .matrix("ssm_conv1d.weight", &[CONVOLUTION, CONVOLVED], 1.0)
            .tensor("ssm_dt.bias", &[DELTA_HEADS], |head| {
                FADING[head as usize].0
            })
            .tensor("ssm_a", &[DELTA_HEADS], |head| FADING[head as usize].1)
            .matrix("ssm_beta.weight", &[WIDTH, DELTA_HEADS], 1.0)
            .matrix("ssm_alpha.weight", &[WIDTH, DELTA_HEADS], 1.0)
            .constant("ssm_norm.weight", &[HEAD_WIDTH], 1.0)
            .matrix("ssm_out.weight", &[DELTA_WIDTH, WIDTH], 1.0)
    }

    /// A gated convolution over a few tokens, with the norm before it.
    pub(crate) fn short_convolution(self) -> Self {
        self.norm("attn_norm")
            .matrix("shortconv.in_proj.weight", &[WIDTH, 3 * WIDTH], 1.0)
            .matrix("shortconv.conv.weight", &[SHORT_CONVOLUTION, WIDTH], 1.0)
            .matrix("shortconv.out_proj.weight", &[WIDTH, WIDTH], 1.0)
    }
}
