//! One step: plan a batch, compute it, sample from it, tell what came of it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use aluco_proto::{
    Failure, FailureKind, FinishReason, GenerationEvent, RequestId, Speculated, Token,
};
use aluco_schedule::planner::{self, Limits, Need};

use super::{
    ModelLoop,
    ending::engine_failure,
    parked::checkpoint,
    speculating::{Rows, with_drafts},
};
use crate::{
    fault,
    ffi::{Decoded, EngineError},
    sampling,
    stream::Stream,
};

/// A step of at most so many tokens waits at barriers more than it computes; see [`crate::governor`].
const FEW_TOKENS: u32 = 8;

/// Tokens that a prompt has to be shorter to be computed before one of the same client that came just before it.
const TOKENS_PER_PLACE: u32 = 512;

impl ModelLoop {
    /// Computes one batch and samples from it.
    pub(super) fn step(&mut self) {
        self.end_retraces_of_many();
        let needs: Vec<Need> = self
            .running
            .iter()
            .map(|stream| self.need(stream))
            .collect();
        if needs.is_empty() {
            return;
        }
        let drafts = self.drafts(&needs);
        self.compute(&needs, drafts);
    }

    /// Computes what the running streams need, and these drafts beside it.
    fn compute(&mut self, plain: &[Need], drafts: Vec<Vec<Token>>) {
        let drafted: usize = drafts.iter().map(Vec::len).sum();
        let needs = with_drafts(plain, &drafts);
        let decode_rows: u32 = needs
            .iter()
            .map(|need| match need {
                Need::Decode { rows } => *rows,
                Need::Prefill { .. } => 0,
            })
            .sum();
        let limits = Limits {
            batch_tokens: self.context.batch_tokens(),
            prefill_tokens: self.context.micro_batch_tokens(),
            prefill_beside_decode_tokens: self.pace.prefill_beside_decode_tokens(decode_rows),
        };
        let shares = planner::plan(&needs, &limits, &self.fairness.standings());
        let wanted: u32 = shares.iter().sum();
        let is_over = |this: &Self| this.cells.used() + wanted > this.context.context_tokens();
        while is_over(self) && self.give_up_parked(None) {}
        if is_over(self) && self.running.len() > 1 {
            self.preempt_youngest();
            return;
        }
        let rows = self.fill_batch(&shares, drafts);
        let (decoded, took) = self.decode(wanted);
        match decoded {
            Ok(Decoded::Done) => {}
            Ok(Decoded::NoCells) if drafted > 0 => {
                return self.compute(plain, vec![Vec::new(); plain.len()]);
            }
            Ok(Decoded::NoCells) => return self.make_room(),
            Err(error) => return self.fail_all(&error),
        }
        self.pace.observe(wanted - decode_rows, decode_rows, took);
        self.step_time = took;
        for (stream, share) in self.running.iter_mut().zip(&shares) {
            stream.spent += took.mul_f64(f64::from(*share) / f64::from(wanted.max(1)));
        }
        self.account(&needs, &shares);
        let judged: Vec<_> = rows
            .into_iter()
            .map(|rows| {
                let judgement = self.judge(&rows);
                (rows, judgement)
            })
            .collect();
        if wanted == decode_rows {
            self.learn(&judged, took);
        }
        // After the tokens are out, so that they do not wait for it.
        self.keep_states();
        self.sweep();
    }

    /// Computes the batch, which is of so many tokens, and tells how long it took.
    fn decode(&mut self, tokens: u32) -> (Result<Decoded, EngineError>, Duration) {
        if let Some(governor) = &mut self.governor {
            let threads = if tokens <= FEW_TOKENS {
                governor.threads(Instant::now(), self.pulse.working())
            } else {
                governor.threads_max()
            };
            self.context.set_threads(threads);
        }
        let began = Instant::now();
        let _working = self.pulse.step(tokens);
        fault::in_decode();
        let decoded = self.context.decode(&mut self.batch);
        (decoded, began.elapsed())
    }

    /// The engine had no cells for a step.
    fn make_room(&mut self) {
        if self.give_up_parked(None) {
            return;
        }
        if self.running.len() > 1 {
            self.preempt_youngest();
            self.running_max = Some(self.running.len());
            return;
        }
        let reason = "no KV cells for a sequence that runs alone and fits the context".to_owned();
        self.fail_all(&EngineError::Failed {
            call: "llama_decode",
            reason,
        });
    }

