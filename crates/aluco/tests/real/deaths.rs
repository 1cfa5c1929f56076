//! Processes that are killed while they work.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::served::{ENDLESS_TOKENS, PATIENCE, Served, assert_gone, assert_there, chunks, kill};

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_stream_goes_on_when_its_worker_is_killed_and_tells_it_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let moment = folder.path().join("moment");
    // The first worker does not get beyond this step, so that it is killed in the midst of the stream.
    let fault = format!("hang-in-decode:8:{}", moment.display());
    let served = Served::start_with_fault(&fault, &[]);
    let fields = json!({"stream": true, "max_tokens": 200, "ignore_eos": true});
    let stream = served.chat("Count to a million.", fields).await;
    assert_there(&moment);
    let pid = served.worker_pid().await;
    kill(pid);
    let text = stream.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let last = chunks(&text).pop().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length", "{last}");
    assert_eq!(last["aluco"]["restarts"], 1, "{last}");
    let resumed_at = &last["aluco"]["resumed_at_tokens"][0];
    assert!(resumed_at.as_u64() > Some(0), "{last}");
    assert_gone(pid);
    let answer = served.answer("Say hello.", json!({"max_tokens": 4})).await;
    assert!(!answer.is_empty());
    assert_ne!(served.worker_pid().await, pid);
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_killed_supervisor_leaves_nothing_behind() {
    let mut served = Served::start(&[]);
    let mut stream = served.endless_stream().await;
    let worker = served.worker_pid().await;
    served.signal(Signal::KILL);
    assert!(!served.ended().success());
    assert_gone(worker);
    // The client is told by the end of the connection.
    let rest = async { while let Ok(Some(_)) = stream.chunk().await {} };
    let ended = tokio::time::timeout(PATIENCE, rest).await;
    assert!(ended.is_ok());
    // The address is free again, and the next server works.
    let port = served.url.rsplit(':').next().unwrap().to_owned();
    let next = Served::start_at(&port, &[]);
    assert_eq!(next.url, served.url);
    assert!(
        !next
            .answer("Say hello.", json!({"max_tokens": 4}))
            .await
            .is_empty()
    );
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_server_that_is_told_to_stop_finishes_what_runs() {
    let mut served = Served::start(&["--shutdown-limit", "2m"]);
    let fields = json!({"stream": true, "max_tokens": 40, "ignore_eos": true});
    let stream = served.chat("Count.", fields).await;
    let worker = served.worker_pid().await;
    served.signal(Signal::TERM);
    let text = stream.text().await.unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(served.ended().success(), "{}", served.log());
    assert_gone(worker);
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_client_that_goes_away_frees_its_sequence() {
    let served = Served::start(&["--parallel", "1"]);
    drop(served.endless_stream().await);
    // With one sequence only, this waits until the abandoned one has ended.
    let answer = served.answer("Say hello.", json!({"max_tokens": 4})).await;
    assert!(!answer.is_empty());
    let decoded = served.number_in_status("/models/0/activity/decode_tokens", |_| true);
    let decoded = decoded.await;
    assert!(decoded < ENDLESS_TOKENS, "it went on to its end");
}

#[test]
#[ignore = "needs the worker and a model: make test"]
fn a_server_without_a_key_listens_on_loopback_only() {
    let home = crate::served::empty_home();
    let refused = crate::served::aluco(home.path(), &["serve", "--host", "0.0.0.0", "--port", "0"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("no API key is set"), "{said}");
}
