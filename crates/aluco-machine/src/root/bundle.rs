//! A machine in one JSON file: `{"provenance": …, "files": {"/proc/cmdline": "quiet\n", …}}`.
//!
//! It is what `aluco machine capture` writes and what fixtures are kept as. Device nodes, files that nobody may read and links in circles can be told
//! there, which neither git nor an ordinary user can keep as a tree.

use std::{collections::BTreeMap, ops::Bound, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NAMES_MAX, Node, NodeKind, ReadError, normal};
use crate::{MachineError, facts::Because};

/// Links that are followed in one path, as in the kernel.
const LINKS_MAX: u32 = 40;

/// A machine as one file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// Where it comes from: which lines are real, which are made, who wrote it with what.
    #[serde(default, alias = "_provenance")]
    pub provenance: Value,
    /// What stands at each path.
    pub files: BTreeMap<String, Entry>,
}

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// A file with this text.
    Text(String),
    /// Anything else.
    Special(Special),
}

/// What is not just a file of text. Empty: an empty folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Special {
    /// A symbolic link that leads there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// A file with these bytes, two hexadecimal digits each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// A file with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// How often `text` or `hex` stands in the file, for huge ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<usize>,
    /// A node of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<NodeKind>,
    /// Its permission bits in octal digits, such as `0660`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The number of its owner; root if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// The number of its group; root's if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// Whether the process that looked could read and write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usable: Option<bool>,
    /// It cannot be read, for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Because>,
}

impl Bundle {
    /// Bytes that the file of a bundle may have.
    pub const BYTES_MAX: usize = 16 << 20;

    /// In a tree, the path of the bundle with what the tree cannot keep.
    pub const BESIDE: &'static str = "/.aluco-root.json";

    /// Reads the file of a bundle.
    pub fn read(path: &Path) -> Result<Self, MachineError> {
        use std::io::Read;

        let failed = |source| MachineError::Root {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(Self::BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() > Self::BYTES_MAX {
            return Err(MachineError::BundleTooLarge {
                path: path.to_owned(),
                bytes_max: Self::BYTES_MAX,
            });
        }
        Self::parse(&bytes, path)
    }

    /// Takes the bytes for a bundle; `path` is where they come from.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, MachineError> {
        serde_json::from_slice(bytes).map_err(|source| MachineError::NoBundle {
            path: path.to_owned(),
            source,
        })
    }
}

impl Entry {
    /// The bytes of a file; `None` if this is none, an error if it has more than these or cannot be read.
    pub(crate) fn bytes(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, ReadError> {
        let too_large =
            || ReadError::new(path, Because::TooLarge).detail(format!("over {bytes_max} bytes"));
        let special = match self {
            Self::Text(text) if text.len() > bytes_max => return Err(too_large()),
            Self::Text(text) => return Ok(Some(text.clone().into_bytes())),
            Self::Special(special) => special,
        };
        if let Some(because) = special.error {
            return Err(ReadError::new(path, because));
        }
        let once = match (&special.hex, &special.text) {
            (Some(digits), _) => from_hex(digits)
                .ok_or_else(|| ReadError::new(path, Because::Malformed).detail("bad hex"))?,
            (None, Some(text)) => text.clone().into_bytes(),
            (None, None) => return Ok(None),
        };
        let times = special.times.unwrap_or(1);
        match once.len().checked_mul(times) {
            Some(length) if length <= bytes_max => Ok(Some(once.repeat(times))),
            _ => Err(too_large()),
        }
    }

    fn kind(&self) -> NodeKind {
        match self {
            Self::Text(_) => NodeKind::File,
            Self::Special(special) => special.kind.unwrap_or(
                if special.hex.is_some() || special.text.is_some() || special.error.is_some() {
                    NodeKind::File
                } else {
                    NodeKind::Directory
                },
            ),
        }
    }

    pub(crate) fn node(&self) -> Node {
        let kind = self.kind();
        let usual = if kind == NodeKind::Directory {
            0o755
        } else {
            0o644
        };
        let Self::Special(special) = self else {
            return folder_node(kind, usual);
        };
        let mode = special.mode.as_deref();
        Node {
            kind,
            mode: mode
                .and_then(|digits| u32::from_str_radix(digits, 8).ok())
                .unwrap_or(usual),
            owner: special.owner.unwrap_or(0),
            group: special.group.unwrap_or(0),
            usable: special.usable,
        }
    }
}

/// A file with these bytes.
impl From<&[u8]> for Entry {
    fn from(bytes: &[u8]) -> Self {
        let digit = |number| char::from_digit(u32::from(number), 16).expect("it is below 16");
        let pairs = bytes.iter();
        let digits = pairs.flat_map(|byte| [digit(byte >> 4), digit(byte & 0xF)]);
        Self::Special(Special {
            hex: Some(digits.collect()),
            ..Special::default()
        })
    }
}

fn folder_node(kind: NodeKind, mode: u32) -> Node {
    Node {
        kind,
        mode,
        owner: 0,
        group: 0,
        usable: None,
    }
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                Some((digit(high)? << 4 | digit(low)?) as u8)
            }
            _ => None,
        })
        .collect()
}

