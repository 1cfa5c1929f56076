//! Predictions from headers alone, beside what llama.cpp (build 12032) says of the same files.

use std::path::PathBuf;

use aluco_model::gguf::{GgufFile, TensorType, Value, writer::Writer};
use aluco_plan::{Bytes, Consumer, Place, Setting, Shape, predict};
use aluco_proto::{Backend, CacheOptions, KvType, LoadOptions};
use aluco_tiny_models::Kind;
use proptest::prelude::*;
use tempfile::TempDir;

const CPU: Setting = Setting {
    backend: Backend::Cpu,
    store: Bytes::ZERO,
};

fn options(kv_type_k: KvType, kv_type_v: KvType) -> LoadOptions {
    LoadOptions {
        context_tokens: Some(2048),
        kv_type_k,
        kv_type_v,
        ..LoadOptions::default()
    }
}

fn tiny(folder: &TempDir, kind: Kind) -> Shape {
    let path = folder.path().join(kind.name());
    aluco_tiny_models::write(kind, &path).unwrap();
    Shape::of(&GgufFile::open(&path).unwrap()).unwrap()
}

/// Weights, then the context at f16, then at q8_0 and q4_0, in bytes.
#[rustfmt::skip]
const TOLD: [(Kind, u64, u64, u64); 8] = [
    (Kind::FullAttention, 2_629_120, 2_097_152, 983_040),
    (Kind::Moe, 4_220_416, 2_097_152, 983_040),
    (Kind::SlidingWindow, 3_820_032, 1_507_328, 808_960),
    (Kind::SlidingWindowMoe, 2_656_000, 1_441_792, 716_800),
    (Kind::Hybrid, 3_652_384, 2_582_528, 2_304_000),
    (Kind::HybridConvolution, 2_764_288, 1_058_816, 501_760),
    (Kind::HybridDeltaNet, 3_517_376, 1_084_928, 806_400),
    (Kind::Recurrent, 2_418_560, 2_744_320, 2_744_320),
];

#[test]
fn weights_and_cells_of_every_kind_of_memory_are_known_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, weights, plain, quantised) in TOLD {
        let shape = tiny(&folder, kind);
        for (k, v, context) in [
            (KvType::F16, KvType::F16, plain),
            (KvType::Q8_0, KvType::Q4_0, quantised),
        ] {
            let plan = predict(&shape, &options(k, v), &CPU);
            let cells = plan.of(Consumer::KvCache) + plan.of(Consumer::RecurrentState);
            assert_eq!(cells, Bytes(context), "{kind}, K {}", k.name());
            // Alignment of the last tensor.
            let off = plan.of(Consumer::Weights).0.abs_diff(weights);
            assert!(off < 64, "{kind}: {:?}", plan.of(Consumer::Weights));
            assert_eq!(plan.at(Place::Device), Bytes::ZERO, "{kind}");
        }
        assert_eq!(shape.unknown, Vec::<String>::new(), "{kind}");
    }
}

#[test]
fn states_are_kept_for_each_sequence_and_cells_are_shared() {
    let folder = tempfile::tempdir().unwrap();
    let shape = tiny(&folder, Kind::Hybrid);
    let with = |sequences_max| {
        let options = LoadOptions {
            sequences_max,
            ..options(KvType::F16, KvType::F16)
        };
        predict(&shape, &options, &CPU)
    };
    let (one, nine) = (with(1), with(9));
    assert_eq!(one.of(Consumer::KvCache), nine.of(Consumer::KvCache));
    // One more than may run.
    let each = one.of(Consumer::RecurrentState).0 / 2;
    assert_eq!(nine.of(Consumer::RecurrentState), Bytes(10 * each));
}

#[test]
fn the_last_layers_go_to_the_gpu_first_and_the_input_never() {
    let folder = tempfile::tempdir().unwrap();
    let shape = tiny(&folder, Kind::FullAttention);
    let on_gpu = |gpu_layers| {
        let options = LoadOptions {
            gpu_layers,
            ..options(KvType::F16, KvType::F16)
        };
        let setting = Setting {
            backend: Backend::Vulkan,
            ..CPU
        };
        predict(&shape, &options, &setting)
    };
    let bytes = |gpu_layers, place, consumer| {
        let plan = on_gpu(gpu_layers);
        let mut items = plan.items.iter();
        items
            .find(|item| (item.place, item.consumer) == (place, consumer))
            .map_or(Bytes::ZERO, |item| item.bytes)
    };
    let layer = shape.layers[0].weights;
    assert_eq!(bytes(None, Place::Host, Consumer::Weights), shape.input);
    assert_eq!(bytes(None, Place::Host, Consumer::KvCache), Bytes::ZERO);
    assert_eq!(
        bytes(Some(0), Place::Device, Consumer::Weights),
        Bytes::ZERO
    );
    // The output counts as a layer.
    let two = bytes(Some(2), Place::Device, Consumer::Weights);
    assert_eq!(two, shape.output + layer);
    let cells = bytes(Some(2), Place::Device, Consumer::KvCache);
    assert_eq!(cells.times(4), on_gpu(None).of(Consumer::KvCache));
}

