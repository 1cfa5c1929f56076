//! How much memory there is to use, from what the kernel and the driver say.
//!
//! [`Facts::read`] looks below a root folder (`/`, or a copy of another machine's files); [`Pool::of`] draws the conclusion. What
//! Aluco's own processes hold already counts as free for Aluco, so that the budget stays the same while models come and go.
//!
//! On a machine whose CPU and GPU share memory, pages of the GPU's translation table (GTT) are pages of RAM: they count once. What firmware
//! sets aside for the GPU (UMA carve-out, the driver's "VRAM") is outside the kernel's memory and comes on top.

mod facts;
mod kernel;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use facts::{CgroupFacts, Facts, GpuFacts, anonymous_bytes};
pub use kernel::{MemInfo, Stall, StallShares, parse_cgroup_amount, parse_meminfo, parse_stall};

use crate::Bytes;

/// Least reserve on a machine of some size.
const RESERVE_LEAST: Bytes = Bytes(2 << 30);

/// Share of memory that is left free: one part of so many. The kernel needs room to compact, a GPU's pages cannot be swapped out, and
/// figures from before a load are a few percent off.
const RESERVE_SHARE: u64 = 25;

/// On small machines and in small cgroups the reserve is no more than one part of so many.
const RESERVE_SHARE_MOST: u64 = 8;

/// Address space that workers reserve and do not use: the stack of a thread that splits prompts.
const ADDRESS_SPACE_UNUSED: Bytes = Bytes(3 << 29);

/// What Aluco's own processes hold at the moment of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Memory of the CPU that is no page cache: see [`anonymous_bytes`]. Weights that are mapped from a file are page cache.
    pub host: Bytes,
    /// Memory of the GPU.
    pub device: Bytes,
}

/// How much may be held, in three sums. On a machine with one pool `together` is less than the other two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Most bytes of the CPU's memory.
    pub host: Bytes,
    /// Most bytes of the GPU's memory; zero without one.
    pub device: Bytes,
    /// Most bytes of both.
    pub together: Bytes,
}

/// Something that limits how much can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What it is, such as `memory of the machine`.
    pub name: String,
    /// The file that says so.
    pub source: String,
    /// Bytes that it allows in all.
    pub total: Bytes,
    /// Bytes of them that Aluco can have, with what it holds already.
    pub free: Bytes,
}

/// The memory of a machine, as far as Aluco may use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What may be held, with the reserve taken off.
    pub budget: Budget,
    /// Bytes that are left free.
    pub reserve: Bytes,
    /// Bytes of RAM that others hold: programs, and the kernel.
    pub others: Bytes,
    /// Bytes of the machine's RAM.
    pub machine: Bytes,
    /// True if CPU and GPU share memory.
    pub unified: bool,
    /// What limits the CPU's memory, the tightest first.
    pub host_limits: Vec<Limit>,
    /// What limits the GPU's memory; empty without a GPU.
    pub device_limits: Vec<Limit>,
}

impl Pool {
    /// What these facts leave for Aluco. `reserve`: bytes to leave free; without it [`default_reserve`].
    pub fn of(facts: &Facts, held: Held, reserve: Option<Bytes>) -> Self {
        let gpu = facts.gpus.iter().max_by_key(|gpu| gpu.capacity());
        let unified = gpu.is_some_and(|gpu| gpu.is_integrated);
        // A shared pool's pages that the GPU holds are pages of RAM, as far as they are not in the carve-out.
        let carved = gpu.map_or(Bytes::ZERO, |gpu| {
            if unified { gpu.vram_used } else { Bytes::ZERO }
        });
        let shared = if unified {
            held.device.less(carved)
        } else {
            Bytes::ZERO
        };
        let mut host_limits = host_limits(facts, held.host, shared);
        host_limits.sort_by_key(|limit| limit.free);
        let tightest = host_limits.first().map_or(Bytes::ZERO, |limit| limit.free);
        let capacity = host_limits.iter().map(|limit| limit.total).min();
        let capacity = capacity.unwrap_or_default();
        let reserve = reserve.unwrap_or_else(|| default_reserve(capacity));
        let host = tightest.less(reserve);
        let device_limits = gpu.map_or_else(Vec::new, |gpu| device_limits(facts, gpu, held.device));
        let device = device_limits.iter().map(|limit| limit.free).min();
        let device = device.unwrap_or_default();
        let budget = match gpu {
            None => Budget {
                host,
                device: Bytes::ZERO,
                together: host,
            },
            Some(gpu) if unified => {
                let carve_out = gpu.vram_total.less(gpu.vram_used) + held.device.min(carved);
                let together = host + carve_out.min(device);
                Budget {
                    host,
                    device: device.min(together),
                    together,
                }
            }
            Some(_) => Budget {
                host,
                device: device.less(default_reserve(device).min(Bytes::GIB)),
                together: host + device.less(default_reserve(device).min(Bytes::GIB)),
            },
        };
        Self {
            budget,
            reserve,
            others: facts
                .memory
                .total
                .less(facts.memory.available + held.host + shared),
            machine: facts.memory.total,
            unified,
            host_limits,
            device_limits,
        }
    }
}

