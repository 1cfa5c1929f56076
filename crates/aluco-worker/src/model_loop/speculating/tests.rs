//! Replies with a draft in every step against replies without any. The model says nothing but two letters, so that drafts are
//! accepted in part, in full and not at all.

use std::time::Duration;

use aluco_proto::{FinishReason, Sampling, Usage};
use aluco_schedule::speculation::DraftHistory;

use super::*;
use crate::model_loop::{
    Start,
    rig::{self, Outcome},
};

/// Draft for each stream in every step, or have no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drafting {
    Always,
    Off,
}

/// A controller that has seen drafts cost nothing and always be right.
fn eager() -> Speculation {
    let mut speculation = Speculation::default();
    for streams in 1..=STREAMS_MAX as usize {
        for drafted in [0, DRAFT_TOKENS_MAX] {
            let mut histories = vec![DraftHistory::default(); streams];
            let mut outcomes: Vec<speculation::Outcome<'_>> = histories
                .iter_mut()
                .map(|history| speculation::Outcome {
                    history,
                    drafted,
                    accepted: drafted,
                })
                .collect();
            speculation.observe(&mut outcomes, Duration::from_millis(100));
        }
    }
    speculation
}

fn start(request: u64, choices: u32, tokens_max: u32, temperature: f32) -> Start {
    Start {
        sampling: Sampling {
            temperature,
            logit_bias: vec![(Token::from(b'a'), 30.0), (Token::from(b'b'), 30.0)],
            ..Sampling::default()
        },
        choices,
        tokens_max: Some(tokens_max),
        ..rig::start(request, b"abbabaabbaababba".map(Token::from).to_vec())
    }
}

/// What lies in the cells of a stream that decodes is all its tokens but the last.
fn check(model_loop: &ModelLoop) {
    for stream in &model_loop.running {
        let sequence = stream.sequence.unwrap();
        assert_eq!(model_loop.cells.length(sequence), stream.computed_tokens);
        let last = model_loop.context.last_position(sequence);
        assert_eq!(last.map_or(0, |last| last + 1), stream.computed_tokens);
        assert!(stream.computed_tokens < stream.tokens.len() as u32);
    }
    assert!(model_loop.cells.used() <= model_loop.context.context_tokens());
}

fn run(context_tokens: u32, drafting: Drafting, starts: Vec<Start>) -> (Outcome, u32) {
    let (mut model_loop, listener) =
        rig::model_loop(context_tokens, 4, drafting == Drafting::Always);
    for start in starts {
        model_loop.enqueue(start);
    }
    let mut steps = 0;
    while !model_loop.generations.is_empty() {
        if drafting == Drafting::Always {
            model_loop.speculation = Some(eager());
            for stream in &mut model_loop.running {
                stream.lookup.history = DraftHistory::default();
            }
        }
        model_loop.turn();
        steps += 1;
        check(&model_loop);
    }
    assert_eq!(model_loop.cells.used(), 0);
    drop(model_loop);
    (listener.join().unwrap(), steps)
}

/// Runs with drafts and without; gives the replies, which are the same, the usage with drafts, and the steps saved.
fn compare(context_tokens: u32, starts: impl Fn() -> Vec<Start>) -> (Outcome, u32) {
    let (plain, plain_steps) = run(context_tokens, Drafting::Off, starts());
    let (drafted, steps) = run(context_tokens, Drafting::Always, starts());
    assert_eq!(plain.replies, drafted.replies);
    assert_eq!(plain.usage.generated_tokens, drafted.usage.generated_tokens);
    assert_eq!(plain.usage.drafted_tokens, 0);
    assert!(drafted.usage.accepted_tokens <= drafted.usage.drafted_tokens);
    (drafted, plain_steps - steps)
}

#[test]
fn drafts_change_nothing_but_the_number_of_steps() {
    for temperature in [0.0, 0.7, 1.5] {
        let (outcome, saved) = compare(512, || vec![start(1, 1, 200, temperature)]);
        let Usage {
            drafted_tokens,
            accepted_tokens,
            ..
        } = outcome.usage;
        assert_eq!(saved, accepted_tokens, "each accepted token saves a step");
        assert!(accepted_tokens > 0 && accepted_tokens < drafted_tokens);
    }
}

#[test]
fn choices_and_requests_beside_each_other_do_not_mix() {
    let (outcome, saved) = compare(1024, || vec![start(1, 2, 120, 0.8)]);
    assert!(outcome.usage.accepted_tokens > 0 && saved > 0);
    let (outcome, saved) = compare(1024, || vec![start(1, 1, 120, 0.8), start(2, 2, 40, 0.0)]);
    // The first one is alone in the end.
    assert!(outcome.usage.accepted_tokens > 0 && saved > 0);
}

#[test]
fn a_reply_ends_amid_its_drafts() {
    for tokens_max in 40..60 {
        let (outcome, _) = compare(512, || vec![start(1, 1, tokens_max, 0.0)]);
        let reply = &outcome.replies[&(RequestId(1), 0)];
        assert_eq!(reply.tokens.len(), tokens_max as usize);
        assert_eq!(reply.reason, Some(FinishReason::Length));
    }
    let (whole, _) = run(512, Drafting::Off, vec![start(1, 1, 60, 0.0)]);
    let text = &whole.replies[&(RequestId(1), 0)].text;
    for end in 30..50 {
        let (outcome, _) = compare(512, || {
            let mut start = start(1, 1, 60, 0.0);
            start.stop = vec![text[end - 12..end].to_owned()];
            vec![start]
        });
        let reply = &outcome.replies[&(RequestId(1), 0)];
        assert!(matches!(reply.reason, Some(FinishReason::StopString(_))));
        assert!(text.starts_with(&reply.text));
    }
}

#[test]
fn penalties_see_the_tokens_so_far() {
    let (outcome, saved) = compare(512, || {
        let mut start = start(1, 1, 200, 0.9);
        start.sampling.repeat_penalty = 1.05;
        start.sampling.frequency_penalty = 0.2;
        vec![start]
    });
    assert_eq!(saved, outcome.usage.accepted_tokens);
    assert!(saved > 0);
}

#[test]
fn nobody_loses_cells_for_the_sake_of_drafts() {
    // Each alone would fit; together they run out, and the younger one waits for the older one.
    let starts = || vec![start(1, 1, 200, 0.0), start(2, 1, 200, 0.8)];
    let (outcome, _) = compare(256, starts);
    assert!(outcome.usage.accepted_tokens > 0);
    // A single one fills the context to the last cell.
    let (outcome, _) = compare(256, || vec![start(1, 1, 1000, 0.0)]);
    let reply = &outcome.replies[&(RequestId(1), 0)];
    assert_eq!(reply.tokens.len(), 256 - 16 + 1);
    assert!(outcome.usage.accepted_tokens > 0);
}

#[test]
fn only_memory_that_can_be_cut_takes_part() {
    for (class, takes_part) in [
        (MemoryClass::Blocks, true),
        (MemoryClass::Checkpoints, false),
        (MemoryClass::Whole, false),
        (MemoryClass::Off, false),
    ] {
        assert_eq!(ModelLoop::speculation(true, class).is_some(), takes_part);
        assert!(ModelLoop::speculation(false, class).is_none());
    }
}
