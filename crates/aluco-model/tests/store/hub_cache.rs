//! What others have downloaded.

use std::{fs, os::unix::fs::symlink};

use aluco_model::{ModelError, ModelSource};
use rustix::fs::{FlockOperation, flock};

use crate::{Fixture, NEW, REPO};

const OLD: &str = "1111111111111111111111111111111111111111";

#[test]
fn what_others_have_downloaded_is_found_and_nothing_else() {
    let f = Fixture::new();
    f.cache_file(NEW, "Qwen3-30B-A3B-Q4_K_M.gguf", "aa", 100);
    f.cache_file(NEW, "mmproj-F16.gguf", "bb", 50);
    f.cache_file(NEW, "README.md", "cc", 50);
    f.cache_file(NEW, "BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf", "d1", 60);
    f.cache_file(NEW, "BF16/Qwen3-30B-A3B-BF16-00002-of-00002.gguf", "d2", 70);
    f.cache_file(NEW, "Q8_0/Qwen3-30B-A3B-Q8_0-00001-of-00002.gguf", "e1", 60);
    f.cache_file(NEW, "Qwen3-30B-A3B-Q2_K.gguf", "gone", 60);
    fs::remove_file(f.repo_folder().join("blobs/gone")).unwrap();

    assert_eq!(
        f.names(),
        [format!("{REPO}:BF16"), format!("{REPO}:Q4_K_M")],
        "not the projector, not half a model, not the dangling link"
    );
    let split = f.store.find(&format!("{REPO}:bf16")).unwrap();
    assert_eq!(split.size_bytes, 130);
    assert!(split.files[0].ends_with("BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf"));
    assert!(split.files.iter().all(|file| file.is_file()));
    let source = ModelSource::Hub {
        repo: REPO.parse().unwrap(),
        commit: NEW.into(),
    };
    assert_eq!(split.source, source);
    let default = f
        .store
        .find(&format!("hf.co/{}", REPO.to_lowercase()))
        .unwrap();
    assert_eq!(default.name, format!("{REPO}:Q4_K_M"));
    let error = f.store.find(&format!("{REPO}:Q8_0")).unwrap_err();
    assert!(error.to_string().contains("aluco pull"), "{error}");
}

#[test]
fn the_snapshot_of_main_comes_first_and_older_ones_fill_in() {
    let f = Fixture::new();
    f.cache_file(OLD, "m-Q4_K_M.gguf", "old4", 100);
    f.cache_file(OLD, "m-Q8_0.gguf", "old8", 200);
    f.cache_file(NEW, "m-Q4_K_M.gguf", "new4", 110);
    assert_eq!(
        f.store.find(&format!("{REPO}:Q4_K_M")).unwrap().size_bytes,
        110
    );
    assert_eq!(
        f.store.find(&format!("{REPO}:Q8_0")).unwrap().size_bytes,
        200
    );
    assert_eq!(f.names().len(), 2);
}

#[test]
fn removing_a_cached_model_spares_what_others_use() {
    let f = Fixture::new();
    f.cache_file(OLD, "m-Q4_K_M.gguf", "shared", 5000);
    f.cache_file(NEW, "m-Q4_K_M.gguf", "shared", 5000);
    f.cache_file(NEW, "m-copy-Q5_0.gguf", "shared", 5000);
    f.cache_file(NEW, "m-Q8_0.gguf", "own", 9000);
    f.cache_file(OLD, "README.md", "readme", 100);

    assert_eq!(f.store.remove(&format!("{REPO}:Q4_K_M")).unwrap(), 0);
    assert!(f.repo_folder().join("blobs/shared").exists());
    assert_eq!(f.names(), [format!("{REPO}:Q5_0"), format!("{REPO}:Q8_0")]);
    assert_eq!(f.store.remove(&format!("{REPO}:Q8_0")).unwrap(), 9000);
    assert!(!f.repo_folder().join("blobs/own").exists());
    assert_eq!(f.store.remove(&format!("{REPO}:Q5_0")).unwrap(), 5000);
    assert!(
        f.repo_folder()
            .join("snapshots")
            .join(OLD)
            .join("README.md")
            .exists()
    );
    assert!(matches!(
        f.store.remove(&format!("{REPO}:Q5_0")),
        Err(ModelError::NotFound { .. })
    ));
}

