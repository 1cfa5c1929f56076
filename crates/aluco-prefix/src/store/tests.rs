use std::time::SystemTime;

use super::{disk_tier::total_bytes, *};

const BLOCK: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);

fn options(root: &FsPath, disk_bytes: u64) -> StoreOptions {
    let facts = vec![
        ("model".to_owned(), "m".to_owned()),
        ("kv_type_k".to_owned(), "f16".to_owned()),
    ];
    StoreOptions {
        fingerprint: fingerprint(&facts),
        facts,
        block_tokens: BLOCK,
        cut: Cut::Anywhere,
        ram_bytes: 1 << 20,
        disk: Some(DiskOptions {
            root: root.to_owned(),
            bytes: disk_bytes,
        }),
    }
}

fn fingerprint(facts: &[(String, String)]) -> Fingerprint {
    Fingerprint::of(
        facts
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}

fn open(options: StoreOptions) -> Store {
    let (store, error) = Store::open(options);
    assert!(error.is_none());
    store
}

fn tokens(length: usize, seed: Token) -> Vec<Token> {
    (0..length as Token).map(|token| token * 7 + seed).collect()
}

/// The bytes that an entry ending here has in these tests.
fn payload(end: usize, seed: Token) -> Vec<u8> {
    vec![(end as u8).wrapping_add(seed as u8); 1000]
}

fn keep(store: &Store, tokens: &[Token], origin: Origin) {
    let seed = tokens[0];
    let whole = tokens.len() / BLOCK * BLOCK;
    let ends = (BLOCK..=whole).step_by(BLOCK).map(|end| (end, Kind::Block));
    for (end, kind) in ends.chain([(tokens.len(), Kind::Tail)]) {
        if let Some(entry) = store.missing("", &tokens[..end], kind) {
            assert!(store.insert(entry, payload(end, seed), origin));
        }
    }
}

fn check(found: &Found, tokens: &[Token], tier: Tier) {
    let mut end = 0;
    for part in &found.parts {
        end += part.entry.tokens.len();
        assert_eq!(*part.payload, payload(end, tokens[0]));
        assert_eq!(part.tier, tier);
    }
}

#[test]
fn what_a_smaller_budget_drops_is_written_to_disk_first() {
    let root = tempfile::tempdir().unwrap();
    let conversation = tokens(10, 1);
    let store = open(options(root.path(), 1 << 20));
    keep(&store, &conversation, Origin::New);
    assert_eq!(store.status().ram_bytes, 3000);
    store.resize(0, PATIENCE);
    let status = store.status();
    assert_eq!((status.ram_bytes, status.ram_bytes_max), (0, 0));
    let fetched = store.fetch("", &conversation);
    let found = store.find("", &conversation, &fetched);
    assert_eq!(found.tokens, 10);
    check(&found, &conversation, Tier::Disk);
    assert_eq!(store.status().ram_bytes, 0);
}

#[test]
fn a_conversation_that_came_back_is_there_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let conversation = tokens(10, 1);
    {
        let store = open(options(root.path(), 1 << 20));
        keep(&store, &conversation, Origin::Returning);
        let found = store.find("", &conversation, &Fetched::default());
        assert_eq!(found.tokens, 10);
        check(&found, &conversation, Tier::Ram);
        assert!(store.flush(PATIENCE));
        assert!(store.status().disk_written_bytes > 3000);
    }
    let store = open(options(root.path(), 1 << 20));
    assert_eq!(store.find("", &conversation, &Fetched::default()).tokens, 0);
    assert_eq!(store.common("", &conversation).tokens, 10);
    let fetched = store.fetch("", &conversation);
    let found = store.find("", &conversation, &fetched);
    assert_eq!(found.tokens, 10);
    check(&found, &conversation, Tier::Disk);
    // From now on it lies in memory; to another namespace it does not exist.
    let found = store.find("", &conversation, &Fetched::default());
    check(&found, &conversation, Tier::Ram);
    assert_eq!(store.common("someone", &conversation).tokens, 0);
}

#[test]
fn the_end_of_a_conversation_leaves_the_disk_when_the_block_that_goes_on_is_there() {
    let root = tempfile::tempdir().unwrap();
    let conversation = tokens(14, 1);
    let store = open(options(root.path(), 1 << 20));
    let files = || {
        let folders = disk::folders(root.path());
        folders.iter().map(|folder| folder.entries).sum::<u64>()
    };
    keep(&store, &conversation[..10], Origin::Returning);
    // Somebody else went another way there.
    let mut other = conversation[..10].to_vec();
    other[9] += 1;
    keep(&store, &other, Origin::Returning);
    assert!(store.flush(PATIENCE));
    assert_eq!(files(), 4);
    keep(&store, &conversation, Origin::Returning);
    assert!(store.flush(PATIENCE));
    assert_eq!(files(), 5, "three blocks, the new tail, the other's tail");
    let on_disk: u64 = disk::folders(root.path()).iter().map(|it| it.bytes).sum();
    assert_eq!(store.status().disk_bytes, on_disk);
    for store in [store, open(options(root.path(), 1 << 20))] {
        for (tokens, end) in [
            (&conversation, 14),
            (&conversation[..10].to_vec(), 10),
            (&other, 10),
        ] {
            let fetched = store.fetch("", tokens);
            assert_eq!(store.find("", tokens, &fetched).tokens, end);
        }
    }
}

#[test]
fn side_requests_stay_off_the_disk_until_they_are_used_again() {
    let root = tempfile::tempdir().unwrap();
    let store = open(options(root.path(), 1 << 20));
    let title = tokens(6, 1);
    keep(&store, &title, Origin::Side);
    assert!(store.flush(PATIENCE));
    assert_eq!(store.status().disk_written_bytes, 0);
    store.touch("", &title);
    assert!(store.flush(PATIENCE));
    assert!(store.status().disk_written_bytes > 1000);
}

