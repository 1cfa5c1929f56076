//! A client with long prompts does not keep the others waiting.

mod support;

use aluco_proto::{Event, GenerationEvent, GenerationSpec, Prompt};
use support::{Worker, gate::Gate, greedy, tiny, turns};
use tiny::Kind;

const LONG_TOKENS: usize = 6000;

/// The step in the middle of which the others come: there are many more before a long prompt is computed.
const MEETING_STEP: u64 = 2;

fn spec(client: &str, seed: u64, tokens: usize) -> GenerationSpec {
    let mut spec = greedy(Prompt::Tokens(turns::text(seed, tokens)), 2);
    spec.sampling.ignore_end = true;
    client.clone_into(&mut spec.client);
    spec
}

/// The short prompt of one client is answered before the long ones of another are computed.
fn a_short_prompt_passes(long_prompts: u64) {
    let gate = Gate::at(MEETING_STEP);
    let mut worker = Worker::with_gate(&gate);
    worker.load_file(
        &tiny::path(Kind::FullAttention),
        aluco_proto::LoadOptions {
            micro_batch_tokens: 256,
            ..tiny::options(LONG_TOKENS as u32 * 4)
        },
    );
    let long: Vec<_> = (0..long_prompts)
        .map(|seed| worker.generate(spec("a", seed, LONG_TOKENS)))
        .collect();
    let held = gate.reached();
    let short = worker.generate(spec("b", 99, 50));
    worker.until_prepared();
    drop(held);
    let mut computed = 0;
    loop {
        let Event::Generation { request, event } = worker.event() else {
            continue;
        };
        match event {
            GenerationEvent::Prefill {
                processed_tokens, ..
            } if long.contains(&request) => computed = processed_tokens.max(computed),
            GenerationEvent::Delta { .. } => {
                assert_eq!(request, short, "{computed} tokens");
                break;
            }
            GenerationEvent::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    }
    assert!(computed < LONG_TOKENS as u32, "{computed}");
    for outcome in worker.finish(&long) {
        assert_eq!(outcome.failure, None);
    }
}

#[test]
fn a_short_prompt_passes_a_long_one() {
    a_short_prompt_passes(1);
}

#[test]
fn a_short_prompt_passes_several_long_ones() {
    a_short_prompt_passes(3);
}

#[test]
fn two_clients_with_long_prompts_advance_alike() {
    let gate = Gate::at(MEETING_STEP);
    let mut worker = Worker::with_gate(&gate);
    worker.load_file(
        &tiny::path(Kind::FullAttention),
        aluco_proto::LoadOptions {
            micro_batch_tokens: 256,
            ..tiny::options(LONG_TOKENS as u32 * 4)
        },
    );
    // One has two prompts, the other one: each client gets as much.
    worker.generate(spec("a", 1, LONG_TOKENS));
    let second = worker.generate(spec("a", 2, LONG_TOKENS));
    let held = gate.reached();
    let third = worker.generate(spec("b", 3, LONG_TOKENS / 2));
    worker.until_prepared();
    drop(held);
    let mut done = [0; 2];
    loop {
        let Event::Generation { request, event } = worker.event() else {
            continue;
        };
        match event {
            GenerationEvent::Prefill {
                processed_tokens, ..
            } if request != third => {
                done[usize::from(request == second)] = processed_tokens;
            }
            GenerationEvent::Delta { .. } => {
                assert_eq!(request, third, "{done:?}");
                break;
            }
            _ => {}
        }
    }
    // What "a" got until then is no more than "b" got, and what it was ahead.
    let of_a: u32 = done.iter().sum();
    assert!(of_a < LONG_TOKENS as u32 / 2 + 2048, "{done:?}");
}
