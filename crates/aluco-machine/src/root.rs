//! The folder below which a machine is read: `/`, the tree of a fixture, or a bundle that [`capture`](crate::capture) wrote.
//!
//! Nothing read here is trusted. Every read is bounded, symbolic links never lead out of the root (an absolute one begins at it), and what is not a
//! regular file is refused before it is opened, so a pipe cannot make anybody wait. A read that fails says why in a [`ReadError`].

mod bundle;
mod command;
mod error;
mod folder;
mod recording;

use std::{fmt, path::Path, sync::Arc};

pub use bundle::{Bundle, Entry, Special};
pub use command::Command;
pub(crate) use command::PACKAGES;
pub use error::ReadError;
use serde::{Deserialize, Serialize};

use crate::{MachineError, facts::Because};
use bundle::Replay;
use folder::Folder;
pub(crate) use recording::{Recording, Seen};

/// Bytes that most files may have. The kernel's own are a page.
pub const BYTES_MAX: usize = 64 << 10;

/// Names that a folder may have; those beyond are not listed.
pub const NAMES_MAX: usize = 4096;

/// Below which paths are read. Cheap to clone.
#[derive(Clone)]
pub struct Root {
    source: Arc<Source>,
    recording: Option<Arc<Recording>>,
}

enum Source {
    /// The machine that we run on.
    Live(Folder),
    /// A tree of files. What git and an ordinary user cannot keep in one (device nodes, files without permissions) stands in a bundle beside it.
    Tree(Folder, Replay),
    /// One file.
    Bundle(Replay),
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its kind, of what a symbolic link leads to.
    pub kind: NodeKind,
    /// The permission bits, such as `0o660`.
    pub mode: u32,
    /// The number of its owner.
    pub owner: u32,
    /// The number of its group.
    pub group: u32,
    /// Whether this process may read and write it, which access control lists can allow where the bits do not. `None` if the machine is replayed and
    /// nobody wrote it down.
    pub usable: Option<bool>,
}

/// What kind of thing stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A character or block device.
    Device,
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Room in a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What an ordinary user may still fill, in bytes.
    pub free_bytes: u64,
}

impl Root {
    /// The machine that we run on.
    pub fn live() -> Result<Self, MachineError> {
        let folder = Folder::open(Path::new("/"), true)?;
        Ok(Self::from(Source::Live(folder)))
    }

    /// `/` is the machine that we run on, another folder the tree of a machine, and a file a bundle.
    pub fn open(path: &Path) -> Result<Self, MachineError> {
        if path == Path::new("/") {
            return Self::live();
        }
        if path.is_file() {
            return Ok(Self::bundle(Bundle::read(path)?));
        }
        let folder = Folder::open(path, false)?;
        let beside = match folder.read(Bundle::BESIDE, Bundle::BYTES_MAX) {
            Ok(text) => Bundle::parse(&text, &path.join(&Bundle::BESIDE[1..]))?,
            Err(_) => Bundle::default(),
        };
        Ok(Self::from(Source::Tree(folder, Replay::new(beside))))
    }

    /// A machine that was written into a bundle.
    pub fn bundle(bundle: Bundle) -> Self {
        Self::from(Source::Bundle(Replay::new(bundle)))
    }

    /// Whether this is the machine that we run on, whose commands can be asked.
    pub fn is_live(&self) -> bool {
        matches!(*self.source, Source::Live(_))
    }

    /// The bytes of a file, at most [`BYTES_MAX`].
    pub fn read(&self, path: &str) -> Result<Vec<u8>, ReadError> {
        self.read_up_to(path, BYTES_MAX)
    }

    /// The bytes of a file that may be as large as this.
    pub fn read_up_to(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let read = self.read_source(path, bytes_max);
        self.record(path, &read, |seen, bytes| seen.bytes = Some(bytes.clone()));
        read
    }

    fn read_source(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        match &*self.source {
            Source::Live(folder) => folder.read(path, bytes_max),
            Source::Tree(folder, beside) if !beside.has(path) => folder.read(path, bytes_max),
            Source::Tree(_, replay) | Source::Bundle(replay) => replay.read(path, bytes_max),
        }
    }

    /// The text of a file, at most [`BYTES_MAX`] bytes.
    pub fn text(&self, path: &str) -> Result<String, ReadError> {
        self.text_up_to(path, BYTES_MAX)
    }

