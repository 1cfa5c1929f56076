//! What every disk store has to hold to, with files that are real.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{format::*, *};
use crate::{Entry, Fingerprint, Key, Kind};

mod faults;

pub(super) fn fingerprint() -> Fingerprint {
    Fingerprint::of([("model", "owl"), ("kv", "f16")])
}

pub(super) fn facts() -> Vec<(String, String)> {
    [("model", "owl"), ("kv", "f16")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// The entry below this one with a few tokens that begin with `first`.
pub(super) fn below(parent: Key, kind: Kind, begin: u32, first: i32) -> Entry {
    let tokens: Box<[i32]> = (first..first + 8).collect();
    Entry {
        key: parent.child(kind, &tokens),
        parent,
        kind,
        begin,
        tokens,
    }
}

pub(super) fn entry(first: i32) -> Entry {
    below(Key::root(&fingerprint(), ""), Kind::Block, 0, first)
}

/// Bytes that tell where they are.
pub(super) fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

fn folder() -> (TempDir, Folder) {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(root.path(), fingerprint(), &facts()).unwrap();
    (root, folder)
}

fn reason(result: Result<Option<(Entry, Vec<u8>)>, DiskError>) -> Flaw {
    match result {
        Err(DiskError::Damaged { reason, .. }) => reason,
        other => panic!("expected damage, found {other:?}"),
    }
}

#[test]
fn what_was_written_is_read_back_in_another_life() {
    let (root, folder) = folder();
    let first = entry(1);
    let tail = below(first.key, Kind::Tail, 8, 100);
    let written = folder.write(&first, &payload(100_000)).unwrap();
    folder.write(&tail, &[]).unwrap();
    assert_eq!(written, 160 + 4 * 8 + 100_000);
    assert_eq!(folder.write(&first, &payload(100_000)).unwrap(), 0);

    let folder = Folder::open(root.path(), fingerprint(), &[]).unwrap();
    assert_eq!(folder.manifest().facts, facts());
    assert_eq!(
        folder.read(&first.key).unwrap(),
        Some((first.clone(), payload(100_000)))
    );
    assert_eq!(
        folder.read(&tail.key).unwrap(),
        Some((tail.clone(), Vec::new()))
    );
    assert_eq!(folder.read(&first.parent).unwrap(), None);
    let mut found = folder.scan();
    found.sort_by_key(|found| found.entry.begin);
    let sizes: Vec<_> = found
        .iter()
        .map(|found| (found.payload_bytes, found.file_bytes))
        .collect();
    assert_eq!(sizes, [(100_000, written), (0, 160 + 32)]);
    assert_eq!(found[0].entry, first);
    assert_eq!(found[1].entry, tail);
}

#[test]
fn a_read_takes_no_more_memory_than_the_payload() {
    let (_root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, &payload(3_333_333)).unwrap();
    let (_, read) = folder.read(&entry.key).unwrap().unwrap();
    assert_eq!((read.len(), read.capacity()), (3_333_333, 3_333_333));
}

#[test]
fn nobody_else_can_look_into_the_store() {
    let above = TempDir::new().unwrap();
    let root = above.path().join("prefix");
    let folder = Folder::open(&root, fingerprint(), &facts()).unwrap();
    let entry = entry(1);
    folder.write(&entry, b"secret").unwrap();
    folder.pin(&entry.key, true).unwrap();
    let mut seen = 0;
    let mut left = vec![root];
    while let Some(path) = left.pop() {
        let metadata = fs::metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(
            metadata.permissions().mode() & 0o777,
            expected,
            "{}",
            path.display()
        );
        seen += 1;
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|f| f.unwrap().path()));
        }
    }
    // root, fingerprint, manifest, new, digits, entry, pin
    assert_eq!(seen, 7);
}

