//! Generating: what is asked, and what comes back.

use serde::{Deserialize, Serialize};

use crate::{CacheReport, Failure, Token};

/// What to generate: the one form into which every API dialect is translated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationSpec {
    /// What comes before.
    pub prompt: Prompt,
    /// How tokens are chosen.
    #[serde(default)]
    pub sampling: Sampling,
    /// Independent continuations of the one prompt (`n`), at least 1. Choice `i` samples with seed + i.
    pub choices: u32,
    /// Most tokens per choice. `None`: until the context is full.
    #[serde(default)]
    pub tokens_max: Option<u32>,
    /// Text that ends a choice; it is not part of the output.
    #[serde(default)]
    pub stop: Vec<String>,
    /// What may be left out of a prompt that does not fit the context. `None`: nothing, and it is refused with `ContextExceeded`.
    #[serde(default)]
    pub truncate: Option<Truncate>,
    /// `Some(n)`: report each token's log probability and the `n` likeliest alternatives (0 to 20).
    #[serde(default)]
    pub logprobs: Option<u32>,
    /// Who asks, as far as fairness goes: each client gets its share of prefill. Any text that names an API key or an address.
    #[serde(default)]
    pub client: String,
    /// Whose stored prompts may be used and added to. Requests with different namespaces never share any; empty: everybody's.
    #[serde(default)]
    pub namespace: String,
}

/// How far a generation had come when its worker was lost. With it another worker goes on where the last one stopped: the client gets
/// every token and every character once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// The prompt's tokens, as [`GenerationEvent::Started`] told them; the prompt of the request is only looked at for what else is to be
    /// known of it, such as the stop strings of its template.
    pub prompt: Vec<Token>,
    /// The seed in use.
    pub seed: u32,
    /// One per choice, in their order.
    pub choices: Vec<ResumeChoice>,
}

/// How far one choice had come.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ResumeChoice {
    /// Its tokens so far, all that came in deltas.
    pub tokens: Vec<Token>,
    /// Bytes of text that were sent of it.
    pub text_bytes: u64,
    /// Why it ended, if it has; then only its tokens are counted.
    #[serde(default)]
    pub finished: Option<FinishReason>,
}

impl ResumeChoice {
    /// Tokens that were sampled for it, the one that ended it included.
    pub fn generated_tokens(&self) -> u32 {
        let end = self.finished == Some(FinishReason::EndOfGeneration);
        self.tokens.len() as u32 + u32::from(end)
    }
}

/// What is left out of a prompt that, with room for `tokens_max` tokens (256 if that is `None`, half of the context at most), does not
/// fit the context. Somewhat more may go than has to, so that the next turns of a conversation leave out the same. What is still too
/// long for the context is refused with `ContextExceeded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncate {
    /// Of a conversation the oldest messages, always from one of the user up to the next one. Those of the system (or developer) stay,
    /// and so do the last one of the user and what follows it.
    OldestMessages,
    /// Of a text or of tokens the middle: the first quarter of what fits stays, and the end.
    Middle,
}

/// What comes before the generated text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A conversation, rendered by the model's chat template.
    Chat(ChatPrompt),
    /// Plain text; control tokens in it are read as such, and BOS is added where the model wants it.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<Token>),
}

/// A conversation for the chat template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatPrompt {
    /// Messages in OpenAI's form: an array of `{"role": …, "content": …}`.
    pub messages: serde_json::Value,
    /// Further variables for the template, such as `enable_thinking`.
    #[serde(default)]
    pub template_arguments: serde_json::Map<String, serde_json::Value>,
    /// End with the header of an assistant message, so that the model answers.
    pub add_generation_prompt: bool,
}

/// How tokens are chosen. The defaults are llama.cpp's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// 0 or less: always the likeliest token (greedy).
    pub temperature: f32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 drops none.
    pub min_p: f32,
    /// Divide the logits of tokens among the last `penalty_tokens`; 1 is off.
    pub repeat_penalty: f32,
    /// Subtract from the logits of tokens that occurred; 0 is off.
    pub presence_penalty: f32,
    /// Subtract from the logits of tokens by how often they occurred; 0 is off.
    pub frequency_penalty: f32,
    /// How many of the last tokens the penalties look at.
    pub penalty_tokens: u32,
    /// Seed. `None`: drawn by the worker and reported in `Started`.
    pub seed: Option<u32>,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(Token, f32)>,
    /// Go on past the model's end-of-generation tokens (for measuring).
    pub ignore_end: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_tokens: 64,
            seed: None,
            logit_bias: Vec::new(),
            ignore_end: false,
        }
    }
}

