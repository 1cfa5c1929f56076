//! The journal: what was there before each change, on the medium before the change is made.
//!
//! One file per apply, `000001.jsonl`, below `/var/lib/aluco-tune/journal`. Each line is a checksum, a space and a [`Record`] as
//! JSON, numbered from 0. A line whose checksum is wrong was torn by a crash while it was written; what it announces has not
//! been done, so it is dropped, and the number that it had is used again. A number that is missing means that the file was
//! damaged otherwise, and nothing is done on the strength of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    change::Change,
    content::{ContentHash, checksum},
    disk::Disk,
    error::TuneError,
    tree::{FileState, is_absent},
};

/// Version of the records.
const FORMAT: u32 = 1;
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub(crate) enum Record {
    /// An apply begins.
    Begin(Beginning),
    /// A change is about to be made.
    Intend(Box<Intent>),
    /// It was made.
    Made {
        /// Index of the change within the apply.
        step: usize,
        /// What the files that a command touched are now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        touched: Vec<(PathBuf, Option<ContentHash>)>,
    },
    /// All changes were made.
    Complete,
    /// The command that takes a change back is about to run.
    TakingBack {
        /// Index of the change within the apply.
        step: usize,
        /// The touched files that nobody else changed since: they get their old bytes.
        ours: Vec<PathBuf>,
    },
    /// A change was taken back.
    TakenBack {
        /// Index of the change within the apply.
        step: usize,
    },
}

/// When and by what an apply was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    format: u32,
    /// Seconds since 1970.
    pub at_s: u64,
    /// Which boot of the kernel it was.
    pub boot_id: Option<String>,
    /// Version of Aluco.
    pub version: String,
}

/// A change that is about to be made, with all that takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) step: usize,
    pub(crate) change: Change,
    /// For a file: where it lies, links followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resolved: Option<PathBuf>,
    /// Folders that are made for it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) folders: Vec<PathBuf>,
    /// For a command: the files that it touches, as they are before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) before: Vec<Touched>,
}

/// A file that a command touches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Touched {
    pub(crate) path: PathBuf,
    pub(crate) state: Option<FileState>,
}

impl Beginning {
    pub(crate) fn new(at_s: u64, boot_id: Option<String>) -> Self {
        Self {
            format: FORMAT,
            at_s,
            boot_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    n: usize,
    #[serde(flatten)]
    record: Record,
}

/// One change as the journal tells it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) intent: Intent,
    /// What a command's files were after it; `None`: the apply was broken off at this step.
    pub(crate) made: Option<Vec<(PathBuf, Option<ContentHash>)>>,
    /// An undo was begun: the touched files that nobody else had changed then.
    pub(crate) ours: Option<Vec<PathBuf>>,
    pub(crate) taken_back: bool,
}

/// The journal of one apply.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Number of the next record.
    next: usize,
    /// Whether the file ends in the middle of a line.
    torn: bool,
    pub(crate) beginning: Option<Beginning>,
    pub(crate) steps: Vec<Step>,
    pub(crate) complete: bool,
}

