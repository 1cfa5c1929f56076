//! Named pipes that hold a worker at a place until a test lets it go on, so that no test depends on who is faster.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    io::Errno,
};
use tempfile::TempDir;

use super::PATIENCE;

/// Holds the step of this number, counted over the life of a worker.
pub struct Gate {
    folder: TempDir,
    step: u64,
}

/// Who waits goes on when this is dropped.
pub struct Held {
    _pipe: File,
}

impl Gate {
    /// A gate for one worker.
    pub fn at(step: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_pipe(&folder.path().join("gate"));
        Self { folder, step }
    }

    /// What the worker has to be told in `ALUCO_FAULT`.
    pub fn fault(&self) -> String {
        let pipe = self.folder.path().join("gate");
        format!("wait-in-decode:{}:{}", self.step, pipe.display())
    }

    /// Comes back when the worker is in the middle of the step.
    pub fn reached(&self) -> Held {
        hold(&self.folder.path().join("gate"))
    }
}

/// Makes a named pipe.
pub fn make_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Waits for somebody to read from a pipe, who then has to wait.
pub fn hold(path: &Path) -> Held {
    let began = Instant::now();
    loop {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        match opened {
            Ok(pipe) => return Held { _pipe: pipe },
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
        assert!(
            began.elapsed() < PATIENCE,
            "nobody reads {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
