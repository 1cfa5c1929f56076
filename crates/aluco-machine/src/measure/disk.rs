//! How fast a file is read: past the page cache, through it, and from it.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Advice, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// Bytes per read: more gains nothing on an SSD.
const PORTION: usize = 4 << 20;

/// What direct reads align to. The largest sector of common disks.
const ALIGNMENT: usize = 4096;

/// Bytes per second of sequential reads of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskRead {
    /// The file that was read.
    pub file: PathBuf,
    /// Bytes of it that were read, at most, in each way.
    pub bytes: u64,
    /// Past the page cache (`O_DIRECT`). `None`: the file system does not offer it.
    pub direct: Option<f64>,
    /// Through the page cache, with nothing in it before as far as the kernel obeyed.
    pub buffered: f64,
    /// Again, from the page cache.
    pub cached: f64,
}

/// Reads `file` up to `bytes` in each way, for at most `time` each.
///
/// # Errors
/// Those of opening and reading it.
pub(super) fn measure(file: &Path, bytes: u64, time: Duration) -> io::Result<DiskRead> {
    let mut buffer = vec![0; PORTION + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let portion = &mut buffer[start..start + PORTION];
    forget(file)?;
    let direct = match open_direct(file) {
        // Some file systems let it be opened so, and then refuse to read.
        Ok(open) => match rate(open, portion, bytes, time) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => None,
            rate => Some(rate?),
        },
        Err(_) => None,
    };
    forget(file)?;
    let (buffered, read) = rate_and_bytes(File::open(file)?, portion, bytes, time)?;
    let cached = rate(File::open(file)?, portion, read.min(bytes), time)?;
    Ok(DiskRead {
        file: file.to_owned(),
        bytes: read,
        direct,
        buffered,
        cached,
    })
}

/// A file of that many bytes in `folder` for [`measure`], gone when it is dropped. Its content does not compress.
///
/// # Errors
/// Those of writing it.
pub(super) fn made_up(folder: &Path, bytes: u64) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(".aluco-disk-")
        .tempfile_in(folder)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut portion = vec![0_u8; PORTION];
    let mut left = bytes;
    while left > 0 {
        for word in portion.chunks_exact_mut(8) {
            // Steele and Vigna's splitmix64: fast, and nothing a file system could compress.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        let count = left.min(PORTION as u64) as usize;
        file.write_all(&portion[..count])?;
        left -= count as u64;
    }
    file.as_file().sync_all()?;
    Ok(file)
}

/// Asks the kernel to drop what it has of the file; pages that others map stay.
fn forget(file: &Path) -> io::Result<()> {
    let open = File::open(file)?;
    rustix::fs::fadvise(&open, 0, None, Advice::DontNeed)?;
    Ok(())
}

fn open_direct(file: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(file, flags, Mode::empty())?))
}

fn rate(file: File, portion: &mut [u8], bytes: u64, time: Duration) -> io::Result<f64> {
    Ok(rate_and_bytes(file, portion, bytes, time)?.0)
}

fn rate_and_bytes(
    mut file: File,
    portion: &mut [u8],
    bytes: u64,
    time: Duration,
) -> io::Result<(f64, u64)> {
    let start = Instant::now();
    let mut done = 0;
    while done < bytes && start.elapsed() < time {
        let count = file.read(portion)?;
        if count == 0 {
            break;
        }
        done += count as u64;
    }
    Ok((done as f64 / start.elapsed().as_secs_f64().max(1e-9), done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_file_is_read_in_every_way_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = (PORTION + 12_345) as u64;
        let file = made_up(folder.path(), bytes).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), bytes);
        let begin = Instant::now();
        let found = measure(file.path(), u64::MAX, Duration::MAX).unwrap();
        assert_eq!(found.bytes, bytes);
        // Each way took less than all of them.
        let slowest = bytes as f64 / begin.elapsed().as_secs_f64();
        let rates = [found.buffered, found.cached].into_iter();
        for rate in rates.chain(found.direct) {
            assert!(rate >= slowest, "{slowest}: {found:?}");
        }
        drop(file);
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = made_up(folder.path(), 3 * PORTION as u64).unwrap();
        let limit = PORTION as u64;
        let found = measure(file.path(), limit, Duration::MAX).unwrap();
        assert_eq!(found.bytes, limit);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let error = measure(Path::new("/does/not/exist"), 1, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