impl Journal {
    /// A journal that is to be written to this file, which is not there yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            next: 0,
            torn: false,
            beginning: None,
            steps: Vec::new(),
            complete: false,
        }
    }

    /// Reads a journal.
    pub(crate) fn read(path: &Path) -> Result<Self, TuneError> {
        let length = fs::metadata(path)
            .map_err(TuneError::io("read", path))?
            .len();
        let damaged = |line: usize, why: String| TuneError::JournalDamaged {
            path: path.into(),
            line,
            why,
        };
        if length > JOURNAL_BYTES_MAX {
            return Err(damaged(1, format!("{length} bytes cannot be")));
        }
        let bytes = fs::read(path).map_err(TuneError::io("read", path))?;
        let mut journal = Self::new(path.to_owned());
        journal.torn = bytes.last().is_some_and(|last| *last != b'\n');
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let Some(json) = verified(line) else {
                continue;
            };
            let Line { n, record } =
                serde_json::from_slice(json).map_err(|error| damaged(at + 1, error.to_string()))?;
            if n != journal.next {
                let why = format!("record {n} follows where record {} belongs", journal.next);
                return Err(damaged(at + 1, why));
            }
            journal
                .take(record)
                .map_err(|why| damaged(at + 1, why.to_owned()))?;
        }
        Ok(journal)
    }

    /// Writes a record so that it is on the medium, and takes it into account.
    pub(crate) fn write(&mut self, disk: &dyn Disk, record: Record) -> Result<(), TuneError> {
        let line = encode(self.next, &record);
        let line = if self.torn { format!("\n{line}") } else { line };
        // Until it is known to have worked, what lies there is as good as torn.
        self.torn = true;
        disk.append(&self.path, line.as_bytes())
            .map_err(TuneError::io("write the journal", &self.path))?;
        disk.sync(&self.path)
            .map_err(TuneError::io("write the journal", &self.path))?;
        self.torn = false;
        self.take(record).map_err(|why| TuneError::JournalDamaged {
            path: self.path.clone(),
            line: self.next,
            why: why.to_owned(),
        })
    }

    /// Whether its apply was broken off, or the undo of it.
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.steps.is_empty()
            && (!self.complete
                || self
                    .steps
                    .iter()
                    .any(|step| step.taken_back || step.ours.is_some()))
    }

    /// Takes the file away: everything was taken back.
    pub(crate) fn remove(&self, disk: &dyn Disk) -> Result<(), TuneError> {
        match disk.remove_file(&self.path) {
            Err(error) if !is_absent(&error) => {
                Err(TuneError::io("remove the journal", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, record: Record) -> Result<(), &'static str> {
        match record {
            Record::Begin(beginning) => {
                if beginning.format != FORMAT {
                    return Err("it was written by another version of Aluco");
                }
                self.beginning = Some(beginning);
            }
            Record::Intend(intent) => {
                if intent.step != self.steps.len() {
                    return Err("the changes are not in order");
                }
                self.steps.push(Step {
                    intent: *intent,
                    made: None,
                    ours: None,
                    taken_back: false,
                });
            }
            Record::Made { step, touched } => {
                let step = self.steps.get_mut(step).ok_or("no such change")?;
                step.made = Some(touched);
            }
            Record::Complete => self.complete = true,
            Record::TakingBack { step, ours } => {
                let step = self.steps.get_mut(step).ok_or("no such change")?;
                step.ours = Some(ours);
            }
            Record::TakenBack { step } => {
                let step = self.steps.get_mut(step).ok_or("no such change")?;
                step.taken_back = true;
            }
        }
        self.next += 1;
        Ok(())
    }
}

/// A whole line, with its end.
pub(crate) fn encode(n: usize, record: &Record) -> String {
    let line = Line {
        n,
        record: record.clone(),
    };
    let json = serde_json::to_string(&line).expect("records hold nothing that JSON lacks");
    format!("{} {json}\n", checksum(json.as_bytes()))
}

/// The JSON of a line whose checksum is right.
fn verified(line: &[u8]) -> Option<&[u8]> {
    let (sum, json) = (line.get(..16)?, line.get(17..)?);
    (line[16] == b' ' && checksum(json).as_bytes() == sum).then_some(json)
}

/// The journals in a folder, oldest first.
pub(crate) fn read_all(folder: &Path) -> Result<Vec<Journal>, TuneError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(TuneError::io("read", folder)(error)),
    };
    let names: io::Result<Vec<_>> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect();
    let mut numbers: Vec<u32> = names
        .map_err(TuneError::io("read", folder))?
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(".jsonl")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| Journal::read(&path_of(folder, number)))
        .collect()
}

/// The file of a journal that is not there yet, after all others.
pub(crate) fn next_path(folder: &Path, journals: &[Journal]) -> PathBuf {
    let last = journals
        .last()
        .and_then(|journal| journal.path.file_stem()?.to_str()?.parse::<u32>().ok());
    path_of(folder, last.unwrap_or(0) + 1)
}

fn path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:06}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::disk::RealDisk;

    fn begin() -> Record {
        Record::Begin(Beginning::new(7, Some("boot".to_owned())))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::new(next_path(folder.path(), &[]));
        journal.write(&RealDisk, begin()).expect("written");
        journal.write(&RealDisk, Record::Complete).expect("written");
        let journals = read_all(folder.path()).expect("read");
        assert_eq!(journals.len(), 1);
        assert!(journals[0].complete);
        assert_eq!(journals[0].beginning.as_ref().expect("a beginning").at_s, 7);
        assert_eq!(
            next_path(folder.path(), &journals),
            folder.path().join("000002.jsonl")
        );
    }

    #[test]
    fn a_line_cut_anywhere_is_dropped_and_its_number_used_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("000001.jsonl");
        let whole = encode(0, &begin());
        let torn = encode(1, &Record::Complete);
        for cut in 0..torn.len() {
            fs::write(&path, format!("{whole}{}", &torn[..cut])).expect("a file");
            let mut journal = Journal::read(&path).expect("read");
            // Only the line's end is missing from the longest one.
            assert_eq!(journal.complete, cut == torn.len() - 1);
            if !journal.complete {
                journal.write(&RealDisk, Record::Complete).expect("written");
            }
            assert!(Journal::read(&path).expect("read").complete);
        }
    }

    #[test]
    fn a_missing_line_is_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("000001.jsonl");
        fs::write(&path, encode(1, &Record::Complete)).expect("a file");
        let error = Journal::read(&path).expect_err("damage");
        assert!(
            matches!(error, TuneError::JournalDamaged { line: 1, .. }),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("000001.jsonl");
            fs::write(&path, bytes).expect("a file");
            let _ = Journal::read(&path);
        }
    }
}
