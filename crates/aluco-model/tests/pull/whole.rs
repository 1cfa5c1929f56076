//! Downloads in which nothing goes wrong.

use std::{fs, path::Path};

use aluco_model::{ModelSource, PullStage};

use crate::{
    FILE, FILE_BYTES, Fixture, NAME, REPO, contents,
    fake_hub::{FakeHub, sha256},
};

#[tokio::test]
async fn a_model_arrives_where_huggingface_hub_would_have_put_it() {
    let bytes = contents(FILE_BYTES, 1);
    let f = Fixture::with_files(&[
        (FILE, bytes.clone()),
        ("Tiny-Q8_0.gguf", contents(100, 2)),
        ("mmproj-F16.gguf", contents(100, 3)),
        ("README.md", b"# Tiny".to_vec()),
    ])
    .await;
    let (model, reports) = f.pull_watched(NAME).await;
    let model = model.unwrap();

    let commit = "1".repeat(40);
    let file = f.repo_folder().join("snapshots").join(&commit).join(FILE);
    assert_eq!(model.name, NAME);
    assert_eq!(model.files, std::slice::from_ref(&file));
    assert_eq!(model.size_bytes, FILE_BYTES);
    let source = ModelSource::Hub {
        repo: REPO.parse().unwrap(),
        commit: commit.clone(),
    };
    assert_eq!(model.source, source);
    assert!(fs::read(&file).unwrap() == bytes);
    let blob = Path::new("../../blobs").join(sha256(&bytes));
    assert_eq!(fs::read_link(&file).unwrap(), blob);
    let main = fs::read_to_string(f.repo_folder().join("refs/main")).unwrap();
    assert_eq!(main, commit);
    assert_eq!(f.blobs(), [sha256(&bytes)]);
    assert_eq!(f.store.find(NAME).unwrap(), model);
    assert_eq!(f.store.list().unwrap(), [model]);
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES);

    let mut stages: Vec<PullStage> = reports.iter().map(|report| report.stage).collect();
    stages.dedup();
    assert_eq!(
        stages,
        [
            PullStage::Resolving,
            PullStage::Downloading,
            PullStage::Verifying,
            PullStage::Done
        ]
    );
    let downloading = || reports.iter().filter(|r| r.stage == PullStage::Downloading);
    assert!(downloading().is_sorted_by_key(|report| report.bytes_done));
    assert!(downloading().all(|report| report.bytes_total == FILE_BYTES));
    let last = reports.last().unwrap();
    assert_eq!((last.bytes_done, last.bytes_resumed), (FILE_BYTES, 0));
    assert_eq!((last.files_done, last.files_total), (1, 1));
}

#[tokio::test]
async fn all_parts_of_a_split_model_come_in_order_and_no_others() {
    let part = |part, total| format!("Q4_K_M/Tiny-Q4_K_M-{part:05}-of-{total:05}.gguf");
    let (first, second) = (contents(300_000, 1), contents(200_000, 2));
    let f = Fixture::with_files(&[
        (&part(2, 2), second.clone()),
        (&part(1, 2), first.clone()),
        ("Q8_0/Tiny-Q8_0-00001-of-00002.gguf", contents(10, 3)),
    ])
    .await;
    let (model, reports) = f.pull_watched(NAME).await;
    let model = model.unwrap();
    assert_eq!(model.size_bytes, 500_000);
    assert!(fs::read(&model.files[0]).unwrap() == first);
    assert!(fs::read(&model.files[1]).unwrap() == second);
    let target = fs::read_link(&model.files[1]).unwrap();
    let expected = Path::new("../../../blobs").join(sha256(&second));
    assert_eq!(target, expected);
    assert_eq!(f.server.take_bytes_served(), 500_000);
    let done = reports.iter().filter(|r| r.stage == PullStage::Downloading);
    assert!(done.is_sorted_by_key(|report| report.bytes_done));
    assert_eq!(reports.last().unwrap().files_done, 2);
}