    /// The text of a file that may be as large as this.
    pub fn text_up_to(&self, path: &str, bytes_max: usize) -> Result<String, ReadError> {
        let bytes = self.read_up_to(path, bytes_max)?;
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(ReadError::new(path, Because::NotText)),
        }
    }

    /// The words of a file whose entries end in a zero byte, as `/proc/PID/cmdline` has them. What is no text in them is replaced.
    pub fn words(&self, path: &str) -> Result<Vec<String>, ReadError> {
        let bytes = self.read_up_to(path, 256 << 10)?;
        let words = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let mut words: Vec<String> = words.map(std::borrow::Cow::into_owned).collect();
        if words.last().is_some_and(String::is_empty) {
            words.pop();
        }
        Ok(words)
    }

    /// The names in a folder, in order, at most [`NAMES_MAX`].
    pub fn names(&self, path: &str) -> Result<Vec<String>, ReadError> {
        let names = self.names_of_source(path);
        self.record(path, &names, |seen, names| seen.names = Some(names.clone()));
        names
    }

    fn names_of_source(&self, path: &str) -> Result<Vec<String>, ReadError> {
        let mut names = match &*self.source {
            Source::Live(folder) => folder.names(path),
            Source::Tree(folder, beside) => match (folder.names(path), beside.names(path)) {
                (Ok(mut names), Ok(more)) => {
                    names.extend(more);
                    Ok(names)
                }
                (Err(_), Ok(names)) | (Ok(names), Err(_)) => Ok(names),
                (Err(error), Err(_)) => Err(error),
            },
            Source::Bundle(replay) => replay.names(path),
        }?;
        names.sort_unstable_by(|a, b| natural(a).cmp(&natural(b)));
        names.dedup();
        Ok(names)
    }

    /// What stands at this path.
    pub fn node(&self, path: &str) -> Result<Node, ReadError> {
        let node = self.node_of_source(path);
        self.record(path, &node, |seen, node| seen.node = Some(*node));
        node
    }

    fn node_of_source(&self, path: &str) -> Result<Node, ReadError> {
        match &*self.source {
            Source::Live(folder) => folder.node(path),
            Source::Tree(folder, beside) if !beside.has(path) => folder.node(path),
            Source::Tree(_, replay) | Source::Bundle(replay) => replay.node(path),
        }
    }

    /// Whether anything stands at this path that this user can see.
    pub fn has(&self, path: &str) -> bool {
        self.node(path).is_ok()
    }

    /// Where a symbolic link says that it leads, word for word.
    pub fn link(&self, path: &str) -> Result<String, ReadError> {
        let link = self.link_of_source(path);
        self.record(path, &link, |seen, link| seen.link = Some(link.clone()));
        link
    }

    fn link_of_source(&self, path: &str) -> Result<String, ReadError> {
        match &*self.source {
            Source::Live(folder) => folder.link(path),
            Source::Tree(folder, beside) if !beside.has(path) => folder.link(path),
            Source::Tree(_, replay) | Source::Bundle(replay) => replay.link(path),
        }
    }

    /// Room in the file system that holds this path.
    pub fn space(&self, path: &str) -> Result<Space, ReadError> {
        let space = self.space_of_source(path);
        if let (Some(recording), Ok(space)) = (&self.recording, &space) {
            recording.space(path, *space);
        }
        space
    }

    fn space_of_source(&self, path: &str) -> Result<Space, ReadError> {
        let Source::Live(folder) = &*self.source else {
            let text = self.text("/commands/space")?;
            let spaces: std::collections::BTreeMap<String, Space> = serde_json::from_str(&text)
                .map_err(|error| {
                    ReadError::new("/commands/space", Because::Malformed).detail(error.to_string())
                })?;
            let space = spaces.get(path).copied();
            return space
                .ok_or_else(|| ReadError::new(format!("space of {path}"), Because::NotCollected));
        };
        folder.space(path)
    }

    /// What a command writes to standard output. Only the machine that we run on is asked; of others it stands in `/commands/NAME`.
    pub fn command(&self, command: Command) -> Result<String, ReadError> {
        let path = format!("/commands/{}", command.name());
        if self.is_live() {
            let answer = command.run();
            self.record(&path, &answer, |seen, text| {
                seen.bytes = Some(text.clone().into_bytes());
            });
            return answer;
        }
        let answer = self.text_up_to(&path, Command::BYTES_MAX);
        answer.map_err(|error| match error.because {
            Because::Absent => ReadError::new(command.typed(), Because::Absent),
            _ => error,
        })
    }
}

impl Root {
    /// The same root, which notes everything that is read.
    pub(crate) fn recording(&self) -> (Self, Arc<Recording>) {
        let recording = Arc::<Recording>::default();
        let root = Self {
            source: self.source.clone(),
            recording: Some(recording.clone()),
        };
        (root, recording)
    }

    fn record<T>(&self, path: &str, read: &Result<T, ReadError>, note: impl FnOnce(&mut Seen, &T)) {
        if let Some(recording) = &self.recording {
            recording.note(&normal(path), |seen| match read {
                Ok(value) => note(seen, value),
                Err(error) => seen.error = Some(error.because),
            });
        }
    }
}

impl From<Source> for Root {
    fn from(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            recording: None,
        }
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.source {
            Source::Live(_) => "Root(live)",
            Source::Tree(..) => "Root(tree)",
            Source::Bundle(_) => "Root(bundle)",
        })
    }
}

/// Names in the order people count: `card2` before `card10`.
fn natural(name: &str) -> (&str, u64, &str) {
    let digits = name.len()
        - name
            .trim_end_matches(|letter: char| letter.is_ascii_digit())
            .len();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem, number.parse().unwrap_or(0), name)
}

/// A path in the form in which a bundle has it: one slash in front of each name, none at the end.
fn normal(path: &str) -> String {
    let mut normal = String::with_capacity(path.len() + 1);
    for name in path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
    {
        normal.push('/');
        normal.push_str(name);
    }
    normal
}
