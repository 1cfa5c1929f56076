//! Prompts that are stored on disk.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, SystemTime},
};

use aluco_fake_worker::Script;
use aluco_prefix::{Entry, Fingerprint, Key, Kind, disk::Folder};
use assert_cmd::assert::OutputAssertExt;
use serde_json::{Value, json};

use crate::{home::Home, store};

/// What is stored of a model.
struct Stored {
    home: Home,
    folder: Folder,
}

impl Stored {
    fn new() -> Self {
        let home = Home::with(&Script::default());
        let folder = folder(&home, "owl");
        Self { home, folder }
    }

    /// Stores four tokens below an entry, or as the first.
    fn put(&self, above: Option<&Entry>, first: i32) -> Entry {
        let root = Key::root(self.folder.fingerprint(), "");
        let parent = above.map_or(root, |entry| entry.key);
        let tokens: Box<[i32]> = (first..first + 4).collect();
        let entry = Entry {
            key: parent.child(Kind::Block, &tokens),
            parent,
            kind: Kind::Block,
            begin: above.map_or(0, |entry| entry.begin + entry.tokens.len() as u32),
            tokens,
        };
        self.folder.write(&entry, &[7; 1000]).unwrap();
        entry
    }

    fn age(&self, entry: &Entry, days: u64) {
        let time = SystemTime::now() - Duration::from_secs(days * 86_400 + 60);
        let file = fs::File::open(self.folder.entry_path(&entry.key)).unwrap();
        file.set_modified(time).unwrap();
    }

    fn count(&self) -> usize {
        self.folder.survey().found.len()
    }

    /// What `aluco cache …` writes as JSON, and its exit status.
    fn json(&self, args: &[&str]) -> (Value, i32) {
        let output = self
            .home
            .aluco(&["cache"])
            .args(args)
            .arg("--json")
            .output()
            .unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (value, output.status.code().unwrap())
    }
}

fn folder(home: &Home, model: &str) -> Folder {
    let file = format!("{model}-Q4_K_M.gguf");
    let facts = [
        ("model".to_owned(), "1a2b".to_owned()),
        ("file".to_owned(), file),
    ];
    let root = home.path().join(".cache/aluco/prefix");
    Folder::open(&root, Fingerprint::of([("model", model)]), &facts).unwrap()
}

fn short(entry: &Entry) -> String {
    format!("{:.12}", entry.key)
}

#[test]
fn conversations_are_listed_by_their_last_entry_newest_first() {
    let stored = Stored::new();
    let shared = stored.put(None, 1);
    let old = stored.put(Some(&shared), 10);
    let new = stored.put(Some(&shared), 20);
    stored.age(&shared, 3);
    stored.age(&old, 2);
    let (list, status) = stored.json(&["ls"]);
    assert_eq!(status, 0);
    assert_eq!(list[0]["key"], new.key.to_string());
    assert_eq!(list[1]["key"], old.key.to_string());
    assert_eq!(list[2], Value::Null);
    assert_eq!(list[0]["tokens"], 8);
    assert_eq!(list[0]["model"], "owl-Q4_K_M");
    let file_bytes = 160 + 16 + 1000;
    assert_eq!(list[0]["own_bytes"], file_bytes);
    assert_eq!(list[0]["bytes"], 2 * file_bytes);

    let output = stored.home.aluco(&["cache", "list"]).assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("KEY "), "{text}");
    assert!(lines[1].starts_with(&short(&new)), "{text}");
    assert!(lines[2].contains("2 days ago"), "{text}");

    let (stat, _) = stored.json(&["stat"]);
    let model = &stat["models"][0];
    assert_eq!(model["conversations"], 2);
    assert_eq!(model["entries"], 3);
    assert_eq!(model["tokens"], 12);
    assert_eq!(stat["bytes"], 3 * file_bytes);
    assert_eq!(
        model["facts"],
        json!([["model", "1a2b"], ["file", "owl-Q4_K_M.gguf"]])
    );
    assert!(stat["free_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn nothing_stored_is_told_with_where_it_would_be() {
    let home = Home::with(&Script::default());
    for verb in ["ls", "stat", "verify"] {
        let output = home.aluco(&["cache", verb]).assert().success().stdout("");
        let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        let path = home.path().join(".cache/aluco/prefix");
        let expected = format!("no prompts are stored in {}\n", path.display());
        assert_eq!(text, expected);
        assert!(!path.exists());
    }
    let other = home.path().join("elsewhere");
    fs::create_dir(&other).unwrap();
    let output = home
        .aluco(&["cache", "ls", "--cache-dir", "elsewhere"])
        .output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("stored in elsewhere"), "{text}");
}

