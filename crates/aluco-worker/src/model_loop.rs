//! The loop of one model: admit, plan, compute, sample, tell; until its channel closes.
//!
//! Unit of scheduling is the [`Stream`], one choice of a generation. Streams wait in a queue, get a sequence and a promise of KV cells when
//! admitted, and are computed together. When cells run out all the same, the youngest stream gives its cells back and waits again: it
//! is computed anew later and goes on where it was, unnoticed but for the pause, because sampling depends on the tokens and the
//! position alone.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use aluco_proto::{
    Failure, FailureKind, FinishReason, GenerationEvent, ModelActivity, ModelHandle, RequestId,
    Sampling, Timings, Usage,
};

use crate::{
    ffi::{Batch, Context, Decoded, EngineError, SequenceId},
    governor::Governor,
    outbox::{Outbox, Pulse},
    planner::{self, Limits, Need},
    prompt::PreparedPrompt,
    sampling::{self, Sampler},
    stream::{Bounds, Stream},
    text::TextStream,
};

/// Cells promised to a stream beyond its prompt when it is admitted. More would leave cells idle while others wait, fewer would
/// make streams give their cells back more often.
const RESERVE_TOKENS: u32 = 256;

/// A step of at most so many tokens waits at barriers more than it computes; see [`Governor`].
const FEW_TOKENS: u32 = 8;

/// Prompt tokens computed in one step beside decoding streams.
const PREFILL_BESIDE_DECODE_TOKENS: u32 = 128;

/// What the loop is told.
#[derive(Debug)]
pub enum LoopCommand {
    /// Generate.
    Start(Box<Start>),
    /// End a generation at the next step.
    Cancel(RequestId),
}

/// A generation whose prompt is tokenized.
#[derive(Debug)]
pub struct Start {
    /// Names it.
    pub request: RequestId,
    /// The prompt, which fits the context.
    pub prompt: PreparedPrompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The seed of choice 0.
    pub seed: u32,
    /// Choices, at least 1.
    pub choices: u32,
    /// Most tokens per choice.
    pub tokens_max: Option<u32>,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// Alternatives to report per token, if log probabilities are wanted.
    pub logprobs: Option<u32>,
    /// When the request arrived.
    pub arrived: Instant,
}

/// What the loop shows to others while it runs.
#[derive(Debug, Default)]
pub struct Activity {
    running: AtomicU32,
    waiting: AtomicU32,
    cells_used: AtomicU32,
    prefill_tokens: AtomicU64,
    decode_tokens: AtomicU64,
}

impl Activity {
    /// The state for a status answer.
    pub fn snapshot(
        &self,
        model: ModelHandle,
        cells_total: u32,
        memory: Vec<aluco_proto::DeviceMemory>,
    ) -> ModelActivity {
        ModelActivity {
            model,
            sequences_running: self.running.load(Ordering::Relaxed),
            requests_waiting: self.waiting.load(Ordering::Relaxed),
            cells_used: self.cells_used.load(Ordering::Relaxed),
            cells_total,
            prefill_tokens: self.prefill_tokens.load(Ordering::Relaxed),
            decode_tokens: self.decode_tokens.load(Ordering::Relaxed),
            memory,
        }
    }
}

/// What the choices of a generation have in common.
struct Generation {
    sampling: Sampling,
    seed: u32,
    stop: Vec<String>,
    bounds: Bounds,
    logprobs: Option<u32>,
    prompt_tokens: u32,
    choices_left: u32,
    generated_tokens: u32,
    arrived: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// The loop of one model.
pub struct ModelLoop {
    context: Context,
    outbox: Outbox,
    pulse: Arc<Pulse>,
    activity: Arc<Activity>,
    generations: HashMap<RequestId, Generation>,
    waiting: VecDeque<Stream>,
    /// Oldest first.
    running: Vec<Stream>,
    free_sequences: Vec<SequenceId>,
    batch: Batch,
    sampler: Sampler,
    limits: Limits,
    share_groups: u64,
    /// Adapts the threads of a step; `None` if their number was asked for.
    governor: Option<Governor>,
}

impl ModelLoop {
    /// A loop over this context.
    pub fn new(
        context: Context,
        outbox: Outbox,
        pulse: Arc<Pulse>,
        activity: Arc<Activity>,
        governor: Option<Governor>,
    ) -> Self {
        let limits = Limits {
            batch_tokens: context.batch_tokens(),
            prefill_tokens: context.micro_batch_tokens(),
            prefill_beside_decode_tokens: PREFILL_BESIDE_DECODE_TOKENS
                .min(context.micro_batch_tokens()),
        };
        Self {
            free_sequences: (0..context.sequences_max() as SequenceId).rev().collect(),
            context,
            outbox,
            pulse,
            activity,
            generations: HashMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            batch: Batch::default(),
            sampler: Sampler::default(),
            limits,
            share_groups: 0,
            governor,
        }
    }

