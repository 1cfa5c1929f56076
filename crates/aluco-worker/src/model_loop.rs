//! The loop of one model: admit, plan, compute, sample, tell; until its channel closes.
//!
//! Unit of scheduling is the [`Stream`], one choice of a generation. Streams wait in a queue, get a sequence and a promise of KV cells when
//! admitted, and are computed together; whose turn it is and how much goes into a step is decided by `aluco-schedule`. What was
//! computed before is not computed again: a stream begins with the cells of another sequence or with what the prefix store has. When
//! cells run out all the same, the youngest stream gives its cells back and waits again: it goes on later where it was,
//! unnoticed but for the pause, because sampling depends on the tokens and the position alone.

mod admission;
mod beginning;
mod ending;
mod in_flight;
mod parked;
#[cfg(test)]
mod rig;
mod speculating;
mod step;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use aluco_prefix::{Fetched, Store, StoreStatus};
use aluco_proto::{
    CacheActivity, CacheReport, ModelActivity, ModelHandle, RequestId, ResumeChoice, Sampling,
};
use aluco_schedule::{
    cells::CellLedger,
    fairness::{ClientId, Fairness},
    pace::Pace,
    speculation::Speculation,
};

use self::parked::Parked;
use crate::{
    ffi::{Batch, Context, SequenceId},
    governor::Governor,
    memo::TokenMemo,
    memory::Archive,
    outbox::{Outbox, Pulse},
    prompt::PreparedPrompt,
    sampling::Sampler,
    stream::{Bounds, Stream},
};

/// After so long without work, what is worth it is written to disk.
const IDLE: Duration = Duration::from_millis(500);

/// Share of the context that parked sequences may keep, unless asked otherwise.
const DEVICE_SHARE: u32 = 8;

/// How long writing to disk may hold up an unload. `ALUCO_FLUSH_SECONDS` sets it, for tests, which wait for a slow disk rather than go
/// without what it was to keep.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);

fn flush_patience() -> Duration {
    std::env::var("ALUCO_FLUSH_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(FLUSH_PATIENCE, Duration::from_secs)
}

/// Takes what a store holds over into an answer.
pub(crate) fn tell_of_store(cache: &mut CacheActivity, status: &StoreStatus) {
    cache.ram_bytes = status.ram_bytes;
    cache.ram_bytes_max = status.ram_bytes_max;
    cache.disk_bytes = status.disk_bytes;
    cache.disk_bytes_max = status.disk_bytes_max;
    cache.disk_written_bytes = status.disk_written_bytes;
}

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
    /// Who asks.
    pub client: String,
    /// Whose stored prompts may be used.
    pub namespace: String,
    /// What was read from disk for it.
    pub fetched: Fetched,
    /// How far each choice had come in another worker; empty for a new request.
    pub resume: Vec<ResumeChoice>,
    /// Tell the prompt's tokens in `Started`.
    pub tells_prompt: bool,
    /// When the request arrived.
    pub arrived: Instant,
}

/// What the loop shows to others while it runs.
#[derive(Debug, Default)]
pub struct Activity {
    running: AtomicU32,
    waiting: AtomicU32,
    cells_used: AtomicU32,
    cache: Mutex<CacheActivity>,
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
            cache: self.cache().clone(),
            prefill_tokens: self.prefill_tokens.load(Ordering::Relaxed),
            decode_tokens: self.decode_tokens.load(Ordering::Relaxed),
            memory,
        }
    }
}

