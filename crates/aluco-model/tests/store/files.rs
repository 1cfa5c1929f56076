//! Models that are named by their path.

use std::{fs, os::unix::fs::symlink, path::Path};

use aluco_model::{ModelError, ModelSource};

use crate::{Fixture, NEW, gguf};

#[test]
fn a_model_given_by_path_is_found_with_all_its_parts_and_never_deleted() {
    let f = Fixture::new();
    let first = f.write("m-Q4_0-00001-of-00002.gguf", 30);
    let second = f.root.path().join("m-Q4_0-00002-of-00002.gguf");
    let error = f.store.find(first.to_str().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("only 1 of its 2 parts"),
        "{error}"
    );
    fs::write(&second, gguf(40)).unwrap();
    let model = f.store.find(second.to_str().unwrap()).unwrap();
    assert_eq!(model.files, [first.clone(), second]);
    assert_eq!(model.name, first.display().to_string());
    assert_eq!((model.size_bytes, model.source), (70, ModelSource::File));
    let error = f.store.remove(first.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, ModelError::NotOurs { .. }), "{error}");
    assert!(first.exists());
    let error = f.store.find("./no/such.gguf").unwrap_err();
    assert!(matches!(error, ModelError::NoSuchFile { .. }), "{error}");
}

#[test]
fn a_file_is_one_model_however_its_path_is_spelled() {
    let f = Fixture::new();
    let root = fs::canonicalize(f.root.path()).unwrap();
    let file = f.write("real/m.gguf", 30);
    let name = root.join("real/m.gguf").display().to_string();
    symlink("real", root.join("folder")).unwrap();
    symlink("real/m.gguf", root.join("other.gguf")).unwrap();
    symlink("../other.gguf", root.join("real/again.gguf")).unwrap();
    for spelling in [
        "real/m.gguf",
        "real/../real/./m.gguf",
        "folder/m.gguf",
        "other.gguf",
        "folder/again.gguf",
    ] {
        let spelled = f.root.path().join(spelling);
        let model = f.store.find(spelled.to_str().unwrap()).unwrap();
        assert_eq!(model.name, name, "{spelling}");
        assert_eq!(model.files, [Path::new(&name)], "{spelling}");
    }
    fs::remove_file(file).unwrap();
    let error = f.store.find(root.join("other.gguf").to_str().unwrap());
    assert!(matches!(error, Err(ModelError::NoSuchFile { .. })));
}

#[test]
fn a_link_whose_target_says_less_than_itself_is_not_followed() {
    let f = Fixture::new();
    let root = fs::canonicalize(f.root.path()).unwrap();
    f.cache_file(NEW, "m-Q4_0.gguf", "blob", 100);
    let cached = f.repo_folder().join("snapshots").join(NEW);
    symlink(cached.join("m-Q4_0.gguf"), root.join("link.gguf")).unwrap();
    let model = f.store.find(root.join("link.gguf").to_str().unwrap());
    assert!(model.unwrap().files[0].ends_with(format!("{NEW}/m-Q4_0.gguf")));

    // Parts on several disks, gathered by links.
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        let target = f.write(&format!("disk-of-{part}/{part}"), 30);
        symlink(target, root.join(part)).unwrap();
    }
    let first = root.join("m-00001-of-00002.gguf");
    let model = f.store.find(first.to_str().unwrap()).unwrap();
    assert_eq!(model.files, [first, root.join("m-00002-of-00002.gguf")]);
}
