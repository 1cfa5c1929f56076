//! One generation: the script's tokens, one after the other.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use aluco_proto::{
    Alternative, Failure, FailureKind, FinishReason, GenerationEvent, GenerationSpec, RequestId,
    Resume, ResumeChoice, Speculated, Timings, Token, TokenLogprob, Usage,
};

use crate::{
    Place,
    session::{Cancel, Model, Worker},
    text::{self, StopFilter, invalid},
};

/// Seed of requests that bring none.
const SEED: u32 = 42;

/// Tokens since the load.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) prefill_tokens: AtomicU64,
    pub(crate) decode_tokens: AtomicU64,
}

/// Generates, and gives the terminal event for the caller to send.
pub(crate) fn run(
    worker: &Worker,
    request: RequestId,
    model: &Model,
    spec: &GenerationSpec,
    resume: Option<&Resume>,
    cancel: &Cancel,
    arrived: Instant,
) -> GenerationEvent {
    match try_run(worker, request, model, spec, resume, cancel, arrived) {
        Ok((usage, timings)) => GenerationEvent::Done { usage, timings },
        Err(failure) => GenerationEvent::Failed(failure),
    }
}

/// True if accidents may befall the request.
pub(crate) fn is_culprit(worker: &Worker, model: &Model, spec: &GenerationSpec) -> bool {
    let Some(culprit) = &model.script.culprit else {
        return true;
    };
    let prompt = text::prompt_text(&spec.prompt, &worker.vocabulary);
    prompt.is_ok_and(|(prompt, _)| prompt.contains(culprit))
}

struct Choice {
    filter: StopFilter,
    generated: u32,
    /// Bytes of text that another worker has sent and this one has not come to.
    sent_bytes: usize,
    is_finished: bool,
}

impl Choice {
    /// A choice at its begin, or where another worker had come with it.
    fn new(
        begin: Option<&ResumeChoice>,
        pieces: &[String],
        stop: &[String],
        worker: &Worker,
    ) -> Self {
        let mut choice = Self {
            filter: StopFilter::default(),
            generated: 0,
            sent_bytes: 0,
            is_finished: false,
        };
        if let Some(begin) = begin {
            choice.generated = begin.generated_tokens();
            choice.sent_bytes = begin.text_bytes as usize;
            choice.is_finished = begin.finished.is_some();
            for piece in pieces.iter().cycle().take(begin.tokens.len()) {
                // Words get the numbers that they had.
                worker.vocabulary.id(piece);
                let (text, _) = choice.filter.push(piece, stop);
                choice.unsent(text);
            }
        }
        choice
    }

    fn unsent(&mut self, mut text: String) -> String {
        let skipped = self.sent_bytes.min(text.len());
        self.sent_bytes -= skipped;
        text.split_off(skipped)
    }
}

