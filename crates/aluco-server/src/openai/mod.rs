//! OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

pub(crate) mod chat;
mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
mod request;
pub(crate) mod text;

use std::time::SystemTime;

use aluco_fleet::{
    Recovery,
    proto::{FinishReason, GenerationEvent, Miss, TokenLogprob},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    app::unix_seconds,
    error::ApiError,
    stream::{Feed, Totals, diverged_at},
};

/// What every reply and every chunk of one request carries.
struct Envelope {
    id: String,
    created: u64,
    model: String,
    object: &'static str,
    /// A last chunk tells the usage, and the others say that they do not.
    include_usage: bool,
}

impl Envelope {
    fn new(prefix: &str, object: &'static str, model: String, include_usage: bool) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: unix_seconds(SystemTime::now()),
            model,
            object,
            include_usage,
        }
    }

    fn wrap(&self, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// A chunk of a stream, written at once: there is one per token.
    fn chunk<C: Serialize>(&self, choice: C) -> String {
        self.written(choice, None)
    }

    /// The chunk that ends a choice. What its generation went through is told here, unless a chunk with the usage follows.
    fn end<C: Serialize>(&self, choice: C, recovery: Option<&Recovery>) -> String {
        let recovery = recovery.filter(|_| !self.include_usage);
        self.written(choice, recovery.and_then(extension))
    }

    fn written<C: Serialize>(&self, choice: C, aluco: Option<Value>) -> String {
        let chunk = Chunk {
            id: &self.id,
            object: self.object,
            created: self.created,
            model: &self.model,
            choices: [choice],
            usage: self.include_usage.then_some(()),
            aluco,
        };
        serde_json::to_string(&chunk).expect("a chunk has no keys but strings")
    }

    /// A whole reply, or the last chunk of a stream.
    fn close(&self, choices: &[Value], totals: &Totals) -> Value {
        let mut reply = self.wrap(choices);
        reply["usage"] = usage(totals);
        reply["timings"] = timings(totals);
        if let Some(aluco) = extension(&totals.recovery) {
            reply["aluco"] = aluco;
        }
        reply
    }
}

/// What OpenAI has no field for: the workers that were lost on the way, and how the model is run since. `None` if nothing happened, so that
/// only replies with news have it.
fn extension(recovery: &Recovery) -> Option<Value> {
    if *recovery == Recovery::default() {
        return None;
    }
    let mut extension = json!({
        "restarts": recovery.restarts,
        "resumed_at_tokens": recovery.resumed_at_tokens,
        "restored_ms": recovery.restored_ms,
    });
    if let Some(fallback) = &recovery.fallback {
        extension["fallback"] = json!(fallback);
    }
    Some(extension)
}

fn usage(totals: &Totals) -> Value {
    let usage = &totals.usage;
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// Where the time went, under llama-server's names (which clients of it show), and some of our own: when the first token came, where
/// the cached tokens came from and why the one after them had to be computed, how many tokens were left out of a prompt that did not
/// fit. The first token belongs to the prefill, so one token fewer is counted as decoded than was generated.
fn timings(totals: &Totals) -> Value {
    let (usage, cache, timings) = (&totals.usage, &totals.cache, &totals.timings);
    let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    let decoded = usage.generated_tokens.saturating_sub(1);
    let each = |ms: f64, count: u32| (count > 0).then(|| ms / f64::from(count));
    json!({
        "cache_n": usage.cached_tokens,
        "prompt_n": computed,
        "dropped_n": usage.dropped_tokens,
        "prompt_ms": timings.prefill_ms,
        "prompt_per_token_ms": each(timings.prefill_ms, computed),
        "prompt_per_second": timings.prefill_per_second(usage),
        "predicted_n": usage.generated_tokens,
        "predicted_ms": timings.decode_ms,
        "predicted_per_token_ms": each(timings.decode_ms, decoded),
        "predicted_per_second": timings.decode_per_second(usage),
        "ttft_ms": timings.first_token_ms,
        "queue_ms": timings.queue_ms,
        "cache": {
            "device_tokens": cache.device_tokens,
            "ram_tokens": cache.ram_tokens,
            "disk_tokens": cache.disk_tokens,
            "miss": cache.miss.map(Miss::name),
            "diverged_at": diverged_at(cache),
        },
        "draft_n": usage.drafted_tokens,
        "draft_n_accepted": usage.accepted_tokens,
    })
}

/// One piece of a stream, with one choice in it.
#[derive(Serialize)]
struct Chunk<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [C; 1],
    /// Null, where a later chunk tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aluco: Option<Value>,
}

/// OpenAI's word for the end of a choice.
fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfGeneration | FinishReason::StopString(_) => "stop",
        FinishReason::Length => "length",
        // A stream never tells of it: it becomes an error before.
        FinishReason::Cancelled => "cancelled",
    }
}

/// One choice, as far as it has come.
#[derive(Debug, Default, Clone)]
struct Choice {
    text: String,
    logprobs: Vec<TokenLogprob>,
    finish: Option<&'static str>,
}

/// Gathers a whole reply. `index` tells where the choice of a prompt belongs.
async fn collect(
    feed: &mut Feed,
    choices: &mut [Choice],
    index: impl Fn(usize, u32) -> usize,
) -> Result<(), ApiError> {
    while let Some((prompt, (event, _))) = feed.next().await? {
        match event {
            GenerationEvent::Delta {
                choice,
                text,
                logprobs,
                ..
            } => {
                let choice = &mut choices[index(prompt, choice)];
                choice.text.push_str(&text);
                choice.logprobs.extend(logprobs);
            }
            GenerationEvent::Finished { choice, reason } => {
                choices[index(prompt, choice)].finish = Some(finish_reason(&reason));
            }
            _ => {}
        }
    }
    Ok(())
}
