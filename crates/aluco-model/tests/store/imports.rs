//! Files that are taken into the store.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    sync::Arc,
};

use aluco_model::{ImportMode, ImportOptions, ModelError, Store};

use crate::{Fixture, NEW, REPO, gguf};

#[test]
fn an_import_is_found_under_its_name_and_before_the_catalogues() {
    let f = Fixture::new();
    let file = f.write("SmolLM2-135M-Instruct.Q4_1.gguf", 3_000_000);
    let mut seen = Vec::new();
    let options = ImportOptions {
        name: Some("smollm2:135m".parse().unwrap()),
        ..ImportOptions::default()
    };
    let model = f
        .store
        .import(&file, &options, &mut |progress| seen.push(progress))
        .unwrap();
    assert_eq!(seen.last().unwrap().done_bytes, 3_000_000);
    assert_eq!(seen.last().unwrap().total_bytes, 3_000_000);
    assert_eq!(model.size_bytes, 3_000_000);
    assert_eq!(f.store.find("SmolLM2:135M").unwrap(), model);
    assert_eq!(f.store.find("smollm2").unwrap(), model);
    assert_eq!(f.store.list().unwrap(), [model]);
    assert!(file.exists());

    let again = f.import(&file, Some("smollm2:135m"), ImportMode::Share);
    assert_eq!(
        again.unwrap().name,
        "smollm2:135m",
        "the same again is no error"
    );
    let other = f.write("other.gguf", 50);
    let error = f
        .import(&other, Some("smollm2:135m"), ImportMode::Share)
        .unwrap_err();
    assert!(matches!(error, ModelError::NameTaken { .. }), "{error}");
}

#[test]
fn an_import_without_a_name_gets_one_from_its_file() {
    let f = Fixture::new();
    let file = f.write("SmolLM2 135M-Instruct.Q4_1.gguf", 50);
    let model = f.import(&file, None, ImportMode::Copy).unwrap();
    assert_eq!(model.name, "smollm2-135m-instruct:q4_1");
    assert_eq!(f.store.find("smollm2-135m-instruct").unwrap(), model);
}

#[test]
fn each_mode_of_import_treats_the_original_as_it_says() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    let copy = f.import(&file, Some("copy"), ImportMode::Copy).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    assert!(!copy.files[0].is_symlink());
    let link = f.import(&file, Some("link"), ImportMode::Link).unwrap();
    assert_eq!(fs::read_link(&link.files[0]).unwrap(), file);
    assert_eq!(f.store.remove("link").unwrap(), 0);
    assert!(file.exists());
    let moved = f.import(&file, Some("moved"), ImportMode::Move).unwrap();
    assert!(!file.exists());
    assert_eq!(fs::read(&moved.files[0]).unwrap(), gguf(5000));
    assert_eq!(f.store.remove("moved").unwrap(), 5000);
    assert_eq!(f.names(), ["copy"]);
    assert_eq!(f.store.remove("copy").unwrap(), 5000);
}

#[test]
fn an_import_through_a_link_brings_the_contents_and_not_the_link() {
    let f = Fixture::new();
    f.cache_file(NEW, "m-Q4_0.gguf", "blob", 5000);
    let cached = f.store.find(REPO).unwrap();
    let model = f
        .import(&cached.files[0], Some("mine"), ImportMode::Share)
        .unwrap();
    assert!(!model.files[0].is_symlink());
    assert_eq!(
        f.store.remove(REPO).unwrap(),
        0,
        "the import holds the bytes"
    );
    assert_eq!(
        fs::read(&f.store.find("mine").unwrap().files[0]).unwrap(),
        gguf(5000)
    );
}

#[test]
fn a_split_import_keeps_the_names_that_llama_cpp_needs() {
    let f = Fixture::new();
    f.write("big/x-00002-of-00002.gguf", 40);
    let first = f.write("big/x-00001-of-00002.gguf", 30);
    let model = f.import(&first, Some("big:q4"), ImportMode::Share).unwrap();
    assert!(model.files[0].ends_with("big@q4/big-q4-00001-of-00002.gguf"));
    assert!(model.files[1].ends_with("big@q4/big-q4-00002-of-00002.gguf"));
    assert_eq!(model.size_bytes, 70);
}

#[test]
fn what_is_no_gguf_file_is_refused_before_anything_is_written() {
    let f = Fixture::new();
    let path = f.root.path().join("page.gguf");
    for contents in [b"<!DOCTYPE html>".as_slice(), b"", b"GG"] {
        fs::write(&path, contents).unwrap();
        let error = f.import(&path, None, ImportMode::Copy).unwrap_err();
        assert!(matches!(error, ModelError::NotGguf { .. }), "{error}");
    }
    assert!(!f.root.path().join("models").exists());
}

#[test]
fn a_copy_that_does_not_fit_is_refused_with_the_numbers_and_leaves_nothing() {
    let f = Fixture::new();
    let store = Store::with_free_space(f.store.config().clone(), Arc::new(|_| Ok(1000)));
    let file = f.write("m.gguf", 5000);
    let options = ImportOptions {
        mode: ImportMode::Copy,
        ..ImportOptions::default()
    };
    match store.import(&file, &options, &mut |_| ()) {
        // A file system that shares blocks between copies needs no space.
        Ok(model) => assert_eq!(model.size_bytes, 5000),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("5.0 kB needed, 1.0 kB free"), "{text}");
            assert!(f.names().is_empty());
            let left: Vec<_> = fs::read_dir(f.root.path().join("models"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(left, [".lock"]);
        }
    }
}

#[test]
fn a_move_of_what_is_there_already_deletes_the_original() {
    let f = Fixture::new();
    f.import(&f.write("m.gguf", 5000), Some("m"), ImportMode::Copy)
        .unwrap();
    let again = f.write("again.gguf", 5000);
    let model = f.import(&again, Some("m"), ImportMode::Move).unwrap();
    assert!(!again.exists());
    assert_eq!(fs::read(&model.files[0]).unwrap(), gguf(5000));

    let other = f.write("other.gguf", 600);
    let error = f.import(&other, Some("m"), ImportMode::Move).unwrap_err();
    assert!(matches!(error, ModelError::NameTaken { .. }), "{error}");
    assert!(other.exists());
}

#[test]
fn a_move_over_a_link_to_the_same_file_brings_the_bytes() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    f.import(&file, Some("m"), ImportMode::Link).unwrap();
    let model = f.import(&file, Some("m"), ImportMode::Move).unwrap();
    assert!(!file.exists());
    assert!(!model.files[0].is_symlink());
    assert_eq!(f.store.find("m").unwrap(), model);
    assert_eq!(fs::read(&model.files[0]).unwrap(), gguf(5000));
}

#[test]
fn a_file_of_an_import_cannot_be_imported_or_moved_away() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    let copy = f.import(&file, Some("copy"), ImportMode::Copy).unwrap();
    let link = f.import(&file, Some("link"), ImportMode::Link).unwrap();
    let from_outside = f.root.path().join("outside.gguf");
    symlink(&copy.files[0], &from_outside).unwrap();
    for source in [&copy.files[0], &link.files[0], &from_outside] {
        for mode in [ImportMode::Move, ImportMode::Link] {
            let error = f.import(source, Some("new"), mode).unwrap_err();
            assert!(
                matches!(error, ModelError::AlreadyImported { .. }),
                "{error}"
            );
        }
    }
    assert_eq!(f.names(), ["copy", "link"]);
}