fn try_run(
    worker: &Worker,
    request: RequestId,
    model: &Model,
    spec: &GenerationSpec,
    resume: Option<&Resume>,
    cancel: &Cancel,
    arrived: Instant,
) -> Result<(Usage, Timings), Failure> {
    let script = &model.script;
    if spec.choices == 0 {
        return Err(invalid("choices must be at least 1".to_owned()));
    }
    let (prompt, echo) = text::prompt_text(&spec.prompt, &worker.vocabulary)?;
    let prompt_tokens = script
        .prompt_tokens
        .unwrap_or_else(|| text::words(&prompt).len() as u32);
    let context_tokens = model.loaded.context_tokens;
    if prompt_tokens >= context_tokens {
        return Err(Failure {
            kind: FailureKind::ContextExceeded {
                prompt_tokens,
                context_tokens,
            },
            message: format!(
                "the prompt has {prompt_tokens} tokens, the context holds {context_tokens}"
            ),
        });
    }
    let send = |event| worker.generation(request, event);
    let started = Instant::now();
    send(GenerationEvent::Started {
        prompt_tokens,
        cache: script.cache,
        seed: resume
            .map(|resume| resume.seed)
            .or(spec.sampling.seed)
            .unwrap_or(SEED),
        prompt: worker.vocabulary.tokenize(&prompt),
    });
    for part in 1..=script.prefill_events {
        if cancel.wait(Duration::from_millis(script.prefill_delay_ms)) {
            break;
        }
        worker.steps.fetch_add(1, Ordering::Relaxed);
        send(GenerationEvent::Prefill {
            processed_tokens: prompt_tokens * part / script.prefill_events,
            prompt_tokens,
        });
        script.pass(Place::Prefill(part), |moment| cancel.wait(moment));
    }
    let cached_tokens = script.cache.cached_tokens();
    let computed = prompt_tokens.saturating_sub(cached_tokens);
    model
        .counters
        .prefill_tokens
        .fetch_add(u64::from(computed), Ordering::Relaxed);

    let pieces = if script.echo {
        text::words(&echo)
    } else {
        script.tokens.clone()
    };
    let length_max = spec
        .tokens_max
        .unwrap_or(u32::MAX)
        .min(context_tokens - prompt_tokens);
    let begins = (0..spec.choices).map(|index| resume?.choices.get(index as usize));
    let mut choices: Vec<Choice> = begins
        .map(|begin| Choice::new(begin, &pieces, &spec.stop, worker))
        .collect();
    let unfinished = choices.iter().filter(|choice| !choice.is_finished);
    let mut first_token = None;
    let mut step = unfinished.map(|it| it.generated).min().unwrap_or(0);
    let is_culprit = is_culprit(worker, model, spec);
    while choices.iter().any(|choice| !choice.is_finished) {
        script.pass(Place::Token(step), |moment| cancel.wait(moment));
        let is_at = |after: Option<u32>| after == Some(step) && is_culprit;
        if is_at(script.crash_after) {
            worker.accident(model, cancel, || worker.crash(script));
        }
        if is_at(script.hang_after) {
            worker.accident(model, cancel, || worker.hang(script));
        }
        let is_cancelled = cancel.wait(script.delay());
        worker.steps.fetch_add(1, Ordering::Relaxed);
        for (index, choice) in (0..).zip(&mut choices) {
            if choice.is_finished || choice.generated > step {
                continue;
            }
            let piece = if pieces.is_empty() {
                None
            } else if script.endless {
                pieces.get(step as usize % pieces.len())
            } else {
                pieces.get(step as usize)
            };
            let finish = if is_cancelled {
                Some(FinishReason::Cancelled)
            } else if choice.generated >= length_max {
                Some(FinishReason::Length)
            } else if let Some(piece) = piece {
                choice.generated += 1;
                let (text, stopped_by) = choice.filter.push(piece, &spec.stop);
                let text = choice.unsent(text);
                let token = worker.vocabulary.id(piece);
                send(GenerationEvent::Delta {
                    choice: index,
                    text,
                    tokens: vec![token],
                    logprobs: spec
                        .logprobs
                        .map(|top| vec![logprob(token, piece, step, top)])
                        .unwrap_or_default(),
                    speculated: (script.drafted_tokens > 0).then_some(Speculated {
                        drafted_tokens: script.drafted_tokens,
                        accepted_tokens: script.accepted_tokens,
                    }),
                });
                stopped_by
                    .map(FinishReason::StopString)
                    .or_else(|| (choice.generated >= length_max).then_some(FinishReason::Length))
            } else {
                choice.generated += 1;
                Some(FinishReason::EndOfGeneration)
            };
            first_token.get_or_insert_with(Instant::now);
            if let Some(reason) = finish {
                choice.is_finished = true;
                let rest = choice.filter.finish();
                let rest = choice.unsent(rest);
                if !rest.is_empty() {
                    send(GenerationEvent::Delta {
                        choice: index,
                        text: rest,
                        tokens: Vec::new(),
                        logprobs: Vec::new(),
                        speculated: None,
                    });
                }
                send(GenerationEvent::Finished {
                    choice: index,
                    reason,
                });
            }
        }
        step += 1;
    }
    let generated_tokens = choices.iter().map(|choice| choice.generated).sum();
    model
        .counters
        .decode_tokens
        .fetch_add(u64::from(generated_tokens), Ordering::Relaxed);
    let first_token = first_token.unwrap_or(started);
    let usage = Usage {
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        drafted_tokens: script.drafted_tokens,
        accepted_tokens: script.accepted_tokens,
        dropped_tokens: script.dropped_tokens,
    };
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timings = Timings {
        queue_ms: milliseconds(started - arrived),
        prefill_ms: milliseconds(first_token - started),
        decode_ms: milliseconds(first_token.elapsed()),
        first_token_ms: milliseconds(first_token - arrived),
    };
    Ok((usage, timings))
}

/// Falls by a tenth with each token; the alternatives follow at whole steps below.
fn logprob(token: Token, piece: &str, step: u32, top: u32) -> TokenLogprob {
    let logprob = -0.1 * (step + 1) as f32;
    TokenLogprob {
        token,
        bytes: piece.as_bytes().to_vec(),
        logprob,
        top: (0..top)
            .map(|rank| Alternative {
                token: token + rank as Token,
                bytes: if rank == 0 {
                    piece.as_bytes().to_vec()
                } else {
                    format!("{piece}{rank}").into_bytes()
                },
                logprob: logprob - rank as f32,
            })
            .collect(),
    }
}
