//! What is done to files, one step at a time, so that tests can let each of them fail.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::Path,
};

/// Rights and owner that a new file gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// Permission bits.
    pub mode: u32,
    /// User and group; `None`: those of the process.
    pub owner: Option<(u32, u32)>,
    /// A file whose extended attributes, such as its SELinux label, it gets as far as they can be set.
    pub like: Option<&'a Path>,
}

/// Changes of the file system. Each call is one step: it happens or it does not, except for the two that write, which may be cut
/// in the middle.
pub trait Disk {
    /// Writes a file that must not exist yet.
    fn write_new(&self, path: &Path, bytes: &[u8], attributes: Attributes<'_>) -> io::Result<()>;
    /// Appends to a file, which is made if it is not there, readable by its owner only.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Returns when the file or folder is on the medium.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Puts a file or folder in the place of another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes one folder.
    fn create_folder(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Removes one empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// The file system itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn write_new(&self, path: &Path, bytes: &[u8], attributes: Attributes<'_>) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        let fresh = file.metadata()?;
        if let Some((user, group)) = attributes.owner
            && (user, group) != (fresh.uid(), fresh.gid())
        {
            fchown(&file, Some(user), Some(group))?;
        }
        // After the owner: a change of owner takes the set-user-ID bit away.
        let mode = attributes.mode & 0o7777;
        if fresh.permissions().mode() & 0o7777 != mode
            && let Err(error) = file.set_permissions(Permissions::from_mode(mode))
            // The EFI system partition is FAT, which has no such bits.
            && error.kind() != io::ErrorKind::PermissionDenied
        {
            return Err(error);
        }
        if let Some(like) = attributes.like {
            copy_extended_attributes(like, &file);
        }
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?
            .write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::create_dir(path)?;
        // Whatever the process masks: others read what lies below /etc.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// Whether an attribute vouches for the bytes that the file had, and would be wrong of others: those of the kernel's integrity measurement.
fn is_of_content(name: &str) -> bool {
    name.is_empty() || name == "security.ima" || name == "security.evm"
}

/// As far as they can be read and set: many file systems have none, and some are the kernel's alone.
fn copy_extended_attributes(from: &Path, to: &fs::File) {
    use rustix::fs::{XattrFlags, fsetxattr, getxattr, listxattr};
    let mut names = vec![0_u8; 8 << 10];
    let Ok(length) = listxattr(from, &mut names[..]) else {
        return;
    };
    for name in names[..length].split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let mut value = vec![0_u8; 8 << 10];
        if !is_of_content(name)
            && let Ok(length) = getxattr(from, name, &mut value[..])
        {
            let _ = fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_access_lists_stay_and_signatures_of_the_old_bytes_go() {
        for kept in [
            "security.selinux",
            "system.posix_acl_access",
            "user.comment",
        ] {
            assert!(!is_of_content(kept), "{kept}");
        }
        for left in ["security.ima", "security.evm", ""] {
            assert!(is_of_content(left), "{left}");
        }
    }
}
