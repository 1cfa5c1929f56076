//! The files of the prefix store.

use std::{fs, ops::Range};

use aluco_prefix::{
    Fingerprint, Key, Kind,
    disk::{
        DiskError, Folder,
        format::{Flaw, Header, MAGIC, START_BYTES, TOKENS_MAX, VERSION},
    },
};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_128;

const COUNT: Range<usize> = 12..16;
const KIND: Range<usize> = 20..24;
const PAYLOAD_BYTES: Range<usize> = 24..32;
const PAYLOAD_CHECKSUM: Range<usize> = 32..48;
const FINGERPRINT: Range<usize> = 48..80;
const KEY: Range<usize> = 80..112;
const PARENT: Range<usize> = 112..144;
const CHECKSUM_BYTES: usize = 16;

/// One folder for all inputs of a run.
struct Store {
    _root: TempDir,
    folder: Folder,
}

thread_local! {
    static STORE: Store = {
        let root = TempDir::new().expect("there is room for temporary files");
        let folder = Folder::open(root.path(), Fingerprint::of([]), &[]).expect("it is empty");
        Store { _root: root, folder }
    };
}

/// Takes the bytes for an entry's file: as they are, and with all that is only there to be believed put right.
pub fn prefix_entry(data: &[u8]) {
    header(data);
    file(data);
    if let Some(sealed) = sealed(data) {
        header(&sealed);
        file(&sealed);
    }
}

/// Whatever the bytes are: an error, or a header that is written as it was read.
fn header(data: &[u8]) {
    let Ok(header) = Header::parse(data, data.len() as u64) else {
        return;
    };
    let entry = &header.entry;
    assert!((1..=TOKENS_MAX).contains(&entry.tokens.len()));
    assert!(entry.begin.checked_add(entry.tokens.len() as u32).is_some());
    assert_eq!(entry.parent.child(entry.kind, &entry.tokens), entry.key);
    assert_eq!(
        header.bytes() as u64 + header.payload_bytes,
        data.len() as u64
    );
    assert_eq!(header.encode(), data[..header.bytes()]);
}

/// A file is believed only if each of its bytes is accounted for; else it goes, unless it may be a later Aluco's.
fn file(data: &[u8]) {
    let key = data
        .get(KEY)
        .map_or([0; 32], |key| key.try_into().expect("32 bytes"));
    let key = Key::from_bytes(key);
    STORE.with(|store| {
        let path = store.folder.entry_path(&key);
        let digits = path.parent().expect("it has one");
        fs::create_dir_all(digits).expect("there is room");
        fs::write(&path, data).expect("there is room");
        let found = store.folder.survey().found.len();
        let verified = store.folder.verify(&key, |_| {});
        match store.folder.read(&key) {
            Ok(Some((entry, payload))) => {
                assert_eq!(found, 1);
                assert!(matches!(verified, Ok(Some(bytes)) if bytes == data.len() as u64));
                let header = Header::new(Fingerprint::of([]), entry, &payload);
                let header = header.expect("it was read").encode();
                assert_eq!([header, payload].concat(), data);
            }
            Ok(None) => {
                assert_eq!(found, 0);
                let version = data[8..12].try_into().expect("4 bytes");
                assert!(u32::from_le_bytes(version) > VERSION);
            }
            Err(DiskError::Damaged { reason, .. }) => {
                assert!(verified.is_err());
                assert!(found == 0 || reason == Flaw::PayloadChecksum);
                assert!(!path.exists());
            }
            Err(error) => panic!("{error}"),
        }
        store.folder.remove(&key).expect("it is ours");
        // So that a survey has one folder to look into.
        fs::remove_dir(digits).expect("it is empty");
    });
}

/// The same with magic, version, lengths, key, fingerprint and checksums that fit. `None` if it is too short for that.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let room = bytes.len().checked_sub(START_BYTES + CHECKSUM_BYTES + 4)? / 4 + 1;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let count = 1 + usize::from(bytes[COUNT.start]) % room;
    bytes[COUNT].copy_from_slice(&(count as u32).to_le_bytes());
    let kind = if bytes[KIND.start] == 1 {
        Kind::Tail
    } else {
        Kind::Block
    };
    let tokens: Vec<i32> = bytes[START_BYTES..][..4 * count]
        .chunks_exact(4)
        .map(|token| i32::from_le_bytes(token.try_into().expect("4 bytes")))
        .collect();
    let parent = Key::from_bytes(bytes[PARENT].try_into().expect("32 bytes"));
    bytes[KEY].copy_from_slice(parent.child(kind, &tokens).as_bytes());
    bytes[FINGERPRINT].copy_from_slice(Fingerprint::of([]).as_bytes());
    let content_bytes = START_BYTES + 4 * count;
    let header_bytes = content_bytes + CHECKSUM_BYTES;
    let payload_bytes = (bytes.len() - header_bytes) as u64;
    // One input in two keeps a wrong payload.
    if bytes[PAYLOAD_CHECKSUM.start] & 1 == 0 {
        let checksum = xxh3_128(&bytes[header_bytes..]);
        bytes[PAYLOAD_CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes[PAYLOAD_BYTES].copy_from_slice(&payload_bytes.to_le_bytes());
    let checksum = xxh3_128(&bytes[..content_bytes]);
    bytes[content_bytes..header_bytes].copy_from_slice(&checksum.to_le_bytes());
    Some(bytes)
}