#[test]
fn a_model_of_which_nothing_is_stored_is_not_listed() {
    let stored = Stored::new();
    let path = stored.home.path().join(".cache/aluco/prefix");
    let nothing = format!("no prompts are stored in {}\n", path.display());
    for args in [
        &["ls"][..],
        &["stat"],
        &["verify"],
        &["rm", "--all", "--yes"],
    ] {
        // A server may be about to store something: only who deletes takes the folder away.
        assert!(stored.folder.path().exists());
        let mut command = stored.home.aluco(&["cache"]);
        let output = command.args(args).assert().success().stdout("");
        let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert_eq!(text, nothing, "{args:?}");
    }
    assert!(!stored.folder.path().exists());

    let stored = Stored::new();
    stored.put(None, 1);
    folder(&stored.home, "mouse");
    let (stat, _) = stored.json(&["stat"]);
    assert_eq!(stat["models"][0]["model"], "owl-Q4_K_M");
    assert_eq!(stat["models"][1], Value::Null);
    let mut command = stored.home.aluco(&["cache", "ls", "--model", "cat"]);
    let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(
        text.contains("there is something of owl-Q4_K_M\n"),
        "{text}"
    );
}

#[test]
fn what_is_deleted_goes_from_its_end_to_where_others_branch_off() {
    let stored = Stored::new();
    let shared = stored.put(None, 1);
    let first = stored.put(Some(&shared), 10);
    let second = stored.put(Some(&shared), 20);
    let end = stored.put(Some(&second), 30);
    let (deleted, status) = stored.json(&["rm", "--yes", &short(&end)]);
    assert_eq!(status, 0);
    assert_eq!(deleted["entries"], 2);
    assert_eq!(deleted["conversations"], 1);
    assert_eq!(stored.count(), 2);
    stored
        .home
        .aluco(&["cache", "rm", "--yes", &short(&first), &"0".repeat(20)])
        .assert()
        .code(1);
    assert_eq!(stored.count(), 2, "all or none");
    stored.json(&["rm", "--yes", &short(&first)]);
    assert_eq!(stored.count(), 0);
    assert!(!stored.folder.path().exists());
}

#[test]
fn deleting_asks_first_and_says_what_is_missing() {
    let stored = Stored::new();
    stored.put(None, 1);
    stored.put(None, 2);
    let output = stored
        .home
        .aluco(&["cache", "rm", "--all"])
        .stdin(Stdio::null())
        .assert()
        .code(2);
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(
        text.contains("whether to delete 2 conversations (2.30 KiB) cannot be asked here"),
        "{text}"
    );
    for args in [
        &["rm"][..],
        &["rm", "abc", "--all"],
        &["pin"],
        &["rm", "--older-than", "soon"],
    ] {
        let mut command = stored.home.aluco(&["cache"]);
        command.args(args).assert().code(2);
    }
    let unknown = stored
        .home
        .aluco(&["cache", "ls", "--model", "mouse"])
        .output();
    let text = String::from_utf8(unknown.unwrap().stderr).unwrap();
    assert!(text.contains("nothing is stored of mouse"), "{text}");
    assert!(text.contains("there is something of owl-Q4_K_M"), "{text}");
    assert_eq!(stored.count(), 2);
    stored.json(&["rm", "--all", "-y"]);
    assert_eq!(stored.count(), 0);
}

