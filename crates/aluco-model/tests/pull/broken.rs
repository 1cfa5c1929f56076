//! Wrong bytes, and a disk without room for the right ones.

use std::{fs, sync::Arc};

use aluco_model::{ModelError, Store};

use crate::{
    FILE, FILE_BYTES, Fixture, NAME, PART_BYTES, contents,
    fake_hub::{git_hash, sha256},
    store_config,
};

#[tokio::test]
async fn a_file_with_another_hash_is_thrown_away() {
    let f = Fixture::new().await;
    let published = sha256(b"something else");
    let hashes = [(FILE.to_owned(), published.clone())];
    f.server.state().false_hashes.extend(hashes);
    let error = f.pull(NAME).await.unwrap_err();
    let ModelError::HashMismatch {
        file,
        expected,
        actual,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((file.as_str(), expected), (FILE, &published));
    assert_eq!(*actual, sha256(&contents(FILE_BYTES, 1)));
    assert_eq!(f.blobs(), Vec::<String>::new());
    assert!(f.store.find(NAME).is_err());

    f.server.state().false_hashes.clear();
    f.pull(NAME).await.unwrap();
}

#[tokio::test]
async fn a_file_that_git_keeps_is_checked_by_gits_hash() {
    // What `printf GGUF | git hash-object --stdin` prints.
    assert_eq!(
        "53b7dcdfb2702f3512ca9b967b2a138fcfe9bea9",
        git_hash(b"GGUF")
    );
    let f = Fixture::new().await;
    f.server.state().in_git = true;
    let published = git_hash(b"something else");
    let hashes = [(FILE.to_owned(), published.clone())];
    f.server.state().false_hashes.extend(hashes);
    let error = f.pull(NAME).await.unwrap_err();
    let ModelError::HashMismatch {
        expected, actual, ..
    } = &error
    else {
        panic!("{error}");
    };
    let true_hash = git_hash(&contents(FILE_BYTES, 1));
    assert_eq!((expected, actual), (&published, &true_hash));
    assert_eq!(f.blobs(), Vec::<String>::new());

    f.server.state().false_hashes.clear();
    f.pull(NAME).await.unwrap();
    assert_eq!(f.blobs(), [true_hash]);
}

#[tokio::test]
async fn more_bytes_than_published_are_refused() {
    for bytes in [FILE_BYTES, PART_BYTES / 2] {
        let f = Fixture::with_files(&[(FILE, contents(bytes, 1))]).await;
        f.server.state().excess_bytes = 10;
        let error = f.pull(NAME).await.unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}

#[tokio::test]
async fn a_full_disk_is_told_before_anything_is_downloaded() {
    let f = Fixture::new().await;
    let store = Store::with_free_space(store_config(f.root.path()), Arc::new(|_| Ok(1000)));
    let error = f.hub().pull(&store, NAME, |_| ()).await.unwrap_err();
    let ModelError::NoSpace {
        path,
        needed_bytes,
        free_bytes,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*path, f.repo_folder().join("blobs"));
    assert_eq!((*needed_bytes, *free_bytes), (FILE_BYTES, 1000));
    assert_eq!(f.server.take_bytes_served(), 0);

    // What is here already takes no more room.
    f.pull(NAME).await.unwrap();
    f.hub().pull(&store, NAME, |_| ()).await.unwrap();
}

#[tokio::test]
async fn a_link_to_older_contents_is_replaced() {
    let f = Fixture::new().await;
    f.pull(NAME).await.unwrap();
    // The same commit with other contents: as after a repair of the hub's, or of a mirror's.
    let repaired = contents(FILE_BYTES + 1, 7);
    f.server.state().files.insert(FILE.into(), repaired.clone());
    let model = f.pull(NAME).await.unwrap();
    assert!(fs::read(&model.files[0]).unwrap() == repaired);
}