impl Activity {
    fn cache(&self) -> std::sync::MutexGuard<'_, CacheActivity> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a loop works with.
pub struct Tools {
    /// Empty.
    pub context: Context,
    /// The way into its memory.
    pub archive: Archive,
    /// Where computed prompts are kept.
    pub store: Option<Store>,
    /// What texts were tokenized to.
    pub(crate) memo: Arc<TokenMemo>,
    /// Most KV cells that are kept after a reply; `None`: an eighth of all.
    pub device_tokens: Option<u32>,
    /// How much longer than a step without prefill one with it may take.
    pub tpot: Option<Duration>,
    /// Adapts the threads of a step; `None` if their number was asked for.
    pub governor: Option<Governor>,
    /// Whether tokens may be drafted, where that is faster.
    pub speculates: bool,
}

/// What the choices of a generation have in common.
struct Generation {
    sampling: Sampling,
    seed: u32,
    stop: Vec<String>,
    bounds: Bounds,
    logprobs: Option<u32>,
    prompt_tokens: u32,
    dropped_tokens: u32,
    client: ClientId,
    namespace: Arc<str>,
    /// Orders generations.
    arrival: u64,
    /// What was read from disk for it, until it is used.
    fetched: Fetched,
    /// How many of the prompt's tokens were not computed.
    cache: CacheReport,
    tells_prompt: bool,
    choices_left: u32,
    generated_tokens: u32,
    drafted_tokens: u32,
    accepted_tokens: u32,
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
    waiting: Vec<Stream>,
    /// Oldest first.
    running: Vec<Stream>,
    free_sequences: Vec<SequenceId>,
    batch: Batch,
    sampler: Sampler,
    archive: Archive,
    store: Option<Store>,
    memo: Arc<TokenMemo>,
    /// Sequences whose streams have ended, oldest first.
    parked: Vec<Parked>,
    device_tokens_max: u32,
    /// The engine had no cells for more streams, whatever was counted: none is admitted until one of these has ended.
    running_max: Option<usize>,
    steps_since_piece: u32,
    /// How long the last step took, and the last piece that was stored.
    step_time: Duration,
    piece_time: Duration,
    cells: CellLedger,
    fairness: Fairness,
    arrivals: u64,
    pace: Pace,
    governor: Option<Governor>,
    /// `None` if nothing is to be drafted, or drafts could not be taken back.
    speculation: Option<Speculation>,
}

impl ModelLoop {
    /// A loop with these tools.
    pub fn new(tools: Tools, outbox: Outbox, pulse: Arc<Pulse>, activity: Arc<Activity>) -> Self {
        let Tools {
            context,
            archive,
            store,
            memo,
            device_tokens,
            tpot,
            governor,
            speculates,
        } = tools;
        let device_tokens_max =
            device_tokens.unwrap_or_else(|| context.context_tokens() / DEVICE_SHARE);
        activity.cache().memory_class = archive.class().name().into();
        Self {
            free_sequences: (0..context.sequences_max() as SequenceId).rev().collect(),
            pace: Pace::new(tpot, context.micro_batch_tokens()),
            speculation: Self::speculation(speculates, archive.class()),
            archive,
            store,
            memo,
            parked: Vec::new(),
            device_tokens_max,
            running_max: None,
            steps_since_piece: 0,
            step_time: Duration::ZERO,
            piece_time: Duration::ZERO,
            cells: CellLedger::default(),
            fairness: Fairness::default(),
            arrivals: 0,
            context,
            outbox,
            pulse,
            activity,
            generations: HashMap::new(),
            waiting: Vec::new(),
            running: Vec::new(),
            batch: Batch::default(),
            sampler: Sampler::default(),
            governor,
        }
    }

    /// Runs until the channel closes; what then still runs ends as cancelled, and what is worth it is on disk.
    pub fn run(mut self, commands: &Receiver<LoopCommand>) {
        self.publish();
        let mut is_idle = false;
        loop {
            if self.running.is_empty() && self.waiting.is_empty() && !self.has_unstored() {
                self.publish();
                let command = if is_idle {
                    commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
                } else {
                    commands.recv_timeout(IDLE)
                };
                is_idle = false;
                match command {
                    Ok(command) => self.handle(command),
                    Err(RecvTimeoutError::Timeout) => {
                        is_idle = true;
                        if let Some(store) = &self.store {
                            store.write_all();
                        }
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        self.close();
                        return;
                    }
                }
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.handle(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.cancel_all();
                        self.close();
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

    /// Stores everything that is worth it, in memory and on disk.
    fn close(&mut self) {
        while self.give_up_parked(None) {}
        if let Some(store) = &self.store
            && !store.flush(flush_patience())
        {
            tracing::warn!("not all prompts were written to disk in time");
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
        {
            let mut cache = self.activity.cache();
            cache.device_tokens = self.cells_parked(None);
            if let Some(store) = &self.store {
                tell_of_store(&mut cache, &store.status());
            }
        }
        self.activity
            .running
            .store(self.running.len() as u32, Ordering::Relaxed);
        self.activity
            .waiting
            .store(self.waiting.len() as u32, Ordering::Relaxed);
        self.activity
            .cells_used
            .store(self.cells.used(), Ordering::Relaxed);
    }
}
