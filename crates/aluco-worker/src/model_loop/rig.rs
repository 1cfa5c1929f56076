//! What tests of the loop have in common: a tiny model, a loop that is driven step by step, and what it says.

use std::{
    collections::HashMap,
    io::BufReader,
    os::unix::net::UnixStream,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aluco_prefix::Fetched;
use aluco_proto::{
    Event, FinishReason, FlashAttention, GenerationEvent, KvType, RequestId, Sampling, Token,
    Usage, WeightLoading, read_frame,
};
use aluco_tiny_models::Kind;

use super::{Activity, ModelLoop, Start, Tools};
use crate::{
    ffi::{Context, ContextOptions, Engine, Model, ModelOptions},
    memo::TokenMemo,
    memory::{Archive, MemoryClass},
    outbox::{Outbox, Pulse},
    prompt::PreparedPrompt,
};

/// What came of one choice.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    pub(super) reason: Option<FinishReason>,
}

/// What came of all of them, and the sum of what they used.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) replies: HashMap<(RequestId, u32), Reply>,
    pub(super) usage: Usage,
}

/// More than any step takes: how many prompt tokens go into one beside streams does not depend on how fast the machine is.
const TPOT: Duration = Duration::from_secs(3600);

/// A greedy request without a bound, of one choice.
pub(super) fn start(request: u64, prompt: Vec<Token>) -> Start {
    Start {
        request: RequestId(request),
        prompt: PreparedPrompt {
            tokens: prompt,
            stops: Vec::new(),
            borders: Vec::new(),
            dropped_tokens: 0,
        },
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        seed: 5 + request as u32,
        choices: 1,
        tokens_max: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
        resume: Vec::new(),
        tells_prompt: false,
        fetched: Fetched::default(),
        arrived: Instant::now(),
    }
}

/// A context of a tiny model with full attention, on one thread, with cells of f32.
fn context(context_tokens: u32, sequences_max: u32) -> Context {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    aluco_tiny_models::write(Kind::FullAttention, &path).unwrap();
    let options = ModelOptions {
        gpu_layers: None,
        weight_loading: WeightLoading::Auto,
    };
    let model = Model::load(Engine::start(), &path, &options, |_| true).unwrap();
    let options = ContextOptions {
        context_tokens,
        sequences_max,
        batch_tokens: 64,
        micro_batch_tokens: 64,
        threads: 1,
        kv_type_k: KvType::F32,
        kv_type_v: KvType::F32,
        flash_attention: FlashAttention::Off,
    };
    Context::new(&model, &options).unwrap()
}

/// Collects what is sent until the other end is closed.
fn listen(socket: UnixStream) -> JoinHandle<Outcome> {
    thread::spawn(move || {
        let mut reader = BufReader::new(socket);
        let mut outcome = Outcome::default();
        while let Some(event) = read_frame(&mut reader).unwrap() {
            let Event::Generation { request, event } = event else {
                panic!("{event:?}");
            };
            match event {
                GenerationEvent::Delta {
                    choice,
                    text,
                    tokens,
                    ..
                } => {
                    let reply = outcome.replies.entry((request, choice)).or_default();
                    reply.text.push_str(&text);
                    reply.tokens.extend(tokens);
                }
                GenerationEvent::Finished { choice, reason } => {
                    let reply = outcome.replies.entry((request, choice)).or_default();
                    assert_eq!(reply.reason.replace(reason), None);
                }
                GenerationEvent::Done { usage, .. } => {
                    outcome.usage.generated_tokens += usage.generated_tokens;
                    outcome.usage.drafted_tokens += usage.drafted_tokens;
                    outcome.usage.accepted_tokens += usage.accepted_tokens;
                }
                GenerationEvent::Failed(failure) => panic!("{failure:?}"),
                _ => {}
            }
        }
        outcome
    })
}

/// A loop that nobody runs, without a store, and what it will have said when it is dropped.
pub(super) fn model_loop(
    context_tokens: u32,
    sequences_max: u32,
    speculates: bool,
) -> (ModelLoop, JoinHandle<Outcome>) {
    let mut context = context(context_tokens, sequences_max);
    let archive = Archive::probe(&mut context);
    assert_eq!(archive.class(), MemoryClass::Blocks);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let listener = listen(theirs);
    let tools = Tools {
        context,
        archive,
        store: None,
        memo: Arc::new(TokenMemo::default()),
        device_tokens: Some(0),
        tpot: Some(TPOT),
        governor: None,
        speculates,
    };
    let model_loop = ModelLoop::new(
        tools,
        Outbox::new(ours),
        Arc::new(Pulse::default()),
        Arc::new(Activity::default()),
    );
    (model_loop, listener)
}

impl ModelLoop {
    /// What the loop does between two looks at its commands.
    pub(super) fn turn(&mut self) {
        self.admit();
        self.step();
        self.store_behind();
    }
}
