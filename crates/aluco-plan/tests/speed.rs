//! Predictions beside speeds that others have published of Strix Halo machines. The headers are made from the models' public
//! hyperparameters; that they come to the size of the published files says that they are the right ones.
//!
//! `LHL`: `llama-bench` rows of lhl/strix-halo-testing (Apache-2.0), August 2025, tg128 and pp512; the least and the most over its builds.
//! `KYUZ0`: single figures of kyuz0/amd-strix-halo-toolboxes, `docs/results.json` of May 2026 (Framework Desktop, 128 GB).

use std::fs::File;

use aluco_model::gguf::{GgufFile, TensorType, writer::Writer};
use aluco_plan::speed::{
    BytesPerSecond, FlopsPerSecond, Rates, SpeedPlan, TokensPerSecond, Work, decode_limit,
};
use aluco_proto::{Backend, LoadOptions};

const GIB: f64 = 1_073_741_824.0;

const Q4_0: TensorType = TensorType(2);
const Q4_1: TensorType = TensorType(3);
const Q5_0: TensorType = TensorType(6);
const Q8_0: TensorType = TensorType(8);
const Q3_K: TensorType = TensorType(11);
const Q4_K: TensorType = TensorType(12);
const Q6_K: TensorType = TensorType(14);
const MXFP4: TensorType = TensorType(39);

/// A published model: its shape, the types of its tensors, and the size of its file.
struct Model {
    architecture: &'static str,
    layers: u32,
    embedding: u64,
    vocabulary: u64,
    heads: u64,
    kv_heads: u64,
    head: u64,
    feed_forward: u64,
    experts: Option<Experts>,
    window: Option<u32>,
    /// The input's matrix serves as the output's, too.
    is_tied: bool,
    types: Types,
    file_gib: f64,
    /// How far the made header may be from that: files of mixed types are made of one.
    file_error: f64,
}

struct Experts {
    count: u64,
    used: u64,
    feed_forward: u64,
    shared: u64,
    dense_layers: u32,
}

#[derive(Clone, Copy)]
struct Types {
    input: TensorType,
    output: TensorType,
    most: TensorType,
    /// Values and the last matrix of the feed-forward network, in every other layer.
    better: TensorType,
    experts: TensorType,
}

impl Types {
    const fn all(of: TensorType) -> Self {
        Self {
            input: of,
            output: of,
            most: of,
            better: of,
            experts: of,
        }
    }

    /// `Q4_K_M` of llama.cpp.
    const fn q4_k_m() -> Self {
        Self {
            output: Q6_K,
            better: Q6_K,
            ..Self::all(Q4_K)
        }
    }
}

impl Model {
    fn llama_2_7b(types: Types, file_gib: f64) -> Self {
        Self {
            architecture: "llama",
            layers: 32,
            embedding: 4096,
            vocabulary: 32_000,
            heads: 32,
            kv_heads: 32,
            head: 128,
            feed_forward: 11_008,
            experts: None,
            window: None,
            is_tied: false,
            types,
            file_gib,
            file_error: 0.01,
        }
    }

    fn smollm2_135m() -> Self {
        Self {
            layers: 30,
            embedding: 576,
            vocabulary: 49_152,
            heads: 9,
            kv_heads: 3,
            head: 64,
            feed_forward: 1536,
            is_tied: true,
            ..Self::llama_2_7b(
                Types {
                    input: Q8_0,
                    ..Types::all(Q4_1)
                },
                0.0899,
            )
        }
    }

    fn llama_3_1_8b() -> Self {
        Self {
            vocabulary: 128_256,
            kv_heads: 8,
            feed_forward: 14_336,
            ..Self::llama_2_7b(Types::q4_k_m(), 4.575)
        }
    }

    fn qwen3_32b() -> Self {
        Self {
            architecture: "qwen3",
            layers: 64,
            embedding: 5120,
            vocabulary: 151_936,
            heads: 64,
            kv_heads: 8,
            feed_forward: 25_600,
            ..Self::llama_2_7b(Types::all(Q8_0), 32.421)
        }
    }

    fn gpt_oss_20b(types: Types, file_gib: f64) -> Self {
        Self {
            architecture: "gpt-oss",
            layers: 24,
            embedding: 2880,
            vocabulary: 201_088,
            heads: 64,
            kv_heads: 8,
            head: 64,
            feed_forward: 0,
            experts: Some(Experts {
                count: 32,
                used: 4,
                feed_forward: 2880,
                shared: 0,
                dense_layers: 0,
            }),
            window: Some(128),
            ..Self::llama_2_7b(
                Types {
                    experts: MXFP4,
                    ..types
                },
                file_gib,
            )
        }
    }

