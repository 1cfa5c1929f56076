//! A file that is being filled in several places at once, and the notes about which of its bytes are there.
//!
//! ```text
//! blobs/HASH.aluco-part        as long as the finished file, with holes
//! blobs/HASH.aluco-part.json   what it will be, and how far each part is filled from its start
//! ```
//!
//! The notes never run ahead: bytes are flushed to the disk first and noted afterwards. What was written but not noted when the
//! process or the machine died is fetched again.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{cache::replace, listing::RemoteFile};
use crate::{
    ModelError,
    store::{
        hub_cache::{PARTIAL_NOTES_SUFFIX, PARTIAL_SUFFIX, with_suffix},
        lock::Lock,
        sync_folder,
    },
};

/// How much work a crash may cost.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);

/// What is held as long as anything may still write to the file: the lock of the repository and that of the blob.
pub(super) type Guards = (Arc<Lock>, Lock);

pub(super) struct Partial {
    file: File,
    path: PathBuf,
    notes_path: PathBuf,
    blob: PathBuf,
    state: Mutex<State>,
    /// Held while the notes are written.
    saving: Mutex<()>,
    _guards: Option<Guards>,
}

struct State {
    notes: Notes,
    /// How often it has been begun anew.
    generation: u32,
    saved: Instant,
    dirty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    /// Path within the repository.
    file: String,
    size_bytes: u64,
    /// Length of every part but the last.
    part_bytes: u64,
    /// Bytes that are there of each part, from its start.
    parts: Vec<u64>,
}

impl Notes {
    fn new(file: &RemoteFile, part_bytes: u64) -> Self {
        let part_bytes = part_bytes.max(1);
        Self {
            file: file.path.clone(),
            size_bytes: file.size_bytes,
            part_bytes,
            parts: vec![0; file.size_bytes.div_ceil(part_bytes) as usize],
        }
    }

    /// The notes of a blob, if there are any that make sense.
    fn read(blob: &Path, file: &RemoteFile) -> Option<Self> {
        let path = with_suffix(blob, PARTIAL_NOTES_SUFFIX);
        let notes: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let data = fs::metadata(with_suffix(blob, PARTIAL_SUFFIX)).ok()?;
        let sensible = notes.size_bytes == file.size_bytes
            && data.len() == file.size_bytes
            && notes.part_bytes > 0
            && notes.parts.len() as u64 == notes.size_bytes.div_ceil(notes.part_bytes)
            && (0..notes.parts.len()).all(|part| {
                let range = notes.range(part);
                notes.parts[part] <= range.end - range.start
            });
        sensible.then(|| Self {
            file: file.path.clone(),
            ..notes
        })
    }

    fn range(&self, part: usize) -> Range<u64> {
        let start = part as u64 * self.part_bytes;
        start..start.saturating_add(self.part_bytes).min(self.size_bytes)
    }

    fn missing(&self, part: usize) -> Range<u64> {
        let range = self.range(part);
        range.start + self.parts[part]..range.end
    }

