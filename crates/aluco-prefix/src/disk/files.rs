//! The few things that are done to files, in one place, so that tests can let each of them fail.

use std::{
    fmt::Debug,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::SystemTime,
};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};

/// What is done to files. The state of a sequence tells as much as its text, so what is made is for its owner alone.
pub(super) trait Files: Debug + Send + Sync {
    /// Makes a folder and those above it; it may be there already.
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// Makes a file that must not be there yet.
    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    }

    /// Writes some of these bytes, at least one.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Gives a file another name, over whatever had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }

    /// Appends the next bytes of a file, this many unless it ends before.
    fn read(&self, file: &File, bytes: u64, into: &mut Vec<u8>) -> io::Result<()> {
        let spare = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        into.try_reserve_exact(spare)?;
        // Into the spare room as it is: nothing is zeroed first, nothing copied.
        file.take(bytes).read_to_end(into)?;
        Ok(())
    }

    /// Sets when a file was last used.
    fn set_used(&self, path: &Path, time: SystemTime) -> io::Result<()> {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: since.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
        };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
    }
}

/// The real ones.
#[derive(Debug)]
pub(super) struct System;

impl Files for System {}

/// Writes all of these bytes.
pub(super) fn write_all(files: &dyn Files, file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match files.write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
