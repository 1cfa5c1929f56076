//! Predictions beside what llama.cpp says it would take, and what it took. `make test` builds and fetches what it takes and runs these; by
//! themselves they need `ALUCO_TEST_WORKER` and `ALUCO_TEST_MODEL`, two paths.

mod made;
mod worker;

use std::path::{Path, PathBuf};

use aluco_model::gguf::GgufFile;
use aluco_plan::{Bytes, Setting, Shape, predict};
use aluco_proto::{Backend, CacheOptions, FlashAttention, KvType, LoadOptions};
use made::{Kind, Size};
use worker::{Breakdown, Worker, estimates, off};

const SETTING: Setting = Setting {
    backend: Backend::Cpu,
    store: Bytes::ZERO,
};

fn shape(path: &Path) -> Shape {
    Shape::of(&GgufFile::open(path).unwrap()).unwrap()
}

fn made(folder: &Path, name: &str, kind: Kind, size: Size) -> PathBuf {
    let path = folder.join(name).with_extension("gguf");
    made::write(kind, size, &path).unwrap();
    path
}

fn grid() -> Vec<LoadOptions> {
    let mut grid = Vec::new();
    for context in [2048, 8192, 32_768, 131_072] {
        for (micro_batch, fused) in [
            (512, FlashAttention::Auto),
            (2048, FlashAttention::Auto),
            (128, FlashAttention::Auto),
            (512, FlashAttention::Off),
        ] {
            grid.push(LoadOptions {
                context_tokens: Some(context),
                micro_batch_tokens: micro_batch,
                flash_attention: fused,
                ..LoadOptions::default()
            });
        }
        for kv_type in [KvType::Q8_0, KvType::Q4_0] {
            grid.push(LoadOptions {
                context_tokens: Some(context),
                kv_type_k: kv_type,
                kv_type_v: kv_type,
                ..LoadOptions::default()
            });
        }
    }
    grid
}

/// Asks of a large model what it takes, for every setting of the grid.
fn the_memory_is_known_from_the_header(name: &str, kind: Kind, size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), name, kind, size);
    let (shape, grid) = (shape(&path), grid());
    for (options, told) in grid.iter().zip(estimates(&path, &grid)) {
        let predicted = Breakdown::predicted(&predict(&shape, options, &SETTING));
        assert_near(name, options, predicted, told);
    }
}

/// A test for each of some models as large as those people run: all in one would take minutes on a busy machine.
macro_rules! known_from_the_header {
    ($($test:ident: $name:literal, $kind:expr, $size:expr;)+) => {$(
        #[test]
        #[ignore = "needs the worker: make test"]
        fn $test() {
            the_memory_is_known_from_the_header($name, $kind, $size);
        }
    )+};
}

#[rustfmt::skip]
known_from_the_header! {
    the_memory_of_a_dense_model_is_known_from_its_header: "llama-8b", Kind::Dense, Size { layers: 32, embedding: 4096, heads: 32, kv_heads: 8, head_length: 128, feed_forward: 14_336, vocabulary: 128_256 };
    the_memory_of_a_model_without_shared_heads_is_known_from_its_header: "smol-1b", Kind::Dense, Size { layers: 24, embedding: 2048, heads: 32, kv_heads: 32, head_length: 64, feed_forward: 8192, vocabulary: 49_152 };
    the_memory_of_a_model_with_experts_is_known_from_its_header: "moe-30b", Kind::Experts(128), Size { layers: 48, embedding: 2048, heads: 32, kv_heads: 4, head_length: 128, feed_forward: 768, vocabulary: 151_936 };
    the_memory_of_a_model_with_windows_is_known_from_its_header: "gemma-12b", Kind::Window(1024), Size { layers: 48, embedding: 3840, heads: 16, kv_heads: 8, head_length: 256, feed_forward: 15_360, vocabulary: 262_144 };
    the_memory_of_a_hybrid_model_is_known_from_its_header: "granite-3b", Kind::Hybrid, Size { layers: 40, embedding: 2048, heads: 32, kv_heads: 8, head_length: 64, feed_forward: 8192, vocabulary: 100_352 };
    the_memory_of_a_recurrent_model_is_known_from_its_header: "mamba-2b", Kind::Recurrent, Size { layers: 64, embedding: 2560, heads: 0, kv_heads: 0, head_length: 0, feed_forward: 0, vocabulary: 50_288 };
    the_memory_of_a_model_with_compressed_keys_is_known_from_its_header: "deepseek-16b", Kind::Compressed, Size { layers: 27, embedding: 2048, heads: 16, kv_heads: 1, head_length: 128, feed_forward: 10_944, vocabulary: 102_400 };
}

/// Three architectures, four contexts, three types of KV cache: by the header, by the worker's estimate, by a load.
#[test]
#[ignore = "needs the worker and a model: make test"]
fn what_a_load_takes_is_known_before() {
    #[rustfmt::skip]
    const MADE: [(&str, Kind, Size); 2] = [
        ("window", Kind::Window(512), Size { layers: 18, embedding: 640, heads: 4, kv_heads: 1, head_length: 256, feed_forward: 2048, vocabulary: 65_536 }),
        ("hybrid", Kind::Hybrid, Size { layers: 20, embedding: 768, heads: 12, kv_heads: 4, head_length: 64, feed_forward: 2048, vocabulary: 49_152 }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut models = vec![PathBuf::from(
        std::env::var_os("ALUCO_TEST_MODEL").expect("ALUCO_TEST_MODEL is set"),
    )];
    models.extend(MADE.map(|(name, kind, size)| made(folder.path(), name, kind, size)));
    let mut worker = Worker::start();
    for path in models {
        let shape = shape(&path);
        let name = shape.architecture.clone();
        for context_tokens in [1024, 2048, 4096, 8192] {
            for kv_type in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
                let options = LoadOptions {
                    context_tokens: Some(context_tokens),
                    kv_type_k: kv_type,
                    kv_type_v: kv_type,
                    cache: CacheOptions {
                        device_tokens: Some(0),
                        ram_bytes: Some(0),
                        ..CacheOptions::default()
                    },
                    ..LoadOptions::default()
                };
                let estimated = worker.estimate(&path, &options);
                let measured = worker.load(&path, &options);
                let predicted = Breakdown::predicted(&predict(&shape, &options, &SETTING));
                assert_near(&name, &options, predicted, measured);
                assert_near(&name, &options, estimated, measured);
                assert_eq!(estimated.context, measured.context, "{name}: {options:?}");
                assert_eq!(estimated.compute, measured.compute, "{name}: {options:?}");
            }
        }
    }
}

/// Asserts that weights and context are foreseen within half a percent, and the sum within three.
fn assert_near(name: &str, options: &LoadOptions, foreseen: Breakdown, measured: Breakdown) {
    let line = format!(
        "{name}: {foreseen:?}, not {measured:?}, with {:?} tokens in steps of {}, KV {}, {:?}",
        options.context_tokens,
        options.micro_batch_tokens,
        options.kv_type_k.name(),
        options.flash_attention
    );
    assert!(
        off(foreseen.weights, measured.weights).abs() < 0.005,
        "{line}"
    );
    assert!(
        off(foreseen.context, measured.context).abs() < 0.005,
        "{line}"
    );
    assert!(
        off(foreseen.total(), measured.total()).abs() < 0.03,
        "{line}"
    );
}
