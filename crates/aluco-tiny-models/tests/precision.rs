//! A model in full precision beside the quantised one that it comes from.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use aluco_model::gguf::{GgufFile, Limits, TensorType, writer::Writer};
use aluco_tiny_models::in_full_precision;

/// A header like that of a model, with two tensors, one of them padded.
fn header() -> Writer {
    let tokens: Vec<String> = (0..2000).map(|n| format!("token {n}")).collect();
    Writer::new()
        .alignment(64)
        .key("general.architecture", "llama")
        .key("general.file_type", 3_u32)
        .key("general.quantization_version", 2_u32)
        .key("tokenizer.ggml.tokens", tokens)
        .tensor("norm.weight", &[3], TensorType::F32)
        .tensor("embed.weight", &[32, 2], TensorType::Q8_0)
}

/// The same with bytes for tensors.
fn write(path: &Path) {
    let mut file = header().file();
    let data = file.len() - 64 - 2 * 34;
    for (index, number) in [0.5_f32, -1.0, 3.25].into_iter().enumerate() {
        file[data + 4 * index..][..4].copy_from_slice(&number.to_le_bytes());
    }
    let blocks = &mut file[data + 64..];
    for (row, scale) in [(0, 0x3c00_u16), (1, 0x4000)] {
        blocks[34 * row..][..2].copy_from_slice(&scale.to_le_bytes());
        for index in 0..32 {
            blocks[34 * row + 2 + index] = index as u8;
        }
    }
    fs::write(path, file).unwrap();
}

#[test]
fn a_model_in_full_precision_has_the_same_keys_and_the_numbers_of_the_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.Q8_0.gguf");
    write(&model);
    let path = in_full_precision(&model).unwrap();
    assert_eq!(path, folder.path().join("tiny.Q8_0.F32.gguf"));

    let limits = Limits::default().keeping_arrays();
    let file = GgufFile::open_within(&path, &limits).unwrap();
    let tokens = file.metadata().array("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.whole().unwrap().len(), 2000);
    assert_eq!(file.metadata().u64("general.file_type"), Some(0));
    assert_eq!(file.metadata().u64("general.alignment"), None);
    let header = &file.parts()[0].header;
    let bytes = fs::read(&path).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = file.tensors().find(|it| it.name() == name).unwrap();
        assert_eq!(tensor.tensor_type(), TensorType::F32);
        let begin = (header.data_offset + tensor.offset()) as usize;
        let bytes = &bytes[begin..][..4 * tensor.elements() as usize];
        let numbers = bytes.chunks_exact(4);
        numbers
            .map(|it| f32::from_le_bytes(it.try_into().unwrap()))
            .collect()
    };
    assert_eq!(numbers("norm.weight"), [0.5, -1.0, 3.25]);
    let rows = [1.0, 2.0].map(|scale| (0..32_u8).map(move |n| f32::from(n) * scale));
    let expected: Vec<f32> = rows.into_iter().flatten().collect();
    assert_eq!(numbers("embed.weight"), expected);
}

#[test]
fn a_model_in_full_precision_is_written_once_and_again_if_it_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    write(&model);
    let path = in_full_precision(&model).unwrap();
    let first = fs::read(&path).unwrap();
    // Later than anything that is written now, however coarse the clock of the file system is.
    let later = SystemTime::now() + Duration::from_secs(3600);
    let file = File::options().append(true).open(&path).unwrap();
    file.set_modified(later).unwrap();
    let changed = || fs::metadata(&path).unwrap().modified().unwrap();
    let at = changed();
    assert!(at > SystemTime::now());
    in_full_precision(&model).unwrap();
    assert_eq!(changed(), at);

    fs::write(&path, &first[..first.len() - 1]).unwrap();
    in_full_precision(&model).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    let mut damaged = first.clone();
    damaged[40] ^= 1;
    fs::write(&path, &damaged).unwrap();
    in_full_precision(&model).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_type_that_is_not_known_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("tiny.gguf");
    let q6_k = TensorType::known().find(|it| it.name() == Some("Q6_K"));
    let writer = Writer::new().tensor("output.weight", &[256], q6_k.unwrap());
    writer.write(&model).unwrap();
    let error = in_full_precision(&model).unwrap_err().to_string();
    assert!(error.contains("output.weight is Q6_K"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
