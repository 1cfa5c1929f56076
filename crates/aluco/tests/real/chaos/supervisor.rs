//! The supervisor itself is killed while it serves.

use std::{fs, os::unix::fs::FileTypeExt as _, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::crowd::STREAMS;
use crate::served::{
    FULL_PRECISION, ONE_BY_ONE, PATIENCE, Served, aluco, assert_gone, empty_home,
    model_in_full_precision, output_of,
};

/// Text of some hundred tokens, no part of which is like another.
fn long_text() -> String {
    let numbers = (1_u32..100).map(|n| (n * 7919).to_string());
    numbers.collect::<Vec<_>>().join(" ")
}

/// A short answer to a long question; gives how many tokens of that were read from disk, and the answer.
async fn ask(served: &Served, model: &str) -> (u64, String) {
    let question = format!("{} What are these?", long_text());
    let fields = json!({"model": model, "max_tokens": 8});
    let reply = served.chat(&question, fields).await;
    let reply: Value = reply.json().await.unwrap();
    let cached = &reply["timings"]["cache"]["disk_tokens"];
    let text = &reply["choices"][0]["message"]["content"];
    let cached = cached.as_u64().unwrap_or_else(|| panic!("{reply}"));
    (cached, text.as_str().unwrap().to_owned())
}

/// Sockets and locks below a folder.
fn left_behind(folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            left.extend(left_behind(&path));
        } else if kind.is_socket() || path.extension().is_some_and(|it| it == "lock") {
            left.push(path.display().to_string());
        }
    }
    left
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_supervisor_killed_with_eight_streams_leaves_what_it_stored_and_nothing_else() {
    let home = empty_home();
    let cache = home.path().join("cache");
    let folder = cache.to_str().unwrap();
    let mut options = vec!["--parallel", "8", "--context", "12288"];
    options.extend(["--cache-dir", folder, "--cache-disk", "256MiB"]);
    // The same answer has to come of what was computed at once and of what was read from disk.
    options.extend(FULL_PRECISION);
    options.extend(ONE_BY_ONE);
    let model = model_in_full_precision();
    let mut served = Served::start(&options);
    let (read, answer) = ask(&served, &model).await;
    assert_eq!(read, 0);
    // What was used again is worth a place on disk.
    assert_eq!(ask(&served, &model).await.1, answer);
    let written = "/models/0/activity/cache/disk_written_bytes";
    served.number_in_status(written, |bytes| bytes > 0).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(served.endless_stream_of(&model).await);
    }
    let worker = served.worker_pid().await;
    let port = served.url.rsplit(':').next().unwrap().to_owned();
    served.signal(Signal::KILL);
    assert!(!served.ended().success());
    assert_gone(worker);
    for mut stream in streams {
        let rest = async { while let Ok(Some(_)) = stream.chunk().await {} };
        tokio::time::timeout(PATIENCE, rest).await.unwrap();
    }
    assert_eq!(left_behind(home.path()), [""; 0]);

    let mut verify = aluco(home.path(), &["cache", "verify", "--json", "--keep"]);
    verify.env("ALUCO_CACHE_DIR", &cache);
    let verified: Value = serde_json::from_str(&output_of(verify)).unwrap();
    assert!(verified["sound_entries"].as_u64() > Some(0), "{verified}");
    assert_eq!(verified["damaged"], json!([]));

    let next = Served::start_at(&port, &options);
    let (read, again) = ask(&next, &model).await;
    assert!(read >= 256, "{read} tokens were read from disk");
    assert_eq!(again, answer);
}