#[tokio::test]
async fn what_is_here_is_not_fetched_again_also_not_under_a_new_commit() {
    let f = Fixture::new().await;
    f.pull(NAME).await.unwrap();
    f.server.take_bytes_served();
    let again = f.pull(NAME).await.unwrap();
    assert_eq!(f.server.take_bytes_served(), 0);

    f.server.state().commit = "2".repeat(40);
    let (newer, reports) = f.pull_watched(NAME).await;
    let newer = newer.unwrap();
    assert_eq!(f.server.take_bytes_served(), 0);
    assert!(again.files[0] != newer.files[0]);
    assert_eq!(f.store.find(NAME).unwrap(), newer);
    assert_eq!(reports.last().unwrap().bytes_resumed, FILE_BYTES);

    f.server.state().commit = "3".repeat(40);
    let changed = contents(FILE_BYTES, 9);
    f.server.state().files.insert(FILE.into(), changed.clone());
    let newest = f.pull(NAME).await.unwrap();
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES);
    assert!(fs::read(&newest.files[0]).unwrap() == changed);
}

#[tokio::test]
async fn a_blob_that_another_program_has_fetched_is_taken_if_its_size_is_right() {
    let f = Fixture::new().await;
    let bytes = contents(FILE_BYTES, 1);
    let blob = f.repo_folder().join("blobs").join(sha256(&bytes));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, &bytes[..1000]).unwrap();
    f.pull(NAME).await.unwrap();
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES);

    let g = Fixture::new().await;
    let blob = g.repo_folder().join("blobs").join(sha256(&bytes));
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, &bytes).unwrap();
    let model = g.pull(NAME).await.unwrap();
    assert_eq!(g.server.take_bytes_served(), 0);
    assert!(fs::read(&model.files[0]).unwrap() == bytes);
}

#[tokio::test]
async fn two_pulls_at_once_download_once() {
    let f = Fixture::new().await;
    let pulls = [f.hub(), f.hub()].map(|hub| {
        let store = f.store.clone();
        // Also shows that the future can move between threads.
        tokio::spawn(async move { hub.pull(&store, NAME, |_| ()).await })
    });
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().size_bytes, FILE_BYTES);
    }
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES);
}

#[tokio::test]
async fn a_short_name_and_a_name_without_tag_mean_what_the_store_means_by_them() {
    let repo = "bartowski/SmolLM2-135M-Instruct-GGUF";
    let mut f = Fixture::new().await;
    let files = [
        ("SmolLM2-135M-Instruct-Q8_0.gguf", contents(2000, 1)),
        ("SmolLM2-135M-Instruct-Q4_K_M.gguf", contents(1000, 2)),
    ];
    f.server = FakeHub::serve(repo, &files).await;
    let model = f.pull("smollm2:135m").await.unwrap();
    assert_eq!(model.name, format!("{repo}:Q4_K_M"));
    assert_eq!(model.short_name, Some("smollm2:135m".parse().unwrap()));
    assert_eq!(f.store.find("smollm2").unwrap(), model);
    assert_eq!(f.pull(repo).await.unwrap(), model);
}

#[tokio::test]
async fn a_repository_in_other_letters_goes_to_the_folder_of_its_true_name() {
    let f = Fixture::new().await;
    let model = f.pull("UNSLOTH/tiny-gguf:q4_k_m").await.unwrap();
    assert_eq!(model.name, NAME);
    assert!(f.repo_folder().is_dir());
}

#[tokio::test]
async fn without_the_hub_what_is_here_is_good_enough() {
    let mut f = Fixture::new().await;
    let model = f.pull(NAME).await.unwrap();
    // Nobody listens on port 1.
    let nowhere = crate::hub_config("http://127.0.0.1:1");
    let hub = aluco_model::Hub::new(nowhere).unwrap();
    assert_eq!(hub.pull(&f.store, NAME, |_| ()).await.unwrap(), model);

    f.root = tempfile::tempdir().unwrap();
    let empty = aluco_model::Store::new(crate::store_config(f.root.path()));
    let error = hub
        .pull(&empty, NAME, |_| ())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("asking http://127.0.0.1:1 for unsloth/Tiny-GGUF"),
        "{error}"
    );
    assert!(error.contains("after 4 tries"), "{error}");
}