/// The files of a bundle, as a root reads them.
pub(super) struct Replay {
    files: BTreeMap<String, Entry>,
}

impl Replay {
    pub(super) fn new(bundle: Bundle) -> Self {
        let files = bundle.files.into_iter();
        Self {
            files: files.map(|(path, entry)| (normal(&path), entry)).collect(),
        }
    }

    /// Whether it says anything of exactly this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.files.contains_key(&normal(path))
    }

    pub(super) fn read(&self, path: &str, bytes_max: usize) -> Result<Vec<u8>, ReadError> {
        let place = self.resolve(path)?;
        let Some(entry) = self.files.get(&place) else {
            return Err(ReadError::new(path, Because::NotAFile).detail("directory"));
        };
        match entry.kind() {
            NodeKind::File => {}
            other => {
                let kind = format!("{other:?}").to_lowercase();
                return Err(ReadError::new(path, Because::NotAFile).detail(kind));
            }
        }
        let bytes = entry.bytes(path, bytes_max)?;
        Ok(bytes.unwrap_or_default())
    }

    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, ReadError> {
        let place = self.resolve(path)?;
        if let Some(entry) = self.files.get(&place) {
            if let Entry::Special(Special {
                error: Some(because),
                ..
            }) = entry
            {
                return Err(ReadError::new(path, *because));
            }
            if entry.kind() != NodeKind::Directory {
                return Err(ReadError::new(path, Because::Absent));
            }
        }
        let begin = format!("{place}/");
        let below = self.below(&begin).map(|path| {
            let rest = &path[begin.len()..];
            rest.split('/').next().unwrap_or(rest).to_owned()
        });
        let mut names: Vec<String> = below.collect();
        names.dedup();
        names.truncate(NAMES_MAX);
        Ok(names)
    }

    pub(super) fn node(&self, path: &str) -> Result<Node, ReadError> {
        let place = self.resolve(path)?;
        Ok(match self.files.get(&place) {
            Some(entry) => entry.node(),
            None => folder_node(NodeKind::Directory, 0o755),
        })
    }

    pub(super) fn link(&self, path: &str) -> Result<String, ReadError> {
        let path = normal(path);
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let place = format!("{}/{name}", self.resolve(folder)?);
        match self.files.get(&place) {
            Some(Entry::Special(Special {
                link: Some(target), ..
            })) => Ok(target.clone()),
            Some(Entry::Special(Special {
                error: Some(because),
                ..
            })) => Err(ReadError::new(path, *because)),
            Some(_) => Err(ReadError::new(path, Because::NotAFile).detail("it is no link")),
            None => Err(ReadError::new(path, Because::Absent)),
        }
    }

    fn below<'a>(&'a self, begin: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (Bound::Excluded(begin), Bound::Unbounded);
        let paths = self.files.range::<str, _>(from);
        paths
            .map(|(path, _)| path.as_str())
            .take_while(move |path| path.starts_with(begin))
    }

    /// Where a path leads once its links are followed; the root itself is empty.
    fn resolve(&self, path: &str) -> Result<String, ReadError> {
        let absent = || ReadError::new(path, Because::Absent);
        let mut links = 0;
        let mut place = String::new();
        let mut ahead: Vec<String> = names_reversed(path).collect();
        while let Some(name) = ahead.pop() {
            if name == ".." {
                let end = place.rfind('/').unwrap_or(0);
                place.truncate(end);
                continue;
            }
            let next = format!("{place}/{name}");
            match self.files.get(&next) {
                Some(Entry::Special(Special {
                    link: Some(target), ..
                })) => {
                    links += 1;
                    if links > LINKS_MAX || target.len() > 4096 {
                        return Err(ReadError::new(path, Because::Loop));
                    }
                    if target.starts_with('/') {
                        place.clear();
                    }
                    ahead.extend(names_reversed(target));
                }
                Some(entry) => {
                    if !ahead.is_empty() && entry.kind() != NodeKind::Directory {
                        return Err(absent());
                    }
                    place = next;
                }
                None => {
                    let begin = format!("{next}/");
                    if self.below(&begin).next().is_none() {
                        return Err(absent());
                    }
                    place = next;
                }
            }
        }
        Ok(place)
    }
}

fn names_reversed(path: &str) -> impl Iterator<Item = String> + '_ {
    let names = path.rsplit('/');
    names
        .filter(|name| !name.is_empty() && *name != ".")
        .map(str::to_owned)
}
