//! Main memory, swap, and what the kernel does with them.

mod dmi;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, disk, read};
use crate::root::Root;

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

/// The DMI table of a large server.
pub(crate) const DMI_BYTES_MAX: usize = 1 << 20;

/// The settings below `/proc/sys/vm` that are told.
pub(crate) const VM_SETTINGS: &[&str] = &[
    "compact_unevictable_allowed",
    "compaction_proactiveness",
    "dirty_background_ratio",
    "dirty_bytes",
    "dirty_ratio",
    "max_map_count",
    "min_free_kbytes",
    "nr_hugepages",
    "overcommit_memory",
    "swappiness",
];

const MEMINFO: &str = "/proc/meminfo";
const DMI: &str = "/sys/firmware/dmi/tables/DMI";
const SWAPS: &str = "/proc/swaps";
const ARC: &str = "/proc/spl/kstat/zfs/arcstats";
const PRESSURE: &str = "/proc/pressure/memory";
const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";

impl Memory {
    pub(super) fn collect(root: &Root) -> Self {
        let table = root.text(MEMINFO);
        let kib = |name: &str| read::told(&table, MEMINFO, name, |text| kib_of(text, name));
        let devices = match root.read_up_to(DMI, DMI_BYTES_MAX) {
            Ok(table) => match dmi::devices(&table) {
                devices if devices.is_empty() => {
                    Known::unknown(Because::Malformed, format!("{DMI} names no memory"))
                }
                devices => Known::value(devices, DMI),
            },
            Err(error) => error.into(),
        };
        let swaps = match root.text(SWAPS) {
            Ok(text) => Known::value(swaps(&text), SWAPS),
            Err(error) => error.into(),
        };
        let sum = |told: fn(&MemoryDevice) -> Option<u64>, what: &str| sum(&devices, told, what);
        let vm = VM_SETTINGS.iter().map(|name| {
            let value = read::number(root, &format!("/proc/sys/vm/{name}"));
            ((*name).to_owned(), value)
        });
        Self {
            installed_bytes: sum(|device| Some(device.bytes), "size"),
            speed_mt_s: speed(&devices),
            width_bits: sum(|device| device.width_bits.map(u64::from), "width")
                .map(|bits| bits as u32),
            total_bytes: kib("MemTotal"),
            available_bytes: kib("MemAvailable"),
            shared_bytes: kib("Shmem"),
            swap_total_bytes: kib("SwapTotal"),
            swap_free_bytes: kib("SwapFree"),
            zram_bytes: zram(root),
            zfs_cache_bytes: read::absent_is(zfs_cache(root), 0),
            tmp_in_memory: disk::mounts(root).map(|mounts| {
                let tmp = mounts.iter().rev().find(|mount| mount.point == "/tmp");
                tmp.is_some_and(|mount| mount.file_system == "tmpfs")
            }),
            transparent_hugepages: choice(root, "enabled"),
            transparent_hugepages_defrag: choice(root, "defrag"),
            hugepages: read::told(&table, MEMINFO, "HugePages_Total", |text| {
                count_of(text, "HugePages_Total")
            }),
            hugepage_bytes: kib("Hugepagesize"),
            pressure: read::told(&root.text(PRESSURE), PRESSURE, "waiting", pressure),
            vm: vm.collect(),
            devices,
            swaps,
        }
    }
}

/// The memory devices of a DMI table as a table that holds nothing else.
pub(crate) fn without_serials(table: &[u8]) -> Vec<u8> {
    dmi::table(&dmi::devices(table))
}

fn choice(root: &Root, name: &str) -> Known<String> {
    let path = format!("{HUGE}/{name}");
    read::parsed(root, &path, "a choice in brackets", read::bracketed)
}

fn sum(
    devices: &Known<Vec<MemoryDevice>>,
    told: impl Fn(&MemoryDevice) -> Option<u64>,
    what: &str,
) -> Known<u64> {
    match devices {
        Known::Value { value, source } => {
            let sum = value
                .iter()
                .try_fold(0_u64, |sum, device| sum.checked_add(told(device)?));
            match sum {
                Some(sum) => Known::value(sum, source),
                None => Known::unknown(
                    Because::Absent,
                    format!("{source} does not tell the {what} of every memory device"),
                ),
            }
        }
        Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
    }
}

