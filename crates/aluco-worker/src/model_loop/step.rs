//! One step: plan a batch, compute it, sample from it, tell what came of it.

use std::{sync::atomic::Ordering, time::Instant};

use aluco_proto::{Failure, FailureKind, FinishReason, GenerationEvent, RequestId};

use super::{ModelLoop, ending::engine_failure};
use crate::{
    ffi::{Decoded, EngineError},
    planner::{self, Need},
    sampling,
};

/// A step of at most so many tokens waits at barriers more than it computes; see [`crate::governor`].
const FEW_TOKENS: u32 = 8;

impl ModelLoop {
    /// Computes one batch and samples from it.
    pub(super) fn step(&mut self) {
        let needs: Vec<Need> = self
            .running
            .iter()
            .map(|stream| {
                // A stream that was computed before and lost its cells has many tokens to compute, and is a prefill again.
                if stream.pending_tokens() == 1 && stream.generated_tokens() > 0 {
                    Need::Decode
                } else {
                    Need::Prefill(stream.pending_tokens())
                }
            })
            .collect();
        if needs.is_empty() {
            return;
        }
        let shares = planner::plan(&needs, &self.limits);
        let wanted: u32 = shares.iter().sum();
        while self.cells_used() + wanted > self.context.context_tokens() && self.give_up_retired() {
        }
        if self.cells_used() + wanted > self.context.context_tokens() && self.running.len() > 1 {
            self.preempt_youngest();
            return;
        }
        self.batch.clear();
        let mut rows = Vec::with_capacity(self.running.len());
        for (stream, share) in self.running.iter().zip(&shares) {
            let begin = stream.computed_tokens;
            let end = begin + share;
            let completes = end == stream.tokens.len() as u32;
            let sequence = stream.sequence.expect("a running stream has a sequence");
            for position in begin..end {
                let logits = completes && position + 1 == end;
                let row =
                    self.batch
                        .push(stream.tokens[position as usize], position, sequence, logits);
                if logits {
                    rows.push((stream.request, stream.choice, row));
                }
            }
        }
        if let Some(governor) = &mut self.governor {
            let threads = if wanted <= FEW_TOKENS {
                governor.threads(Instant::now(), self.pulse.working())
            } else {
                governor.threads_max()
            };
            self.context.set_threads(threads);
        }
        let decoded = {
            let _working = self.pulse.work();
            self.context.decode(&mut self.batch)
        };
        match decoded {
            Ok(Decoded::Done) => {}
            Ok(Decoded::NoCells) if self.give_up_retired() => return,
            Ok(Decoded::NoCells) if self.running.len() > 1 => {
                self.preempt_youngest();
                return;
            }
            Ok(Decoded::NoCells) => {
                let reason =
                    "no KV cells for a sequence that runs alone and fits the context".to_owned();
                self.fail_all(&EngineError::Failed {
                    call: "llama_decode",
                    reason,
                });
                return;
            }
            Err(error) => {
                self.fail_all(&error);
                return;
            }
        }
        self.account(&needs, &shares);
        for (request, choice, row) in rows {
            self.sample(request, choice, row);
        }
        self.sweep();
    }

    /// Notes what was computed and reports prefill.
    pub(super) fn account(&mut self, needs: &[Need], shares: &[u32]) {
        for ((stream, need), share) in self.running.iter_mut().zip(needs).zip(shares) {
            stream.computed_tokens += share;
            if *need == Need::Decode {
                continue;
            }
            self.activity
                .prefill_tokens
                .fetch_add(u64::from(*share), Ordering::Relaxed);
            if *share > 0 && stream.choice == 0 && stream.generated_tokens() == 0 {
                let event = GenerationEvent::Prefill {
                    processed_tokens: stream.computed_tokens,
                    prompt_tokens: stream.prompt_tokens,
                };
                self.outbox.generation(stream.request, event);
            }
        }
    }

    /// Samples for the stream whose last token is in `row`. If that was the end of a prompt, its waiting siblings fork off here: they
    /// share its cells and sample from the same logits.
    pub(super) fn sample(&mut self, request: RequestId, choice: u32, row: usize) {
        let Some(index) = self
            .running
            .iter()
            .position(|stream| stream.request == request && stream.choice == choice)
        else {
            return;
        };
        let mut indices = vec![index];
        if self.running[index].generated_tokens() == 0 {
            match self.fork(index) {
                Ok(forks) => indices.extend(forks),
                Err(error) => return self.fail(request, &error),
            }
        }
        for index in indices {
            if let Err(failure) = self.sample_one(index, row) {
                return self.fail_with(request, failure);
            }
        }
    }