    /// Puts the shares of the running streams into the batch; returns the rows to sample from.
    fn fill_batch(&mut self, shares: &[u32], drafts: Vec<Vec<Token>>) -> Vec<Rows> {
        self.batch.clear();
        let mut rows = Vec::with_capacity(self.running.len());
        for ((stream, share), drafts) in self.running.iter().zip(shares).zip(drafts) {
            let sequence = stream.sequence.expect("a running stream has a sequence");
            let begin = stream.computed_tokens as usize;
            let end = begin + *share as usize;
            let tokens = stream.tokens[begin..].iter().chain(&drafts);
            let mut first = None;
            for (position, token) in (begin..end).zip(tokens) {
                // The last of its tokens, and every draft.
                let logits = position + 1 >= stream.tokens.len();
                let row = self.batch.push(*token, position as u32, sequence, logits);
                first = first.or(logits.then_some(row));
            }
            rows.extend(first.map(|first| Rows {
                request: stream.request,
                choice: stream.choice,
                first,
                drafts,
            }));
        }
        rows
    }

    /// Has who catches up beside others do so in chunks.
    fn end_retraces_of_many(&mut self) {
        let streams = self.running.len() + self.waiting.len();
        for stream in self.running.iter_mut().chain(&mut self.waiting) {
            stream.catch_up = stream.catch_up.among(streams);
        }
    }

    /// What a running stream has to compute next.
    fn need(&self, stream: &Stream) -> Need {
        let Some(left) = stream.prefill_tokens() else {
            return Need::Decode { rows: 1 };
        };
        let generation = &self.generations[&stream.request];
        Need::Prefill {
            left,
            until_border: stream.until_border().unwrap_or(u32::MAX),
            client: generation.client.index(),
            // The short ones of a client first: an answer that takes a moment does not wait for one that takes minutes. Each
            // request that comes later has less of a lead, so a long one waits for so many only.
            arrival: generation.arrival + u64::from(stream.pending_tokens() / TOKENS_PER_PLACE),
        }
    }

    /// Notes what was computed and reports prefill.
    fn account(&mut self, needs: &[Need], shares: &[u32]) {
        let mut served = Vec::new();
        for ((stream, need), share) in self.running.iter_mut().zip(needs).zip(shares) {
            let sequence = stream.sequence.expect("a running stream has a sequence");
            self.cells.grow(sequence, *share);
            if matches!(need, Need::Decode { .. }) {
                // Drafts are not its tokens yet.
                stream.computed_tokens += 1;
                continue;
            }
            stream.computed_tokens += share;
            served.push((self.generations[&stream.request].client, *share));
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
        self.fairness.account(served);
    }

    /// Keeps the states of streams that have come to a border.
    fn keep_states(&mut self) {
        for stream in &mut self.running {
            let (Some(sequence), Ok(index)) = (
                stream.sequence,
                stream.borders.binary_search(&stream.computed_tokens),
            ) else {
                continue;
            };
            stream.borders.remove(index);
            let tokens = stream.computed_tokens;
            let taken = checkpoint(&self.archive, &mut self.context, sequence, tokens);
            stream.checkpoints.extend(taken);
        }
    }

    /// Samples for a stream from `row`. If that was the end of a prompt, its waiting siblings fork off here: they
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
    fn fork(&mut self, index: usize) -> Result<Vec<usize>, EngineError> {
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
            let promised_tokens = self.promise(sibling);
            let fits = sibling.request == request
                && sibling.generated_tokens() == 0
                && self.cells_committed() + promised_tokens - computed
                    <= self.context.context_tokens();
            if !fits {
                waiting += 1;
                continue;
            }
            let Some(sequence) = self.free_sequences.pop() else {
                break;
            };
            let forked = self
                .archive
                .fork_all(&mut self.context, from, sequence, computed);
            if let Err(error) = forked {
                self.free_sequences.push(sequence);
                return Err(error);
            }
            self.cells.share(from, sequence, computed);
            let mut stream = self.waiting.remove(waiting);
            stream.sequence = Some(sequence);
            stream.computed_tokens = computed;
            stream.promised_tokens = promised_tokens;
            stream.origin = self.running[index].origin;
            stream.borders.clear();
            self.running.push(stream);
            forks.push(self.running.len() - 1);
        }
        Ok(forks)
    }

    fn sample_one(&mut self, index: usize, row: usize) -> Result<(), Failure> {
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
        let speculated = (generation.drafted_tokens > 0).then_some(Speculated {
            drafted_tokens: generation.drafted_tokens,
            accepted_tokens: generation.accepted_tokens,
        });
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
                    speculated,
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