#[test]
fn a_use_is_noted_in_the_file_and_pins_lie_beside_it() {
    let (root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, b"x").unwrap();
    let path = folder.entry_path(&entry.key);
    // Whole seconds: not every file system keeps more.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(&path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    assert_eq!(folder.scan()[0].used_at, long_ago);
    folder.touch(&entry.key);
    let age = folder.scan()[0].used_at.elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");

    assert!(!folder.scan()[0].pinned);
    for _ in 0..2 {
        folder.pin(&entry.key, true).unwrap();
    }
    let again = Folder::open(root.path(), fingerprint(), &[]).unwrap();
    assert!(again.scan()[0].pinned);
    for _ in 0..2 {
        folder.pin(&entry.key, false).unwrap();
    }
    assert!(!again.scan()[0].pinned);
    let missing = folder.pin(&entry.parent, true);
    assert!(matches!(missing, Err(DiskError::Missing { key }) if key == entry.parent));
    folder.touch(&entry.parent);
}

#[test]
fn a_removed_entry_leaves_nothing() {
    let (root, folder) = folder();
    let entry = entry(1);
    let bytes = folder.write(&entry, &payload(1000)).unwrap();
    folder.pin(&entry.key, true).unwrap();
    assert!(!folder.remove_if_empty());
    assert_eq!(folder.remove(&entry.key).unwrap(), bytes);
    assert_eq!(folder.remove(&entry.key).unwrap(), 0);
    assert_eq!(folder.read(&entry.key).unwrap(), None);
    assert_eq!(folder.survey(), Survey::default());
    assert!(folder.remove_if_empty());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_store_emptied_while_in_use_is_made_anew_by_the_next_write() {
    let (root, folder) = folder();
    assert!(folder.remove_if_empty());
    folder.write(&entry(1), b"x").unwrap();
    assert_eq!(folder.scan().len(), 1);
    let infos = folders(root.path());
    assert_eq!(infos.len(), 1);
    assert_eq!(
        infos[0].manifest.as_ref().unwrap().fact("model"),
        Some("owl")
    );
    fs::remove_dir_all(root.path()).unwrap();
    folder.write(&entry(1), b"x").unwrap();
    assert_eq!(folder.scan().len(), 1);
}

#[test]
fn folders_are_told_with_what_they_are_for() {
    let (root, folder) = folder();
    let bytes = folder.write(&entry(1), &payload(10)).unwrap()
        + folder.write(&entry(2), &payload(20)).unwrap();
    folder.pin(&entry(1).key, true).unwrap();
    let other = Fingerprint::of([("model", "mouse")]);
    Folder::open(root.path(), other, &[]).unwrap();
    fs::create_dir(root.path().join("something else")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let mut infos = folders(root.path());
    infos.sort_by_key(|info| info.entries);
    let told: Vec<_> = infos
        .iter()
        .map(|info| (info.fingerprint, info.entries, info.bytes))
        .collect();
    assert_eq!(told, [(other, 0, 0), (fingerprint(), 2, bytes)]);
    assert!(infos[0].newest.is_none());
    assert!(infos[1].newest.unwrap().elapsed().unwrap() < Duration::from_secs(60));
    assert_eq!(infos[1].folder().survey().found.len(), 2);
    assert!(folders(&root.path().join("nowhere")).is_empty());
    assert!(free_bytes(&root.path().join("not/yet")).unwrap() > 0);
}

#[test]
fn what_dead_writers_left_is_removed_after_an_hour() {
    let (root, folder) = folder();
    let new = folder.path().join("new");
    let (old, young) = (new.join("old"), new.join("young"));
    fs::write(&old, "torn").unwrap();
    fs::write(&young, "being written").unwrap();
    let time = SystemTime::now() - Duration::from_secs(3700);
    fs::File::open(&old).unwrap().set_modified(time).unwrap();
    Folder::open(root.path(), fingerprint(), &[]).unwrap();
    assert!(!old.exists());
    assert!(young.exists());
}

#[test]
fn no_changed_byte_of_a_header_is_believed() {
    let (_root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, &payload(300)).unwrap();
    let path = folder.entry_path(&entry.key);
    let good = fs::read(&path).unwrap();
    let header_bytes = good.len() - 300;
    for at in 0..header_bytes {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            match folder.read(&entry.key) {
                // A later version, for all that can be known: not believed, and left alone.
                Ok(None) => assert!((8..12).contains(&at) && path.exists(), "byte {at}"),
                Err(DiskError::Damaged { .. }) => assert!(!path.exists(), "byte {at}"),
                other => panic!("byte {at}, bit {bit}: {other:?}"),
            }
            if bit == 0 {
                fs::write(&path, &bytes).unwrap();
                assert!(folder.scan().is_empty(), "byte {at}");
            }
        }
    }
    fs::write(&path, &good).unwrap();
    assert!(folder.read(&entry.key).unwrap().is_some());
}

#[test]
fn a_file_cut_anywhere_is_removed_and_can_be_written_again() {
    let (_root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, &payload(300)).unwrap();
    let path = folder.entry_path(&entry.key);
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        assert!(folder.scan().is_empty(), "{length} bytes");
        assert!(!path.exists());
        fs::write(&path, &good[..length]).unwrap();
        assert!(folder.write(&entry, &payload(300)).unwrap() > 0);
        assert_eq!(fs::read(&path).unwrap(), good);
    }
    let mut longer = good.clone();
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    let expected = good.len() as u64;
    let found = expected + 1;
    assert_eq!(
        reason(folder.read(&entry.key)),
        Flaw::Length { expected, found }
    );
    // As after a loss of power: the length is right and the contents never came.
    fs::write(&path, vec![0; good.len()]).unwrap();
    assert_eq!(reason(folder.read(&entry.key)), Flaw::Magic);
    let mut holed = good;
    let from = holed.len() - 300;
    holed[from..].fill(0);
    fs::write(&path, &holed).unwrap();
    assert_eq!(folder.scan().len(), 1);
    assert!(matches!(
        folder.verify(&entry.key, |_| {}),
        Err(DiskError::Damaged {
            reason: Flaw::PayloadChecksum,
            ..
        })
    ));
    assert_eq!(reason(folder.read(&entry.key)), Flaw::PayloadChecksum);
    assert!(!path.exists());
}