    fn bytes_done(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// Bytes of an unfinished download that need not be fetched again.
pub(super) fn bytes_noted(blob: &Path, file: &RemoteFile) -> u64 {
    Notes::read(blob, file).map_or(0, |notes| notes.bytes_done())
}

impl Partial {
    /// Opens what an earlier download has left, or begins a new one.
    pub(super) fn open(
        blob: &Path,
        file: &RemoteFile,
        part_bytes: u64,
        guards: impl Into<Option<Guards>>,
    ) -> Result<Self, ModelError> {
        let path = with_suffix(blob, PARTIAL_SUFFIX);
        let earlier = Notes::read(blob, file);
        let data = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(earlier.is_none())
            .open(&path)
            .map_err(ModelError::io("open", &path))?;
        data.set_len(file.size_bytes)
            .map_err(ModelError::io("write", &path))?;
        let dirty = earlier.is_none();
        let partial = Self {
            file: data,
            notes_path: with_suffix(blob, PARTIAL_NOTES_SUFFIX),
            path,
            blob: blob.to_owned(),
            state: Mutex::new(State {
                notes: earlier.unwrap_or_else(|| Notes::new(file, part_bytes)),
                generation: 0,
                saved: Instant::now(),
                dirty,
            }),
            saving: Mutex::new(()),
            _guards: guards.into(),
        };
        partial.save()?;
        Ok(partial)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Path within the repository.
    pub(super) fn name(&self) -> String {
        self.state().notes.file.clone()
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.state().notes.size_bytes
    }

    pub(super) fn bytes_done(&self) -> u64 {
        self.state().notes.bytes_done()
    }

    pub(super) fn bytes_missing(&self) -> u64 {
        let state = self.state();
        state.notes.size_bytes - state.notes.bytes_done()
    }

    /// The parts that are not complete.
    pub(super) fn unfinished(&self) -> Vec<usize> {
        let state = self.state();
        (0..state.notes.parts.len())
            .filter(|part| !state.notes.missing(*part).is_empty())
            .collect()
    }

    /// Counts how often the file has been begun anew.
    pub(super) fn generation(&self) -> u32 {
        self.state().generation
    }

    /// The bytes that a part lacks.
    pub(super) fn missing(&self, part: usize) -> Range<u64> {
        self.state().notes.missing(part)
    }

    /// Begins anew with the whole file as one part.
    pub(super) fn start_over_in_one_part(&self) -> Result<(), ModelError> {
        {
            let mut state = self.state();
            state.generation += 1;
            state.notes.part_bytes = state.notes.size_bytes.max(1);
            state.notes.parts = vec![0; usize::from(state.notes.size_bytes > 0)];
            state.dirty = true;
        }
        self.save()
    }

    /// Writes the next bytes of a part, and from time to time the notes. Blocks. Without effect if the file has been begun
    /// anew since `generation`: a write that nobody waits for any more can come late.
    pub(super) fn append(
        &self,
        generation: u32,
        part: usize,
        bytes: &[u8],
    ) -> Result<(), ModelError> {
        let start = {
            let state = self.state();
            if state.generation != generation {
                return Ok(());
            }
            let missing = state.notes.missing(part);
            assert!(
                bytes.len() as u64 <= missing.end - missing.start,
                "more bytes than the part has"
            );
            missing.start
        };
        self.file
            .write_all_at(bytes, start)
            .map_err(ModelError::io("write", &self.path))?;
        let due = {
            let mut state = self.state();
            if state.generation != generation {
                return Ok(());
            }
            state.notes.parts[part] += bytes.len() as u64;
            state.dirty = true;
            state.notes.missing(part).is_empty() || state.saved.elapsed() >= SAVE_INTERVAL
        };
        if due {
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), ModelError> {
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let notes = {
            let mut state = self.state();
            if !state.dirty {
                return Ok(());
            }
            state.dirty = false;
            state.saved = Instant::now();
            state.notes.clone()
        };
        self.file
            .sync_data()
            .map_err(ModelError::io("write", &self.path))?;
        let text = serde_json::to_vec(&notes)
            .map_err(|error| ModelError::io("write", &self.notes_path)(io::Error::other(error)))?;
        replace(&self.notes_path, &text)
    }

    /// Makes the complete and checked file the blob that it is.
    pub(super) fn finish(&self) -> Result<(), ModelError> {
        self.state().dirty = false;
        self.file
            .sync_all()
            .map_err(ModelError::io("write", &self.path))?;
        fs::rename(&self.path, &self.blob).map_err(ModelError::io("create", &self.blob))?;
        let _ = fs::remove_file(&self.notes_path);
        sync_folder(self.blob.parent().unwrap_or(&self.blob))
    }

    /// Deletes what has been downloaded.
    pub(super) fn discard(&self) -> Result<(), ModelError> {
        self.state().dirty = false;
        // The notes first: without them the bytes count for nothing.
        for path in [&self.notes_path, &self.path] {
            fs::remove_file(path).map_err(ModelError::io("delete", path))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // If it fails, the last bytes are fetched again.
        let _ = self.save();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::listing::ContentHash, *};

    fn file(size_bytes: u64) -> RemoteFile {
        RemoteFile {
            path: "m.gguf".into(),
            size_bytes,
            hash: ContentHash::Git("aa".into()),
        }
    }

    fn open(folder: &tempfile::TempDir, size: u64, part: u64) -> Partial {
        Partial::open(&folder.path().join("aa"), &file(size), part, None).unwrap()
    }

    #[test]
    fn what_was_written_but_not_noted_is_missing_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let partial = open(&folder, 10, 4);
        partial.append(0, 0, b"abcd").unwrap();
        partial.append(0, 1, b"ef").unwrap();
        // As kill -9 leaves it: nothing runs any more, not even destructors.
        std::mem::forget(partial);

        let partial = open(&folder, 10, 4);
        assert_eq!(partial.unfinished(), [1, 2]);
        assert_eq!(partial.missing(1), 4..8);
        assert_eq!(partial.bytes_missing(), 6);
    }

    #[test]
    fn what_was_written_is_there_after_an_orderly_end_whatever_the_size_of_parts_is_then() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 10, 4).append(0, 2, b"x").unwrap();
        let partial = open(&folder, 10, 1000);
        assert_eq!(partial.missing(2), 9..10);
        assert_eq!(bytes_noted(&folder.path().join("aa"), &file(10)), 1);
    }

    #[test]
    fn notes_that_do_not_fit_the_file_are_not_believed() {
        for notes in [
            "",
            "{",
            r#"{"file":"m.gguf","size_bytes":10,"part_bytes":4,"parts":[4,5,0]}"#,
            r#"{"file":"m.gguf","size_bytes":10,"part_bytes":4,"parts":[4,4,3]}"#,
            r#"{"file":"m.gguf","size_bytes":10,"part_bytes":4,"parts":[4]}"#,
            r#"{"file":"m.gguf","size_bytes":10,"part_bytes":0,"parts":[]}"#,
            r#"{"file":"m.gguf","size_bytes":12,"part_bytes":4,"parts":[4,4,4]}"#,
        ] {
            let folder = tempfile::tempdir().unwrap();
            drop(open(&folder, 10, 4));
            fs::write(folder.path().join("aa.aluco-part.json"), notes).unwrap();
            assert_eq!(open(&folder, 10, 4).bytes_missing(), 10, "{notes}");
        }
        // Nor are notes without the file that they are about.
        let folder = tempfile::tempdir().unwrap();
        open(&folder, 10, 4).append(0, 0, b"abcd").unwrap();
        fs::remove_file(folder.path().join("aa.aluco-part")).unwrap();
        assert_eq!(open(&folder, 10, 4).bytes_missing(), 10);
    }

    #[test]
    fn a_finished_file_leaves_nothing_but_itself() {
        let folder = tempfile::tempdir().unwrap();
        let partial = open(&folder, 3, 4);
        partial.append(0, 0, b"abc").unwrap();
        partial.finish().unwrap();
        drop(partial);
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["aa"]);
        assert_eq!(fs::read(folder.path().join("aa")).unwrap(), b"abc");
    }

    #[test]
    fn a_write_from_before_a_new_beginning_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let partial = open(&folder, 10, 4);
        let before = partial.generation();
        partial.append(before, 0, b"ab").unwrap();
        partial.start_over_in_one_part().unwrap();
        partial.append(before, 2, b"ij").unwrap();
        assert_eq!(partial.missing(0), 0..10);
        partial.append(partial.generation(), 0, b"abc").unwrap();
        assert_eq!(partial.missing(0), 3..10);
    }

    #[test]
    fn an_empty_file_has_no_parts() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(&folder, 0, 4).unfinished().is_empty());
    }
}
