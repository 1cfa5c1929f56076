//! The store as its users see it: a hub cache that others fill, and imports.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use aluco_model::{
    ImportMode, ImportOptions, ModelError, ModelSource, Store, StoreConfig, StoredModel,
};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

const REPO: &str = "unsloth/Qwen3-30B-A3B-GGUF";
const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";

struct Fixture {
    root: TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(StoreConfig {
            hub_cache: root.path().join("hub"),
            models: root.path().join("models"),
        });
        Self { root, store }
    }

    fn repo_folder(&self) -> PathBuf {
        self.root
            .path()
            .join("hub/models--unsloth--Qwen3-30B-A3B-GGUF")
    }

    /// Lays a file into the cache as huggingface_hub does: the contents as a blob, a relative link in the snapshot.
    fn cache_file(&self, commit: &str, path: &str, blob: &str, bytes: usize) {
        let repo = self.repo_folder();
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::create_dir_all(repo.join("refs")).unwrap();
        fs::write(repo.join("blobs").join(blob), gguf(bytes)).unwrap();
        fs::write(repo.join("refs/main"), commit).unwrap();
        let link = repo.join("snapshots").join(commit).join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(2 + path.matches('/').count());
        symlink(format!("{up}blobs/{blob}"), link).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let models = self.store.list().unwrap();
        models.into_iter().map(|model| model.name).collect()
    }

    fn write(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, gguf(bytes)).unwrap();
        path
    }

    fn import(
        &self,
        file: &Path,
        name: Option<&str>,
        mode: ImportMode,
    ) -> Result<StoredModel, ModelError> {
        let options = ImportOptions {
            name: name.map(|name| name.parse().unwrap()),
            mode,
        };
        self.store.import(file, &options, &mut |_| ())
    }
}

/// A file of this size that begins like a GGUF file without tensors and metadata.
fn gguf(bytes: usize) -> Vec<u8> {
    let mut contents = b"GGUF\x03\0\0\0".to_vec();
    contents.resize(bytes.max(24), 0);
    contents
}

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

#[test]
fn a_model_given_by_path_is_found_with_all_its_parts_and_never_deleted() {
    let f = Fixture::new();
    let first = f.write("m-Q4_0-00001-of-00002.gguf", 30);
    let second = f.root.path().join("m-Q4_0-00002-of-00002.gguf");
    let error = f.store.find(first.to_str().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("only 1 of its 2 parts"),
        "{error}"
    );
    fs::write(&second, gguf(40)).unwrap();
    let model = f.store.find(second.to_str().unwrap()).unwrap();
    assert_eq!(model.files, [first.clone(), second]);
    assert_eq!(model.name, first.display().to_string());
    assert_eq!((model.size_bytes, model.source), (70, ModelSource::File));
    let error = f.store.remove(first.to_str().unwrap()).unwrap_err();
    assert!(matches!(error, ModelError::NotOurs { .. }), "{error}");
    assert!(first.exists());
    let error = f.store.find("./no/such.gguf").unwrap_err();
    assert!(matches!(error, ModelError::NoSuchFile { .. }), "{error}");
}

#[test]
fn a_file_is_one_model_however_its_path_is_spelled() {
    let f = Fixture::new();
    let root = fs::canonicalize(f.root.path()).unwrap();
    let file = f.write("real/m.gguf", 30);
    let name = root.join("real/m.gguf").display().to_string();
    symlink("real", root.join("folder")).unwrap();
    symlink("real/m.gguf", root.join("other.gguf")).unwrap();
    symlink("../other.gguf", root.join("real/again.gguf")).unwrap();
    for spelling in [
        "real/m.gguf",
        "real/../real/./m.gguf",
        "folder/m.gguf",
        "other.gguf",
        "folder/again.gguf",
    ] {
        let spelled = f.root.path().join(spelling);
        let model = f.store.find(spelled.to_str().unwrap()).unwrap();
        assert_eq!(model.name, name, "{spelling}");
        assert_eq!(model.files, [Path::new(&name)], "{spelling}");
    }
    fs::remove_file(file).unwrap();
    let error = f.store.find(root.join("other.gguf").to_str().unwrap());
    assert!(matches!(error, Err(ModelError::NoSuchFile { .. })));
}

