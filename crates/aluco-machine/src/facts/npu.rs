//! The NPU.

use serde::{Deserialize, Serialize};

use super::Known;

/// The NPU.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Npu {
    /// Whether the chip has one, by PCI id `1022:17f0`, whatever the driver.
    pub present: Known<bool>,
    /// Where it is on the PCI bus.
    pub slot: Known<String>,
    /// PCI revision, two hexadecimal digits: `11` is Strix Halo, `10` Strix Point, `20` Krackan.
    pub revision: Known<String>,
    /// The driver.
    pub driver: Known<String>,
    /// Its device node, such as `/dev/accel/accel0`.
    pub device: Known<String>,
    /// Version of its firmware, such as `1.1.2.65`.
    pub firmware: Known<String>,
    /// What the driver calls it, such as `RyzenAI-npu5`.
    pub name: Known<String>,
    /// Whether the module `amdxdna` is loaded.
    pub module_loaded: Known<bool>,
    /// Version of the XRT package.
    pub xrt: Known<String>,
    /// Version of FastFlowLM.
    pub fastflowlm: Known<String>,
}
