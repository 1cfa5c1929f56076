//! What was computed once is not computed again, and what is put back is the very same.

mod support;

use std::path::Path;

use aluco_prefix::Kind;
use aluco_proto::{CacheOptions, FlashAttention, KvType, LoadOptions, Prompt, WeightLoading};
use aluco_worker::{
    ffi::{Batch, Context, ContextOptions, Decoded, Engine, Model, ModelOptions},
    memory::{Archive, MemoryClass, StoredPart},
};
use support::{Worker, greedy, model_path, tiny, without_cache};

const BLOCK: u32 = 256;

/// A window of the tiny models has moved far past everything that is put back when a sequence is so long.
const FAR: u32 = 700;

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

/// The attention cells and, where there is more, the state of these positions of sequence 1, taken out and put into sequence 0.
fn move_over(archive: &Archive, context: &mut Context, cut: u32, checkpoint: Option<&[u8]>) {
    let block = archive.export_block(context, 1, 0, BLOCK).unwrap();
    let tail = archive
        .export_tail(context, 1, BLOCK, cut, checkpoint)
        .unwrap();
    context.remove_sequence(1).unwrap();
    let part = |kind, begin, end, payload| StoredPart {
        kind,
        begin,
        end,
        payload,
    };
    let parts = [
        part(Kind::Block, 0, BLOCK, &*block),
        part(Kind::Tail, BLOCK, cut, &*tail),
    ];
    archive.restore(context, 0, &parts, cut).unwrap();
}

/// Computes made-up tokens at these positions; gives the logits behind the last one.
fn compute(context: &mut Context, sequence: i32, positions: std::ops::Range<u32>) -> Vec<f32> {
    let vocabulary = context.model().vocabulary();
    let mut batch = Batch::default();
    let mut row = 0;
    for position in positions.clone() {
        let token = (100 + position * 7919) % vocabulary;
        let is_last = position + 1 == positions.end;
        row = batch.push(token as i32, position, sequence, is_last);
    }
    assert_eq!(context.decode(&mut batch).unwrap(), Decoded::Done);
    context.logits(row).unwrap().to_vec()
}

fn is_same(a: &[f32], b: &[f32]) -> bool {
    assert!(a.iter().all(|logit| logit.is_finite()));
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The cells of a window are put back in other places than they had, and sums depend on their order: the last bits may differ.
fn is_close(a: &[f32], b: &[f32], kv_type: KvType) -> bool {
    let tolerance = match kv_type {
        KvType::F32 => 1e-4,
        _ => 5e-3,
    };
    let largest = a.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    a.iter()
        .zip(b)
        .all(|(a, b)| (a - b).abs() <= largest * tolerance)
}

fn state_survives(path: &Path, class: MemoryClass) {
    let engine = Engine::start();
    let options = ModelOptions {
        gpu_layers: None,
        weight_loading: WeightLoading::Auto,
    };
    let model = Model::load(engine, path, &options, |_| true).unwrap();
    for (kv_type, flash_attention) in [
        (KvType::F32, FlashAttention::Off),
        (KvType::F16, FlashAttention::On),
        (KvType::F16, FlashAttention::Off),
        (KvType::Q8_0, FlashAttention::On),
    ] {
        let what = format!("{} {kv_type:?} {flash_attention:?}", path.display());
        let mut context = context(&model, kv_type, flash_attention);
        let has_window = model.window_tokens() > 0;
        let is_as_before = |expected: &[f32], found: &[f32]| {
            is_same(expected, found) || (has_window && is_close(expected, found, kv_type))
        };
        let archive = Archive::probe(&mut context);
        assert_eq!(archive.class(), class, "{what}");
        assert_eq!(context.last_position(0), None);

        // Neither at the border of a block nor at the end of what was computed.
        let cut = BLOCK + 100;
        compute(&mut context, 0, 0..cut);
        let checkpoint = archive.checkpoint(&mut context, 0).unwrap();
        let state = (class == MemoryClass::Checkpoints).then_some(&*checkpoint);
        archive.fork(&mut context, 0, 1, cut, state).unwrap();
        let expected = compute(&mut context, 0, cut..cut + 1);
        let other = compute(&mut context, 0, cut + 1..cut + 2);
        assert!(!is_close(&expected, &other, kv_type), "{what}");

        // A second sequence goes on from the middle of the first one. (In the very same cells, since sums depend on their order.)
        context.remove_sequence(0).unwrap();
        let found = compute(&mut context, 1, cut..cut + 1);
        assert!(is_as_before(&expected, &found), "{what}");
        compute(&mut context, 1, cut + 1..FAR);

        // Out of the context and back.
        let block = archive.export_block(&mut context, 1, 0, BLOCK).unwrap();
        move_over(&archive, &mut context, cut, state);
        let same_block = archive.export_block(&mut context, 0, 0, BLOCK).unwrap();
        assert!(block == same_block, "{what}");
        let same_checkpoint = archive.checkpoint(&mut context, 0).unwrap();
        assert!(checkpoint[8..] == same_checkpoint[8..], "{what}");
        let found = compute(&mut context, 0, cut..cut + 1);
        assert!(is_as_before(&expected, &found), "{what}");

        // What is no state is refused, and the context goes on.
        let damaged = StoredPart {
            kind: Kind::Tail,
            begin: 0,
            end: 10,
            payload: &checkpoint[..checkpoint.len().min(100)],
        };
        assert!(
            archive.restore(&mut context, 1, &[damaged], 10).is_err(),
            "{what}"
        );
        assert_eq!(context.last_position(0), Some(cut), "{what}");
        assert_eq!(context.last_position(1), None, "{what}");
    }
}

#[test]
fn state_that_was_put_back_gives_bit_identical_logits() {
    state_survives(&model_path(), MemoryClass::Blocks);
}

fn state_of_a_tiny_model_survives(kind: tiny::Kind) {
    let class = if tiny::is_cut_anywhere(kind) {
        MemoryClass::Blocks
    } else {
        MemoryClass::Checkpoints
    };
    state_survives(&tiny::path(kind), class);
}

#[test]
fn state_of_full_attention_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::FullAttention);
}

