//! Installed software that matters: packages, Vulkan drivers, ROCm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Known;

/// Installed packages that matter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Software {
    /// Their versions by name, as the package manager tells them. What is not in the map is not installed.
    pub packages: Known<BTreeMap<String, String>>,
}

/// The Vulkan loader's drivers and devices.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vulkan {
    /// Driver files that the loader finds.
    pub icds: Known<Vec<VulkanIcd>>,
    /// Layer files that the loader switches on by itself.
    pub implicit_layers: Known<Vec<String>>,
    /// Whether AMDVLK, which is discontinued, is installed.
    pub amdvlk: Known<bool>,
    /// Devices that `vulkaninfo --summary` shows.
    pub devices: Known<Vec<VulkanDevice>>,
    /// Version of Mesa, such as `26.0.6`.
    pub mesa: Known<String>,
}

/// A Vulkan driver file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VulkanIcd {
    /// The file.
    pub path: String,
    /// The library that it names; empty if it could not be read.
    pub library: String,
}

/// A device that Vulkan shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VulkanDevice {
    /// Its name.
    pub name: String,
    /// Its driver, such as `radv`.
    pub driver: String,
    /// What the driver says of itself, such as `Mesa 26.0.6 - kisak-mesa PPA`.
    pub driver_info: String,
    /// Version of Vulkan that it offers.
    pub api_version: String,
    /// PCI vendor as `0x1002`.
    pub vendor_id: String,
    /// PCI device as `0x1586`.
    pub device_id: String,
    /// Whether it is a CPU that plays a GPU.
    pub software: bool,
}

/// ROCm and HIP.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rocm {
    /// Versions installed below `/opt`, by folder.
    pub installed: Known<BTreeMap<String, String>>,
    /// The version that counts: that of `/opt/rocm`, else of the newest folder, else of the distribution's package.
    pub version: Known<String>,
    /// Version of HIP.
    pub hip: Known<String>,
    /// Whether ROCm comes from the distribution's packages, which carry their own fixes.
    pub from_distribution: Known<bool>,
}
