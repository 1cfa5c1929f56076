//! What the kernel's messages tell, as types.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Something that the kernel said and that matters to models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEvent {
    /// When it happened; of messages from before the watch began, as the kernel's own clock tells.
    #[serde(with = "super::rfc3339")]
    pub at: SystemTime,
    /// What happened.
    pub kind: KernelEventKind,
    /// The process that caused it or that was killed, if the kernel names it.
    pub pid: Option<u32>,
    /// The name of that process.
    pub process: Option<String>,
    /// The message, without control characters.
    pub line: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum KernelEventKind {
    /// The GPU did not finish work in time: it hangs.
    RingTimeout {
        /// Which of its queues: `gfx_0.0.0`.
        ring: String,
    },
    /// The GPU's scheduler firmware does not answer.
    MesFailure,
    /// The GPU touched memory that it may not.
    PageFault {
        /// The value of `GCVM_L2_PROTECTION_FAULT_STATUS`, if it followed.
        status: Option<u32>,
        /// The part of the GPU that did: `CPF`, `TCP`.
        client: Option<String>,
    },
    /// The GPU is reset; what it was doing is lost.
    GpuReset,
    /// The GPU was reset and works again.
    GpuRecovered,
    /// The driver kept the GPU's state for whoever looks into it.
    CoreDump,
    /// A program's queue on the GPU was taken away.
    QueueLost,
    /// The power management firmware does not answer, mostly after a suspend.
    SmuFailure,
    /// A driver's parameter is unknown, deprecated or contradicts another.
    SettingIgnored,
    /// Memory for the GPU could not be had.
    AllocationFailure,
    /// The NPU or its path to memory failed.
    NpuFault,
    /// ROCm's user space gave up; such lines are in a worker's output, not in the kernel's.
    RocmException,
    /// The kernel killed a process because memory ran out.
    OutOfMemory {
        /// Only a control group's share of memory had run out, as of a container or a unit.
        control_group: bool,
    },
}

impl KernelEventKind {
    /// The rule of the doctor that tells more: `LOG-01`. The out-of-memory killer has none.
    pub fn rule(&self) -> Option<&'static str> {
        Some(match self {
            Self::RingTimeout { .. } => "LOG-01",
            Self::MesFailure => "LOG-02",
            Self::PageFault { .. } => "LOG-03",
            Self::GpuReset | Self::GpuRecovered | Self::CoreDump => "LOG-04",
            Self::QueueLost => "LOG-05",
            Self::SmuFailure => "LOG-06",
            Self::SettingIgnored => "LOG-07",
            Self::AllocationFailure => "LOG-08",
            Self::NpuFault => "LOG-09",
            Self::RocmException => "LOG-10",
            Self::OutOfMemory { .. } => return None,
        })
    }

    /// Whether work on the GPU is lost by it, so that a worker that stands still afterwards will not go on.
    pub fn loses_gpu_work(&self) -> bool {
        matches!(
            self,
            Self::RingTimeout { .. }
                | Self::MesFailure
                | Self::PageFault { .. }
                | Self::GpuReset
                | Self::QueueLost
                | Self::RocmException
        )
    }
}
