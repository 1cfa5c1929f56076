//! What ROCm's kernel driver says of CPU and GPU: the KFD topology.

use serde::{Deserialize, Serialize};

use super::Known;

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