    /// Runs until the channel closes; what then still runs ends as cancelled.
    pub fn run(mut self, commands: &Receiver<LoopCommand>) {
        loop {
            if self.running.is_empty() && self.waiting.is_empty() {
                match commands.recv() {
                    Ok(command) => self.handle(command),
                    Err(_) => return,
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.handle(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.cancel_all();
                        return;
                    }
                }
            }
            self.admit();
            self.step();
            self.publish();
        }
    }

    fn handle(&mut self, command: LoopCommand) {
        match command {
            LoopCommand::Start(start) => self.enqueue(*start),
            LoopCommand::Cancel(request) => self.cancel(request),
        }
        self.publish();
    }

    fn enqueue(&mut self, start: Start) {
        let prompt_tokens = start.prompt.tokens.len() as u32;
        let mut stop = start.stop;
        stop.extend(start.prompt.stops);
        for choice in 0..start.choices {
            self.waiting.push_back(Stream {
                request: start.request,
                choice,
                tokens: start.prompt.tokens.clone(),
                prompt_tokens,
                computed_tokens: 0,
                shared_tokens: 0,
                share_group: None,
                sequence: None,
                promised_cells: 0,
                finished: false,
                text: TextStream::new(stop.clone()),
            });
        }
        self.generations.insert(
            start.request,
            Generation {
                sampling: start.sampling,
                seed: start.seed,
                stop,
                bounds: Bounds {
                    tokens_max: start.tokens_max,
                    context_tokens: self.context.context_tokens(),
                },
                logprobs: start.logprobs,
                prompt_tokens,
                choices_left: start.choices,
                generated_tokens: 0,
                arrived: start.arrived,
                first_step: None,
                first_token: None,
                last_token: None,
            },
        );
    }

    /// KV cells in use. Cells shared by the choices of a generation count once.
    fn cells_used(&self) -> u32 {
        let own: u32 = self.running.iter().map(Stream::own_cells).sum();
        let shared: HashMap<u64, u32> = self
            .running
            .iter()
            .filter_map(|stream| {
                stream
                    .share_group
                    .map(|group| (group, stream.shared_tokens))
            })
            .collect();
        own + shared.values().sum::<u32>()
    }

    /// Cells that running streams hold or were promised.
    fn cells_committed(&self) -> u32 {
        let outstanding: u32 = self
            .running
            .iter()
            .map(|stream| stream.promised_cells.saturating_sub(stream.own_cells()))
            .sum();
        self.cells_used() + outstanding
    }

    /// Cells that a stream is promised beyond those it shares.
    fn promise(&self, stream: &Stream, shared_tokens: u32) -> u32 {
        let bounds = self.generations[&stream.request].bounds;
        let left = bounds.tokens_max.map_or(u32::MAX, |most| {
            most.saturating_sub(stream.generated_tokens())
        });
        (stream.tokens.len() as u32 - shared_tokens)
            .saturating_add(left.min(RESERVE_TOKENS))
            .min(bounds.context_tokens - shared_tokens)
    }

    /// True if `stream` had better wait for a sibling that computes the very same prompt.
    fn waits_for_sibling(&self, stream: &Stream) -> bool {
        stream.generated_tokens() == 0
            && self.running.iter().any(|other| {
                other.request == stream.request
                    && other.generated_tokens() == 0
                    && other.pending_tokens() > 0
            })
    }

    /// Gives sequences and promises of cells to waiting streams, in order: one that does not fit holds up those behind it, so that a
    /// large prompt is not starved by small ones.
    fn admit(&mut self) {
        if self.running.is_empty() && self.free_sequences.is_empty() {
            // Only after every sequence was given up by `free`.
            let lost = EngineError::Failed {
                call: "llama_memory_seq_rm",
                reason: "no sequence is left; load the model again".to_owned(),
            };
            let requests: Vec<RequestId> = self.generations.keys().copied().collect();
            for request in requests {
                self.fail(request, &lost);
            }
        }
        let mut index = 0;
        while index < self.waiting.len() && !self.free_sequences.is_empty() {
            if self.waits_for_sibling(&self.waiting[index]) {
                index += 1;
                continue;
            }
            let promised_cells = self.promise(&self.waiting[index], 0);
            if self.cells_committed() + promised_cells > self.context.context_tokens()
                && !self.running.is_empty()
            {
                break;
            }
            let (Some(sequence), Some(mut stream)) =
                (self.free_sequences.pop(), self.waiting.remove(index))
            else {
                break;
            };
            stream.sequence = Some(sequence);
            stream.promised_cells = promised_cells;
            let generation = self.generation(stream.request);
            if generation.first_step.is_none() {
                generation.first_step = Some(Instant::now());
                let started = GenerationEvent::Started {
                    prompt_tokens: generation.prompt_tokens,
                    cached_tokens: 0,
                    seed: generation.seed,
                };
                self.outbox.generation(stream.request, started);
            }
            self.running.push(stream);
        }
    }

