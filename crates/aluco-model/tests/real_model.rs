//! A real model's header, against what an independent reading of the same file says.

use std::{env, path::PathBuf};

use aluco_model::{
    ModelInfo, PerLayer, Store, StoreConfig, StoredModel, TensorTypeShare,
    gguf::{GgufFile, Header, Limits, Value},
};

/// SmolLM2 135M Instruct in Q4_1.
fn path() -> PathBuf {
    env::var_os("ALUCO_TEST_MODEL")
        .expect(
            "ALUCO_TEST_MODEL names SmolLM2-135M-Instruct.Q4_1.gguf; make test fetches and sets it",
        )
        .into()
}

fn model() -> StoredModel {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(StoreConfig {
        hub_cache: folder.path().join("hub"),
        models: folder.path().join("models"),
    });
    store.find(path().to_str().unwrap()).unwrap()
}

#[test]
#[ignore = "needs a model: make test"]
fn a_real_model_is_described_as_it_is() {
    let info = ModelInfo::read(&model()).unwrap();
    let share = |name: &str, tensors, elements| TensorTypeShare {
        name: name.into(),
        tensors,
        elements,
    };
    let expected = ModelInfo {
        name: Some("Smollm2 135M 8k Lc100K Mix1 Ep2".into()),
        architecture: Some("llama".into()),
        size_label: Some("135M".into()),
        parameters: 134_515_008,
        quantisation: Some("Q4_1".into()),
        tensor_types: vec![
            share("Q4_1", 210, 106_168_320),
            share("Q8_0", 1, 28_311_552),
            share("F32", 61, 35_136),
        ],
        // (106,168,320 / 32 * 20 + 28,311,552 / 32 * 34 + 35,136 * 4) bytes * 8 / 134,515,008
        bits_per_weight: Some(96_576_768.0 * 8.0 / 134_515_008.0),
        file_bytes: 98_362_432,
        files: 1,
        context_length: Some(8192),
        embedding_length: Some(576),
        layers: Some(30),
        heads: Some(PerLayer::Same(9)),
        kv_heads: Some(PerLayer::Same(3)),
        key_length: Some(64),
        value_length: Some(64),
        experts: None,
        experts_used: None,
        sliding_window: None,
        vocabulary: Some(49_152),
        tokenizer: Some("gpt2".into()),
        has_chat_template: true,
        licence: Some("apache-2.0".into()),
        kv_bytes_per_token: Some(23_040),
    };
    assert_eq!(info, expected);
    let rows = info.rows();
    for row in [
        ("parameters", "134.5 M"),
        ("quantisation", "Q4_1, 5.74 bits per weight"),
        ("on disk", "98.4 MB"),
        ("context", "8,192 tokens"),
        ("attention", "9 heads, 3 for keys and values, of 64"),
        ("KV cache", "22.5 KiB per token at f16"),
        ("vocabulary", "49,152 tokens"),
    ] {
        assert!(rows.contains(&(row.0, row.1.into())), "{row:?} in {rows:?}");
    }
}

#[test]
#[ignore = "needs a model: make test"]
fn a_real_header_is_read_to_its_last_byte() {
    let file = GgufFile::open(&path()).unwrap();
    let header = &file.parts()[0].header;
    assert_eq!((header.version, header.metadata.len()), (3, 33));
    assert_eq!(header.tensors.len(), 272);
    assert_eq!(header.header_bytes, 1_785_664);
    assert_eq!(header.file_bytes_min(), file.file_bytes());

    let bytes = std::fs::File::open(path()).unwrap();
    let whole = Header::read(bytes, &Limits::default().keeping_arrays()).unwrap();
    let tokens = whole.metadata.array("tokenizer.ggml.tokens").unwrap();
    let tokens = tokens.whole().unwrap();
    assert_eq!(tokens.len(), 49_152);
    assert_eq!(tokens[1], Value::String("<|im_start|>".into()));
    let merges = whole.metadata.array("tokenizer.ggml.merges").unwrap();
    assert_eq!(merges.length, 48_900);
}
