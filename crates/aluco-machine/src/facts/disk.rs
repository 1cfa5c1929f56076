//! Drives, and the room in folders.

use serde::{Deserialize, Serialize};

use super::Known;

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