#[test]
fn a_link_whose_target_says_less_than_itself_is_not_followed() {
    let f = Fixture::new();
    let root = fs::canonicalize(f.root.path()).unwrap();
    f.cache_file(NEW, "m-Q4_0.gguf", "blob", 100);
    let cached = f.repo_folder().join("snapshots").join(NEW);
    symlink(cached.join("m-Q4_0.gguf"), root.join("link.gguf")).unwrap();
    let model = f.store.find(root.join("link.gguf").to_str().unwrap());
    assert!(model.unwrap().files[0].ends_with(format!("{NEW}/m-Q4_0.gguf")));

    // Parts on several disks, gathered by links.
    for part in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
        let target = f.write(&format!("disk-of-{part}/{part}"), 30);
        symlink(target, root.join(part)).unwrap();
    }
    let first = root.join("m-00001-of-00002.gguf");
    let model = f.store.find(first.to_str().unwrap()).unwrap();
    assert_eq!(model.files, [first, root.join("m-00002-of-00002.gguf")]);
}

#[test]
fn an_import_is_found_under_its_name_and_before_the_catalogues() {
    let f = Fixture::new();
    let file = f.write("SmolLM2-135M-Instruct.Q4_1.gguf", 3_000_000);
    let mut seen = Vec::new();
    let options = ImportOptions {
        name: Some("smollm2:135m".parse().unwrap()),
        ..ImportOptions::default()
    };
    let model = f
        .store
        .import(&file, &options, &mut |progress| seen.push(progress))
        .unwrap();
    assert_eq!(seen.last().unwrap().done_bytes, 3_000_000);
    assert_eq!(seen.last().unwrap().total_bytes, 3_000_000);
    assert_eq!(model.size_bytes, 3_000_000);
    assert_eq!(f.store.find("SmolLM2:135M").unwrap(), model);
    assert_eq!(f.store.find("smollm2").unwrap(), model);
    assert_eq!(f.store.list().unwrap(), [model]);
    assert!(file.exists());

    let again = f.import(&file, Some("smollm2:135m"), ImportMode::Share);
    assert_eq!(
        again.unwrap().name,
        "smollm2:135m",
        "the same again is no error"
    );
    let other = f.write("other.gguf", 50);
    let error = f
        .import(&other, Some("smollm2:135m"), ImportMode::Share)
        .unwrap_err();
    assert!(matches!(error, ModelError::NameTaken { .. }), "{error}");
}

#[test]
fn an_import_without_a_name_gets_one_from_its_file() {
    let f = Fixture::new();
    let file = f.write("SmolLM2 135M-Instruct.Q4_1.gguf", 50);
    let model = f.import(&file, None, ImportMode::Copy).unwrap();
    assert_eq!(model.name, "smollm2-135m-instruct:q4_1");
    assert_eq!(f.store.find("smollm2-135m-instruct").unwrap(), model);
}

#[test]
fn each_mode_of_import_treats_the_original_as_it_says() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    let copy = f.import(&file, Some("copy"), ImportMode::Copy).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    assert!(!copy.files[0].is_symlink());
    let link = f.import(&file, Some("link"), ImportMode::Link).unwrap();
    assert_eq!(fs::read_link(&link.files[0]).unwrap(), file);
    assert_eq!(f.store.remove("link").unwrap(), 0);
    assert!(file.exists());
    let moved = f.import(&file, Some("moved"), ImportMode::Move).unwrap();
    assert!(!file.exists());
    assert_eq!(fs::read(&moved.files[0]).unwrap(), gguf(5000));
    assert_eq!(f.store.remove("moved").unwrap(), 5000);
    assert_eq!(f.names(), ["copy"]);
    assert_eq!(f.store.remove("copy").unwrap(), 5000);
}

#[test]
fn an_import_through_a_link_brings_the_contents_and_not_the_link() {
    let f = Fixture::new();
    f.cache_file(NEW, "m-Q4_0.gguf", "blob", 5000);
    let cached = f.store.find(REPO).unwrap();
    let model = f
        .import(&cached.files[0], Some("mine"), ImportMode::Share)
        .unwrap();
    assert!(!model.files[0].is_symlink());
    assert_eq!(
        f.store.remove(REPO).unwrap(),
        0,
        "the import holds the bytes"
    );
    assert_eq!(
        fs::read(&f.store.find("mine").unwrap().files[0]).unwrap(),
        gguf(5000)
    );
}

