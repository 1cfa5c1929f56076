//! Whether the addresses that devices use are translated.

use serde::{Deserialize, Serialize};

use super::Known;

/// Whether the addresses that devices use are translated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Iommu {
    /// How, for the GPU if it has a group, else for most devices.
    pub mode: Known<IommuMode>,
    /// How many groups of devices there are.
    pub groups: Known<u32>,
    /// How, for the NPU.
    pub npu_mode: Known<IommuMode>,
}

/// How an IOMMU treats a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IommuMode {
    /// There is none: it is switched off, or the machine has none.
    Off,
    /// It lets addresses through as they are (`iommu=pt`).
    Passthrough,
    /// It translates every address.
    Translated,
}
