//! How generations end: complete, cancelled or failed.

use std::time::Instant;

use aluco_proto::{Failure, FailureKind, FinishReason, GenerationEvent, RequestId, Timings, Usage};

use super::ModelLoop;
use crate::{ffi::EngineError, stream::Stream};

impl ModelLoop {
    /// Frees what finished streams held and tells of generations that are done.
    pub(super) fn sweep(&mut self) {
        let mut finished = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].finished {
                let mut stream = self.running.remove(index);
                finished.push(stream.request);
                self.remember_reply(&stream);
                self.park(&mut stream);
            } else {
                index += 1;
            }
        }
        for request in finished {
            if self
                .generations
                .get(&request)
                .is_some_and(|generation| generation.choices_left == 0)
            {
                self.done(request);
            }
        }
    }

    /// Notes what the reply was generated as, for the turn in which it comes back as text.
    fn remember_reply(&self, stream: &Stream) {
        let model = self.context.model();
        let mut reply = &stream.tokens[stream.prompt_tokens as usize..];
        if let Some((last, rest)) = reply.split_last()
            && model.is_end_of_generation(*last)
        {
            reply = rest;
        }
        let text: Vec<u8> = reply
            .iter()
            .flat_map(|token| model.token_bytes(*token, false))
            .collect();
        self.memo.reply(stream.request, reply, &text);
    }

    pub(super) fn done(&mut self, request: RequestId) {
        let Some(generation) = self.generations.remove(&request) else {
            return;
        };
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64() * 1e3,
            _ => 0.0,
        };
        self.fairness.leave(generation.client);
        // Who asks for the state after the end must not be told of the request.
        self.publish();
        let now = Some(Instant::now());
        let first_result = generation.first_token.or(now);
        self.outbox.generation(
            request,
            GenerationEvent::Done {
                usage: Usage {
                    prompt_tokens: generation.prompt_tokens,
                    cached_tokens: generation.cache.cached_tokens(),
                    generated_tokens: generation.generated_tokens,
                    drafted_tokens: generation.drafted_tokens,
                    accepted_tokens: generation.accepted_tokens,
                    dropped_tokens: generation.dropped_tokens,
                },
                timings: Timings {
                    queue_ms: between(Some(generation.arrived), generation.first_step.or(now)),
                    prefill_ms: between(generation.first_step, first_result),
                    decode_ms: between(generation.first_token, generation.last_token),
                    first_token_ms: between(Some(generation.arrived), first_result),
                },
            },
        );
    }

    pub(super) fn cancel(&mut self, request: RequestId) {
        if !self.generations.contains_key(&request) {
            return;
        }
        for stream in self.remove_streams(request, true) {
            let mut stream = stream;
            let text = stream.finish_text();
            if !text.is_empty() {
                self.outbox.generation(
                    request,
                    GenerationEvent::Delta {
                        choice: stream.choice,
                        text,
                        tokens: Vec::new(),
                        logprobs: Vec::new(),
                        speculated: None,
                    },
                );
            }
            self.outbox.generation(
                request,
                GenerationEvent::Finished {
                    choice: stream.choice,
                    reason: FinishReason::Cancelled,
                },
            );
        }
        self.done(request);
    }

    /// Takes all streams of a generation out. What they computed is kept if it is sound.
    fn remove_streams(&mut self, request: RequestId, is_sound: bool) -> Vec<Stream> {
        let mut streams: Vec<Stream> = self
            .running
            .extract_if(.., |stream| stream.request == request)
            .collect();
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|stream| stream.request == request);
        self.waiting = others;
        for stream in &mut streams {
            if is_sound {
                self.park(stream);
            } else {
                self.free(stream);
            }
        }
        streams.extend(mine);
        streams
    }

    pub(super) fn cancel_all(&mut self) {
        let requests: Vec<RequestId> = self.generations.keys().copied().collect();
        for request in requests {
            self.cancel(request);
        }
        self.publish();
    }

    pub(super) fn fail(&mut self, request: RequestId, error: &EngineError) {
        self.fail_with(request, engine_failure(error));
    }

    pub(super) fn fail_with(&mut self, request: RequestId, failure: Failure) {
        self.remove_streams(request, false);
        if let Some(generation) = self.generations.remove(&request) {
            self.fairness.leave(generation.client);
            self.outbox
                .generation(request, GenerationEvent::Failed(failure));
        }
    }

    /// A step failed: whatever was in it has an unknown state, so all running generations end.
    pub(super) fn fail_all(&mut self, error: &EngineError) {
        tracing::error!("a step failed: {error}");
        let requests: Vec<RequestId> = self.running.iter().map(|stream| stream.request).collect();
        for request in requests {
            self.fail(request, error);
        }
    }
}

pub(super) fn engine_failure(error: &EngineError) -> Failure {
    Failure {
        kind: FailureKind::Engine,
        message: error.to_string(),
    }
}