    fn qwen3_moe(large: bool) -> Self {
        let of = |small, big| if large { big } else { small };
        Self {
            architecture: "qwen3moe",
            layers: if large { 94 } else { 48 },
            embedding: of(2048, 4096),
            vocabulary: 151_936,
            heads: of(32, 64),
            kv_heads: 4,
            feed_forward: 0,
            experts: Some(Experts {
                count: 128,
                used: 8,
                feed_forward: of(768, 1536),
                shared: 0,
                dense_layers: 0,
            }),
            types: Types::all(if large { Q3_K } else { Q4_K }),
            file_gib: if large { 96.994 } else { 16.493 },
            file_error: 0.05,
            ..Self::llama_2_7b(Types::all(Q4_0), 0.0)
        }
    }

    fn llama_4_scout() -> Self {
        Self {
            architecture: "llama4",
            layers: 48,
            embedding: 5120,
            vocabulary: 202_048,
            heads: 40,
            kv_heads: 8,
            feed_forward: 0,
            experts: Some(Experts {
                count: 16,
                used: 1,
                feed_forward: 8192,
                shared: 8192,
                dense_layers: 0,
            }),
            types: Types::all(Q4_K),
            file_gib: 57.728,
            file_error: 0.05,
            ..Self::llama_2_7b(Types::all(Q4_0), 0.0)
        }
    }

    fn dots_1() -> Self {
        Self {
            architecture: "dots1",
            layers: 62,
            embedding: 4096,
            vocabulary: 152_064,
            heads: 32,
            kv_heads: 32,
            feed_forward: 10_944,
            experts: Some(Experts {
                count: 128,
                used: 6,
                feed_forward: 1408,
                shared: 2816,
                dense_layers: 1,
            }),
            types: Types {
                experts: Q4_0,
                ..Types::all(Q5_0)
            },
            file_gib: 80.874,
            file_error: 0.08,
            ..Self::llama_2_7b(Types::all(Q4_0), 0.0)
        }
    }

