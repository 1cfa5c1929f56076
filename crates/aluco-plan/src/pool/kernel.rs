//! The kernel's files about memory, read without trust: whatever stands in them, the answer is a value or `None`.

use crate::Bytes;

/// `/proc/meminfo`, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemInfo {
    /// RAM that the kernel manages.
    pub total: Bytes,
    /// What programs can get without swapping, by the kernel's own estimate: free pages and most of the page cache.
    pub available: Bytes,
}

/// Shares of time in which tasks waited for memory, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StallShares {
    /// Over ten seconds.
    pub avg10: f64,
    /// Over a minute.
    pub avg60: f64,
}

/// `/proc/pressure/memory`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// At least one task waited.
    pub some: StallShares,
    /// All waited at once.
    pub full: StallShares,
}

/// Reads `/proc/meminfo`. `None` without a total.
pub fn parse_meminfo(text: &str) -> Option<MemInfo> {
    let field = |name: &str| {
        text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.strip_prefix(':')?;
            let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(Bytes(1024).times(kib))
        })
    };
    let total = field("MemTotal")?;
    // Kernels before 3.14 have no estimate.
    let available = field("MemAvailable")
        .or_else(|| Some(field("MemFree")? + field("Cached").unwrap_or_default()))?;
    Some(MemInfo {
        total,
        available: available.min(total),
    })
}

/// Reads a limit of a cgroup: a number of bytes, or `None` for `max` and for what is neither.
pub fn parse_cgroup_amount(text: &str) -> Option<Bytes> {
    text.trim().parse().ok().map(Bytes)
}

/// Reads `/proc/pressure/memory`. `None` if it has no line of its form.
pub fn parse_stall(text: &str) -> Option<Stall> {
    let shares = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let share = |name: &str| {
            let mut fields = line.split_ascii_whitespace();
            let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            let share: f64 = value.parse().ok()?;
            (0.0..=100.0).contains(&share).then_some(share)
        };
        Some(StallShares {
            avg10: share("avg10")?,
            avg60: share("avg60")?,
        })
    };
    Some(Stall {
        some: shares("some ")?,
        full: shares("full ").unwrap_or_default(),
    })
}

/// A soft limit of `/proc/PID/limits` in bytes; `None` if there is none.
pub(super) fn parse_limit(text: &str, name: &str) -> Option<Bytes> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
        .map(Bytes)
}

/// A field of `/proc/PID/status` that is an amount of memory.
pub(super) fn parse_status(text: &str, name: &str) -> Option<Bytes> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Bytes(1024).times(kib))
    })
}

/// The folders of a process's cgroup and of those around it, relative to the mount point, its own first. Only version 2 has one tree for
/// all; its line begins with `0::`.
pub(super) fn parse_cgroup_path(text: &str) -> Vec<String> {
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    // A path outside of the namespace's root begins with `..`, and nothing can be read there.
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .take_while(|part| !matches!(*part, ".." | "."))
        .collect();
    (0..=parts.len())
        .rev()
        .map(|count| parts[..count].join("/"))
        .collect()
}

/// A line of `memory.stat`.
pub(super) fn parse_stat(text: &str, name: &str) -> Option<Bytes> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == name)
            .then(|| words.next()?.parse().ok().map(Bytes))
            .flatten()
    })
}
