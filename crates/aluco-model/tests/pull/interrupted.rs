//! Downloads that stop halfway.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use aluco_model::{Hub, ModelError, PullStage, Store};
use rustix::fs::FlockOperation;
use tokio::sync::Notify;

use crate::{
    FILE, FILE_BYTES, Fixture, NAME, PART_BYTES, REPO, contents,
    fake_hub::{AtLimit, FakeHub, sha256},
    hub_config, store_config,
};

/// Where the hub stops sending; in the middle of some parts.
const STOP_BYTES: u64 = 9 * PART_BYTES + 1000;
/// With four parts under way, at least these many are complete by then.
const COMPLETE_BYTES: u64 = 5 * PART_BYTES;

const CHILD_ENDPOINT: &str = "ALUCO_TEST_PULL_ENDPOINT";
const CHILD_ROOT: &str = "ALUCO_TEST_PULL_ROOT";

async fn check_the_rest_is_fetched(mut f: Fixture, kept_bytes_min: u64) {
    // Another hub, because requests of the first download may still be on their way to the old one.
    f.server = FakeHub::serve(REPO, &[(FILE, contents(FILE_BYTES, 1))]).await;
    let (model, reports) = f.pull_watched(NAME).await;
    assert!(fs::read(&model.unwrap().files[0]).unwrap() == contents(FILE_BYTES, 1));
    let resumed = reports.last().unwrap().bytes_resumed;
    assert!(resumed >= kept_bytes_min, "only {resumed} bytes were kept");
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES - resumed);
    let first = reports.iter().find(|r| r.stage == PullStage::Downloading);
    assert_eq!(first.unwrap().bytes_done, resumed);
    assert_eq!(f.blobs(), [sha256(&contents(FILE_BYTES, 1))]);
}

/// Drops a download when several of its parts are complete and others are under way.
async fn drop_halfway(f: &Fixture) {
    f.server.state().bytes_allowed = Some((STOP_BYTES, AtLimit::Stall));
    let enough = Notify::new();
    let hub = f.hub();
    let pull = hub.pull(&f.store, NAME, |progress| {
        if progress.bytes_done >= COMPLETE_BYTES {
            enough.notify_one();
        }
    });
    tokio::select! {
        result = pull => panic!("the hub stalls, yet the pull ended: {result:?}"),
        () = enough.notified() => {}
    }
}

#[tokio::test]
async fn a_dropped_download_goes_on_where_it_stopped() {
    let f = Fixture::new().await;
    drop_halfway(&f).await;
    assert!(f.store.find(NAME).is_err(), "half a model is none");
    check_the_rest_is_fetched(f, COMPLETE_BYTES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_goes_on_where_it_stopped() {
    let f = Fixture::new().await;
    f.server.state().bytes_allowed = Some((STOP_BYTES, AtLimit::Stall));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("interrupted::pull_in_a_process_of_its_own")
        .env(CHILD_ENDPOINT, f.server.url())
        .env(CHILD_ROOT, f.root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let child = tokio::task::spawn_blocking(move || {
        let enough = output.lines().any(|line| line.unwrap().contains("enough"));
        child.kill().unwrap();
        child.wait().unwrap();
        enough
    });
    assert!(child.await.unwrap(), "the child ended by itself");
    assert!(f.store.find(NAME).is_err(), "half a model is none");
    // The other three workers may have been killed between writing and noting.
    check_the_rest_is_fetched(f, COMPLETE_BYTES - 3 * PART_BYTES).await;
}

#[tokio::test]
#[ignore = "part of a_killed_download_goes_on_where_it_stopped"]
async fn pull_in_a_process_of_its_own() {
    let (Ok(endpoint), Some(root)) = (std::env::var(CHILD_ENDPOINT), std::env::var_os(CHILD_ROOT))
    else {
        return;
    };
    let store = Store::new(store_config(&PathBuf::from(root)));
    let hub = Hub::new(hub_config(&endpoint)).unwrap();
    let result = hub
        .pull(&store, NAME, |progress| {
            if progress.bytes_done >= COMPLETE_BYTES {
                println!("enough");
            }
        })
        .await;
    panic!("the hub stalls, yet the pull ended: {result:?}");
}

#[tokio::test]
async fn a_broken_connection_costs_little_and_no_attention() {
    let f = Fixture::new().await;
    f.server.state().bytes_allowed = Some((STOP_BYTES, AtLimit::BreakOnce));
    let model = f.pull(NAME).await.unwrap();
    assert!(fs::read(&model.files[0]).unwrap() == contents(FILE_BYTES, 1));
    // One part, at most, twice.
    let served = f.server.take_bytes_served();
    assert!(served < FILE_BYTES + PART_BYTES, "{served}");
}

#[tokio::test]
async fn without_ranges_a_file_comes_in_one_stream_and_anew_after_a_break() {
    let f = Fixture::new().await;
    f.server.state().ranges = false;
    let model = f.pull(NAME).await.unwrap();
    assert!(fs::read(&model.files[0]).unwrap() == contents(FILE_BYTES, 1));

    f.server.state().commit = "2".repeat(40);
    let other = contents(FILE_BYTES, 2);
    f.server.state().files.insert(FILE.into(), other.clone());
    f.server.take_bytes_served();
    f.server.state().bytes_allowed = Some((FILE_BYTES / 2, AtLimit::BreakOnce));
    let model = f.pull(NAME).await.unwrap();
    assert!(fs::read(&model.files[0]).unwrap() == other);
    assert!(f.server.state().bytes_allowed.is_none(), "it broke once");
    let served = f.server.take_bytes_served();
    assert!(served > FILE_BYTES + FILE_BYTES / 3, "{served}");
}

#[tokio::test]
async fn an_unfinished_download_can_be_removed_when_nobody_works_on_it() {
    let f = Fixture::new().await;
    drop_halfway(&f).await;
    // A write may still be under way, and the lock is held until it has ended.
    let lock = f
        .root
        .path()
        .join("hub/.locks/models--unsloth--Tiny-GGUF/aluco-pull.lock");
    let lock = fs::File::open(lock).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = f.store.remove(NAME).unwrap_err();
    assert!(matches!(error, ModelError::Busy { .. }), "{error}");
    // Closing it would not do while a fork, made for another test, has it open, too.
    rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
    assert_eq!(f.blobs().len(), 2, "the file and its notes");
    let held = f.store.removable_bytes(NAME).unwrap().unwrap();
    assert!(held >= COMPLETE_BYTES);
    assert_eq!(f.store.remove(NAME).unwrap(), held);
    assert_eq!(f.store.removable_bytes(NAME).unwrap(), None);
    assert!(f.store.remove(NAME).is_err());
}
