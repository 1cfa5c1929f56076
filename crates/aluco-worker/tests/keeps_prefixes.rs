//! What was computed once is not computed again, and what is put back is the very same.

mod support;

use aluco_proto::{Command, Event, FlashAttention, KvType, LoadOptions, Prompt, WeightLoading};
use aluco_worker::ffi::{Batch, Context, ContextOptions, Decoded, Engine, Model, ModelOptions};
use support::{Worker, greedy, model_path};

const BLOCK: u32 = 256;

fn context(model: &Model, kv_type: KvType, flash_attention: FlashAttention) -> Context {
    let options = ContextOptions {
        context_tokens: 1024,
        sequences_max: 2,
        batch_tokens: 512,
        micro_batch_tokens: 512,
        threads: 2,
        kv_type_k: kv_type,
        kv_type_v: kv_type,
        flash_attention,
    };
    Context::new(model, &options).unwrap()
}

/// Logits behind one token at the end of a sequence of 512.
fn logits_of_next(context: &mut Context, sequence: i32) -> Vec<f32> {
    let mut batch = Batch::default();
    let row = batch.push(77, 2 * BLOCK, sequence, true);
    assert!(matches!(context.decode(&mut batch).unwrap(), Decoded::Done));
    context.logits(row).unwrap().to_vec()
}

#[test]
fn blocks_that_were_put_back_give_bit_identical_logits() {
    let engine = Engine::start();
    let options = ModelOptions {
        gpu_layers: None,
        weight_loading: WeightLoading::Auto,
    };
    let model = Model::load(engine, &model_path(), &options, |_| true).unwrap();
    assert!(model.has_divisible_memory());
    for (kv_type, flash_attention) in [
        (KvType::F16, FlashAttention::On),
        (KvType::F16, FlashAttention::Off),
        (KvType::Q8_0, FlashAttention::On),
    ] {
        let mut context = context(&model, kv_type, flash_attention);
        let scratch = context.scratch().unwrap();
        let mut batch = Batch::default();
        for position in 0..2 * BLOCK {
            let token = 100 + (position * 7919 % 40_000) as i32;
            batch.push(token, position, 0, false);
        }
        assert!(matches!(context.decode(&mut batch).unwrap(), Decoded::Done));
        let blocks: Vec<Vec<u8>> = [0, BLOCK]
            .map(|begin| {
                let positions = begin..begin + BLOCK;
                context.share_positions(0, scratch, positions).unwrap();
                let bytes = context.export_sequence(scratch).unwrap();
                context.remove_sequence(scratch).unwrap();
                bytes
            })
            .into();
        let expected = logits_of_next(&mut context, 0);
        context.remove_sequence(0).unwrap();

        // Into another sequence. (Among cells of others the sums would be formed in another order, as always in a shared pool.)
        for (index, bytes) in blocks.iter().enumerate() {
            let begin = index as u32 * BLOCK;
            context.import_sequence(scratch, bytes).unwrap();
            let positions = begin..begin + BLOCK;
            context.share_positions(scratch, 1, positions).unwrap();
            context.remove_sequence(scratch).unwrap();
        }
        let found = logits_of_next(&mut context, 1);
        let same = expected
            .iter()
            .zip(&found)
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{kv_type:?} {flash_attention:?}");

        // What is no state is refused, and the context goes on.
        let mut damaged = blocks[0].clone();
        damaged.truncate(100);
        assert!(context.import_sequence(scratch, &damaged).is_err());
        context.remove_sequence(scratch).unwrap();
        assert_eq!(context.last_position(1), Some(2 * BLOCK));
    }
}

fn small() -> LoadOptions {
    LoadOptions {
        context_tokens: Some(1024),
        threads: Some(2),
        ..LoadOptions::default()
    }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

fn long_text(words: usize) -> String {
    let words = (0..words).map(|index| format!("word{} ", index % 97));
    words.collect()
}

#[test]
fn a_prompt_that_was_computed_is_not_computed_again() {
    let mut worker = Worker::start();
    worker.load(small());
    let beginning = long_text(200);
    let spec = |prompt: String| {
        let mut spec = greedy(text(&prompt), 4);
        spec.logprobs = Some(5);
        spec
    };
    let first = worker.run(spec(beginning.clone()));
    assert_eq!(first.failure, None);
    assert_eq!(first.usage.cached_tokens, 0);
    let prompt_tokens = first.usage.prompt_tokens;
    assert!(prompt_tokens > 512, "{prompt_tokens}");

    // The same again: all whole blocks but the last token's come from the cache, and the distribution is the same.
    let again = worker.run(spec(beginning.clone()));
    assert_eq!(again.usage.cached_tokens, (prompt_tokens - 1) / 256 * 256);
    let (one, other) = (&first.logprobs[0][0], &again.logprobs[0][0]);
    for entry in &one.top {
        let same = other.top.iter().find(|other| other.token == entry.token);
        let same = same.unwrap_or_else(|| panic!("{one:?} against {other:?}"));
        assert!(
            (same.logprob - entry.logprob).abs() < 0.2,
            "{one:?} {other:?}"
        );
    }
    // From the same state the very same comes out.
    let third = worker.run(spec(beginning.clone()));
    assert_eq!(third.usage, again.usage);
    assert_eq!(third.logprobs, again.logprobs);
    assert_eq!(third.text, again.text);

    // Another end shares the beginning; another beginning shares nothing.
    let longer = worker.run(spec(format!("{beginning} and then?")));
    assert!(longer.usage.cached_tokens >= 512);
    let other = worker.run(spec(format!("No. {beginning}")));
    assert_eq!(other.usage.cached_tokens, 0);
}

#[test]
fn a_cache_without_budget_keeps_nothing() {
    let mut worker = Worker::start();
    worker.load(LoadOptions {
        prefix_cache_bytes: Some(0),
        ..small()
    });
    let spec = || greedy(text(&long_text(200)), 2);
    worker.run(spec());
    assert_eq!(worker.run(spec()).usage.cached_tokens, 0);
}

#[test]
fn the_cache_gives_way_when_cells_and_sequences_are_needed() {
    let mut worker = Worker::start();
    worker.load(LoadOptions {
        context_tokens: Some(1024),
        sequences_max: 2,
        ..small()
    });
    // More conversations than cells and sequences: each must still be answered, some of them from the cache.
    for round in 0..3 {
        let requests: Vec<_> = (0..5)
            .map(|index| {
                let prompt = format!("{index} {}", long_text(150));
                worker.generate(greedy(text(&prompt), 3))
            })
            .collect();
        for outcome in worker.finish(&requests) {
            assert_eq!(outcome.failure, None, "round {round}");
            assert_eq!(outcome.usage.generated_tokens, 3);
        }
    }
    let request = worker.request();
    worker.send(&Command::Status { request });
    let Event::Status { status, .. } = worker.event() else {
        panic!("no status");
    };
    assert_eq!(status.models[0].sequences_running, 0);
    assert!(status.models[0].prefix_cache_bytes > 0);
}
