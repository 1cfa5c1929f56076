//! Firmware packages, and files that shadow what they bring.

use serde::{Deserialize, Serialize};

use super::Known;

/// Firmware packages, and files that shadow what they bring. The versions that the GPU runs are in [`Gpu::firmware`](super::Gpu::firmware).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Firmware {
    /// The package with the GPU's firmware.
    pub package: Known<String>,
    /// Its version in the distribution's form.
    pub package_version: Known<String>,
    /// The day of the upstream release that the version names, as in `20260309`.
    pub release: Known<u32>,
    /// Version of the MES firmware that the GPU runs, as a number: 0x80 = 128 is good on Strix Halo, 0x83 = 131 is not.
    pub mes: Known<u32>,
    /// Files below `/lib/firmware/updates/amdgpu`, which hide those of the package.
    pub updates: Known<Vec<String>>,
}
