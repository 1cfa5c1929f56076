//! What a stored state depends on, beside its tokens.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use aluco_prefix::Fingerprint;
use aluco_proto::LoadOptions;

use crate::ffi::{Engine, Model};
use crate::hello;

/// The header of a model file is read up to here: metadata and the names, shapes and places of tensors, for most models.
const HEADER_BYTES: u64 = 16 << 20;

/// Weights are sampled at so many places, of so many bytes each.
const SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 16 << 10;

/// Everything on which the bytes of a state depend, by name, and its fingerprint. Context length, threads and batch sizes are not among it.
pub(crate) fn of(
    engine: Engine,
    model: &Model,
    path: &Path,
    options: &LoadOptions,
) -> io::Result<(Fingerprint, Vec<(String, String)>)> {
    let hello = hello::worker_hello(engine);
    let devices: Vec<&str> = hello
        .devices
        .iter()
        .map(|device| match device.description.as_str() {
            "" => device.device.as_str(),
            description => description,
        })
        .collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let facts = vec![
        fact("model", contents(path)?),
        fact(
            "architecture",
            model.metadata("general.architecture").unwrap_or_default(),
        ),
        fact("kv_type_k", options.kv_type_k.name().to_owned()),
        fact("kv_type_v", options.kv_type_v.name().to_owned()),
        fact(
            "flash_attention",
            format!("{:?}", options.flash_attention).to_lowercase(),
        ),
        fact(
            "gpu_layers",
            match options.gpu_layers {
                Some(layers) => layers.to_string(),
                None => "all".to_owned(),
            },
        ),
        fact("backend", hello.backend.to_string()),
        fact("devices", devices.join(", ")),
        fact("engine", hello.engine_build),
    ];
    let fingerprint = Fingerprint::of(
        facts
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    // For people: the same contents under another name are the same model.
    let facts = facts
        .into_iter()
        .chain([fact("file", name.into_owned())])
        .collect();
    Ok((fingerprint, facts))
}

/// A hash of a model file: its length, its header and samples of its weights. Of a split model all files count.
///
/// Reading 100 GB to tell two models apart would cost more than it saves. A fine-tune changes all weights; whoever changes single ones and keeps
/// the length deceives himself alone.
fn contents(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new_derive_key("aluco model contents 1");
    for path in parts(path) {
        let mut file = File::open(&path)?;
        let length = file.metadata()?.len();
        hasher.update(&length.to_le_bytes());
        let mut bytes = Vec::new();
        file.by_ref().take(HEADER_BYTES).read_to_end(&mut bytes)?;
        hasher.update(&bytes);
        for sample in 0..SAMPLES {
            let begin = length.saturating_sub(SAMPLE_BYTES) / SAMPLES * (sample + 1);
            if begin < HEADER_BYTES {
                continue;
            }
            file.seek(SeekFrom::Start(begin))?;
            bytes.clear();
            file.by_ref().take(SAMPLE_BYTES).read_to_end(&mut bytes)?;
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The files of a model: `…-00001-of-00003.gguf` names three.
fn parts(path: &Path) -> Vec<PathBuf> {
    let split = || {
        let name = path.file_name()?.to_str()?;
        let stem = name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (stem, first) = rest.rsplit_once('-')?;
        let is_number =
            |digits: &str| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(count) || !is_number(first) {
            return None;
        }
        let files = 1..=count.parse::<u32>().ok()?;
        Some(
            files
                .map(|index| path.with_file_name(format!("{stem}-{index:05}-of-{count}.gguf")))
                .collect(),
        )
    };
    split().unwrap_or_else(|| vec![path.to_owned()])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn all_files_of_a_split_model_are_named() {
        let names = |path: &str| -> Vec<String> {
            let parts = parts(Path::new(path));
            parts
                .iter()
                .map(|path| path.display().to_string())
                .collect()
        };
        assert_eq!(names("a/m.gguf"), ["a/m.gguf"]);
        assert_eq!(names("a/m-x-of-y.gguf"), ["a/m-x-of-y.gguf"]);
        assert_eq!(
            names("a/m-00001-of-00002.gguf"),
            ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"]
        );
    }

    #[test]
    fn a_changed_weight_is_noticed_anywhere_in_the_header_and_the_length_always() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let mut bytes = vec![1_u8; 100_000];
        fs::write(&path, &bytes).unwrap();
        let first = contents(&path).unwrap();
        assert_eq!(contents(&path).unwrap(), first);
        bytes[99_999] = 2;
        fs::write(&path, &bytes).unwrap();
        assert_ne!(contents(&path).unwrap(), first);
        bytes[99_999] = 1;
        bytes.push(1);
        fs::write(&path, &bytes).unwrap();
        assert_ne!(contents(&path).unwrap(), first);
        assert!(contents(&folder.path().join("none.gguf")).is_err());
    }
}