#[test]
fn an_input_that_is_the_output_too_is_copied_to_the_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let mut shape = tiny(&folder, Kind::FullAttention);
    assert_eq!(shape.tied, None);
    shape.tied = Some(shape.input);
    let options = options(KvType::F16, KvType::F16);
    let weights = |backend| {
        let plan = predict(&shape, &options, &Setting { backend, ..CPU });
        plan.of(Consumer::Weights)
    };
    assert_eq!(weights(Backend::Rocm), weights(Backend::Cpu) + shape.input);
}

#[test]
fn stored_prompts_take_what_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let shape = tiny(&folder, Kind::Moe);
    let setting = Setting {
        store: Bytes::GIB,
        ..CPU
    };
    let stored = |ram_bytes| {
        let options = LoadOptions {
            cache: CacheOptions {
                ram_bytes,
                ..CacheOptions::default()
            },
            ..LoadOptions::default()
        };
        predict(&shape, &options, &setting).of(Consumer::PrefixStore)
    };
    assert_eq!(stored(None), Bytes::GIB);
    assert_eq!(stored(Some(0)), Bytes::ZERO);
    assert_eq!(stored(Some(5)), Bytes(5));
}

fn written(folder: &TempDir, writer: &Writer) -> PathBuf {
    let path = folder.path().join("model.gguf");
    writer.write(&path).unwrap();
    path
}

#[test]
fn a_header_that_says_too_little_is_an_error_with_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let problem = |writer: Writer| {
        let file = GgufFile::open(&written(&folder, &writer)).unwrap();
        Shape::of(&file).unwrap_err().to_string()
    };
    assert!(problem(Writer::new()).contains("names no architecture"));
    let named = Writer::new().key("general.architecture", "llama");
    assert!(problem(named.clone()).contains("has no llama.block_count"));
    let layers = named
        .key("llama.block_count", u64::MAX)
        .key("llama.embedding_length", 1_u32);
    assert!(problem(layers).contains("claims 18446744073709551615 layers"));
}

#[test]
fn an_architecture_with_other_caches_is_said_to_be_uncertain() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Writer::new()
        .key("general.architecture", "deepseek32")
        .key("deepseek32.block_count", 2_u32)
        .key("deepseek32.embedding_length", 64_u32)
        .key("deepseek32.attention.head_count", 2_u32)
        .key("deepseek32.attention.indexer.key_length", 128_u32);
    let shape = Shape::of(&GgufFile::open(&written(&folder, &writer)).unwrap()).unwrap();
    assert_eq!(shape.unknown, ["attention.indexer.key_length"]);
    let plan = predict(&shape, &LoadOptions::default(), &CPU);
    assert!(plan.error_share > 0.1);
}

const NUMBERS: [&str; 22] = [
    "block_count",
    "embedding_length",
    "context_length",
    "feed_forward_length",
    "vocab_size",
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.key_length_mla",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "full_attention_interval",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "shortconv.l_cache",
    "kda.head_dim",
];

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0_u64..300).prop_map(Value::U64),
        any::<u64>().prop_map(Value::U64),
        any::<i32>().prop_map(Value::I32),
        prop::collection::vec(any::<u32>(), 0..4).prop_map(Value::from),
        prop::collection::vec(any::<bool>(), 0..4).prop_map(Value::from),
        Just(Value::from("owl")),
    ]
}

proptest! {
    #[test]
    fn no_header_makes_a_prediction_panic(
        architecture in prop::sample::select(vec![
            "llama", "gemma3", "gemma4", "phi3", "llama4", "exaone4", "lfm2", "qwen35", "falcon-h1",
            "nemotron_h", "jamba", "kimi-linear", "minimax-01", "mamba", "rwkv7", "deepseek2",
        ]),
        values in prop::collection::vec((prop::sample::select(NUMBERS.to_vec()), number()), 0..22),
        layers in 0_u32..600,
        context in any::<u32>(),
        batch in any::<u32>(),
        sequences in any::<u32>(),
        gpu_layers in any::<Option<u32>>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str| format!("{architecture}.{name}");
        let mut writer = Writer::new()
            .key("general.architecture", architecture)
            .key(&key("block_count"), layers)
            .key(&key("embedding_length"), 64_u32)
            .tensor("blk.0.attn_q.weight", &[64, 64], TensorType::F32)
            .tensor("blk.99999999999999999999.x", &[1], TensorType::F32);
        for (name, value) in values {
            if !["block_count", "embedding_length"].contains(&name) {
                writer = writer.key(&key(name), value);
            }
        }
        let Ok(file) = GgufFile::open(&written(&folder, &writer)) else { return Ok(()) };
        let Ok(shape) = Shape::of(&file) else { return Ok(()) };
        let options = LoadOptions {
            context_tokens: Some(context),
            batch_tokens: batch,
            micro_batch_tokens: batch,
            sequences_max: sequences,
            gpu_layers,
            ..LoadOptions::default()
        };
        for backend in [Backend::Cpu, Backend::Vulkan] {
            let plan = predict(&shape, &options, &Setting { backend, store: Bytes::GIB });
            prop_assert!(plan.total() >= plan.engine());
        }
    }
}
