//! Deleting models.

use std::{fs, process::Command};

use aluco_fake_worker::Script;
use assert_cmd::assert::OutputAssertExt;

use crate::home::Home;

/// Puts a model into the hub cache, with a repository's name for it.
pub(crate) fn put(home: &Home, repo: &str) {
    let folder = home
        .path()
        .join(".cache/huggingface/hub")
        .join(format!("models--org--{repo}"));
    let snapshot = folder.join("snapshots").join("a".repeat(40));
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), "a".repeat(40)).unwrap();
    fs::write(snapshot.join(format!("{repo}-Q4_K_M.gguf")), "weights").unwrap();
}

fn names(home: &Home) -> Vec<String> {
    let output = home.aluco(&["list", "--json"]).assert().success();
    let list: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let models = list.as_array().unwrap().iter();
    models
        .map(|model| model["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn either_all_models_are_deleted_or_none() {
    let home = Home::with(&Script::default());
    put(&home, "owl");
    put(&home, "cat");
    let both = ["org/cat:Q4_K_M", "org/owl:Q4_K_M"];
    assert_eq!(names(&home), both);
    let rm = |names: &[&str]| -> Command {
        let mut command = home.aluco(&["rm", "--yes"]);
        command.args(names);
        command
    };
    rm(&["org/owl:Q4_K_M", "org/dog:Q4_K_M"])
        .assert()
        .code(1)
        .stdout("");
    rm(&["org/owl", "./model.gguf"]).assert().code(1);
    assert_eq!(names(&home), both);
    let output = rm(&["org/owl", "org/owl:Q4_K_M", "--json"])
        .assert()
        .success();
    let deleted: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(deleted[0]["name"], "org/owl:Q4_K_M");
    assert_eq!(deleted[0]["freed_bytes"], 7);
    assert_eq!(deleted[1], serde_json::Value::Null);
    assert_eq!(names(&home), both[..1]);
}

#[test]
fn nothing_is_deleted_without_a_yes() {
    let home = Home::with(&Script::default());
    put(&home, "owl");
    home.aluco(&["rm", "org/owl"])
        .stdin(std::process::Stdio::null())
        .assert()
        .code(2);
    assert_eq!(names(&home), ["org/owl:Q4_K_M"]);
}
