//! KV cells that were taken out and put back are the very same.

mod support;

use aluco_proto::{FlashAttention, KvType, WeightLoading};
use aluco_worker::ffi::{Batch, Context, ContextOptions, Decoded, Engine, Model, ModelOptions};
use support::model_path;

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