#[test]
fn a_split_import_keeps_the_names_that_llama_cpp_needs() {
    let f = Fixture::new();
    f.write("big/x-00002-of-00002.gguf", 40);
    let first = f.write("big/x-00001-of-00002.gguf", 30);
    let model = f.import(&first, Some("big:q4"), ImportMode::Share).unwrap();
    assert!(model.files[0].ends_with("big@q4/big-q4-00001-of-00002.gguf"));
    assert!(model.files[1].ends_with("big@q4/big-q4-00002-of-00002.gguf"));
    assert_eq!(model.size_bytes, 70);
}

#[test]
fn what_is_no_gguf_file_is_refused_before_anything_is_written() {
    let f = Fixture::new();
    let path = f.root.path().join("page.gguf");
    for contents in [b"<!DOCTYPE html>".as_slice(), b"", b"GG"] {
        fs::write(&path, contents).unwrap();
        let error = f.import(&path, None, ImportMode::Copy).unwrap_err();
        assert!(matches!(error, ModelError::NotGguf { .. }), "{error}");
    }
    assert!(!f.root.path().join("models").exists());
}

#[test]
fn a_copy_that_does_not_fit_is_refused_with_the_numbers_and_leaves_nothing() {
    let f = Fixture::new();
    let store = Store::with_free_space(f.store.config().clone(), Arc::new(|_| Ok(1000)));
    let file = f.write("m.gguf", 5000);
    let options = ImportOptions {
        mode: ImportMode::Copy,
        ..ImportOptions::default()
    };
    match store.import(&file, &options, &mut |_| ()) {
        // A file system that shares blocks between copies needs no space.
        Ok(model) => assert_eq!(model.size_bytes, 5000),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("5.0 kB needed, 1.0 kB free"), "{text}");
            assert!(f.names().is_empty());
            let left: Vec<_> = fs::read_dir(f.root.path().join("models"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            assert_eq!(left, [".lock"]);
        }
    }
}

#[test]
fn leftovers_of_dead_imports_are_swept_and_never_listed() {
    let f = Fixture::new();
    let dead = f.root.path().join("models/.incoming-1-1");
    fs::create_dir_all(&dead).unwrap();
    fs::write(dead.join("x.gguf"), gguf(100)).unwrap();
    fs::write(
        dead.join("manifest.json"),
        r#"{"version":1,"name":"x","files":[{"name":"x.gguf","size_bytes":100,"sha256":""}],
            "size_bytes":100,"source":"/x.gguf","imported_at_s":0}"#,
    )
    .unwrap();
    assert!(f.names().is_empty());
    let file = f.write("m.gguf", 50);
    f.import(&file, Some("m"), ImportMode::Copy).unwrap();
    assert!(!dead.exists());
    assert_eq!(f.names(), ["m"]);
}

#[test]
fn a_damaged_import_says_so_and_does_not_hide_the_others() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 50);
    f.import(&file, Some("whole"), ImportMode::Copy).unwrap();
    let torn = f.import(&file, Some("torn"), ImportMode::Copy).unwrap();
    fs::write(&torn.files[0], b"GGUF").unwrap();
    assert_eq!(f.names(), ["whole"]);
    let error = f.store.find("torn").unwrap_err();
    assert!(error.to_string().contains("4 bytes and had 50"), "{error}");
    fs::write(torn.files[0].with_file_name("manifest.json"), "{").unwrap();
    assert!(matches!(
        f.store.find("torn"),
        Err(ModelError::Damaged { .. })
    ));
}

/// Breaks an import called `broken` of this file in each way that can happen.
fn break_import(f: &Fixture, file: &Path, way: &str) {
    let mode = if way == "dangling" {
        ImportMode::Link
    } else {
        ImportMode::Copy
    };
    let model = f.import(file, Some("broken"), mode).unwrap();
    let manifest = model.files[0].with_file_name("manifest.json");
    match way {
        "dangling" => fs::remove_file(file).unwrap(),
        "torn manifest" => fs::write(manifest, "{").unwrap(),
        "no manifest" => fs::remove_file(manifest).unwrap(),
        "cut file" => fs::write(&model.files[0], b"GGUF").unwrap(),
        way => panic!("{way} is unknown"),
    }
    assert!(f.store.find("broken").is_err(), "{way}");
}

