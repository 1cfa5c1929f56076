//! Every operation on files fails once, and every operation is the last of its process.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::{
    super::files::{Files, System},
    *,
};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It fails, and the next one does not.
    Error(io::ErrorKind),
    /// A write takes half of the bytes; all else works.
    Half,
    /// The process ends: at a write, with half of the bytes written. Nothing after it happens.
    Death,
}

/// Files with one fault.
#[derive(Debug)]
struct Faulty {
    fault: Fault,
    /// Number of the operation, from 0.
    at: usize,
    done: AtomicUsize,
}

/// What an operation may do.
enum Leave {
    Everything,
    Half,
    Nothing(io::Error),
}

impl Faulty {
    fn next(&self) -> Leave {
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Error(kind) if number == self.at => Leave::Nothing(kind.into()),
            Fault::Half | Fault::Death if number == self.at => Leave::Half,
            Fault::Death if number > self.at => Leave::Nothing(io::Error::other("dead")),
            _ => Leave::Everything,
        }
    }

    /// An operation that is done or not.
    fn whole<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match (self.next(), self.fault) {
            (Leave::Nothing(error), _) => Err(error),
            (Leave::Half, Fault::Death) => Err(io::Error::other("dead")),
            _ => operation(),
        }
    }
}

impl Files for Faulty {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.whole(|| System.create_folder(path))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.whole(|| System.create(path))
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        match self.next() {
            Leave::Everything => System.write(file, bytes),
            Leave::Half => {
                let half = bytes.len().div_ceil(2);
                let written = System.write(file, &bytes[..half])?;
                match self.fault {
                    Fault::Half => Ok(written),
                    _ => Err(io::Error::other("dead")),
                }
            }
            Leave::Nothing(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.whole(|| System.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.whole(|| System.remove(path))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.whole(|| System.open(path))
    }

    fn read(&self, file: &File, bytes: u64, into: &mut Vec<u8>) -> io::Result<()> {
        self.whole(|| System.read(file, bytes, into))
    }

    fn set_used(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        self.whole(|| System.set_used(path, time))
    }
}

/// What a process that is hit by the fault believes to have done.
#[derive(Debug, Default)]
struct Believed {
    written: bool,
    removed: bool,
    pinned: bool,
    unpinned: bool,
    errors: Vec<DiskError>,
}

/// Writes a note and entry 3, removes entry 1, reads and pins entry 2: all that a store does; removes entry 4 while it is pinned.
/// All but entry 3 were there, entry 1 pinned as well.
fn life(root: &Path, faulty: Arc<Faulty>) -> Believed {
    let mut believed = Believed::default();
    let mut did = |result: Result<(), DiskError>| match result {
        Ok(()) => true,
        Err(error) => {
            believed.errors.push(error);
            false
        }
    };
    let folder = match Folder::open_with(root, fingerprint(), &facts(), faulty) {
        Ok(folder) => folder,
        Err(error) => {
            did(Err(error));
            return believed;
        }
    };
    did(folder.write_note("blocks"));
    let written = did(folder
        .write(&entry(3), &payload(5000))
        .map(|bytes| assert!(bytes > 0)));
    let pinned = did(folder.pin(&entry(2).key, true));
    folder.touch(&entry(2).key);
    did(folder.read(&entry(2).key).map(|read| {
        assert_eq!(read, Some((entry(2), payload(2000))));
    }));
    let unpinned = did(folder.pin(&entry(1).key, false));
    let removed = did(folder.remove(&entry(1).key).map(|_| ()));
    did(folder.remove(&entry(4).key).map(|_| ()));
    for found in folder.scan() {
        assert!((1..=4).any(|first| found.entry == entry(first)));
    }
    Believed {
        written,
        removed,
        pinned,
        unpinned,
        ..believed
    }
}

/// Three entries, two of them pinned.
fn before() -> TempDir {
    let root = TempDir::new().unwrap();
    let folder = Folder::open(root.path(), fingerprint(), &facts()).unwrap();
    folder.write(&entry(1), &payload(1000)).unwrap();
    folder.write(&entry(2), &payload(2000)).unwrap();
    folder.write(&entry(4), &payload(4000)).unwrap();
    folder.pin(&entry(1).key, true).unwrap();
    folder.pin(&entry(4).key, true).unwrap();
    root
}

fn temporary_files(folder: &Folder) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(folder.path().join("new")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// Whatever happened: what the next process finds is whole, and is all that was finished.
fn check_after(root: &Path, believed: &Believed, what: &str) {
    let folder = Folder::open(root, fingerprint(), &facts()).unwrap();
    assert_eq!(folder.manifest().facts, facts(), "{what}");
    let note = read_note(root, &fingerprint());
    assert!(note.is_none_or(|text| text == "blocks"), "{what}");
    let survey = folder.survey();
    assert_eq!(survey.damaged, [], "{what}");
    assert!(survey.stray_pins.is_empty(), "{what}");
    assert_eq!(folder.scan(), survey.found, "{what}");
    for found in &survey.found {
        let first = found.entry.tokens[0];
        let bytes = if first == 3 {
            5000
        } else {
            first as usize * 1000
        };
        assert_eq!(
            folder.read(&found.entry.key).unwrap(),
            Some((entry(first), payload(bytes))),
            "{what}"
        );
    }
    let find = |first| {
        let key = entry(first).key;
        survey.found.iter().find(|found| found.entry.key == key)
    };
    assert!(find(2).is_some(), "{what}: a bystander is gone");
    assert!(find(3).is_some() || !believed.written, "{what}");
    assert!(find(1).is_none() || !believed.removed, "{what}");
    assert!(!believed.pinned || find(2).unwrap().pinned, "{what}");
    if let Some(found) = find(1) {
        assert!(!(believed.unpinned && found.pinned), "{what}");
    }
    // Nothing stays for ever.
    for file in temporary_files(&folder) {
        let long_ago = SystemTime::now() - Duration::from_secs(4000);
        File::open(file).unwrap().set_modified(long_ago).unwrap();
    }
    let folder = Folder::open(root, fingerprint(), &facts()).unwrap();
    assert!(temporary_files(&folder).is_empty(), "{what}");
    // And what was lost can be written again.
    folder.write(&entry(3), &payload(5000)).unwrap();
    let read = folder.read(&entry(3).key).unwrap();
    assert_eq!(read, Some((entry(3), payload(5000))), "{what}");
}

fn faulty(fault: Fault, at: usize) -> Arc<Faulty> {
    Arc::new(Faulty {
        fault,
        at,
        done: AtomicUsize::new(0),
    })
}

/// Operations of an undisturbed life.
fn operations(root: &Path) -> usize {
    let undisturbed = faulty(Fault::Death, usize::MAX);
    let believed = life(root, undisturbed.clone());
    assert!(believed.errors.is_empty(), "{:?}", believed.errors);
    assert!(believed.written && believed.removed && believed.pinned && believed.unpinned);
    undisturbed.done.load(Ordering::Relaxed)
}

#[test]
fn a_death_at_any_operation_leaves_whole_entries() {
    let count = operations(before().path());
    assert!(count > 20, "{count} operations");
    for at in 0..count {
        let root = before();
        let believed = life(root.path(), faulty(Fault::Death, at));
        check_after(root.path(), &believed, &format!("death at operation {at}"));
    }
}

#[test]
fn a_death_while_the_folder_is_first_made_leaves_one_that_works() {
    let empty = || TempDir::new().unwrap();
    let write = |root: &Path, files: Arc<Faulty>| {
        Folder::open_with(root, fingerprint(), &facts(), files)
            .and_then(|folder| folder.write(&entry(2), &payload(2000)))
    };
    let undisturbed = faulty(Fault::Death, usize::MAX);
    write(empty().path(), undisturbed.clone()).unwrap();
    for at in 0..undisturbed.done.load(Ordering::Relaxed) {
        let root = empty();
        assert!(
            write(root.path(), faulty(Fault::Death, at)).is_err(),
            "{at}"
        );
        write(root.path(), faulty(Fault::Death, usize::MAX)).unwrap();
        check_after(
            root.path(),
            &Believed::default(),
            &format!("operation {at}"),
        );
    }
}

#[test]
fn an_error_at_any_operation_is_told_and_leaves_nothing_behind() {
    let count = operations(before().path());
    let kinds = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::Other,
    ];
    let mut full = 0;
    for kind in kinds {
        for at in 0..count {
            let root = before();
            let believed = life(root.path(), faulty(Fault::Error(kind), at));
            let what = format!("{kind:?} at operation {at}");
            assert!(believed.errors.len() <= 1, "{what}: {:?}", believed.errors);
            let is_full = matches!(believed.errors[..], [DiskError::Full { .. }]);
            full += usize::from(is_full && !believed.written);
            let folder = Folder::open(root.path(), fingerprint(), &[]).unwrap();
            assert!(temporary_files(&folder).is_empty(), "{what}");
            check_after(root.path(), &believed, &what);
        }
    }
    // At least: create, two writes and a rename; for both ways to be full.
    assert!(full >= 8, "{full}");
}

#[test]
fn short_writes_are_carried_on() {
    let count = operations(before().path());
    for at in 0..count {
        let root = before();
        let believed = life(root.path(), faulty(Fault::Half, at));
        assert!(believed.errors.is_empty(), "{at}: {:?}", believed.errors);
        check_after(root.path(), &believed, &format!("half at operation {at}"));
    }
}
