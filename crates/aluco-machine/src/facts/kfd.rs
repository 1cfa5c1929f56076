//! What ROCm's kernel driver says of CPU and GPU: the KFD topology.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{ReadError, Root};

/// The KFD topology.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Kfd {
    /// Its nodes; the first is the CPU.
    pub nodes: Known<Vec<KfdNode>>,
}

/// A node of the topology.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KfdNode {
    /// Its number.
    pub node: u32,
    /// Its id; 0 for a CPU.
    pub gpu_id: u32,
    /// `gfx_target_version`: 110501 is gfx1151; 0 for a CPU.
    pub target_version: u32,
    /// The target in words, such as `gfx1151`; empty for a CPU.
    pub target: String,
    /// Cores of a CPU.
    pub cpu_cores: u32,
    /// Compute units of a GPU: 40 in a Radeon 8060S, 32 in an 8050S, 16 in an 8040S.
    pub compute_units: u32,
    /// Lanes of a wavefront.
    pub wavefront: u32,
    /// PCI vendor.
    pub vendor_id: u32,
    /// PCI device.
    pub device_id: u32,
    /// Highest clock in MHz.
    pub clock_max_mhz: u32,
    /// `N` of `/dev/dri/renderDN`.
    pub render_minor: u32,
    /// `cwsr_size`, bytes to save a wave in; kernels without the fix for gfx1151 do not tell it.
    pub cwsr_size: Option<u64>,
    /// `ctl_stack_size`; kernels without the fix for gfx1151 do not tell it.
    pub ctl_stack_size: Option<u64>,
    /// Its memory.
    pub banks: Vec<KfdBank>,
    /// Bytes of all its memory.
    pub memory_bytes: u64,
}

/// A memory bank of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KfdBank {
    /// 0 is system memory, 1 and 2 are a GPU's.
    pub heap: u32,
    /// Bytes.
    pub bytes: u64,
    /// Width in bits.
    pub width_bits: u32,
    /// Clock in MHz.
    pub clock_max_mhz: u32,
}

impl Kfd {
    /// The place of the GPU that matters in [`Kfd::nodes`]: gfx1151, else the first.
    pub fn gpu_index(&self) -> Option<usize> {
        let nodes = self.nodes.get()?;
        let position = |wanted: fn(&KfdNode) -> bool| nodes.iter().position(wanted);
        position(|node| node.target_version == 110_501)
            .or_else(|| position(|node| node.target_version != 0))
    }

    /// The GPU that matters.
    pub fn gpu(&self) -> Option<&KfdNode> {
        self.nodes.get()?.get(self.gpu_index()?)
    }
}

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";

impl Kfd {
    pub(super) fn collect(root: &Root) -> Self {
        let names = match root.names(NODES) {
            Ok(names) => names,
            Err(error) => {
                return Self {
                    nodes: error.into(),
                };
            }
        };
        let mut nodes = Vec::new();
        let mut refused = None;
        for name in names.iter().take(64) {
            let Ok(number) = name.parse() else { continue };
            match KfdNode::read(root, number) {
                Ok(node) => nodes.push(node),
                Err(error) => refused = Some(error),
            }
        }
        // In a container, the kernel refuses to tell of the GPUs that were not passed in.
        let nodes = match refused {
            Some(error) if !nodes.iter().any(|node: &KfdNode| node.target_version != 0) => {
                error.into()
            }
            _ => Known::value(nodes, NODES),
        };
        Self { nodes }
    }
}

impl KfdNode {
    fn read(root: &Root, node: u32) -> Result<Self, ReadError> {
        let folder = format!("{NODES}/{node}");
        let path = format!("{folder}/properties");
        let text = root.text(&path)?;
        let properties = properties(&text);
        let told = |name: &str| properties.get(name).copied();
        let number = |name: &str| told(name).and_then(|value| u32::try_from(value).ok());
        let Some(target_version) = number("gfx_target_version") else {
            let detail = "it tells no gfx_target_version";
            return Err(ReadError::new(path, Because::Malformed).detail(detail));
        };
        let banks = format!("{folder}/mem_banks");
        let banks: Vec<KfdBank> = read::files(root, &banks, |_| true)
            .iter()
            .take(64)
            .filter_map(|bank| KfdBank::read(root, &format!("{banks}/{bank}/properties")))
            .collect();
        let sum = banks
            .iter()
            .fold(0_u64, |sum, bank| sum.saturating_add(bank.bytes));
        let per_unit = number("simd_per_cu")
            .filter(|count| *count > 0)
            .unwrap_or(2);
        Ok(Self {
            node,
            gpu_id: read::number(root, &format!("{folder}/gpu_id"))
                .copied()
                .unwrap_or(0),
            target_version,
            target: target(target_version),
            cpu_cores: number("cpu_cores_count").unwrap_or(0),
            compute_units: number("simd_count").unwrap_or(0) / per_unit,
            wavefront: number("wave_front_size").unwrap_or(0),
            vendor_id: number("vendor_id").unwrap_or(0),
            device_id: number("device_id").unwrap_or(0),
            clock_max_mhz: number("max_engine_clk_fcompute").unwrap_or(0),
            render_minor: number("drm_render_minor").unwrap_or(0),
            cwsr_size: told("cwsr_size"),
            ctl_stack_size: told("ctl_stack_size"),
            banks,
            memory_bytes: sum,
        })
    }
}

impl KfdBank {
    fn read(root: &Root, path: &str) -> Option<Self> {
        let text = root.text(path).ok()?;
        let properties = properties(&text);
        let number = |name: &str| {
            let value = properties.get(name).copied().unwrap_or(0);
            u32::try_from(value).unwrap_or(0)
        };
        Some(Self {
            heap: number("heap_type"),
            bytes: properties.get("size_in_bytes").copied()?,
            width_bits: number("width"),
            clock_max_mhz: number("mem_clk_max"),
        })
    }
}

/// `name value`, one a line. What has no number is left out.
fn properties(text: &str) -> BTreeMap<&str, u64> {
    let lines = text.lines().take(1024);
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    });
    pairs.collect()
}

/// 110501 as `gfx1151`: major version in decimal, minor and stepping in hexadecimal digits.
fn target(version: u32) -> String {
    if version == 0 {
        return String::new();
    }
    let (major, minor, step) = (version / 10_000, version / 100 % 100, version % 100);
    format!("gfx{major}{minor:x}{step:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_as_compilers_name_them() {
        for (version, name) in [
            (110_501, "gfx1151"),
            (110_500, "gfx1150"),
            (110_000, "gfx1100"),
            (90_010, "gfx90a"),
            (0, ""),
        ] {
            assert_eq!(target(version), name);
        }
    }
}
