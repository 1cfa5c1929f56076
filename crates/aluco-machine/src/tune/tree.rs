//! The files of a machine below its root, `/` or a fixture.
//!
//! Paths are absolute as the machine itself sees them. Symbolic links are followed as the machine would follow them: an absolute
//! target begins at the root again, and a path that climbs above the root is refused.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{content::Content, error::TuneError};

/// No file of settings is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
const LINKS_MAX: usize = 40;

/// The files of a machine.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

/// All of a file that is put back by an undo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Its bytes.
    pub content: Content,
    /// Permission bits.
    pub mode: u32,
    /// Its owner.
    pub user: u32,
    /// Its group.
    pub group: u32,
}

impl Tree {
    /// The machine whose files lie below `root`.
    pub fn new(root: &Path) -> Result<Self, TuneError> {
        let root = fs::canonicalize(root).map_err(TuneError::io("find", root))?;
        Ok(Self { root })
    }

    /// Whether this is the running machine itself.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The folder that is the root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path that has been resolved lies for us.
    pub fn host(&self, resolved: &Path) -> PathBuf {
        match resolved.strip_prefix("/") {
            Ok(relative) => self.root.join(relative),
            Err(_) => self.root.join(resolved),
        }
    }

    /// Follows all symbolic links of `path`. What does not exist yet is kept as it is.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, TuneError> {
        let outside = || TuneError::Outside { path: path.into() };
        if !path.is_absolute() {
            return Err(outside());
        }
        let mut todo: VecDeque<OsString> = parts(path);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == OsStr::new("..") {
                if !done.pop() {
                    return Err(outside());
                }
                continue;
            }
            let next = done.join(&part);
            let target = match fs::read_link(self.host(&next)) {
                Ok(target) => target,
                // Not a link, or not there.
                Err(error) if is_no_link(&error) => {
                    done = next;
                    continue;
                }
                Err(error) => return Err(TuneError::io("read", next)(error)),
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(TuneError::LinkLoop { path: path.into() });
            }
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
        }
        if done.to_str().is_none() {
            // The journal is text.
            return Err(TuneError::NotPlain { path: path.into() });
        }
        Ok(done)
    }

    /// What a file is at the moment; `None` if it is not there. Links are followed.
    pub fn state(&self, path: &Path) -> Result<Option<FileState>, TuneError> {
        let resolved = self.resolve(path)?;
        let host = self.host(&resolved);
        let metadata = match fs::symlink_metadata(&host) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(TuneError::io("read", path)(error)),
        };
        if !metadata.is_file() {
            return Err(TuneError::NotPlain { path: path.into() });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(TuneError::TooLarge {
                path: path.into(),
                bytes: metadata.len(),
            });
        }
        let bytes = fs::read(&host).map_err(TuneError::io("read", path))?;
        Ok(Some(FileState {
            content: Content::new(bytes),
            mode: metadata.permissions().mode() & 0o7777,
            user: metadata.uid(),
            group: metadata.gid(),
        }))
    }

    /// The text of a file of the kernel or of settings; `None` if it is not there, not readable or not text.
    pub fn text(&self, path: &str) -> Option<String> {
        let resolved = self.resolve(Path::new(path)).ok()?;
        let host = self.host(&resolved);
        if !fs::symlink_metadata(&host).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(host).ok()?;
        io::Read::read_to_end(&mut io::Read::take(file, FILE_BYTES_MAX), &mut bytes).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Whether something is there, links followed.
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(Path::new(path))
            .is_ok_and(|resolved| self.host(&resolved).exists())
    }

    /// Whether a program of this name is installed.
    pub fn has_program(&self, name: &str) -> bool {
        [
            "/usr/bin",
            "/usr/sbin",
            "/bin",
            "/sbin",
            "/usr/local/bin",
            "/usr/local/sbin",
        ]
        .iter()
        .any(|folder| self.exists(&format!("{folder}/{name}")))
    }

    /// The files that a pattern means, sorted: a path, or a folder and `*` with an ending. Without a `*` the path itself, also when
    /// nothing is there.
    pub fn matching(&self, pattern: &Path) -> Vec<PathBuf> {
        let name = pattern
            .file_name()
            .map(OsStr::to_string_lossy)
            .unwrap_or_default();
        let (Some((before, after)), Some(folder)) = (name.split_once('*'), pattern.parent()) else {
            return vec![pattern.to_owned()];
        };
        let Ok(resolved) = self.resolve(folder) else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(self.host(&resolved)) else {
            return Vec::new();
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| {
                name.len() >= before.len() + after.len()
                    && name.starts_with(before)
                    && name.ends_with(after)
            })
            .map(|name| folder.join(name))
            .filter(|path| matches!(self.state(path), Ok(Some(_))))
            .collect();
        found.sort();
        found
    }
}