#[test]
fn old_conversations_go_and_pinned_ones_stay() {
    let stored = Stored::new();
    let shared = stored.put(None, 1);
    let old = stored.put(Some(&shared), 10);
    let kept = stored.put(Some(&shared), 20);
    let fresh = stored.put(None, 30);
    for entry in [&shared, &old, &kept] {
        stored.age(entry, 8);
    }
    let (pinned, _) = stored.json(&["pin", &short(&kept)]);
    assert_eq!(pinned[0]["entries"], 2);
    let (list, _) = stored.json(&["ls"]);
    let of = |list: &Value, entry: &Entry| {
        let all = list.as_array().unwrap();
        let found = all.iter().find(|item| item["key"] == entry.key.to_string());
        found.unwrap()["pinned_tokens"].as_u64()
    };
    assert_eq!(of(&list, &kept), Some(8));
    assert_eq!(of(&list, &old), Some(4));
    assert_eq!(of(&list, &fresh), Some(0));

    let (deleted, _) = stored.json(&["rm", "--older-than", "7d", "--yes"]);
    assert_eq!(deleted["entries"], 1);
    assert_eq!(stored.count(), 3);
    let (unpinned, _) = stored.json(&["unpin", &short(&kept)]);
    assert_eq!(unpinned[0]["entries"], 2);
    stored.json(&["rm", "--older-than", "7d", "--yes"]);
    assert_eq!(stored.count(), 1);
    assert!(stored.folder.entry_path(&fresh.key).exists());
}

#[test]
fn one_model_can_be_deleted_and_the_other_stays() {
    let stored = Stored::new();
    stored.put(None, 1);
    let other = Stored {
        folder: folder(&stored.home, "mouse"),
        home: Home::with(&Script::default()),
    };
    other.put(None, 1);
    let (deleted, _) = stored.json(&["rm", "--model", "mouse-Q4_K_M", "--yes"]);
    assert_eq!(deleted["conversations"], 1);
    assert_eq!((stored.count(), other.count()), (1, 0));
}

#[test]
fn a_model_goes_by_the_names_that_other_commands_take() {
    let stored = Stored::new();
    let entry = stored.put(None, 1);
    store::put(&stored.home, "owl");
    store::put(&stored.home, "mouse");
    for name in ["org/owl:Q4_K_M", "owl-Q4_K_M.gguf"] {
        let (list, _) = stored.json(&["ls", "--model", name]);
        assert_eq!(list[0]["key"], entry.key.to_string(), "{name}");
    }
    assert_eq!(stored.json(&["ls", "--model", "org/mouse"]).1, 1);
}

#[test]
fn damage_is_found_told_and_deleted_unless_it_is_to_be_kept() {
    let stored = Stored::new();
    let sound = stored.put(None, 1);
    let damaged = stored.put(Some(&sound), 10);
    let torn = stored.put(None, 20);
    let flip = |path: &PathBuf| {
        let mut bytes = fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip(&stored.folder.entry_path(&damaged.key));
    fs::write(stored.folder.entry_path(&torn.key), "torn").unwrap();

    let (told, status) = stored.json(&["verify", "--keep"]);
    assert_eq!(status, 1);
    assert_eq!(told["sound_entries"], 1);
    assert_eq!(told["damaged"].as_array().unwrap().len(), 2);
    assert!(stored.folder.entry_path(&torn.key).exists());
    // Looking does not delete.
    stored.json(&["ls"]);
    let (stat, _) = stored.json(&["stat"]);
    assert_eq!(stat["models"][0]["damaged_files"], 1);

    let output = stored.home.aluco(&["cache", "verify"]).assert().code(1);
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(
        text.contains("the checksum of its payload does not match; deleted"),
        "{text}"
    );
    assert!(!stored.folder.entry_path(&torn.key).exists());
    assert!(!stored.folder.entry_path(&damaged.key).exists());
    let (told, status) = stored.json(&["verify"]);
    assert_eq!((told["sound_entries"].as_u64(), status), (Some(1), 0));
}
