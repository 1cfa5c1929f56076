use std::{fs, path::Path, time::SystemTime};

use proptest::prelude::*;

use super::*;
use crate::{
    ModelSource,
    gguf::{GgufError, writer::Writer},
};

fn stored(files: &[&Path]) -> StoredModel {
    StoredModel {
        name: "test".into(),
        short_name: None,
        source: ModelSource::File,
        files: files.iter().map(|&path| path.to_owned()).collect(),
        size_bytes: 0,
        modified: SystemTime::UNIX_EPOCH,
    }
}

fn info(writer: &Writer) -> ModelInfo {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    writer.write(&path).unwrap();
    ModelInfo::read(&stored(&[&path])).unwrap()
}

/// A llama of the shape of SmolLM2 135M.
fn llama() -> Writer {
    Writer::new()
        .key("general.architecture", "llama")
        .key("llama.block_count", 30_u32)
        .key("llama.context_length", 8192_u32)
        .key("llama.embedding_length", 576_u32)
        .key("llama.attention.head_count", 9_u32)
        .key("llama.attention.head_count_kv", 3_u32)
}

fn row(info: &ModelInfo, label: &str) -> Option<String> {
    info.rows()
        .into_iter()
        .find(|(found, _)| *found == label)
        .map(|(_, value)| value)
}

#[test]
fn a_dense_model_is_described() {
    let writer = llama()
        .key("general.name", "Small Model")
        .key("general.size_label", "135M")
        .key("general.license", "apache-2.0")
        .key("general.file_type", 15_u32)
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.tokens", vec!["a"; 2000])
        .key("tokenizer.chat_template", "{{ messages }}")
        .tensor("token_embd.weight", &[64, 1000], TensorType::Q8_0)
        .tensor("output_norm.weight", &[64], TensorType::F32);
    let info = info(&writer);
    assert_eq!(info.parameters, 64_064);
    assert_eq!(info.layers, Some(30));
    assert_eq!(info.heads, Some(PerLayer::Same(9)));
    assert_eq!(info.kv_heads, Some(PerLayer::Same(3)));
    assert_eq!((info.key_length, info.value_length), (Some(64), Some(64)));
    assert_eq!(info.kv_bytes_per_token, Some(30 * 3 * (64 + 64) * 2));
    assert_eq!(info.file_bytes, writer.file().len() as u64);
    assert_eq!(info.experts, None);
    let bits = info.bits_per_weight.unwrap();
    assert!((bits - 68_256.0 * 8.0 / 64_064.0).abs() < 1e-9, "{bits}");
    assert_eq!(
        info.rows(),
        [
            ("name", "Small Model"),
            ("architecture", "llama"),
            ("size", "135M"),
            ("parameters", "64.1 K"),
            ("quantisation", "Q4_K_M, 8.52 bits per weight"),
            ("on disk", &Size(info.file_bytes).to_string()),
            ("context", "8,192 tokens"),
            ("layers", "30"),
            ("embedding", "576"),
            ("attention", "9 heads, 3 for keys and values, of 64"),
            ("KV cache", "22.5 KiB per token at f16"),
            ("vocabulary", "2,000 tokens"),
            ("tokenizer", "gpt2"),
            ("chat template", "yes"),
            ("licence", "apache-2.0"),
        ]
        .map(|(label, value)| (label, value.to_string()))
    );
}

#[test]
fn a_file_that_says_nothing_gives_what_can_be_counted() {
    let info = info(&Writer::new().tensor("w", &[32], TensorType::Q4_1));
    assert_eq!(info.parameters, 32);
    assert_eq!(info.architecture, None);
    assert_eq!(info.quantisation.as_deref(), Some("Q4_1"));
    assert_eq!(info.kv_bytes_per_token, None);
    let labels: Vec<_> = info.rows().into_iter().map(|(label, _)| label).collect();
    assert_eq!(
        labels,
        ["parameters", "quantisation", "on disk", "chat template"]
    );
}

