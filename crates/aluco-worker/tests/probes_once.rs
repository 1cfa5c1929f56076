//! What a load found out of a model's memory is not found out again by the next one, unless anything is different.

mod support;

use std::{fs, path::Path};

use aluco_prefix::disk;
use aluco_proto::{CacheOptions, GenerationSpec, KvType, LoadOptions, Prompt};
use support::{Worker, greedy, tiny, turns};
use tiny::Kind;

const PROBED: &str = "as probed";
const NOTED: &str = "as noted";

fn options(folder: &Path) -> LoadOptions {
    LoadOptions {
        kv_type_k: KvType::F32,
        kv_type_v: KvType::F32,
        cache: CacheOptions {
            folder: Some(folder.to_owned()),
            // Else a disk that is nearly full is complained of.
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..tiny::options(2048)
    }
}

/// Long enough to be stored on disk.
fn prompt() -> GenerationSpec {
    greedy(Prompt::Tokens(turns::text(1, 1100)), 2)
}

/// Loads a model, has it say something, and unloads it; tells how it is known how its prompts are kept.
fn load(worker: &mut Worker, kind: Kind, options: LoadOptions) -> &'static str {
    worker.notices.clear();
    worker.load_file(&tiny::path(kind), options);
    assert_eq!(worker.run(prompt()).failure, None);
    worker.unload();
    assert_eq!(worker.complaints, [] as [String; 0]);
    let is_told = |how: &str| worker.notices.iter().any(|notice| notice.ends_with(how));
    match (is_told(PROBED), is_told(NOTED)) {
        (true, false) => PROBED,
        (false, true) => NOTED,
        _ => panic!("{:?}", worker.notices),
    }
}

fn note(folder: &Path) -> std::path::PathBuf {
    let folders = disk::folders(folder);
    assert_eq!(folders.len(), 1);
    folders[0].folder().path().join("note")
}

#[test]
fn every_kind_of_memory_is_probed_once_though_the_process_is_another() {
    for kind in Kind::ALL {
        let folder = tempfile::tempdir().unwrap();
        for found in [PROBED, NOTED, NOTED] {
            let mut worker = Worker::start();
            let options = options(folder.path());
            assert_eq!(load(&mut worker, kind, options), found, "{kind}");
        }
    }
}

#[test]
fn a_note_that_is_damaged_or_gone_means_another_probe() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let mut load = || load(&mut worker, Kind::Hybrid, options(folder.path()));
    assert_eq!(load(), PROBED);
    let path = note(folder.path());
    let good = fs::read(&path).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bad in [&changed[..], &good[..good.len() / 2], b"", b"\xff\xfe"] {
        fs::write(&path, bad).unwrap();
        assert_eq!((load(), load()), (PROBED, NOTED));
        assert!(fs::read(&path).unwrap() == good);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!((load(), load()), (PROBED, NOTED));
}

#[test]
fn whatever_is_different_means_another_probe() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let first = options(folder.path());
    let kind = Kind::SlidingWindow;
    assert_eq!(load(&mut worker, kind, first.clone()), PROBED);
    // Under the same fingerprint, where the last load counts.
    let others = [
        LoadOptions {
            context_tokens: Some(4096),
            ..first.clone()
        },
        LoadOptions {
            micro_batch_tokens: 64,
            ..first.clone()
        },
        LoadOptions {
            sequences_max: 2,
            ..first.clone()
        },
    ];
    for other in others {
        assert_eq!(load(&mut worker, kind, other.clone()), PROBED);
        assert_eq!(load(&mut worker, kind, other), NOTED);
    }
    assert_eq!(load(&mut worker, kind, first.clone()), PROBED);
    // Under another one.
    let cells = LoadOptions {
        kv_type_k: KvType::F16,
        kv_type_v: KvType::F16,
        ..first.clone()
    };
    assert_eq!(load(&mut worker, kind, cells), PROBED);
    assert_eq!(load(&mut worker, Kind::Recurrent, first.clone()), PROBED);
    assert_eq!(load(&mut worker, kind, first.clone()), NOTED);
    // An engine that is told something may compute otherwise.
    let mut told = Worker::with_variable("GGML_TEST", "1");
    assert_eq!(load(&mut told, kind, first), PROBED);
}

#[test]
fn a_note_goes_with_the_stored_prompts_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    assert_eq!(
        load(&mut worker, Kind::FullAttention, options(folder.path())),
        PROBED
    );
    // As `aluco cache rm` does, while the model is not loaded and while it is.
    let empty = || {
        let stored = disk::folders(folder.path())[0].folder();
        let found = stored.survey().found;
        for found in &found {
            stored.remove(&found.entry.key).unwrap();
        }
        assert!(stored.remove_if_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        found.len()
    };
    assert!(empty() > 0);
    worker.load_file(&tiny::path(Kind::FullAttention), options(folder.path()));
    empty();
    assert_eq!(worker.run(prompt()).failure, None);
    worker.unload();
    for found in [PROBED, NOTED] {
        let found_now = load(&mut worker, Kind::FullAttention, options(folder.path()));
        assert_eq!(found_now, found);
    }
    worker.load_file(&tiny::path(Kind::FullAttention), options(folder.path()));
    assert!(worker.run(prompt()).cache.disk_tokens >= 1024);
}

#[test]
fn nothing_is_noted_without_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let nowhere = CacheOptions {
        folder: None,
        ..CacheOptions::default()
    };
    let no_room = CacheOptions {
        disk_bytes: Some(0),
        ..options(folder.path()).cache
    };
    for cache in [nowhere, no_room] {
        for _ in 0..2 {
            let options = LoadOptions {
                cache: cache.clone(),
                ..options(folder.path())
            };
            assert_eq!(load(&mut worker, Kind::FullAttention, options), PROBED);
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
