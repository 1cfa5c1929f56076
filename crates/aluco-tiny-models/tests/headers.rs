//! What the files say of themselves, as Aluco reads it.

use std::fs;

use aluco_model::{
    ModelInfo,
    gguf::{GgufFile, Value},
};
use aluco_tiny_models::{CONTEXT_LENGTH, Kind, SLIDING_WINDOW, write};

/// The file of a kind, and what Aluco makes of it.
fn written(kind: Kind) -> (GgufFile, ModelInfo) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(kind, &path).unwrap();
    let file = GgufFile::open(&path).unwrap_or_else(|error| panic!("{kind}: {error}"));
    let info = ModelInfo::of(&file);
    (file, info)
}

#[test]
fn every_kind_is_a_model_of_a_few_megabytes_to_chat_with() {
    for kind in Kind::ALL {
        let (file, info) = written(kind);
        assert_eq!(info.architecture.as_deref(), Some(kind.architecture()));
        assert_eq!(info.context_length, Some(CONTEXT_LENGTH.into()), "{kind}");
        assert_eq!(info.vocabulary, Some(259), "{kind}");
        assert!(info.has_chat_template, "{kind}");
        let megabytes = info.file_bytes / 1_000_000;
        assert!((1..6).contains(&megabytes), "{kind}: {megabytes} MB");
        let layers = info.layers.unwrap();
        let last = format!("blk.{}.", layers - 1);
        assert!(
            file.tensors()
                .any(|tensor| tensor.name().starts_with(&last))
        );
        let beyond = format!("blk.{layers}.");
        assert!(
            !file
                .tensors()
                .any(|tensor| tensor.name().starts_with(&beyond))
        );
    }
}

#[test]
fn the_file_ends_with_its_last_tensor() {
    for kind in Kind::ALL {
        let (file, info) = written(kind);
        let last = file.tensors().max_by_key(|tensor| tensor.offset()).unwrap();
        let data_end = last.offset() + last.bytes().unwrap();
        let header_bytes = info.file_bytes - data_end;
        assert_eq!(header_bytes % 32, 0, "{kind}");
        assert!(header_bytes < 20_000, "{kind}: {header_bytes}");
    }
}

#[test]
fn the_same_kind_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for kind in Kind::ALL {
        let [first, second] = ["first", "second"].map(|name| {
            let path = folder.path().join(name);
            write(kind, &path).unwrap();
            fs::read(path).unwrap()
        });
        assert!(first == second, "{kind}");
    }
}

#[test]
fn a_model_written_over_a_longer_file_leaves_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, vec![1; 10_000_000]).unwrap();
    write(Kind::Recurrent, &path).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        written(Kind::Recurrent).1.file_bytes
    );
}

#[test]
fn windows_experts_and_recurrent_layers_are_where_the_kind_says() {
    for kind in Kind::ALL {
        let (file, info) = written(kind);
        let windowed = matches!(kind, Kind::SlidingWindow | Kind::SlidingWindowMoe);
        assert_eq!(
            info.sliding_window,
            windowed.then_some(SLIDING_WINDOW.into()),
            "{kind}"
        );
        let with_experts = matches!(
            kind,
            Kind::Moe | Kind::SlidingWindowMoe | Kind::HybridDeltaNet
        );
        assert_eq!(info.experts.is_some(), with_experts, "{kind}");
        let has = |part: &str| file.tensors().any(|tensor| tensor.name().contains(part));
        let with_attention = kind != Kind::Recurrent;
        assert_eq!(has("attn_k.weight"), with_attention, "{kind}");
        let with_state = matches!(
            kind,
            Kind::Hybrid | Kind::HybridConvolution | Kind::HybridDeltaNet | Kind::Recurrent
        );
        assert_eq!(has(".ssm_") || has(".shortconv."), with_state, "{kind}");
    }
}

#[test]
fn every_byte_is_a_token_and_messages_have_tokens_of_control() {
    let (file, _) = written(Kind::FullAttention);
    let array = |key: &str| file.metadata().array(key).unwrap().whole().unwrap();
    let tokens = array("tokenizer.ggml.tokens");
    assert_eq!(tokens[usize::from(b'a')].as_str(), Some("a"));
    assert_eq!(tokens[usize::from(b' ')].as_str(), Some("Ġ"));
    assert_eq!(tokens[257].as_str(), Some("<|im_start|>"));
    let end = file.metadata().u64("tokenizer.ggml.eos_token_id").unwrap();
    assert_eq!(tokens[end as usize].as_str(), Some("<|im_end|>"));
    let types = array("tokenizer.ggml.token_type");
    assert_eq!(types.len(), tokens.len());
    assert_eq!(types[255], Value::I32(1));
    assert_eq!(types[256], Value::I32(3));
}

#[test]
fn a_kind_is_found_by_its_name() {
    for kind in Kind::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    let problem = "mamba".parse::<Kind>().unwrap_err();
    assert!(problem.contains("\"mamba\""), "{problem}");
    assert!(problem.contains("recurrent"), "{problem}");
}
