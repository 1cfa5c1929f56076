//! Random clients for a while, with too few cells and too little memory for all: every request ends, and nothing is lost.
//!
//! `ALUCO_SOAK_SECONDS` makes it last longer. The requests are drawn from the same seed each time, or from that in `ALUCO_SOAK_SEED`; with `now`
//! there from the time, which is told.

mod support;

use std::{
    collections::HashMap,
    time::{Duration, Instant, UNIX_EPOCH},
};

use aluco_proto::{
    CacheOptions, Event, FinishReason, GenerationSpec, LoadOptions, Prompt, RequestId, Speculation,
    Token,
};
use support::{Outcome, Worker, greedy, tiny, turns};
use tiny::Kind;

const SEED: u64 = 1;
const CONTEXT_TOKENS: u32 = 2048;
const IN_FLIGHT_MAX: usize = 10;

/// A soak goes on for so long that it shows something, however slow the machine is.
const REQUESTS_MIN: u32 = 21;
const CACHED_TOKENS_MIN: u32 = 1001;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    const NAME: &str = "ALUCO_SOAK_SEED";
    if std::env::var(NAME).is_ok_and(|text| text == "now") {
        return UNIX_EPOCH.elapsed().unwrap().as_secs();
    }
    variable(NAME).unwrap_or(SEED)
}

/// A request that runs, and the choices that it has to end with.
struct Asked {
    outcome: Outcome,
    choices: u32,
    cancelled: bool,
}

fn spec(random: &mut Random, histories: &[Vec<Token>]) -> GenerationSpec {
    let history = &histories[random.below(histories.len() as u64) as usize];
    let length = 1 + random.below(history.len() as u64) as usize;
    let mut prompt = history[..length].to_vec();
    prompt.extend(turns::text(random.below(1000), random.below(80) as usize));
    let tokens_max = if random.one_in(8) { 700 } else { 40 };
    let mut spec = greedy(Prompt::Tokens(prompt), random.below(tokens_max) as u32);
    if random.one_in(3) {
        spec.choices = 1 + random.below(3) as u32;
        spec.sampling.temperature = 1.0;
        spec.sampling.seed = Some(random.below(100) as u32);
    }
    spec.sampling.ignore_end = true;
    spec.client = format!("client {}", random.below(3));
    if random.one_in(6) {
        "other".clone_into(&mut spec.namespace);
    }
    spec
}

fn soaks(kind: Kind, speculation: Speculation) {
    let seed = seed();
    let seconds = variable("ALUCO_SOAK_SECONDS").unwrap_or(10);
    eprintln!("{kind}: ALUCO_SOAK_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        speculation,
        sequences_max: 5,
        micro_batch_tokens: 128,
        cache: CacheOptions {
            ram_bytes: Some(8 << 20),
            folder: Some(folder.path().to_owned()),
            disk_bytes: Some(24 << 20),
            ..CacheOptions::default()
        },
        ..tiny::options(CONTEXT_TOKENS)
    };
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), options.clone());

    let mut histories: Vec<_> = (0..5).map(|seed| turns::text(seed, 900)).collect();
    let mut prompts: HashMap<RequestId, Vec<Token>> = HashMap::new();
    let mut asked: HashMap<RequestId, Asked> = HashMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut done, mut cached_tokens) = (0, 0);
    loop {
        let is_over =
            Instant::now() >= end && done >= REQUESTS_MIN && cached_tokens >= CACHED_TOKENS_MIN;
        if is_over && asked.is_empty() {
            break;
        }
        while !is_over && asked.len() < IN_FLIGHT_MAX && !random.one_in(4) {
            let spec = spec(&mut random, &histories);
            let choices = spec.choices;
            let Prompt::Tokens(prompt) = spec.prompt.clone() else {
                unreachable!("prompts of a soak are tokens")
            };
            let request = worker.generate(spec);
            prompts.insert(request, prompt);
            asked.insert(
                request,
                Asked {
                    outcome: Outcome::default(),
                    choices,
                    cancelled: false,
                },
            );
        }
        if !asked.is_empty() && random.one_in(60) {
            let mut requests: Vec<_> = asked.keys().copied().collect();
            requests.sort_unstable();
            let request = requests[random.below(requests.len() as u64) as usize];
            worker.cancel(request);
            asked.get_mut(&request).unwrap().cancelled = true;
        }
        if asked.is_empty() {
            continue;
        }
        let Event::Generation { request, event } = worker.event() else {
            continue;
        };
        let known = asked.get_mut(&request).unwrap();
        known.outcome.take(event);
        if !known.outcome.ended {
            continue;
        }
        let Asked {
            outcome,
            choices,
            cancelled,
        } = asked.remove(&request).unwrap();
        assert_eq!(outcome.failure, None, "{kind}");
        assert_eq!(outcome.reasons.len(), choices as usize, "{outcome:?}");
        for reason in outcome.reasons.iter().flatten() {
            let is_expected = *reason == FinishReason::Length
                || (cancelled && *reason == FinishReason::Cancelled);
            assert!(is_expected, "{reason:?}");
        }
        done += 1;
        cached_tokens += outcome.usage.cached_tokens;
        let prompt = prompts.remove(&request).unwrap();
        // Conversations go on, until they are too long.
        if let Some(reply) = outcome.tokens.first() {
            let history = [prompt, reply.clone()].concat();
            if history.len() < 1200 {
                let at = random.below(histories.len() as u64) as usize;
                histories[at] = history;
            }
        }
    }
    eprintln!("{kind}: {done} requests, {cached_tokens} tokens not computed");

    // What is parked is all that is left.
    worker.wait_until("nothing is left but what is parked", |activity| {
        activity.sequences_running == 0
            && activity.requests_waiting == 0
            && activity.cells_used == activity.cache.device_tokens
            && activity.cells_used <= CONTEXT_TOKENS / 8
    });
    assert_eq!(worker.complaints, [] as [String; 0]);
    // All cells and sequences can still be had: each of as many as there are fills a part of the context.
    let each = CONTEXT_TOKENS / 5 - 10;
    let requests: Vec<_> = (0..5)
        .map(|seed| {
            let prompt = turns::text(5000 + seed, each as usize);
            worker.generate(greedy(Prompt::Tokens(prompt), 2))
        })
        .collect();
    for outcome in worker.finish(&requests) {
        assert_eq!(outcome.failure, None);
    }
    let alone = turns::text(6000, CONTEXT_TOKENS as usize);
    assert_eq!(worker.run(greedy(Prompt::Tokens(alone), 2)).failure, None);

    // What was computed last is there after an unload.
    let last = turns::text(7000, 1100);
    let computed = worker.run(greedy(Prompt::Tokens(last.clone()), 2));
    assert_eq!(computed.failure, None);
    worker.unload();
    worker.load_file(&tiny::path(kind), options);
    let again = worker.run(greedy(Prompt::Tokens(last), 2));
    assert!(again.cache.disk_tokens >= 1024, "{:?}", again.cache);
    assert_eq!(again.tokens, computed.tokens);
    assert_eq!(worker.complaints, [] as [String; 0]);
}

#[test]
fn full_attention_soaks() {
    soaks(Kind::FullAttention, Speculation::Off);
}

#[test]
fn full_attention_that_speculates_soaks() {
    soaks(Kind::FullAttention, Speculation::Auto);
}

#[test]
fn a_sliding_window_soaks() {
    soaks(Kind::SlidingWindow, Speculation::Off);
}

#[test]
fn a_hybrid_soaks() {
    soaks(Kind::Hybrid, Speculation::Off);
}
