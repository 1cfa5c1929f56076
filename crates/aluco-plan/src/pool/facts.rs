//! What stands in the files of a machine.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use super::kernel::{
    MemInfo, Stall, parse_cgroup_amount, parse_cgroup_path, parse_limit, parse_meminfo,
    parse_stall, parse_stat, parse_status,
};
use crate::Bytes;

/// Bytes of a file that are read: the kernel's are smaller.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of a page that `pages_limit` counts.
const PAGE: Bytes = Bytes(4096);

/// The facts on which a [`super::Pool`] depends. What cannot be read is left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// RAM.
    pub memory: MemInfo,
    /// Cgroups that limit this process, its own first.
    pub cgroups: Vec<CgroupFacts>,
    /// Most bytes of address space of a process.
    pub address_space: Option<Bytes>,
    /// Most bytes of data of a process.
    pub data: Option<Bytes>,
    /// GPUs that amdgpu drives.
    pub gpus: Vec<GpuFacts>,
    /// Most bytes of RAM that GPUs may hold.
    pub ttm_limit: Option<Bytes>,
    /// How much tasks wait for memory; of the tightest cgroup where there is one.
    pub stall: Option<Stall>,
}

/// A cgroup with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupFacts {
    /// Its path below the mount point, `/` for that itself.
    pub name: String,
    /// The folder.
    pub source: String,
    /// The lower one of `memory.max` and `memory.high`: above the latter everything crawls.
    pub limit: Bytes,
    /// What it uses, without page cache that can be dropped.
    pub used: Bytes,
}

/// Memory of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// The folder.
    pub source: String,
    /// True if it computes on the machine's RAM.
    pub is_integrated: bool,
    /// Its own memory, or what firmware set aside.
    pub vram_total: Bytes,
    /// Bytes of that in use, by all programs.
    pub vram_used: Bytes,
    /// RAM that it can map.
    pub gtt_total: Bytes,
    /// Bytes of that in use, by all programs.
    pub gtt_used: Bytes,
}

impl GpuFacts {
    /// A card that another driver than amdgpu tells of, with memory of its own.
    pub fn told(name: &str, total: Bytes, free: Bytes) -> Self {
        Self {
            source: name.to_owned(),
            is_integrated: false,
            vram_total: total,
            vram_used: total.less(free),
            gtt_total: Bytes::ZERO,
            gtt_used: Bytes::ZERO,
        }
    }

    /// What it can compute on.
    pub fn capacity(&self) -> Bytes {
        if self.is_integrated {
            self.vram_total + self.gtt_total
        } else {
            self.vram_total
        }
    }
}

impl Facts {
    /// Reads the files below a root: `/`, or a folder with copies.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| read(&root.join(path));
        let limits = text("proc/self/limits").unwrap_or_default();
        let cgroups: Vec<CgroupFacts> = text("proc/self/cgroup")
            .map(|text| parse_cgroup_path(&text))
            .unwrap_or_default()
            .iter()
            .filter_map(|name| cgroup(root, name))
            .collect();
        let stall = cgroups
            .iter()
            .min_by_key(|cgroup| cgroup.limit)
            .and_then(|cgroup| {
                let folder = root.join(cgroup.source.strip_prefix('/')?);
                read(&folder.join("memory.pressure"))
            })
            .or_else(|| text("proc/pressure/memory"))
            .and_then(|text| parse_stall(&text));
        Self {
            memory: text("proc/meminfo")
                .and_then(|text| parse_meminfo(&text))
                .unwrap_or_default(),
            cgroups,
            address_space: parse_limit(&limits, "Max address space"),
            data: parse_limit(&limits, "Max data size"),
            gpus: gpus(root),
            ttm_limit: text("sys/module/ttm/parameters/pages_limit")
                .and_then(|text| text.trim().parse().ok())
                .map(|pages| PAGE.times(pages)),
            stall,
        }
    }
}

/// Memory of a process that is no page cache: what would be free without it.
pub fn anonymous_bytes(root: &Path, process: u32) -> Option<Bytes> {
    let text = read(&root.join(format!("proc/{process}/status")))?;
    let anonymous = parse_status(&text, "RssAnon")?;
    Some(anonymous + parse_status(&text, "RssShmem").unwrap_or_default())
}

/// A cgroup's limit and use; `None` if it has no limit.
fn cgroup(root: &Path, name: &str) -> Option<CgroupFacts> {
    let folder = root.join("sys/fs/cgroup").join(name);
    let amount = |file: &str| read(&folder.join(file)).and_then(|text| parse_cgroup_amount(&text));
    let limit = match (amount("memory.max"), amount("memory.high")) {
        (Some(max), Some(high)) => max.min(high),
        (max, high) => max.or(high)?,
    };
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let droppable = parse_stat(&stat, "inactive_file").unwrap_or_default()
        + parse_stat(&stat, "active_file").unwrap_or_default();
    Some(CgroupFacts {
        name: format!("/{name}"),
        source: if name.is_empty() {
            "/sys/fs/cgroup".to_owned()
        } else {
            format!("/sys/fs/cgroup/{name}")
        },
        limit,
        used: amount("memory.current").unwrap_or_default().less(droppable),
    })
}

/// `card0`, `card1` and so on, without their connectors (`card1-DP-1`).
fn gpus(root: &Path) -> Vec<GpuFacts> {
    let folder = root.join("sys/class/drm");
    let mut cards: Vec<PathBuf> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix("card"));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .collect();
    cards.sort();
    let facts = |card: PathBuf| {
        let device = card.join("device");
        let amount = |name: &str| {
            let text = read(&device.join(format!("mem_info_{name}")))?;
            text.trim().parse().ok().map(Bytes)
        };
        Some(GpuFacts {
            source: format!("/sys/class/drm/{}/device", card.file_name()?.to_str()?),
            // The driver names the maker of memory chips where a card has some of its own.
            is_integrated: !device.join("mem_info_vram_vendor").exists(),
            vram_total: amount("vram_total")?,
            vram_used: amount("vram_used").unwrap_or_default(),
            gtt_total: amount("gtt_total")?,
            gtt_used: amount("gtt_used").unwrap_or_default(),
        })
    };
    cards.into_iter().filter_map(facts).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