    fn generation(&mut self, request: RequestId) -> &mut Generation {
        self.generations
            .get_mut(&request)
            .expect("a stream's generation lives until its last stream ends")
    }

    /// Computes one batch and samples from it.
    fn step(&mut self) {
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
    fn account(&mut self, needs: &[Need], shares: &[u32]) {
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
    fn sample(&mut self, request: RequestId, choice: u32, row: usize) {
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

    /// Frees what finished streams held and tells of generations that are done.
    fn sweep(&mut self) {
        let mut finished = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].finished {
                let mut stream = self.running.remove(index);
                finished.push(stream.request);
                self.free(&mut stream);
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

    fn done(&mut self, request: RequestId) {
        let Some(generation) = self.generations.remove(&request) else {
            return;
        };
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64() * 1e3,
            _ => 0.0,
        };
        let now = Some(Instant::now());
        let first_result = generation.first_token.or(now);
        self.outbox.generation(
            request,
            GenerationEvent::Done {
                usage: Usage {
                    prompt_tokens: generation.prompt_tokens,
                    cached_tokens: 0,
                    generated_tokens: generation.generated_tokens,
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

    /// Frees the sequence and cells of a stream.
    fn free(&mut self, stream: &mut Stream) {
        if let Some(sequence) = stream.release() {
            if let Err(error) = self.context.remove_sequence(sequence) {
                // The cells are lost until the model is loaded again; the sequence must not be used with them.
                tracing::error!("sequence {sequence} could not be freed and is given up: {error}");
                return;
            }
            self.free_sequences.push(sequence);
        }
    }

    /// Takes the cells of the youngest stream back; it waits first in line.
    fn preempt_youngest(&mut self) {
        if let Some(mut stream) = self.running.pop() {
            tracing::debug!(
                request = stream.request.0,
                "cells ran out, the youngest stream waits"
            );
            self.free(&mut stream);
            self.waiting.push_front(stream);
        }
    }

    fn cancel(&mut self, request: RequestId) {
        if !self.generations.contains_key(&request) {
            return;
        }
        for stream in self.remove_streams(request) {
            let mut stream = stream;
            let text = stream.text.finish();
            if !text.is_empty() {
                self.outbox.generation(
                    request,
                    GenerationEvent::Delta {
                        choice: stream.choice,
                        text,
                        tokens: Vec::new(),
                        logprobs: Vec::new(),
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

    /// Takes all streams of a generation out and frees what they held.
    fn remove_streams(&mut self, request: RequestId) -> Vec<Stream> {
        let mut streams: Vec<Stream> = self
            .running
            .extract_if(.., |stream| stream.request == request)
            .collect();
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|stream| stream.request == request);
        self.waiting = others.into();
        for stream in &mut streams {
            self.free(stream);
        }
        streams.extend(mine);
        streams
    }

    fn cancel_all(&mut self) {
        let requests: Vec<RequestId> = self.generations.keys().copied().collect();
        for request in requests {
            self.cancel(request);
        }
        self.publish();
    }

    fn fail(&mut self, request: RequestId, error: &EngineError) {
        self.fail_with(request, engine_failure(error));
    }

    fn fail_with(&mut self, request: RequestId, failure: Failure) {
        self.remove_streams(request);
        if self.generations.remove(&request).is_some() {
            self.outbox
                .generation(request, GenerationEvent::Failed(failure));
        }
    }

    /// A step failed: whatever was in it has an unknown state, so all running generations end.
    fn fail_all(&mut self, error: &EngineError) {
        tracing::error!("a step failed: {error}");
        let requests: Vec<RequestId> = self.running.iter().map(|stream| stream.request).collect();
        for request in requests {
            self.fail(request, error);
        }
    }

    fn publish(&self) {
        self.activity
            .running
            .store(self.running.len() as u32, Ordering::Relaxed);
        self.activity
            .waiting
            .store(self.waiting.len() as u32, Ordering::Relaxed);
        self.activity
            .cells_used
            .store(self.cells_used(), Ordering::Relaxed);
    }
}

fn engine_failure(error: &EngineError) -> Failure {
    Failure {
        kind: FailureKind::Engine,
        message: error.to_string(),
    }
}
