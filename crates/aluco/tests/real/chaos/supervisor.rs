//! The supervisor itself is killed while it serves.

use std::{fs, os::unix::fs::FileTypeExt as _, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::crowd::STREAMS;
use crate::served::{PATIENCE, Served, aluco, assert_gone, empty_home, output_of};

/// Text of some hundred tokens, no part of which is like another.
fn long_text() -> String {
    let numbers = (1_u32..200).map(|n| (n * 7919).to_string());
    numbers.collect::<Vec<_>>().join(" ")
}

/// A short answer to a long question; gives how many tokens of that were read from disk, and the answer.
async fn ask(served: &Served) -> (u64, String) {
    let question = format!("{} What are these?", long_text());
    let reply = served.chat(&question, json!({"max_tokens": 8})).await;
    let reply: Value = reply.json().await.unwrap();
    let cached = &reply["timings"]["cache"]["disk_tokens"];
    let text = &reply["choices"][0]["message"]["content"];
    let cached = cached.as_u64().unwrap_or_else(|| panic!("{reply}"));
    (cached, text.as_str().unwrap().to_owned())
}

/// Waits until something is stored on disk.
async fn stored(served: &Served) {
    let asked = tokio::time::Instant::now();
    loop {
        let status = served.status().await;
        let bytes = &status["models"][0]["activity"]["cache"]["disk_written_bytes"];
        if bytes.as_u64() > Some(0) {
            return;
        }
        assert!(asked.elapsed() < PATIENCE, "nothing is stored: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    let options = [
        "--parallel",
        "8",
        "--context",
        "40000",
        "--cache-dir",
        folder,
        "--cache-disk",
        "256MiB",
    ];
    let mut served = Served::start(&options);
    let (read, answer) = ask(&served).await;
    assert_eq!(read, 0);
    // What was used again is worth a place on disk.
    assert_eq!(ask(&served).await.1, answer);
    stored(&served).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(served.endless_stream().await);
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
    let (read, again) = ask(&next).await;
    assert!(read >= 256, "{read} tokens were read from disk");
    assert_eq!(again, answer);
}