    /// The model's cost, read from a header as a file of its size would have it. The tensors are a hole in that file.
    fn work(&self) -> Work {
        let key = |name: &str| format!("{}.{name}", self.architecture);
        let mut writer = Writer::new()
            .key("general.architecture", self.architecture)
            .key(&key("block_count"), self.layers)
            .key(&key("embedding_length"), self.embedding)
            .key(&key("attention.head_count"), self.heads)
            .key(&key("attention.head_count_kv"), self.kv_heads)
            .key(&key("attention.key_length"), self.head)
            .key(&key("attention.value_length"), self.head)
            .key(&key("feed_forward_length"), self.feed_forward);
        if let Some(window) = self.window {
            writer = writer.key(&key("attention.sliding_window"), window);
        }
        if let Some(experts) = &self.experts {
            writer = writer
                .key(&key("expert_count"), experts.count)
                .key(&key("expert_used_count"), experts.used)
                .key(&key("leading_dense_block_count"), experts.dense_layers);
        }
        let types = &self.types;
        let matrix = [self.embedding, self.vocabulary];
        writer = writer.tensor("token_embd.weight", &matrix, types.input);
        if !self.is_tied {
            writer = writer.tensor("output.weight", &matrix, types.output);
        }
        for layer in 0..self.layers {
            writer = self.layer(writer, layer);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        writer = writer.key("general.name", "made from public hyperparameters");
        std::fs::write(&path, writer.header()).unwrap();
        let bytes = (self.file_gib * 1.2 * GIB) as u64;
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
        let work = Work::of(&GgufFile::open(&path).unwrap()).unwrap();
        let off = work.file.0 as f64 / GIB / self.file_gib - 1.0;
        assert!(off.abs() < self.file_error, "{}: {off}", self.architecture);
        work
    }

    fn layer(&self, mut writer: Writer, layer: u32) -> Writer {
        let types = &self.types;
        let better = if layer.is_multiple_of(2) {
            types.better
        } else {
            types.most
        };
        let (wide, narrow) = (self.heads * self.head, self.kv_heads * self.head);
        let mut add = |name: &str, sides: &[u64], of: TensorType| {
            let name = format!("blk.{layer}.{name}.weight");
            writer = std::mem::take(&mut writer).tensor(&name, sides, of);
        };
        add("attn_q", &[self.embedding, wide], types.most);
        add("attn_k", &[self.embedding, narrow], types.most);
        add("attn_v", &[self.embedding, narrow], better);
        add("attn_output", &[wide, self.embedding], types.most);
        let experts = self.experts.as_ref();
        let experts = experts.filter(|experts| layer >= experts.dense_layers);
        let Some(experts) = experts else {
            add("ffn_gate", &[self.embedding, self.feed_forward], types.most);
            add("ffn_up", &[self.embedding, self.feed_forward], types.most);
            add("ffn_down", &[self.feed_forward, self.embedding], better);
            return writer;
        };
        let width = experts.feed_forward;
        for name in ["ffn_gate_exps", "ffn_up_exps"] {
            let sides = [self.embedding, width, experts.count];
            add(name, &sides, types.experts);
        }
        let sides = [width, self.embedding, experts.count];
        add("ffn_down_exps", &sides, types.experts);
        if experts.shared > 0 {
            let sides = [self.embedding, experts.shared];
            add("ffn_gate_shexp", &sides, types.most);
            add("ffn_up_shexp", &sides, types.most);
            let sides = [experts.shared, self.embedding];
            add("ffn_down_shexp", &sides, types.most);
        }
        writer
    }
}

/// Copies within the GPU's memory: rocm-bandwidth-test, lhl/strix-halo-testing. Products: 25 to 31 TFLOP/s by ROCm 7.2 and 7.14.
fn strix_halo(backend: Backend) -> Rates {
    Rates {
        backend,
        memory: Some(BytesPerSecond(212.6e9)),
        matrix: Some(FlopsPerSecond(30e12)),
        disk: None,
    }
}

/// Asserts that the published decode speeds, from the slowest to the fastest build, lie in the band.
fn assert_decodes(model: &Model, backend: Backend, depth: u64, low: f64, high: f64) {
    let work = model.work();
    let plan = SpeedPlan::of(&work, &LoadOptions::default(), &strix_halo(backend), depth);
    let band = if depth == 0 {
        plan.decode
    } else {
        plan.decode_full
    };
    let band = band.expect("it is predicted");
    let name = model.architecture;
    println!("{name} {backend} at {depth}: {band}, published {low} to {high}");
    for published in [low, high] {
        assert!(
            band.holds(&TokensPerSecond(published)),
            "{name} by {backend} at {depth}: {published} is not in {band:?}"
        );
    }
    // A band that holds anything says nothing.
    assert!(band.band.high.0 / band.band.low.0 < 4.0, "{name}: {band:?}");
    let limit = decode_limit(&work, BytesPerSecond(256e9));
    assert!(limit > TokensPerSecond(high), "{name}: {limit:?}");
}

#[test]
fn dense_models_decode_as_fast_as_others_have_measured() {
    // LHL, and KYUZ0 for the fastest of llama-2-7b.
    let q4_0 = || {
        Model::llama_2_7b(
            Types {
                output: Q6_K,
                ..Types::all(Q4_0)
            },
            3.562,
        )
    };
    assert_decodes(&q4_0(), Backend::Vulkan, 0, 46.7, 55.7);
    assert_decodes(&q4_0(), Backend::Rocm, 0, 48.0, 51.3);
    let q4_k_m = || Model::llama_2_7b(Types::q4_k_m(), 3.8);
    assert_decodes(&q4_k_m(), Backend::Vulkan, 0, 47.9, 49.2);
    assert_decodes(&q4_k_m(), Backend::Rocm, 0, 37.1, 42.5);
    // LHL: shisa-v2-llama3.1-8b.i1-Q4_K_M.
    assert_decodes(&Model::llama_3_1_8b(), Backend::Vulkan, 0, 42.0, 43.4);
    assert_decodes(&Model::llama_3_1_8b(), Backend::Rocm, 0, 34.3, 37.2);
    assert_decodes(&Model::qwen3_32b(), Backend::Vulkan, 0, 6.39, 6.40);
    assert_decodes(&Model::qwen3_32b(), Backend::Rocm, 0, 6.29, 6.39);
}

#[test]
fn experts_that_do_not_work_on_a_token_cost_it_nothing() {
    // KYUZ0: gpt-oss-20b-mxfp4; LHL: gpt-oss-20b-F16.
    let mxfp4 = || Model::gpt_oss_20b(Types::all(Q8_0), 11.27);
    assert_decodes(&mxfp4(), Backend::Vulkan, 0, 74.2, 79.8);
    assert_decodes(&mxfp4(), Backend::Rocm, 0, 72.7, 73.0);
    let f16 = || Model::gpt_oss_20b(Types::all(TensorType::F16), 12.833);
    assert_decodes(&f16(), Backend::Vulkan, 0, 46.5, 47.1);
    assert_decodes(&f16(), Backend::Rocm, 0, 45.8, 47.4);
    // LHL: UD-Q4_K_XL files, and UD-Q3_K_XL of Qwen3-235B-A22B.
    assert_decodes(&Model::qwen3_moe(false), Backend::Vulkan, 0, 66.2, 78.0);
    assert_decodes(&Model::qwen3_moe(false), Backend::Rocm, 0, 47.9, 61.0);
    assert_decodes(&Model::qwen3_moe(true), Backend::Vulkan, 0, 14.3, 15.2);
    assert_decodes(&Model::qwen3_moe(true), Backend::Rocm, 0, 12.7, 12.9);
    assert_decodes(&Model::llama_4_scout(), Backend::Vulkan, 0, 19.3, 19.8);
    assert_decodes(&Model::llama_4_scout(), Backend::Rocm, 0, 16.3, 17.6);
    assert_decodes(&Model::dots_1(), Backend::Vulkan, 0, 22.1, 22.3);
    assert_decodes(&Model::dots_1(), Backend::Rocm, 0, 18.5, 19.2);
}

#[test]
fn a_long_context_slows_decoding_down_as_others_have_measured() {
    // KYUZ0, at 32,768 tokens: every layer of llama-2-7b reads all of them, every second one of gpt-oss-20b.
    let llama = || {
        Model::llama_2_7b(
            Types {
                output: Q6_K,
                ..Types::all(Q4_0)
            },
            3.562,
        )
    };
    assert_decodes(&llama(), Backend::Vulkan, 32_768, 8.5, 9.4);
    assert_decodes(&llama(), Backend::Rocm, 32_768, 5.6, 7.0);
    let gpt_oss = || Model::gpt_oss_20b(Types::all(Q8_0), 11.27);
    assert_decodes(&gpt_oss(), Backend::Vulkan, 32_768, 51.8, 61.1);
    assert_decodes(&gpt_oss(), Backend::Rocm, 32_768, 52.2, 57.3);
}

#[test]
fn prompts_are_computed_as_fast_as_others_have_measured() {
    // KYUZ0 with ROCm, whose products of matrices were measured on the same kind of machine; pp512.
    let llama = Model::llama_2_7b(
        Types {
            output: Q6_K,
            ..Types::all(Q4_0)
        },
        3.562,
    );
    let gpt_oss = Model::gpt_oss_20b(Types::all(Q8_0), 11.27);
    // LHL: the fastest builds of 2025; slower ones lacked kernels for this GPU.
    let scout = Model::llama_4_scout();
    for (model, low, high) in [
        (llama, 1516.0, 1545.0),
        (gpt_oss, 1786.0, 1813.0),
        (scout, 230.0, 306.0),
    ] {
        let work = model.work();
        let plan = SpeedPlan::of(
            &work,
            &LoadOptions::default(),
            &strix_halo(Backend::Rocm),
            0,
        );
        let band = plan.prefill.unwrap();
        println!("{}: {band}, published {low} to {high}", model.architecture);
        for published in [low, high] {
            assert!(
                band.holds(&TokensPerSecond(published)),
                "{}: {published} is not in {band:?}",
                model.architecture
            );
        }
    }
}

#[test]
fn a_small_model_on_two_cores_is_about_as_fast_as_it_was_measured() {
    // `aluco machine bench` and `aluco bench -p 512 -n 64` by turns on two idle cores of an AMD EPYC (Zen 4), November 2026: GB/s read,
    // GFLOP/s of the product of f16 by f32, then tokens/s of prefill and decode of SmolLM2-135M at Q4_1.
    for (memory, matrix, prefilled, decoded) in [
        (35.4, 208.4, 378.4, 141.3),
        (39.1, 198.7, 331.3, 118.4),
        (57.6, 204.3, 377.9, 143.0),
    ] {
        let rates = Rates {
            backend: Backend::Cpu,
            memory: Some(BytesPerSecond(memory * 1e9)),
            matrix: Some(FlopsPerSecond(matrix * 1e9)),
            disk: None,
        };
        let work = Model::smollm2_135m().work();
        let plan = SpeedPlan::of(&work, &LoadOptions::default(), &rates, 0);
        let (decode, prefill) = (plan.decode.unwrap(), plan.prefill.unwrap());
        println!("smollm2 on two cores: decode {decode}, prefill {prefill}");
        for (band, measured) in [(decode, decoded), (prefill, prefilled)] {
            let is_held = band.holds(&TokensPerSecond(measured));
            assert!(is_held, "{measured} is not in {band:?}");
        }
    }
}

#[test]
fn a_small_model_on_two_cores_slows_down_with_depth_as_it_was_measured() {
    // As above, with `-d 4096`; 48.4 tokens/s without flash attention.
    let rates = Rates {
        backend: Backend::Cpu,
        memory: Some(BytesPerSecond(57.6e9)),
        matrix: Some(FlopsPerSecond(204.3e9)),
        disk: None,
    };
    let work = Model::smollm2_135m().work();
    let plan = SpeedPlan::of(&work, &LoadOptions::default(), &rates, 4096);
    let band = plan.decode_full.unwrap();
    println!("smollm2 on two cores at 4,096: decode {band}");
    assert!(
        band.holds(&TokensPerSecond(34.6)) && band.holds(&TokensPerSecond(48.4)),
        "{band:?}"
    );
}