#[test]
fn state_of_full_attention_with_experts_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::Moe);
}

#[test]
fn state_of_a_sliding_window_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::SlidingWindow);
}

#[test]
fn state_of_a_sliding_window_with_sinks_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::SlidingWindowMoe);
}

#[test]
fn state_of_a_hybrid_with_mamba_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::Hybrid);
}

#[test]
fn state_of_a_hybrid_with_convolutions_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::HybridConvolution);
}

#[test]
fn state_of_a_hybrid_with_delta_nets_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::HybridDeltaNet);
}

#[test]
fn state_of_a_recurrent_model_survives() {
    state_of_a_tiny_model_survives(tiny::Kind::Recurrent);
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
    worker.load(LoadOptions {
        cache: CacheOptions {
            device_tokens: Some(0),
            ..CacheOptions::default()
        },
        ..small()
    });
    let beginning = long_text(200);
    let spec = |prompt: String| {
        let mut spec = greedy(text(&prompt), 4);
        spec.logprobs = Some(5);
        spec
    };
    // Each is stored before the next one comes, so that each of those begins in the same way.
    let run = |worker: &mut Worker, spec| {
        let outcome = worker.run(spec);
        worker.wait_until("all is stored", |activity| activity.cells_used == 0);
        outcome
    };
    let first = run(&mut worker, spec(beginning.clone()));
    assert_eq!(first.failure, None);
    assert_eq!(first.usage.cached_tokens, 0);
    let prompt_tokens = first.usage.prompt_tokens;
    assert!(prompt_tokens > 512, "{prompt_tokens}");

    // The same again: all but the last token is there already, and the distribution is the same.
    let again = run(&mut worker, spec(beginning.clone()));
    assert_eq!(again.usage.cached_tokens, prompt_tokens - 1);
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
    let third = run(&mut worker, spec(beginning.clone()));
    assert_eq!(third.usage, again.usage);
    assert_eq!(third.logprobs, again.logprobs);
    assert_eq!(third.text, again.text);

    // Another end shares the beginning; another beginning shares nothing.
    let longer = run(&mut worker, spec(format!("{beginning} and then?")));
    assert!(longer.usage.cached_tokens >= 512);
    let other = run(&mut worker, spec(format!("No. {beginning}")));
    assert_eq!(other.usage.cached_tokens, 0);
}

#[test]
fn a_cache_without_budget_keeps_nothing() {
    let mut worker = Worker::start();
    worker.load(LoadOptions {
        cache: without_cache(),
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
    worker.wait_until("nothing runs, and something is stored", |activity| {
        activity.sequences_running == 0 && activity.cache.ram_bytes > 0
    });
}
