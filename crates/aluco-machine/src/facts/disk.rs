//! Drives, and the room in folders.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{Root, Space};

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name of it, such as `nvme0n1`.
    pub name: String,
    /// What it is.
    pub kind: DiskKind,
    /// Its model; empty if it tells none.
    pub model: String,
    /// Bytes.
    pub bytes: u64,
    /// The scheduler of its queue, such as `none`; empty if it tells none.
    pub scheduler: String,
    /// Read-ahead in KiB.
    pub read_ahead_kib: u64,
}

/// What a drive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// NVMe.
    Nvme,
    /// A drive without spinning parts on another bus.
    Ssd,
    /// A spinning one.
    Spinning,
    /// A virtual one.
    Virtual,
    /// A card.
    Card,
}

/// Room in a folder that matters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Folder {
    /// The folder.
    pub path: String,
    /// File system, such as `btrfs`.
    pub file_system: Known<String>,
    /// What is mounted there, such as `/dev/nvme0n1p3`.
    pub device: Known<String>,
    /// All room, in bytes.
    pub total_bytes: Known<u64>,
    /// Free room, in bytes.
    pub free_bytes: Known<u64>,
}

const BLOCK: &str = "/sys/block";
const MOUNTS: &str = "/proc/self/mountinfo";

/// The mounts of a machine with many containers.
pub(crate) const MOUNTS_BYTES_MAX: usize = 1 << 20;

impl Disk {
    pub(super) fn collect(root: &Root) -> Known<Vec<Self>> {
        match root.names(BLOCK) {
            Ok(names) => {
                let disks = names.iter().filter_map(|name| Self::read(root, name));
                Known::value(disks.take(64).collect(), BLOCK)
            }
            Err(error) => error.into(),
        }
    }

    /// `None` for what is made of other drives or of memory.
    fn read(root: &Root, name: &str) -> Option<Self> {
        let folder = format!("{BLOCK}/{name}");
        let text = |file: &str| {
            let line = read::line(root, &format!("{folder}/{file}"));
            line.get().cloned().unwrap_or_default()
        };
        let begins = |beginnings: &[&str]| beginnings.iter().any(|begin| name.starts_with(begin));
        let kind = if begins(&["nvme"]) {
            DiskKind::Nvme
        } else if begins(&["mmcblk"]) {
            DiskKind::Card
        } else if begins(&["vd", "xvd"]) {
            DiskKind::Virtual
        } else if begins(&["sd"]) {
            match &*text("queue/rotational") {
                "1" => DiskKind::Spinning,
                _ => DiskKind::Ssd,
            }
        } else {
            return None;
        };
        let sectors: u64 = text("size").parse().ok()?;
        let scheduler = text("queue/scheduler");
        Some(Self {
            name: name.to_owned(),
            kind,
            model: text("device/model"),
            bytes: sectors.checked_mul(512)?,
            scheduler: read::bracketed(&scheduler).unwrap_or(scheduler),
            read_ahead_kib: text("queue/read_ahead_kb").parse().unwrap_or(0),
        })
    }
}

impl Folder {
    /// The room there; of a folder that is yet to be made, where it would be.
    pub(super) fn collect(root: &Root, path: &str) -> Self {
        let mut existing = path;
        while !existing.is_empty() && !root.has(existing) {
            existing = existing.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        let existing = if existing.is_empty() { "/" } else { existing };
        let space = root.space(existing);
        let bytes = |told: fn(&Space) -> u64| match &space {
            Ok(space) => Known::value(told(space), format!("statvfs {existing}")),
            Err(error) => error.clone().into(),
        };
        let mounted = match mounts(root) {
            Known::Value { value, source } => {
                let holds = |mount: &&Mount| {
                    let rest = existing.strip_prefix(mount.point.trim_end_matches('/'));
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                // Of two at one place, the later hides the earlier.
                let mount = value
                    .into_iter()
                    .filter(|mount| holds(&mount))
                    .reduce(|a, b| if b.point.len() >= a.point.len() { b } else { a });
                match mount {
                    Some(mount) => Known::value(mount, source),
                    None => Known::unknown(
                        Because::Absent,
                        format!("{source} names no mount that holds {existing}"),
                    ),
                }
            }
            Known::Unknown { unknown, because } => Known::unknown(because, unknown),
        };
        Self {
            path: path.to_owned(),
            file_system: mounted.clone().map(|mount| mount.file_system),
            device: mounted.map(|mount| mount.device),
            total_bytes: bytes(|space| space.total_bytes),
            free_bytes: bytes(|space| space.free_bytes),
        }
    }
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: String,
    pub(super) file_system: String,
    pub(super) device: String,
}

/// What is mounted, in order.
pub(super) fn mounts(root: &Root) -> Known<Vec<Mount>> {
    match root.text_up_to(MOUNTS, MOUNTS_BYTES_MAX) {
        Ok(text) => Known::value(text.lines().filter_map(mount).collect(), MOUNTS),
        Err(error) => error.into(),
    }
}

/// `66 1 0:35 / /home rw shared:1 - btrfs /dev/nvme0n1p3 rw`: the fifth word is the place, after the dash come file system and device.
fn mount(line: &str) -> Option<Mount> {
    let (place, what) = line.split_once(" - ")?;
    let point = unescaped(place.split(' ').nth(4)?);
    let mut what = what.split(' ');
    let mount = Mount {
        point,
        file_system: what.next()?.to_owned(),
        device: unescaped(what.next()?),
    };
    mount.point.starts_with('/').then_some(mount)
}

/// Text in which the kernel wrote spaces and the like as a backslash with three octal digits.
pub(super) fn unescaped(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(letter) if byte == b'\\' => {
                plain.push(letter);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_whatever_its_optional_fields() {
        let mount = mount("66 1 0:35 /root /a\\040b rw shared:1 master:2 - btrfs /dev/x rw,ssd");
        let mount = mount.unwrap();
        assert_eq!(
            (&*mount.point, &*mount.file_system, &*mount.device),
            ("/a b", "btrfs", "/dev/x")
        );
        assert_eq!(super::mount("- - -"), None);
        assert_eq!(super::mount("1 2 3"), None);
    }

    #[test]
    fn escapes_at_the_end_are_taken_as_they_are() {
        assert_eq!(unescaped("a\\04"), "a\\04");
        assert_eq!(unescaped("\\"), "\\");
        assert_eq!(unescaped("é\\134"), "é\\");
    }
}