/// Nothing is there, or a part of the path is no folder.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn is_no_link(error: &io::Error) -> bool {
    is_absent(error) || error.kind() == io::ErrorKind::InvalidInput
}

/// The names in a path; `..` is kept.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("etc/default")).expect("a folder");
        let tree = Tree::new(folder.path()).expect("a tree");
        (folder, tree)
    }

    #[test]
    fn an_absolute_link_begins_at_the_root_again() {
        let (folder, tree) = tree();
        symlink("/etc/default", folder.path().join("settings")).expect("a link");
        symlink("/settings/real", folder.path().join("etc/default/grub")).expect("a link");
        assert_eq!(
            tree.resolve(Path::new("/etc/default/grub"))
                .expect("resolved"),
            Path::new("/etc/default/real")
        );
    }

    #[test]
    fn a_path_that_climbs_above_the_root_is_refused() {
        let (folder, tree) = tree();
        symlink("../../../outside", folder.path().join("etc/default/grub")).expect("a link");
        let error = tree.resolve(Path::new("/etc/default/grub"));
        assert!(matches!(error, Err(TuneError::Outside { .. })), "{error:?}");
        assert!(matches!(
            tree.resolve(Path::new("etc/default")),
            Err(TuneError::Outside { .. })
        ));
    }

    #[test]
    fn a_circle_of_links_ends() {
        let (folder, tree) = tree();
        symlink("b", folder.path().join("etc/a")).expect("a link");
        symlink("a", folder.path().join("etc/b")).expect("a link");
        let error = tree.resolve(Path::new("/etc/a"));
        assert!(
            matches!(error, Err(TuneError::LinkLoop { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn a_pattern_names_files_in_order_and_a_path_itself() {
        let (folder, tree) = tree();
        for name in ["b.conf", "a.conf", "c.txt"] {
            fs::write(folder.path().join("etc/default").join(name), "x").expect("a file");
        }
        assert_eq!(
            tree.matching(Path::new("/etc/default/*.conf")),
            [
                Path::new("/etc/default/a.conf"),
                Path::new("/etc/default/b.conf")
            ]
        );
        assert_eq!(
            tree.matching(Path::new("/nowhere")),
            [Path::new("/nowhere")]
        );
        assert!(tree.matching(Path::new("/nowhere/*.conf")).is_empty());
    }

    #[test]
    fn a_folder_and_a_huge_file_are_not_settings() {
        let (folder, tree) = tree();
        assert!(matches!(
            tree.state(Path::new("/etc/default")),
            Err(TuneError::NotPlain { .. })
        ));
        let file = fs::File::create(folder.path().join("huge")).expect("a file");
        file.set_len(FILE_BYTES_MAX + 1).expect("a size");
        assert!(matches!(
            tree.state(Path::new("/huge")),
            Err(TuneError::TooLarge { .. })
        ));
        assert_eq!(
            tree.state(Path::new("/absent/file")).expect("a state"),
            None
        );
    }
}
