//! Imports that broke off, or that something has happened to since.

use std::{fs, path::Path};

use aluco_model::{ImportMode, ModelError};

use crate::{Fixture, gguf};

#[test]
fn leftovers_of_dead_imports_are_swept_and_never_listed() {
    let f = Fixture::new();
    let dead = f.root.path().join("models/.incoming-1-1");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("x.gguf"), gguf(100)).unwrap();
    fs::write(
        dead.join("manifest.json"),
        r#"{"version":1,"name":"x","files":[{"name":"x.gguf","size_bytes":100,"sha256":""}],
            "size_bytes":100,"source":"/x.gguf","imported_at_s":0}"#,
    )
    .unwrap();
    assert!(f.names().is_empty());
    let file = f.write("m.gguf", 50);
    f.import(&file, Some("m"), ImportMode::Copy).unwrap();
    assert!(!dead.exists());
    assert_eq!(f.names(), ["m"]);
}

#[test]
fn a_damaged_import_says_so_and_does_not_hide_the_others() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 50);
    f.import(&file, Some("whole"), ImportMode::Copy).unwrap();
    let torn = f.import(&file, Some("torn"), ImportMode::Copy).unwrap();
    fs::write(&torn.files[0], b"GGUF").unwrap();
    assert_eq!(f.names(), ["whole"]);
    let error = f.store.find("torn").unwrap_err();
    assert!(error.to_string().contains("4 bytes and had 50"), "{error}");
    fs::write(torn.files[0].with_file_name("manifest.json"), "{").unwrap();
    assert!(matches!(
        f.store.find("torn"),
        Err(ModelError::Damaged { .. })
    ));
}

/// Breaks an import called `broken` of this file in each way that can happen.
fn break_import(f: &Fixture, file: &Path, way: &str) {
    let mode = if way == "dangling" {
        ImportMode::Link
    } else {
        ImportMode::Copy
    };
    let model = f.import(file, Some("broken"), mode).unwrap();
    let manifest = model.files[0].with_file_name("manifest.json");
    match way {
        "dangling" => fs::remove_file(file).unwrap(),
        "torn manifest" => fs::write(manifest, "{").unwrap(),
        "no manifest" => fs::remove_file(manifest).unwrap(),
        "cut file" => fs::write(&model.files[0], b"GGUF").unwrap(),
        way => panic!("{way} is unknown"),
    }
    assert!(f.store.find("broken").is_err(), "{way}");
}

const WAYS_TO_BREAK: [&str; 4] = ["dangling", "torn manifest", "no manifest", "cut file"];

#[test]
fn a_damaged_import_can_be_removed() {
    let f = Fixture::new();
    for way in WAYS_TO_BREAK {
        break_import(&f, &f.write("m.gguf", 5000), way);
        let freed = f.store.remove("broken").unwrap();
        let held = match way {
            "dangling" => 0,
            "cut file" => 4,
            _ => 5000,
        };
        assert_eq!(freed, held, "{way}");
        let error = f.store.remove("broken").unwrap_err();
        assert!(matches!(error, ModelError::NotFound { .. }), "{error}");
    }
}

#[test]
fn a_damaged_import_makes_room_for_a_new_one_of_its_name() {
    let f = Fixture::new();
    for way in WAYS_TO_BREAK {
        break_import(&f, &f.write("m.gguf", 5000), way);
        let other = f.write("other.gguf", 600);
        let model = f.import(&other, Some("broken"), ImportMode::Copy).unwrap();
        assert_eq!(f.store.find("broken").unwrap(), model, "{way}");
        assert_eq!(model.size_bytes, 600);
        assert_eq!(fs::read_dir(&f.store.config().models).unwrap().count(), 2);
        f.store.remove("broken").unwrap();
    }
}

#[test]
fn an_import_by_a_later_version_can_be_removed_but_is_not_replaced() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 50);
    let model = f.import(&file, Some("later"), ImportMode::Copy).unwrap();
    let manifest = model.files[0].with_file_name("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let error = f
        .import(&file, Some("later"), ImportMode::Copy)
        .unwrap_err();
    assert!(
        error.to_string().contains("another version of Aluco"),
        "{error}"
    );
    assert_eq!(f.store.remove("later").unwrap(), 50);
}