impl Pool {
    /// The same pool, of which no more than this may be held. `source`: who says so.
    #[must_use]
    pub fn limited(mut self, most: Bytes, source: &str) -> Self {
        self.host_limits.push(Limit {
            name: "limit for all models".to_owned(),
            source: source.to_owned(),
            total: most,
            free: most,
        });
        self.host_limits.sort_by_key(|limit| limit.free);
        self.budget = Budget {
            host: self.budget.host.min(most),
            device: self.budget.device.min(most),
            together: self.budget.together.min(most),
        };
        self
    }

    /// RAM that the tightest limit allows: the machine's, or that of a cgroup.
    pub fn capacity(&self) -> Bytes {
        let limits = self.host_limits.iter().map(|limit| limit.total);
        limits.min().unwrap_or_default()
    }

    /// Bytes that a model's stored prompts may take unless asked otherwise. The worker's own default knows nothing of cgroups, so who
    /// starts it has to tell it.
    pub fn default_store(&self) -> Bytes {
        default_store(self.capacity())
    }
}

/// Bytes that a model's stored prompts may take unless asked otherwise, in so much memory: a sixteenth, at most 8 GiB.
pub fn default_store(capacity: Bytes) -> Bytes {
    Bytes(capacity.0 / 16).min(Bytes::GIB.times(8))
}

/// Bytes to leave free of so many: 4 %, at least 2 GiB, at most an eighth.
pub fn default_reserve(capacity: Bytes) -> Bytes {
    Bytes(capacity.0 / RESERVE_SHARE)
        .max(RESERVE_LEAST)
        .min(Bytes(capacity.0 / RESERVE_SHARE_MOST))
}

/// `shared`: bytes of RAM that are held as memory of the GPU.
fn host_limits(facts: &Facts, held: Bytes, shared: Bytes) -> Vec<Limit> {
    let mut limits = vec![Limit {
        name: "memory of the machine".to_owned(),
        source: "/proc/meminfo".to_owned(),
        total: facts.memory.total,
        free: (facts.memory.available + held + shared).min(facts.memory.total),
    }];
    // Pages of the GPU are billed to the driver and not to a cgroup.
    limits.extend(facts.cgroups.iter().map(|cgroup| Limit {
        name: format!("cgroup {}", cgroup.name),
        source: cgroup.source.clone(),
        total: cgroup.limit,
        free: (cgroup.limit.less(cgroup.used) + held).min(cgroup.limit),
    }));
    let process = [
        (
            "address space of a process",
            facts.address_space,
            ADDRESS_SPACE_UNUSED,
        ),
        ("data of a process", facts.data, Bytes::ZERO),
    ];
    limits.extend(process.into_iter().filter_map(|(name, limit, unused)| {
        let total = limit?;
        Some(Limit {
            name: name.to_owned(),
            source: "/proc/self/limits".to_owned(),
            total,
            free: total.less(unused),
        })
    }));
    limits
}

fn device_limits(facts: &Facts, gpu: &GpuFacts, held: Bytes) -> Vec<Limit> {
    let used = if gpu.is_integrated {
        gpu.vram_used + gpu.gtt_used
    } else {
        gpu.vram_used
    };
    let total = gpu.capacity();
    let mut limits = vec![Limit {
        name: if gpu.is_integrated {
            "GTT and carve-out of the GPU".to_owned()
        } else {
            "memory of the GPU".to_owned()
        },
        source: gpu.source.clone(),
        total,
        free: (total.less(used) + held).min(total),
    }];
    if let (true, Some(pages)) = (gpu.is_integrated, facts.ttm_limit) {
        let total = pages + gpu.vram_total;
        limits.push(Limit {
            name: "pages of the kernel's GPU memory manager (TTM)".to_owned(),
            source: "/sys/module/ttm/parameters/pages_limit".to_owned(),
            total,
            free: (total.less(used) + held).min(total),
        });
    }
    limits.sort_by_key(|limit| limit.free);
    limits
}