/// The slowest device sets the pace of all.
fn speed(devices: &Known<Vec<MemoryDevice>>) -> Known<u32> {
    match devices {
        Known::Value { value, source } => {
            let speeds = value.iter().map(|device| device.configured_mt_s);
            match speeds.min().flatten() {
                Some(speed) => Known::value(speed, source),
                None => Known::unknown(
                    Because::Absent,
                    format!("{source} does not tell the speed of every memory device"),
                ),
            }
        }
        Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
    }
}

fn zram(root: &Root) -> Known<u64> {
    let names = match root.names("/sys/block") {
        Ok(names) => names,
        Err(error) => return error.into(),
    };
    let mut bytes = 0_u64;
    for name in names.iter().filter(|name| name.starts_with("zram")) {
        match read::number::<u64>(root, &format!("/sys/block/{name}/disksize")) {
            Known::Value { value, .. } => bytes = bytes.saturating_add(value),
            unknown @ Known::Unknown { .. } => return unknown,
        }
    }
    Known::value(bytes, "/sys/block")
}

fn zfs_cache(root: &Root) -> Known<u64> {
    match root.text(ARC) {
        Ok(text) => {
            let size = text.lines().find_map(|line| {
                let mut words = line.split_ascii_whitespace();
                (words.next() == Some("size")).then(|| words.nth(1)?.parse().ok())?
            });
            match size {
                Some(bytes) => Known::value(bytes, ARC),
                None => Known::unknown(Because::Malformed, format!("{ARC} tells no size")),
            }
        }
        Err(error) => error.into(),
    }
}

/// The bytes of `Name:  123 kB`.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    count_of(text, name)?.checked_mul(1024)
}

/// The number of `Name:  123`.
fn count_of(text: &str, name: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn swaps(text: &str) -> Vec<Swap> {
    let lines = text.lines().skip(1);
    let swaps = lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let path = disk::unescaped(words.next()?);
        let kind = words.next()?.to_owned();
        let mut bytes = || words.next()?.parse::<u64>().ok()?.checked_mul(1024);
        Some(Swap {
            bytes: bytes()?,
            used_bytes: bytes()?,
            zram: path.starts_with("/dev/zram"),
            kind,
            path,
        })
    });
    swaps.take(64).collect()
}

/// `some avg10=0.00 avg60=0.00 …`, then the same for `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let share = |begin: &str, name: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(begin))?;
        let mut words = line.split_ascii_whitespace();
        let word = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
        word.parse()
            .ok()
            .filter(|share| (0.0..=100.0).contains(share))
    };
    Some(Pressure {
        some_10: share("some", "avg10")?,
        some_60: share("some", "avg60")?,
        full_10: share("full", "avg10")?,
        full_60: share("full", "avg60")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_areas_are_told_with_their_names_as_they_are() {
        let text = "Filename Type Size Used Priority\n/a\\040b file 1024 512 -2\n/dev/zram0 partition 8 0 100\nrubbish\n/x file -1 0 0\n";
        let swaps = swaps(text);
        assert_eq!(swaps.len(), 2);
        assert_eq!(
            (&*swaps[0].path, swaps[0].bytes, swaps[0].used_bytes),
            ("/a b", 1 << 20, 512 << 10)
        );
        assert!(swaps[1].zram);
    }

    #[test]
    fn shares_of_time_that_are_none_are_refused() {
        let good = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(pressure(good).map(|pressure| pressure.some_10), Some(1.5));
        assert_eq!(pressure(&good.replace("1.50", "NaN")), None);
        assert_eq!(pressure("some\n"), None);
    }

    #[test]
    fn a_name_is_not_taken_for_one_that_begins_like_it() {
        let text = "MemTotalX: 1 kB\nMemTotal:  2 kB\n";
        assert_eq!(kib_of(text, "MemTotal"), Some(2048));
        assert_eq!(kib_of(&format!("A: {} kB", u64::MAX), "A"), None);
    }
}
