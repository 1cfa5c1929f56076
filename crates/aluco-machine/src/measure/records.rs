//! Reports on disk: one line of JSON each, the newest last.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::MachineReport;

/// More than this is not read back: some ten thousand reports.
const BYTES_MAX: u64 = 32 << 20;

/// Where reports are kept.
#[derive(Debug, Clone)]
pub struct Records {
    file: PathBuf,
}

/// Reports could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("measurements in {file}: {source}")]
pub struct RecordsError {
    file: PathBuf,
    source: io::Error,
}

impl Records {
    /// The reports in `folder`; nothing is written before the first [`Records::add`].
    pub fn new(folder: &Path) -> Self {
        Self {
            file: folder.join("machine.jsonl"),
        }
    }

    /// The file that holds them.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Keeps a report. A line that a crash left unfinished is closed first, so it harms no other.
    ///
    /// # Errors
    /// The folder or file cannot be written.
    pub fn add(&self, report: &MachineReport) -> Result<(), RecordsError> {
        let added = self.append(report).and_then(|file| file.sync_all());
        added.map_err(|source| self.error(source))
    }

    /// Adds a report, which is not on the medium yet when this returns.
    fn append(&self, report: &MachineReport) -> io::Result<File> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let is_torn =
            fs::read(&self.file).is_ok_and(|bytes| bytes.last().is_some_and(|last| *last != b'\n'));
        let mut line = String::from(if is_torn { "\n" } else { "" });
        line += &serde_json::to_string(report)?;
        line.push('\n');
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)?;
        file.write_all(line.as_bytes())?;
        Ok(file)
    }

    /// All reports that can be read, the newest last; lines of other versions or torn ones are skipped.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is larger than 32 MiB.
    pub fn all(&self) -> Result<Vec<MachineReport>, RecordsError> {
        let bytes = match fs::metadata(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.error(error)),
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                let message = format!("larger than {} MiB; move it away", BYTES_MAX >> 20);
                return Err(self.error(io::Error::other(message)));
            }
            Ok(_) => fs::read(&self.file).map_err(|error| self.error(error))?,
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        Ok(lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect())
    }

    fn error(&self, source: io::Error) -> RecordsError {
        RecordsError {
            file: self.file.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Arithmetic, Bandwidth, Versions};

    fn report(at: u64) -> MachineReport {
        MachineReport {
            at,
            versions: Versions {
                aluco: "0.1.0".to_owned(),
                kernel: "7.1.3".to_owned(),
                cpu: "a CPU".to_owned(),
                gpu: None,
                engines: std::collections::BTreeMap::new(),
            },
            bandwidth: Bandwidth {
                threads: 16,
                array_bytes: 1,
                read: 1e11,
                copy: 1e11,
                triad: 1e11,
            },
            bandwidth_limit: None,
            arithmetic: Arithmetic {
                threads: 16,
                instructions: "AVX2 and FMA".to_owned(),
                one_thread: 1e11,
                all_threads: 1e12,
            },
            disk: Err("no disk".to_owned()),
            devices: Vec::new(),
            device_failures: Vec::new(),
        }
    }

    #[test]
    fn reports_come_back_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(&folder.path().join("new"));
        assert!(records.all().unwrap().is_empty());
        records.add(&report(1)).unwrap();
        records.add(&report(2)).unwrap();
        assert_eq!(records.all().unwrap(), [report(1), report(2)]);
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(folder.path());
        records.add(&report(1)).unwrap();
        let whole = fs::read(records.file()).unwrap();
        for cut in 1..whole.len() {
            fs::write(records.file(), &whole[..cut]).unwrap();
            // As `add` does, without waiting for the disk hundreds of times.
            records.append(&report(2)).unwrap();
            let kept = records.all().unwrap();
            assert_eq!(kept.last(), Some(&report(2)), "cut at {cut}");
        }
        fs::write(records.file(), b"\xff\n{}\n").unwrap();
        assert!(records.all().unwrap().is_empty());
    }
}
