//! Streams that another worker began, taken up after some of their tokens, against the same streams undisturbed.

use std::sync::atomic::Ordering;

use aluco_proto::{Sampling, Token};

use super::*;
use crate::model_loop::rig::{self, Outcome, Reply};

const STREAMS: u32 = 8;
const PROMPT_TOKENS: u32 = 100;
const REPLY_TOKENS: u32 = 90;

/// Every other stream is greedy, the rest are sampled by their seeds.
fn fresh(index: u32) -> Start {
    let letters = (0..PROMPT_TOKENS).map(|at| 32 + (at * (7 + 2 * index) + 11 * index) % 95);
    let prompt = letters.map(|letter| letter as Token).collect();
    Start {
        sampling: Sampling {
            temperature: if index.is_multiple_of(2) { 0.0 } else { 0.8 },
            ignore_end: true,
            ..Sampling::default()
        },
        tokens_max: Some(REPLY_TOKENS),
        ..rig::start(u64::from(index), prompt)
    }
}

/// The same after its first tokens were sent, and the text that was sent with them.
fn interrupted(index: u32, whole: &Reply, tokens: u32) -> (Start, String) {
    let tokens = whole.tokens[..tokens as usize].to_vec();
    let mut text = TextStream::new(Vec::new());
    // In the tiny models a token is a byte.
    let sent: String = tokens
        .iter()
        .map(|token| text.push(&[*token as u8]).text)
        .collect();
    let start = Start {
        resume: vec![ResumeChoice {
            tokens,
            text_bytes: sent.len() as u64,
            finished: None,
        }],
        ..fresh(index)
    };
    (start, sent)
}

/// What a run took.
#[derive(Debug, PartialEq)]
struct Cost {
    steps: u32,
    /// Tokens that were not computed one by one.
    prefill_tokens: u64,
}

/// Runs all of these; gives what came of them, and at what cost.
fn run(starts: impl IntoIterator<Item = Start>) -> (Outcome, Cost) {
    let (mut model_loop, listener) = rig::model_loop(4096, STREAMS, false);
    for start in starts {
        model_loop.enqueue(start);
    }
    let mut steps = 0;
    while !model_loop.generations.is_empty() {
        model_loop.turn();
        steps += 1;
    }
    assert_eq!(model_loop.cells.used(), 0);
    let prefill_tokens = model_loop.activity.prefill_tokens.load(Ordering::Relaxed);
    drop(model_loop);
    let cost = Cost {
        steps,
        prefill_tokens,
    };
    (listener.join().unwrap(), cost)
}

fn reply(outcome: &Outcome, index: u32) -> &Reply {
    &outcome.replies[&(RequestId(u64::from(index)), 0)]
}

/// Checks that what was said before and behind a break is what is said without one.
fn check(whole: &Reply, sent: &str, sent_tokens: u32, rest: &Reply) {
    assert_eq!(whole.tokens.len(), REPLY_TOKENS as usize);
    assert_eq!(rest.tokens, whole.tokens[sent_tokens as usize..]);
    assert_eq!(format!("{sent}{}", rest.text), whole.text);
    assert_eq!(rest.reason, whole.reason);
}

#[test]
fn a_lone_reply_is_computed_in_the_steps_of_the_first_time() {
    for index in [0, 1] {
        let (undisturbed, cost) = run([fresh(index)]);
        let whole = reply(&undisturbed, index);
        for sent_tokens in [1, 40, REPLY_TOKENS - 1] {
            let (start, sent) = interrupted(index, whole, sent_tokens);
            let (resumed, cost_again) = run([start]);
            check(whole, &sent, sent_tokens, reply(&resumed, index));
            assert_eq!(cost_again, cost);
        }
    }
}

#[test]
fn replies_beside_each_other_are_computed_in_chunks() {
    let sent_tokens = |index: u32| 60 + 2 * index;
    let (undisturbed, _) = run((0..STREAMS).map(fresh));
    let wholes: Vec<&Reply> = (0..STREAMS).map(|it| reply(&undisturbed, it)).collect();
    let (starts, sent): (Vec<Start>, Vec<String>) = (0..STREAMS)
        .map(|index| interrupted(index, wholes[index as usize], sent_tokens(index)))
        .unzip();
    let (resumed, cost) = run(starts);
    for index in 0..STREAMS {
        let (whole, sent) = (wholes[index as usize], &sent[index as usize]);
        check(whole, sent, sent_tokens(index), reply(&resumed, index));
    }
    let known: u32 = (0..STREAMS).map(|it| PROMPT_TOKENS + sent_tokens(it)).sum();
    assert_eq!(cost.prefill_tokens, u64::from(known));
}

#[test]
fn company_ends_a_retrace_in_its_middle() {
    let (undisturbed, _) = run([fresh(0)]);
    let (other, _) = run([fresh(1)]);
    let whole = reply(&undisturbed, 0);
    let (start, sent) = interrupted(0, whole, 80);
    let (mut model_loop, listener) = rig::model_loop(4096, STREAMS, false);
    model_loop.enqueue(start);
    // The prompt takes two steps.
    for _ in 0..2 + 10 {
        model_loop.turn();
    }
    assert_eq!(model_loop.running[0].computed_tokens, PROMPT_TOKENS + 10);
    model_loop.enqueue(fresh(1));
    let mut steps = 0;
    while model_loop.running[0].generated_tokens() == 80 {
        model_loop.turn();
        steps += 1;
    }
    assert!(steps <= 3, "{steps} steps for 70 tokens beside a prompt");
    while !model_loop.generations.is_empty() {
        model_loop.turn();
    }
    drop(model_loop);
    let outcome = listener.join().unwrap();
    check(whole, &sent, 80, reply(&outcome, 0));
    assert_eq!(reply(&outcome, 1).tokens, reply(&other, 1).tokens);
}

#[test]
fn what_is_parked_is_given_up_only_for_a_stream_that_fits_then() {
    let start = |index: u32, prompt_tokens: usize, tokens_max: u32| {
        let mut start = fresh(index);
        start.prompt.tokens = start.prompt.tokens.repeat(3);
        start.prompt.tokens.truncate(prompt_tokens);
        start.tokens_max = Some(tokens_max);
        start
    };
    let (mut model_loop, listener) = rig::model_loop(512, STREAMS, false);
    model_loop.device_tokens_max = 512;
    model_loop.enqueue(start(0, 50, 11));
    while !model_loop.generations.is_empty() {
        model_loop.turn();
    }
    assert_eq!(model_loop.cells_parked(None), 60);
    model_loop.enqueue(start(1, 100, 200));
    model_loop.turn();
    model_loop.enqueue(start(2, 300, 20));
    while model_loop.generations.len() > 1 {
        model_loop.turn();
        assert_eq!(model_loop.parked[0].tokens.len(), 60);
    }
    while !model_loop.generations.is_empty() {
        model_loop.turn();
    }
    // The cells of the first two were needed: 512 are not enough for all three.
    assert_eq!(model_loop.parked.len(), 1);
    drop(model_loop);
    let outcome = listener.join().unwrap();
    for (index, tokens) in [(0, 11), (1, 200), (2, 20)] {
        assert_eq!(reply(&outcome, index).tokens.len(), tokens);
    }
}