    /// Gives waiting siblings of the stream at `index` sequences that share its cells; returns where they run.
    pub(super) fn fork(&mut self, index: usize) -> Result<Vec<usize>, EngineError> {
        let (request, computed) = (
            self.running[index].request,
            self.running[index].computed_tokens,
        );
        let from = self.running[index]
            .sequence
            .expect("a running stream has a sequence");
        let mut forks = Vec::new();
        let mut waiting = 0;
        while waiting < self.waiting.len() {
            let sibling = &self.waiting[waiting];
            let fits = sibling.request == request && sibling.generated_tokens() == 0 && {
                self.cells_committed() + self.promise(sibling, computed)
                    <= self.context.context_tokens()
            };
            if !fits || self.free_sequences.is_empty() {
                waiting += 1;
                continue;
            }
            let promised_cells = self.promise(sibling, computed);
            let (Some(sequence), Some(mut stream)) =
                (self.free_sequences.pop(), self.waiting.remove(waiting))
            else {
                break;
            };
            if let Err(error) = self.context.share_sequence(from, sequence) {
                self.free_sequences.push(sequence);
                self.waiting.insert(waiting, stream);
                return Err(error);
            }
            let original = &mut self.running[index];
            let group = *original.share_group.get_or_insert_with(|| {
                self.share_groups += 1;
                self.share_groups
            });
            original.promised_cells = original
                .promised_cells
                .saturating_sub(computed - original.shared_tokens);
            original.shared_tokens = computed;
            stream.sequence = Some(sequence);
            stream.computed_tokens = computed;
            stream.shared_tokens = computed;
            stream.share_group = Some(group);
            stream.promised_cells = promised_cells;
            self.running.push(stream);
            forks.push(self.running.len() - 1);
        }
        Ok(forks)
    }

    pub(super) fn sample_one(&mut self, index: usize, row: usize) -> Result<(), Failure> {
        let stream = &mut self.running[index];
        let generation = self
            .generations
            .get_mut(&stream.request)
            .expect("a stream's generation lives until its last stream ends");
        let now = Instant::now();
        if stream.is_full(generation.bounds) {
            // Nothing was to be generated: the prompt was all.
            self.outbox.generation(
                stream.request,
                GenerationEvent::Finished {
                    choice: stream.choice,
                    reason: FinishReason::Length,
                },
            );
            generation.choices_left -= 1;
            stream.finished = true;
            return Ok(());
        }
        let model = self.context.model().clone();
        let logits = self
            .context
            .logits(row)
            .map_err(|error| engine_failure(&error))?;
        let token = self
            .sampler
            .sample(
                logits,
                &stream.tokens,
                &generation.sampling,
                generation.seed.wrapping_add(stream.choice),
                u64::from(stream.generated_tokens()),
                |token| model.is_end_of_generation(token),
            )
            .map_err(|error| Failure {
                kind: FailureKind::Engine,
                message: error.to_string(),
            })?;
        let is_end = model.is_end_of_generation(token) && !generation.sampling.ignore_end;
        let bytes = model.token_bytes(token, false);
        let advance = stream.accept(token, &bytes, is_end, &generation.stop, generation.bounds);
        let logprobs = match generation.logprobs {
            Some(count) if advance.visible => {
                vec![sampling::logprobs(logits, token, count as usize, |token| {
                    model.token_bytes(token, true)
                })]
            }
            _ => Vec::new(),
        };
        generation.generated_tokens += 1;
        generation.first_token.get_or_insert(now);
        generation.last_token = Some(now);
        self.activity.decode_tokens.fetch_add(1, Ordering::Relaxed);
        if advance.visible || !advance.text.is_empty() {
            self.outbox.generation(
                stream.request,
                GenerationEvent::Delta {
                    choice: stream.choice,
                    text: advance.text,
                    tokens: if advance.visible {
                        vec![token]
                    } else {
                        Vec::new()
                    },
                    logprobs,
                },
            );
        }
        if let Some(reason) = advance.finished {
            self.outbox.generation(
                stream.request,
                GenerationEvent::Finished {
                    choice: stream.choice,
                    reason,
                },
            );
            generation.choices_left -= 1;
            stream.finished = true;
        }
        Ok(())
    }
}