/// What happens during a generation, in this order: `Started`, `Prefill`…, `Delta`… and one `Finished` per choice, `Done`.
/// `Failed` may come instead of any of them and is then the last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationEvent {
    /// The request has its sequence and its cells.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// How many of them need not be computed, and why the others must.
        cache: CacheReport,
        /// The seed in use.
        seed: u32,
        /// The prompt's tokens, for a [`Resume`]; empty if they are those of the request.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        prompt: Vec<Token>,
    },
    /// Part of the prompt is computed.
    Prefill {
        /// Prompt tokens done, cached ones included.
        processed_tokens: u32,
        /// Prompt tokens in all.
        prompt_tokens: u32,
    },
    /// More output of one choice.
    Delta {
        /// Which choice, from 0.
        choice: u32,
        /// Whole UTF-8 characters; may be empty while a character or a possible stop string is incomplete.
        text: String,
        /// The tokens sampled since the last delta of this choice.
        tokens: Vec<Token>,
        /// One entry per token of `tokens` if log probabilities were asked for, else empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
        /// What this worker has guessed for the request so far; `None` if nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speculated: Option<Speculated>,
    },
    /// One choice is complete.
    Finished {
        /// Which choice, from 0.
        choice: u32,
        /// Why it ended.
        reason: FinishReason,
    },
    /// All choices are complete.
    Done {
        /// Tokens in and out.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
    },
    /// The request ended in an error.
    Failed(Failure),
}

impl GenerationEvent {
    /// True for the last event of a generation.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Failed(_))
    }
}

/// Why a choice ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it.
    EndOfGeneration,
    /// A stop string came up; which one.
    StopString(String),
    /// `tokens_max` was reached, or the context is full.
    Length,
    /// It was cancelled.
    Cancelled,
}

/// A sampled token and how likely it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: Token,
    /// Its bytes, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability in the model's distribution, before any sampling rule.
    pub logprob: f32,
    /// The likeliest tokens, in falling order.
    pub top: Vec<Alternative>,
}

/// A token that could have been sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The token.
    pub token: Token,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What speculation did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Speculated {
    /// Tokens that were guessed.
    pub drafted_tokens: u32,
    /// How many of them were right.
    pub accepted_tokens: u32,
}

/// Tokens in and out of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them were not computed.
    pub cached_tokens: u32,
    /// Tokens sampled, of all choices, the end-of-generation token included.
    pub generated_tokens: u32,
    /// Tokens that were guessed by speculation.
    #[serde(default)]
    pub drafted_tokens: u32,
    /// Guessed tokens that were right.
    #[serde(default)]
    pub accepted_tokens: u32,
    /// Tokens that were left out of the prompt because it did not fit the context; `prompt_tokens` is without them.
    #[serde(default)]
    pub dropped_tokens: u32,
}

/// Where the time of one request went, in milliseconds, as the worker saw it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// From arrival to the first step.
    pub queue_ms: f64,
    /// From the first step to the first token.
    pub prefill_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
    /// From arrival to the first token (TTFT).
    pub first_token_ms: f64,
}

impl Timings {
    /// Prefill speed in tokens/s, of the tokens that were computed; `None` if nothing was.
    pub fn prefill_per_second(&self, usage: &Usage) -> Option<f64> {
        let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
        (computed > 0 && self.prefill_ms > 0.0).then(|| f64::from(computed) / self.prefill_ms * 1e3)
    }

    /// Decode speed in tokens/s over all choices; the first token belongs to prefill. `None` below two tokens.
    pub fn decode_per_second(&self, usage: &Usage) -> Option<f64> {
        let decoded = usage.generated_tokens.saturating_sub(1);
        (decoded > 0 && self.decode_ms > 0.0).then(|| f64::from(decoded) / self.decode_ms * 1e3)
    }
}