#[test]
fn keys_of_the_wrong_type_count_as_missing() {
    let writer = Writer::new()
        .key("general.architecture", "llama")
        .key("general.name", 5_u32)
        .key("llama.block_count", "thirty")
        .key("llama.attention.head_count", -9_i32);
    let info = info(&writer);
    assert_eq!(info.name, None);
    assert_eq!(info.layers, None);
    assert_eq!(info.heads, None);
}

#[test]
fn a_mixture_of_experts_names_both_numbers() {
    let info = info(
        &llama()
            .key("llama.expert_count", 128_u32)
            .key("llama.expert_used_count", 8_u32),
    );
    assert_eq!((info.experts, info.experts_used), (Some(128), Some(8)));
    assert_eq!(
        row(&info, "experts").as_deref(),
        Some("128, 8 for each token")
    );
}

#[test]
fn heads_may_differ_from_layer_to_layer() {
    let writer = Writer::new()
        .key("general.architecture", "deci")
        .key("deci.block_count", 3_u32)
        .key("deci.embedding_length", 512_u32)
        .key("deci.attention.head_count", vec![8_u32, 8, 8])
        .key("deci.attention.head_count_kv", vec![2_u32, 0, 4])
        .key("deci.attention.key_length", 128_u32)
        .key("deci.attention.value_length", 96_u32);
    let info = info(&writer);
    assert_eq!(info.heads, Some(PerLayer::Same(8)));
    assert_eq!(info.kv_heads, Some(PerLayer::Each(vec![2, 0, 4])));
    assert_eq!(info.kv_bytes_per_token, Some(6 * (128 + 96) * 2));
    assert_eq!(
        row(&info, "attention").as_deref(),
        Some("8 heads, 0 to 4 by layer for keys and values, keys of 128, values of 96")
    );
}

#[test]
fn fewer_numbers_than_layers_give_no_kv_figure() {
    let writer = Writer::new()
        .key("general.architecture", "deci")
        .key("deci.block_count", 4_u32)
        .key("deci.attention.head_count", 8_u32)
        .key("deci.attention.head_count_kv", vec![2_u32, 0, 4])
        .key("deci.attention.key_length", 128_u32)
        .key("deci.attention.value_length", 128_u32);
    assert_eq!(info(&writer).kv_bytes_per_token, None);
}

#[test]
fn layers_without_a_cache_of_their_own_are_not_counted() {
    let shared = info(&llama().key("llama.attention.shared_kv_layers", 10_u32));
    assert_eq!(shared.kv_bytes_per_token, Some(20 * 3 * 128 * 2));
    let predicting = info(&llama().key("llama.nextn_predict_layers", 1_u32));
    assert_eq!(predicting.kv_bytes_per_token, Some(29 * 3 * 128 * 2));
    let wrong = info(&llama().key("llama.attention.shared_kv_layers", 31_u32));
    assert_eq!(wrong.kv_bytes_per_token, None);
}

#[test]
fn where_a_plain_kv_figure_would_be_wrong_there_is_none() {
    for key in [
        "ssm.state_size",
        "wkv.head_size",
        "shortconv.l_cache",
        "attention.kv_lora_rank",
        "attention.key_length_mla",
        "attention.key_length_swa",
        "full_attention_interval",
    ] {
        let info = info(&llama().key(&format!("llama.{key}"), 4_u32));
        assert_eq!(info.kv_bytes_per_token, None, "{key}");
        assert_eq!(row(&info, "KV cache"), None, "{key}");
    }
    let encoder = info(&llama().key("llama.attention.causal", false));
    assert_eq!(encoder.kv_bytes_per_token, None);
    let other = info(&llama().key("other.ssm.state_size", 4_u32));
    assert_eq!(other.kv_bytes_per_token, Some(23_040));
}

#[test]
fn a_sliding_window_makes_the_kv_figure_an_upper_bound() {
    let info = info(
        &llama()
            .key("llama.attention.sliding_window", 1024_u32)
            .key("llama.attention.key_length_swa", 64_u32),
    );
    assert_eq!(
        row(&info, "sliding window").as_deref(),
        Some("1,024 tokens")
    );
    assert_eq!(
        row(&info, "KV cache").as_deref(),
        Some("up to 22.5 KiB per token at f16, less beyond the sliding window")
    );
}