#[test]
fn what_is_foreign_is_not_believed_however_sound_it_is() {
    let (_root, folder) = folder();
    let (mine, other) = (entry(1), entry(2));
    folder.write(&other, b"other").unwrap();
    let path = folder.entry_path(&mine.key);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(folder.entry_path(&other.key), &path).unwrap();
    assert_eq!(reason(folder.read(&mine.key)), Flaw::Name);

    let stranger = Fingerprint::of([("model", "mouse")]);
    let header = Header::new(stranger, mine.clone(), b"x").unwrap().encode();
    fs::write(&path, [&header[..], b"x"].concat()).unwrap();
    assert_eq!(reason(folder.read(&mine.key)), Flaw::Fingerprint);

    let mut forged = Header::new(fingerprint(), mine.clone(), b"x").unwrap();
    forged.entry.tokens[3] += 1;
    fs::write(&path, [&forged.encode()[..], b"x"].concat()).unwrap();
    assert_eq!(reason(folder.read(&mine.key)), Flaw::Key);

    // Under a name that is no key, and in the folder of other digits.
    let sound = fs::read(folder.entry_path(&other.key)).unwrap();
    let nameless = path.with_file_name("nameless.kv");
    let digits = other.key.to_string();
    let elsewhere = folder
        .path()
        .join(if digits.starts_with("00") { "01" } else { "00" });
    fs::create_dir_all(&elsewhere).unwrap();
    let misplaced = elsewhere.join(format!("{}.kv", other.key));
    let bystander = path.with_file_name("notes.txt");
    for path in [&nameless, &misplaced, &bystander] {
        fs::write(path, &sound).unwrap();
    }
    assert_eq!(folder.survey().damaged.len(), 2);
    assert_eq!(folder.scan().len(), 1);
    assert!(!nameless.exists() && !misplaced.exists() && bystander.exists());
}

#[test]
fn later_versions_are_left_alone_and_earlier_ones_removed() {
    let (_root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, b"x").unwrap();
    let path = folder.entry_path(&entry.key);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, &bytes).unwrap();
    folder.pin(&entry.key, true).unwrap();
    assert!(folder.scan().is_empty());
    assert_eq!(folder.read(&entry.key).unwrap(), None);
    assert_eq!(folder.write(&entry, b"x").unwrap(), 0);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(path.with_extension("pin").exists());
    bytes[8] = 0;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(reason(folder.read(&entry.key)), Flaw::OlderVersion(0));
}

