//! Main memory, swap, and what the kernel does with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Known;

/// Main memory, swap, and what the kernel does with them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What the board holds, in bytes: the sum of the DMI table's memory devices.
    pub installed_bytes: Known<u64>,
    /// The memory devices of the DMI table that are not empty slots.
    pub devices: Known<Vec<MemoryDevice>>,
    /// Transfers per second that they are configured for, in MT/s: 8000 on most Strix Halo boards.
    pub speed_mt_s: Known<u32>,
    /// Width of all devices together in bits: 256 on Strix Halo.
    pub width_bits: Known<u32>,
    /// What the kernel has, in bytes: installed, less the BIOS's and the GPU's carve-out.
    pub total_bytes: Known<u64>,
    /// What programs could still get without swapping, in bytes.
    pub available_bytes: Known<u64>,
    /// Shared memory and tmpfs, in bytes.
    pub shared_bytes: Known<u64>,
    /// Swap areas.
    pub swaps: Known<Vec<Swap>>,
    /// Size of all swap in bytes.
    pub swap_total_bytes: Known<u64>,
    /// Free swap in bytes.
    pub swap_free_bytes: Known<u64>,
    /// Size of the compressed swap in memory, in bytes; 0 without one.
    pub zram_bytes: Known<u64>,
    /// Cache that ZFS holds, in bytes; 0 without ZFS.
    pub zfs_cache_bytes: Known<u64>,
    /// Whether `/tmp` is in memory.
    pub tmp_in_memory: Known<bool>,
    /// Which setting of transparent huge pages holds: `always`, `madvise` or `never`.
    pub transparent_hugepages: Known<String>,
    /// How transparent huge pages are made: `always`, `defer`, `defer+madvise`, `madvise` or `never`.
    pub transparent_hugepages_defrag: Known<String>,
    /// Reserved huge pages, in pages.
    pub hugepages: Known<u64>,
    /// Size of a reserved huge page, in bytes.
    pub hugepage_bytes: Known<u64>,
    /// How much of the time work waited for memory.
    pub pressure: Known<Pressure>,
    /// The settings below `/proc/sys/vm` that matter, such as `swappiness`.
    pub vm: BTreeMap<String, Known<u64>>,
}

/// One device of the DMI table, type 17.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDevice {
    /// Bytes.
    pub bytes: u64,
    /// Width of its data path in bits, if told.
    pub width_bits: Option<u32>,
    /// Highest transfers per second in MT/s, if told.
    pub speed_mt_s: Option<u32>,
    /// Transfers per second that it is configured for in MT/s, if told.
    pub configured_mt_s: Option<u32>,
    /// Its kind, such as `LPDDR5`, if told.
    pub kind: Option<String>,
    /// Where it is, such as `DIMM 0`.
    pub locator: String,
    /// Who made it.
    pub maker: String,
    /// Its part number.
    pub part: String,
}

/// A swap area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Device or file.
    pub path: String,
    /// `partition` or `file`.
    pub kind: String,
    /// Bytes.
    pub bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Whether it is in memory.
    pub zram: bool,
}

/// How much of the last 10 and 60 seconds work waited, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pressure {
    /// Something waited, last 10 seconds.
    pub some_10: f64,
    /// Something waited, last minute.
    pub some_60: f64,
    /// Everything waited, last 10 seconds.
    pub full_10: f64,
    /// Everything waited, last minute.
    pub full_60: f64,
}
