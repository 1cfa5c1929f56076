//! A folder as a root, by `openat2`: the kernel itself keeps every step below it.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, accessat, fstat, fstatvfs,
        open, openat, openat2, readlinkat,
    },
    io::Errno,
};

use super::{NAMES_MAX, Node, NodeKind, ReadError, Space};
use crate::{MachineError, facts::Because};

/// `openat2` gives up with this if somebody renames folders meanwhile; a few tries are enough.
const TRIES: u32 = 8;

pub(super) struct Folder {
    folder: OwnedFd,
    /// The root of the system: paths cannot lead out of it, so an old kernel's `openat` does as well.
    whole: bool,
}

impl Folder {
    pub(super) fn open(path: &Path, whole: bool) -> Result<Self, MachineError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map_err(|errno| MachineError::Root {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { folder, whole })
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let inside = path.trim_start_matches('/');
        let inside = if inside.is_empty() { "." } else { inside };
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            tries += 1;
            match openat2(&self.folder, inside, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
                Err(Errno::NOSYS | Errno::PERM) if self.whole => {
                    return openat(&self.folder, inside, flags, Mode::empty());
                }
                opened => return opened,
            }
        }
    }

    pub(super) fn read(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let error = |errno| ReadError::of(path, errno);
        // Opening a device can do something, so its kind is looked at before.
        let place = self.at(path, OFlags::PATH).map_err(error)?;
        match kind(&place).map_err(error)? {
            NodeKind::File => {}
            other => {
                return Err(ReadError::new(path, Because::NotAFile)
                    .detail(format!("{other:?}").to_lowercase()));
            }
        }
        let file = self
            .at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
            .map_err(error)?;
        if kind(&file).map_err(error)? != NodeKind::File {
            return Err(ReadError::new(path, Because::NotAFile).detail("it changed meanwhile"));
        }
        let mut bytes = Vec::new();
        File::from(file)
            .take(bytes_max as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|failure| {
                let errno = Errno::from_io_error(&failure).unwrap_or(Errno::IO);
                ReadError::of(path, errno)
            })?;
        if bytes.len() > bytes_max {
            return Err(
                ReadError::new(path, Because::TooLarge).detail(format!("over {bytes_max} bytes"))
            );
        }
        Ok(bytes)
    }

    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, ReadError> {
        let error = |errno| ReadError::of(path, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let folder = self.at(path, flags).map_err(error)?;
        let entries = Dir::read_from(&folder).map_err(error)?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            // A name that is no text is none of those that we look for.
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
            if names.len() >= NAMES_MAX {
                break;
            }
        }
        Ok(names)
    }

    pub(super) fn node(&self, path: &str) -> Result<Node, ReadError> {
        let error = |errno| ReadError::of(path, errno);
        let place = self.at(path, OFlags::PATH).map_err(error)?;
        let stat = fstat(&place).map_err(error)?;
        let usable = self.whole.then(|| {
            let may = Access::READ_OK | Access::WRITE_OK;
            accessat(CWD, path, may, AtFlags::EACCESS).is_ok()
        });
        Ok(Node {
            kind: kind_of(FileType::from_raw_mode(stat.st_mode)),
            mode: stat.st_mode & 0o7777,
            owner: stat.st_uid,
            group: stat.st_gid,
            usable,
        })
    }

    pub(super) fn link(&self, path: &str) -> Result<String, ReadError> {
        let error = |errno| ReadError::of(path, errno);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let folder = self.at(folder, flags).map_err(error)?;
        let target = readlinkat(&folder, name, Vec::new()).map_err(|errno| match errno {
            Errno::INVAL => ReadError::new(path, Because::NotAFile).detail("it is no link"),
            errno => error(errno),
        })?;
        let target = target.into_string();
        target.map_err(|_| ReadError::new(path, Because::NotText))
    }

    pub(super) fn space(&self, path: &str) -> Result<Space, ReadError> {
        let error = |errno| ReadError::of(path, errno);
        let place = self.at(path, OFlags::PATH).map_err(error)?;
        let counts = fstatvfs(&place).map_err(error)?;
        Ok(Space {
            total_bytes: counts.f_blocks.saturating_mul(counts.f_frsize),
            free_bytes: counts.f_bavail.saturating_mul(counts.f_frsize),
        })
    }
}

fn kind(place: impl AsFd) -> Result<NodeKind, Errno> {
    Ok(kind_of(FileType::from_raw_mode(fstat(place)?.st_mode)))
}

fn kind_of(kind: FileType) -> NodeKind {
    match kind {
        FileType::Directory => NodeKind::Directory,
        FileType::CharacterDevice | FileType::BlockDevice => NodeKind::Device,
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        _ => NodeKind::File,
    }
}
