//! The loop of one model: admit, plan, compute, sample, tell; until its channel closes.
//!
//! Unit of scheduling is the [`Stream`], one choice of a generation. Streams wait in a queue, get a sequence and a promise of KV cells when
//! admitted, and are computed together. When cells run out all the same, the youngest stream gives its cells back and waits again: it
//! is computed anew later and goes on where it was, unnoticed but for the pause, because sampling depends on the tokens and the
//! position alone.

mod admission;
mod ending;
pub(crate) mod prefix;
mod step;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    time::Instant,
};

use aluco_proto::{ModelActivity, ModelHandle, RequestId, Sampling};

use self::prefix::Retired;
use crate::{
    ffi::{Batch, Context, SequenceId},
    governor::Governor,
    outbox::{Outbox, Pulse},
    planner::Limits,
    prefix_cache::PrefixCache,
    prompt::PreparedPrompt,
    sampling::Sampler,
    stream::{Bounds, Stream},
};

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
    prefix_cache_bytes: AtomicU64,
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
            prefix_cache_bytes: self.prefix_cache_bytes.load(Ordering::Relaxed),
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
    /// How many of them were not computed.
    cached_tokens: u32,
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
    /// What was computed before; `None` where it cannot be kept.
    prefix: Option<PrefixCache>,
    /// Sequences to be stored, oldest first.
    retired: VecDeque<Retired>,
    steps_since_block: u32,
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
        prefix_cache_bytes: u64,
    ) -> Self {
        let limits = Limits {
            batch_tokens: context.batch_tokens(),
            prefill_tokens: context.micro_batch_tokens(),
            prefill_beside_decode_tokens: PREFILL_BESIDE_DECODE_TOKENS
                .min(context.micro_batch_tokens()),
        };
        Self {
            free_sequences: (0..context.sequences_max() as SequenceId).rev().collect(),
            prefix: prefix::cache(context.scratch(), prefix_cache_bytes),
            retired: VecDeque::new(),
            steps_since_block: 0,
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
            if self.running.is_empty() && self.waiting.is_empty() && self.retired.is_empty() {
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
            self.store_behind();
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

    fn generation(&mut self, request: RequestId) -> &mut Generation {
        self.generations
            .get_mut(&request)
            .expect("a stream's generation lives until its last stream ends")
    }

    fn publish(&self) {
        let cached = self.prefix.as_ref().map_or(0, PrefixCache::used_bytes);
        self.activity
            .prefix_cache_bytes
            .store(cached, Ordering::Relaxed);
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