const WAYS_TO_BREAK: [&str; 4] = ["dangling", "torn manifest", "no manifest", "cut file"];

#[test]
fn a_damaged_import_can_be_removed() {
    let f = Fixture::new();
    for way in WAYS_TO_BREAK {
        break_import(&f, &f.write("m.gguf", 5000), way);
        let freed = f.store.remove("broken").unwrap();
        let held = match way {
            "dangling" => 0,
            "cut file" => 4,
            _ => 5000,
        };
        assert_eq!(freed, held, "{way}");
        let error = f.store.remove("broken").unwrap_err();
        assert!(matches!(error, ModelError::NotFound { .. }), "{error}");
    }
}

#[test]
fn a_damaged_import_makes_room_for_a_new_one_of_its_name() {
    let f = Fixture::new();
    for way in WAYS_TO_BREAK {
        break_import(&f, &f.write("m.gguf", 5000), way);
        let other = f.write("other.gguf", 600);
        let model = f.import(&other, Some("broken"), ImportMode::Copy).unwrap();
        assert_eq!(f.store.find("broken").unwrap(), model, "{way}");
        assert_eq!(model.size_bytes, 600);
        assert_eq!(fs::read_dir(&f.store.config().models).unwrap().count(), 2);
        f.store.remove("broken").unwrap();
    }
}

#[test]
fn an_import_by_a_later_version_can_be_removed_but_is_not_replaced() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 50);
    let model = f.import(&file, Some("later"), ImportMode::Copy).unwrap();
    let manifest = model.files[0].with_file_name("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let error = f
        .import(&file, Some("later"), ImportMode::Copy)
        .unwrap_err();
    assert!(
        error.to_string().contains("another version of Aluco"),
        "{error}"
    );
    assert_eq!(f.store.remove("later").unwrap(), 50);
}

#[test]
fn a_move_of_what_is_there_already_deletes_the_original() {
    let f = Fixture::new();
    f.import(&f.write("m.gguf", 5000), Some("m"), ImportMode::Copy)
        .unwrap();
    let again = f.write("again.gguf", 5000);
    let model = f.import(&again, Some("m"), ImportMode::Move).unwrap();
    assert!(!again.exists());
    assert_eq!(fs::read(&model.files[0]).unwrap(), gguf(5000));

    let other = f.write("other.gguf", 600);
    let error = f.import(&other, Some("m"), ImportMode::Move).unwrap_err();
    assert!(matches!(error, ModelError::NameTaken { .. }), "{error}");
    assert!(other.exists());
}

#[test]
fn a_move_over_a_link_to_the_same_file_brings_the_bytes() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    f.import(&file, Some("m"), ImportMode::Link).unwrap();
    let model = f.import(&file, Some("m"), ImportMode::Move).unwrap();
    assert!(!file.exists());
    assert!(!model.files[0].is_symlink());
    assert_eq!(f.store.find("m").unwrap(), model);
    assert_eq!(fs::read(&model.files[0]).unwrap(), gguf(5000));
}

#[test]
fn a_file_of_an_import_cannot_be_imported_or_moved_away() {
    let f = Fixture::new();
    let file = f.write("m.gguf", 5000);
    let copy = f.import(&file, Some("copy"), ImportMode::Copy).unwrap();
    let link = f.import(&file, Some("link"), ImportMode::Link).unwrap();
    let from_outside = f.root.path().join("outside.gguf");
    symlink(&copy.files[0], &from_outside).unwrap();
    for source in [&copy.files[0], &link.files[0], &from_outside] {
        for mode in [ImportMode::Move, ImportMode::Link] {
            let error = f.import(source, Some("new"), mode).unwrap_err();
            assert!(
                matches!(error, ModelError::AlreadyImported { .. }),
                "{error}"
            );
        }
    }
    assert_eq!(f.names(), ["copy", "link"]);
}

#[test]
fn an_empty_machine_has_no_models_and_says_how_to_get_one() {
    let f = Fixture::new();
    assert!(f.names().is_empty());
    for name in ["smollm2:135m", "no-such-model", "a/b:Q4_0"] {
        let error = f.store.find(name).unwrap_err().to_string();
        assert!(error.contains(&format!("aluco pull {name}")), "{error}");
    }
    assert!(matches!(
        f.store.find("a/../b"),
        Err(ModelError::InvalidName { .. })
    ));
}