/// Sets when the entries were used of which that is not known yet: those of the last minutes.
fn set_used(root: &FsPath, time: SystemTime) {
    let lately = SystemTime::now() - Duration::from_secs(1_000_000);
    for folder in disk::folders(root) {
        let folder = folder.folder();
        for found in folder.scan() {
            if found.used_at > lately {
                let file = std::fs::File::open(folder.entry_path(&found.entry.key)).unwrap();
                file.set_modified(time).unwrap();
            }
        }
    }
}

#[test]
fn the_disk_budget_is_kept_and_the_oldest_goes_but_for_what_is_pinned() {
    let root = tempfile::tempdir().unwrap();
    let pinned = tokens(4, 1);
    {
        let store = open(options(root.path(), 20_000));
        keep(&store, &pinned, Origin::Returning);
        assert!(store.flush(PATIENCE));
        let key = Key::root(&store.shared.fingerprint, "").child(Kind::Block, &pinned);
        let disk = store.shared.disk.as_ref().unwrap();
        disk.folder.pin(&key, true).unwrap();
    }
    let store = open(options(root.path(), 20_000));
    let first_use = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for seed in 2..20 {
        keep(&store, &tokens(10, seed), Origin::Returning);
        assert!(store.flush(PATIENCE));
        // One second after those before it, however fast that went and however coarse the clock of the file system is.
        set_used(root.path(), first_use + Duration::from_secs(seed as u64));
        assert!(store.status().disk_bytes <= 20_000);
        assert!(total_bytes(root.path()) <= 20_000);
    }
    let again = open(options(root.path(), 20_000));
    assert_eq!(again.common("", &tokens(10, 19)).tokens, 10);
    assert_eq!(again.common("", &tokens(10, 2)).tokens, 0);
    assert_eq!(again.common("", &pinned).tokens, 4);
}

#[test]
fn a_damaged_file_is_computed_again_and_the_rest_is_used() {
    let root = tempfile::tempdir().unwrap();
    let conversation = tokens(12, 1);
    {
        let store = open(options(root.path(), 1 << 20));
        keep(&store, &conversation, Origin::Returning);
        assert!(store.flush(PATIENCE));
    }
    let store = open(options(root.path(), 1 << 20));
    let second = store.missing("", &[&conversation[..4], &[0; 4]].concat(), Kind::Block);
    let second = second
        .unwrap()
        .parent
        .child(Kind::Block, &conversation[4..8]);
    let path = store
        .shared
        .disk
        .as_ref()
        .unwrap()
        .folder
        .entry_path(&second);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let fetched = store.fetch("", &conversation);
    let found = store.find("", &conversation, &fetched);
    assert_eq!(found.tokens, 4);
    check(&found, &conversation, Tier::Disk);
    assert!(!path.exists());
}

#[test]
fn what_was_rejected_is_missing_until_it_is_stored_anew() {
    let root = tempfile::tempdir().unwrap();
    let conversation = tokens(12, 1);
    let store = open(options(root.path(), 1 << 20));
    keep(&store, &conversation, Origin::Returning);
    assert!(store.flush(PATIENCE));
    let status = store.status();
    let second = store
        .find("", &conversation, &Fetched::default())
        .parts
        .remove(1)
        .entry;
    let disk = store.shared.disk.as_ref().unwrap();
    disk.folder.pin(&second.key, true).unwrap();

    store.reject(&second.key);
    assert!(store.flush(PATIENCE));
    assert!(!disk.folder.entry_path(&second.key).exists());
    assert!(store.status().ram_bytes < status.ram_bytes);
    assert!(store.status().disk_bytes < status.disk_bytes);
    let fetched = store.fetch("", &conversation);
    assert_eq!(store.find("", &conversation, &fetched).tokens, 4);
    // Of no use is what was read before that as well.
    let missing = store.missing("", &conversation[..8], Kind::Block);
    assert_eq!(missing.as_ref(), Some(&second));

    keep(&store, &conversation, Origin::Returning);
    assert!(store.flush(PATIENCE));
    assert_eq!(store.status().ram_bytes, status.ram_bytes);
    assert_eq!(store.status().disk_bytes, status.disk_bytes);
    let found = store.find("", &conversation, &Fetched::default());
    assert_eq!(found.tokens, 12);
    check(&found, &conversation, Tier::Ram);
    let again = disk.folder.scan();
    let second = again.iter().find(|found| found.entry == second).unwrap();
    assert!(second.pinned);
}

#[test]
fn a_model_that_is_computed_otherwise_is_told() {
    let root = tempfile::tempdir().unwrap();
    {
        let store = open(options(root.path(), 1 << 20));
        assert_eq!(store.computed_otherwise(), None);
        keep(&store, &tokens(4, 1), Origin::Returning);
        assert!(store.flush(PATIENCE));
    }
    let mut changed = options(root.path(), 1 << 20);
    changed.facts[1].1 = "q8_0".to_owned();
    changed.fingerprint = fingerprint(&changed.facts);
    let store = open(changed);
    assert_eq!(store.computed_otherwise(), Some("kv_type_k: f16, now q8_0"));
    assert_eq!(store.common("", &tokens(4, 1)).tokens, 0);
}

#[test]
fn a_disk_that_cannot_be_used_leaves_the_memory() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let (store, error) = Store::open(options(&file, 1 << 20));
    assert!(error.is_some());
    keep(&store, &tokens(10, 1), Origin::Returning);
    assert!(store.flush(PATIENCE));
    assert_eq!(
        store.find("", &tokens(10, 1), &Fetched::default()).tokens,
        10
    );
}