#[test]
fn removing_the_last_model_leaves_no_empty_folders() {
    let f = Fixture::new();
    f.cache_file(NEW, "Q8_0/m-Q8_0.gguf", "own", 5000);
    assert_eq!(f.store.remove(REPO).unwrap(), 5000);
    assert!(!f.repo_folder().exists());
}

#[test]
fn nothing_is_removed_while_another_process_works_on_the_repository() {
    let f = Fixture::new();
    f.cache_file(NEW, "m-Q8_0.gguf", "own", 5000);
    let locks = f.root.path().join("hub/.locks");
    let locks = locks.join(f.repo_folder().file_name().unwrap());
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join("aluco-pull.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = f.store.remove(REPO).unwrap_err();
    assert!(matches!(error, ModelError::Busy { .. }), "{error}");
    assert_eq!(f.names(), [format!("{REPO}:Q8_0")]);
    drop(lock);
    assert_eq!(f.store.remove(REPO).unwrap(), 5000);
}

#[test]
fn a_removal_that_was_broken_off_can_be_finished() {
    let f = Fixture::new();
    f.cache_file(NEW, "m-Q8_0.gguf", "other", 5000);
    let name = format!("{REPO}:Q4_0");
    let parts = ["m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf"];
    let blobs = f.repo_folder().join("blobs");
    // How far a removal has come when its process is killed: blobs first, then links.
    for (blobs_gone, links_gone) in [(0, 0), (1, 0), (2, 0), (2, 1)] {
        for (part, blob) in parts.iter().zip(["b1", "b2"]) {
            f.cache_file(NEW, part, blob, 600);
        }
        for blob in &["b1", "b2"][..blobs_gone] {
            fs::remove_file(blobs.join(blob)).unwrap();
        }
        let snapshot = f.repo_folder().join("snapshots").join(NEW);
        for part in &parts[..links_gone] {
            fs::remove_file(snapshot.join(part)).unwrap();
        }
        let left = 600 * (2 - blobs_gone as u64);
        assert_eq!(f.store.find(&name).is_ok(), blobs_gone == 0);
        assert_eq!(f.store.removable_bytes(&name).unwrap(), Some(left));
        assert_eq!(f.store.remove(&name).unwrap(), left);
        assert_eq!(f.store.removable_bytes(&name).unwrap(), None);
        let error = f.store.remove(&name).unwrap_err();
        assert!(matches!(error, ModelError::NotFound { .. }), "{error}");
        let left_over = fs::read_dir(&blobs).unwrap().count();
        assert_eq!(left_over, 1, "the other model's is all that is left");
        assert_eq!(f.names(), [format!("{REPO}:Q8_0")]);
    }
}

#[test]
fn a_removal_deletes_contents_before_the_links_that_name_them() {
    let f = Fixture::new();
    f.cache_file(NEW, "m-Q4_0.gguf", "b1", 600);
    // Makes the removal fail at the contents. A folder cannot be deleted like a file, whoever tries.
    let blob = f.repo_folder().join("blobs/b1");
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    assert!(f.store.remove(&format!("{REPO}:Q4_0")).is_err());
    let link = f.repo_folder().join("snapshots").join(NEW);
    assert!(link.join("m-Q4_0.gguf").is_symlink());
}

#[test]
fn a_link_that_leads_out_of_the_cache_is_removed_and_its_target_is_not() {
    let f = Fixture::new();
    let precious = f.write("precious.gguf", 5000);
    let snapshot = f.repo_folder().join("snapshots").join(NEW);
    fs::create_dir_all(&snapshot).unwrap();
    symlink(&precious, snapshot.join("m-Q4_0.gguf")).unwrap();
    assert_eq!(f.store.remove(&format!("{REPO}:Q4_0")).unwrap(), 0);
    assert!(precious.exists());
    assert!(f.names().is_empty());
}
