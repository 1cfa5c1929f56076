//! A note beside the entries of a fingerprint: what else was found out about it and need not be found out again.
//!
//! ```text
//! aluco note 1 <fingerprint> <checksum of the text>
//! <text>
//! ```
//!
//! It is believed only if its first line is what it would be written with. It goes with the last entry, and whoever wrote it can do without it.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use xxhash_rust::xxh3::xxh3_128;

use super::{DiskError, Folder};
use crate::Fingerprint;

/// Name of its file.
pub(super) const NAME: &str = "note";

const VERSION: u32 = 1;

/// More than this is no note.
const BYTES_MAX: u64 = 1 << 16;

/// The text noted for a fingerprint below `root`; `None` if there is none that can be believed.
pub fn read_note(root: &Path, fingerprint: &Fingerprint) -> Option<String> {
    let path = root.join(fingerprint.to_string()).join(NAME);
    match read(&path) {
        Ok(note) => {
            let (first, text) = note.split_once('\n')?;
            let is_sound = first == first_line(fingerprint, text);
            if !is_sound {
                tracing::debug!(path = %path.display(), "a note is not believed");
            }
            is_sound.then(|| text.to_owned())
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(path = %path.display(), %error, "a note cannot be read");
            }
            None
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut note = String::new();
    fs::File::open(path)?
        .take(BYTES_MAX)
        .read_to_string(&mut note)?;
    Ok(note)
}

fn first_line(fingerprint: &Fingerprint, text: &str) -> String {
    let checksum = xxh3_128(text.as_bytes());
    format!("aluco note {VERSION} {fingerprint} {checksum:032x}")
}

impl Folder {
    /// Notes a text, in place of what was noted before: all of it or nothing.
    pub fn write_note(&self, text: &str) -> Result<(), DiskError> {
        let first = first_line(self.fingerprint(), text) + "\n";
        self.put(NAME, &[first.as_bytes(), text.as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::{
        super::tests::{entry, facts, fingerprint},
        *,
    };

    fn folder() -> (TempDir, Folder) {
        let root = TempDir::new().unwrap();
        let folder = Folder::open(root.path(), fingerprint(), &facts()).unwrap();
        (root, folder)
    }

    #[test]
    fn the_last_note_is_read_back() {
        let (root, folder) = folder();
        let read = || read_note(root.path(), &fingerprint());
        assert_eq!(read(), None);
        for text in ["blocks\nof 256", "", "ein Käuzchen"] {
            folder.write_note(text).unwrap();
            assert_eq!(read().as_deref(), Some(text));
        }
        assert!(folder.survey().found.is_empty());
        assert_eq!(super::super::folders(root.path())[0].bytes, 0);
    }

    #[test]
    fn a_note_that_is_damaged_or_cut_short_or_of_another_fingerprint_is_none() {
        let (root, folder) = folder();
        folder.write_note("blocks").unwrap();
        let path = folder.path().join(NAME);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                assert_eq!(read_note(root.path(), &fingerprint()), None, "{at} {bit}");
            }
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(read_note(root.path(), &fingerprint()), None, "{at} bytes");
        }
        let other = Fingerprint::of([("model", "mouse")]);
        let others = Folder::open(root.path(), other, &[]).unwrap();
        fs::write(others.path().join(NAME), &good).unwrap();
        assert_eq!(read_note(root.path(), &other), None);
        fs::write(&path, &good).unwrap();
        assert!(read_note(root.path(), &fingerprint()).is_some());
    }

    #[test]
    fn a_note_goes_with_the_last_entry_and_can_be_written_into_an_emptied_store() {
        let (root, folder) = folder();
        folder.write(&entry(1), b"x").unwrap();
        folder.write_note("blocks").unwrap();
        assert!(!folder.remove_if_empty());
        assert!(read_note(root.path(), &fingerprint()).is_some());
        folder.remove(&entry(1).key).unwrap();
        assert!(folder.remove_if_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        folder.write_note("blocks").unwrap();
        assert!(read_note(root.path(), &fingerprint()).is_some());
    }
}