#[test]
fn absurd_numbers_do_not_overflow() {
    let writer = Writer::new()
        .key("general.architecture", "llama")
        .key("llama.block_count", u64::MAX)
        .key("llama.embedding_length", u64::MAX)
        .key("llama.attention.head_count", 1_u64)
        .key("llama.attention.head_count_kv", u64::MAX);
    assert_eq!(info(&writer).kv_bytes_per_token, None);
    let zero = Writer::new()
        .key("general.architecture", "llama")
        .key("llama.embedding_length", 64_u32)
        .key("llama.attention.head_count", 0_u32);
    assert_eq!(info(&zero).key_length, None);
}

#[test]
fn texts_of_the_file_carry_no_control_characters() {
    let hostile = "x\u{1b}]0;title\u{7}\r\n\u{202e}";
    let writer = Writer::new()
        .key("general.architecture", hostile)
        .key("general.name", hostile)
        .key("general.size_label", hostile)
        .key("general.license", hostile)
        .key("tokenizer.ggml.model", hostile);
    let info = info(&writer);
    assert_eq!(info.rows().len(), 8);
    for (label, value) in info.rows() {
        assert!(!value.chars().any(char::is_control), "{label}: {value:?}");
        assert!(!value.contains('\u{202e}'), "{label}: {value:?}");
    }
}

#[test]
fn a_licence_that_is_on_no_list_is_told_by_its_name() {
    let other = Writer::new()
        .key("general.license", "other")
        .key("general.license.name", "llama3.2");
    assert_eq!(info(&other).licence.as_deref(), Some("llama3.2"));
    let bare = Writer::new().key("general.license", "other");
    assert_eq!(info(&bare).licence.as_deref(), Some("other"));
}

#[test]
fn parts_are_added_up() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("one"), folder.path().join("two")];
    for (number, path) in (0_u16..).zip(&paths) {
        Writer::new()
            .key("split.no", number)
            .key("split.count", 2_u16)
            .tensor(&format!("t{number}"), &[32], TensorType::F32)
            .write(path)
            .unwrap();
    }
    let info = ModelInfo::read(&stored(&[&paths[0], &paths[1]])).unwrap();
    assert_eq!((info.files, info.parameters), (2, 64));
    let bytes = info.file_bytes;
    assert_eq!(
        row(&info, "on disk"),
        Some(format!("{} in 2 parts", Size(bytes)))
    );
}

#[test]
fn a_damaged_file_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.gguf");
    let bytes = llama().tensor("t", &[32], TensorType::F32).file();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = ModelInfo::read(&stored(&[&path])).unwrap_err();
    assert!(error.to_string().contains("cut.gguf"), "{error}");
    assert!(error.to_string().contains("truncated"), "{error}");
    let ModelError::Gguf {
        path: named,
        source,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(named, path);
    assert!(matches!(source, GgufError::Truncated { .. }));
}

#[test]
fn the_json_has_plain_fields() {
    let json = serde_json::to_value(info(&llama())).unwrap();
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["kv_heads"], 3);
    assert_eq!(json["kv_bytes_per_token"], 23_040);
    assert_eq!(json["experts"], serde_json::Value::Null);
}

proptest! {
    #[test]
    fn a_damaged_header_is_refused_or_described_and_nothing_else(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = llama()
            .key("general.name", "Small Model")
            .key("general.file_type", 15_u32)
            .key("llama.attention.sliding_window", 64_u32)
            .key("tokenizer.ggml.tokens", vec!["a", "b"])
            .tensor("token_embd.weight", &[64, 10], TensorType::Q8_0)
            .file();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        let shown = match ModelInfo::read(&stored(&[file.path()])) {
            Ok(info) => info.rows().into_iter().map(|(_, value)| value).collect(),
            Err(error) => error.to_string(),
        };
        prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
    }
}
