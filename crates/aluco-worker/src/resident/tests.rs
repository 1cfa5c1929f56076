use std::path::Path;

use aluco_prefix::{Cut, DiskOptions, Fingerprint, Kind, Origin, StoreOptions};
use aluco_proto::CacheActivity;

use super::*;

const RAM_BYTES_MAX: u64 = 1 << 20;
const DISK_BYTES_MAX: u64 = 2 << 20;

/// Longest wait for a file of a few bytes.
const PATIENCE: Duration = Duration::from_secs(60);

fn store(root: &Path) -> Store {
    let (store, error) = Store::open(StoreOptions {
        fingerprint: Fingerprint::of([]),
        facts: vec![("model".to_owned(), "m".to_owned())],
        block_tokens: 4,
        cut: Cut::Anywhere,
        ram_bytes: RAM_BYTES_MAX,
        disk: Some(DiskOptions {
            root: root.to_owned(),
            bytes: DISK_BYTES_MAX,
        }),
    });
    assert!(error.is_none(), "{error:?}");
    store
}

/// A loaded model without a loop: as one whose loop sleeps.
fn asleep(store: &Store) -> Resident {
    let loaded = LoadedModel {
        model: ModelHandle(1),
        architecture: "llama".to_owned(),
        description: String::new(),
        parameters: 0,
        weights_bytes: 0,
        context_train_tokens: 16,
        context_tokens: 16,
        sequences_max: 1,
        batch_tokens: 16,
        micro_batch_tokens: 16,
        threads: 1,
        vocabulary: 16,
        has_chat_template: false,
        recurrent: false,
        load_ms: 0.0,
        memory: Vec::new(),
    };
    Resident {
        commands: Mutex::default(),
        intake: Arc::default(),
        is_abandoned: Arc::default(),
        thread: Mutex::default(),
        activity: Arc::default(),
        model: loaded.model,
        loaded: Arc::new(OnceLock::from(loaded)),
        store: Arc::new(Mutex::new(Some(store.clone()))),
    }
}

#[test]
fn what_is_stored_while_the_loop_sleeps_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let resident = asleep(&store);
    let told = || resident.activity().unwrap().cache;
    let nothing = CacheActivity {
        ram_bytes_max: RAM_BYTES_MAX,
        disk_bytes_max: DISK_BYTES_MAX,
        ..CacheActivity::default()
    };
    assert_eq!(told(), nothing);
    let entry = store.missing("", &[1, 2, 3, 4], Kind::Block).unwrap();
    assert!(store.insert(entry, vec![0; 100], Origin::New));
    assert_eq!(told().ram_bytes, 100);
    assert!(store.flush(PATIENCE));
    let cache = told();
    assert!(cache.disk_written_bytes >= 100, "{cache:?}");
    assert!(cache.disk_bytes >= 100, "{cache:?}");
}
