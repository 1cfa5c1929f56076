//! Files on disk: whole, cut, and in parts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{super::*, small};
use crate::gguf::writer::Writer;

fn part_path(folder: &Path, number: u64, count: u64) -> PathBuf {
    folder.join(format!("model-{number:05}-of-{count:05}.gguf"))
}

/// Part `number` (from 1) of three, with one tensor of eight elements.
fn part(number: u16) -> Writer {
    part_claiming(number, 3, 3)
}

fn part_claiming(number: u16, count: u16, tensors: i32) -> Writer {
    let mut writer = Writer::new()
        .key("split.no", number - 1)
        .key("split.count", count)
        .key("split.tensors.count", tensors);
    if number == 1 {
        writer = writer.key("general.architecture", "llama");
    }
    writer.tensor(&format!("blk.{number}"), &[8], TensorType::F32)
}

fn three_parts(folder: &Path) -> Vec<PathBuf> {
    (1..=3)
        .map(|number: u16| {
            let path = part_path(folder, number.into(), 3);
            part(number).write(&path).unwrap();
            path
        })
        .collect()
}

fn error_of(result: Result<GgufFile, GgufError>) -> (PathBuf, GgufError) {
    match result {
        Err(GgufError::InFile { path, error }) => (path, *error),
        other => panic!("expected an error that names its file, got {other:?}"),
    }
}

#[test]
fn a_whole_file_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    small().write(&path).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.parts().len(), 1);
    assert_eq!(file.tensors().count(), 3);
    assert_eq!(file.file_bytes(), fs::metadata(&path).unwrap().len());
}

#[test]
fn a_file_cut_at_any_byte_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    small().write(&path).unwrap();
    let whole = fs::metadata(&path).unwrap().len();
    let header_bytes = small().header().len() as u64;
    let file = File::options().write(true).open(&path).unwrap();
    for end in (0..whole).rev() {
        file.set_len(end).unwrap();
        let (named, error) = error_of(GgufFile::open(&path));
        assert_eq!(named, path);
        match error {
            GgufError::HeaderCut { offset, .. } => {
                assert!(end < header_bytes && offset == end, "cut at {end}");
            }
            GgufError::Truncated {
                expected_bytes,
                present_bytes,
            } => {
                assert!(end >= header_bytes, "cut at {end}");
                assert_eq!((expected_bytes, present_bytes), (whole, end));
            }
            other => panic!("cut at {end}: {other}"),
        }
    }
}

#[test]
fn a_split_model_opens_by_any_of_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three_parts(folder.path());
    for path in &paths {
        let file = GgufFile::open(path).unwrap();
        let found: Vec<_> = file.parts().iter().map(|part| part.path.clone()).collect();
        assert_eq!(found, paths);
        assert_eq!(file.metadata().str("general.architecture"), Some("llama"));
        let names: Vec<_> = file.tensors().map(TensorInfo::name).collect();
        assert_eq!(names, ["blk.1", "blk.2", "blk.3"]);
    }
    let listed = GgufFile::open_parts(&paths, &Limits::default()).unwrap();
    assert_eq!(listed, GgufFile::open(&paths[1]).unwrap());
}

#[test]
fn a_missing_part_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three_parts(folder.path());
    fs::remove_file(&paths[1]).unwrap();
    let (named, error) = error_of(GgufFile::open(&paths[2]));
    assert_eq!(named, paths[1]);
    assert!(matches!(
        error,
        GgufError::MissingPart {
            present: 2,
            total: 3
        }
    ));
}

#[test]
fn a_truncated_part_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three_parts(folder.path());
    let bytes = part(2).file();
    fs::write(&paths[1], &bytes[..bytes.len() - 1]).unwrap();
    let (named, error) = error_of(GgufFile::open(&paths[0]));
    assert_eq!(named, paths[1]);
    assert!(matches!(error, GgufError::Truncated { .. }));
}

#[test]
fn a_part_under_another_name_cannot_find_its_siblings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("renamed.gguf");
    part(2).write(&path).unwrap();
    let (_, error) = error_of(GgufFile::open(&path));
    assert!(matches!(
        error,
        GgufError::PartName {
            number: 2,
            total: 3
        }
    ));
    assert!(error.to_string().contains("-00002-of-00003.gguf"));
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let mismatch = |change: &dyn Fn(&[PathBuf])| {
        let folder = tempfile::tempdir().unwrap();
        let paths = three_parts(folder.path());
        change(&paths);
        match error_of(GgufFile::open(&paths[0])).1 {
            GgufError::PartMismatch { problem } => problem,
            other => panic!("expected a mismatch, got {other}"),
        }
    };
    let swapped = mismatch(&|paths| part(3).write(&paths[1]).unwrap());
    assert_eq!(swapped, "it stands for part 2 of 3 and is part 3");
    let other_count = mismatch(&|paths| part_claiming(2, 4, 3).write(&paths[1]).unwrap());
    assert_eq!(
        other_count,
        "it is one of 4 parts, and 3 belong to the model"
    );
    let whole = mismatch(&|paths| small().write(&paths[1]).unwrap());
    assert_eq!(whole, "it stands for part 2 of 3 and is a whole model");
    let named = mismatch(&|paths| part(2).write(&paths[0]).unwrap());
    assert_eq!(
        named,
        "by its name it is part 1 of 3, by its header part 2 of 3"
    );
    let counted = mismatch(&|paths| part_claiming(1, 3, 4).write(&paths[0]).unwrap());
    assert_eq!(counted, "it announces 4 tensors, and all parts have 3");
    let twice = mismatch(&|paths| {
        let writer = Writer::new()
            .key("split.no", 1_u16)
            .key("split.count", 3_u16);
        let writer = writer.tensor("blk.1", &[8], TensorType::F32);
        writer.write(&paths[1]).unwrap();
    });
    assert_eq!(twice, "two parts have a tensor blk.1");
    let many = mismatch(&|paths| part_claiming(1, 5000, 3).write(&paths[0]).unwrap());
    assert!(many.contains("no more than 4096"), "{many}");
    let beyond = mismatch(&|paths| part_claiming(4, 3, 3).write(&paths[0]).unwrap());
    assert!(beyond.contains("claims to be number 3"), "{beyond}");
}

#[test]
fn the_limit_on_tensors_is_for_all_parts_together() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three_parts(folder.path());
    let limits = Limits {
        tensors_max: 2,
        ..Limits::default()
    };
    let (named, error) = error_of(GgufFile::open_within(&paths[0], &limits));
    assert_eq!(named, paths[2]);
    assert!(matches!(
        error,
        GgufError::OverLimit {
            what: "tensors",
            ..
        }
    ));
}

#[test]
fn folders_and_missing_files_are_errors_with_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let (named, error) = error_of(GgufFile::open(folder.path()));
    assert_eq!(named, folder.path());
    assert!(matches!(error, GgufError::NotAFile));
    let (_, error) = error_of(GgufFile::open(&folder.path().join("none.gguf")));
    assert!(matches!(error, GgufError::Io(_)));
    assert!(matches!(
        GgufFile::open_parts(&[], &Limits::default()),
        Err(GgufError::NotAFile)
    ));
}