#[test]
fn a_mark_does_not_outlive_its_entry() {
    let (_root, folder) = folder();
    let entry = entry(1);
    folder.write(&entry, b"x").unwrap();
    folder.pin(&entry.key, true).unwrap();
    fs::remove_file(folder.entry_path(&entry.key)).unwrap();
    assert_eq!(folder.survey().stray_pins.len(), 1);
    folder.scan();
    folder.write(&entry, b"x").unwrap();
    assert!(!folder.scan()[0].pinned);
}

#[test]
fn what_does_not_fit_together_is_not_written() {
    let (_root, folder) = folder();
    let mut entry = entry(1);
    entry.begin = u32::MAX;
    let flaw = |entry: &Entry| match folder.write(entry, b"x") {
        Err(DiskError::Unwritable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert!(matches!(flaw(&entry), Flaw::Tokens { .. }));
    entry.begin = 0;
    entry.tokens = Box::new([]);
    assert!(matches!(flaw(&entry), Flaw::Tokens { count: 0, .. }));
    entry.tokens = vec![0; TOKENS_MAX + 1].into();
    assert!(matches!(flaw(&entry), Flaw::Tokens { .. }));
    entry.tokens = Box::new([1]);
    assert_eq!(flaw(&entry), Flaw::Key);
    assert_eq!(folder.survey(), Survey::default());
}

#[test]
fn errors_say_what_failed_on_what_and_why() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let error = Folder::open(&root.path().join("file"), fingerprint(), &[]).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot create "), "{text}");
    assert!(text.contains("Not a directory"), "{text}");
}

proptest! {
    #[test]
    fn a_header_is_read_back_as_it_was_written(
        begin in 0..u32::MAX / 2,
        tail: bool,
        tokens in prop::collection::vec(any::<i32>(), 1..300),
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        parent: [u8; 32],
        fingerprint: [u8; 32],
    ) {
        let kind = if tail { Kind::Tail } else { Kind::Block };
        let parent = Key::from_bytes(parent);
        let fingerprint = Fingerprint::from_bytes(fingerprint);
        let tokens: Box<[i32]> = tokens.into();
        let entry = Entry { key: parent.child(kind, &tokens), parent, kind, begin, tokens };
        let header = Header::new(fingerprint, entry.clone(), &payload).unwrap();
        let bytes = header.encode();
        prop_assert_eq!(bytes.len(), header.bytes());
        prop_assert_eq!(Header::bytes_of(&bytes[..START_BYTES]), Ok(bytes.len()));
        let file_bytes = (bytes.len() + payload.len()) as u64;
        let read = Header::parse(&bytes, file_bytes).unwrap();
        prop_assert_eq!(&read, &header);
        prop_assert_eq!(read.belongs_to(&fingerprint, &entry.key), Ok(()));
        prop_assert_eq!(read.check_payload(&payload), Ok(()));
    }

    #[test]
    fn no_changed_bit_of_a_payload_is_believed(bytes in 1_usize..5000, at: prop::sample::Index, bit in 0_u8..8) {
        let (_root, folder) = folder();
        let entry = entry(1);
        let mut payload = payload(bytes);
        folder.write(&entry, &payload).unwrap();
        let path = folder.entry_path(&entry.key);
        let mut file = fs::read(&path).unwrap();
        let header_bytes = file.len() - bytes;
        file[header_bytes + at.index(bytes)] ^= 1 << bit;
        fs::write(&path, &file).unwrap();
        prop_assert_eq!(reason(folder.read(&entry.key)), Flaw::PayloadChecksum);
        payload.clear();
        prop_assert_eq!(folder.read(&entry.key).unwrap(), None);
    }

    #[test]
    fn whatever_the_bytes_are_they_are_refused_or_sound(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut file = MAGIC.to_vec();
        file.extend(VERSION.to_le_bytes());
        file.extend(&bytes);
        for bytes in [&bytes, &file] {
            prop_assert!(Header::parse(bytes, bytes.len() as u64).is_err());
        }
    }
}
