//! Parameters of the kernel modules that matter: as they are, and as they are configured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Known;

/// Parameters of the kernel modules that matter.
///
/// Each map is unknown with [`Because::Absent`](super::Because::Absent) if the module is not loaded. The values are the kernel's texts, without line end.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Modules {
    /// `ttm`: `pages_limit`, `page_pool_size`, in pages of 4 KiB.
    pub ttm: Known<BTreeMap<String, String>>,
    /// `amdttm`, which only the amdgpu-dkms package brings.
    pub amdttm: Known<BTreeMap<String, String>>,
    /// `amdgpu`: `gttsize` in MiB, `cwsr_enable`, `noretry`, `ppfeaturemask`…
    pub amdgpu: Known<BTreeMap<String, String>>,
    /// `amdxdna`, the driver of the NPU.
    pub amdxdna: Known<BTreeMap<String, String>>,
    /// Version of an amdgpu from outside the kernel's tree; absent for the kernel's own.
    pub amdgpu_version: Known<String>,
    /// Version of an amdxdna from outside the kernel's tree; absent for the kernel's own.
    pub amdxdna_version: Known<String>,
    /// `options` lines of modprobe's configuration for these modules, in the order in which they are read.
    pub options: Known<Vec<ModuleOption>>,
    /// Modules that modprobe's configuration forbids.
    pub blacklist: Known<Vec<String>>,
}

/// One `module.name=value`, from modprobe's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleOption {
    /// The module.
    pub module: String,
    /// The parameter.
    pub name: String,
    /// Its value; empty if it was given none.
    pub value: String,
    /// The file that says so.
    pub file: String,
}
