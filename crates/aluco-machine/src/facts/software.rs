//! Installed software that matters: packages, Vulkan drivers, ROCm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Distribution, Known, read, vulkan_features};
use crate::root::{Command, PACKAGES, ReadError, Root};

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
    /// Whether its driver offers matrix multiplication of BF16 numbers to shaders: `shaderBFloat16CooperativeMatrix` of `VK_KHR_shader_bfloat16`.
    pub bfloat16_matrices: Known<bool>,
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

/// Where the Vulkan loader looks for drivers and layers, in its order; the last is NixOS's.
pub(crate) const VULKAN_FOLDERS: &[&str] = &[
    "/etc/vulkan",
    "/usr/local/etc/vulkan",
    "/usr/local/share/vulkan",
    "/usr/share/vulkan",
    "/run/opengl-driver/share/vulkan",
];

const OPT: &str = "/opt";

impl Software {
    /// Asks the package manager of the distribution.
    pub(super) fn collect(root: &Root, distribution: &Distribution) -> Self {
        let is = |ids: &[&str]| ids.iter().any(|id| distribution.is(id));
        let managers: &[Command] = if is(&["debian", "ubuntu"]) {
            &[Command::DpkgQuery]
        } else if is(&["fedora", "rhel", "centos", "suse", "opensuse"]) {
            &[Command::Rpm]
        } else if is(&["arch"]) {
            &[Command::Pacman]
        } else if is(&["nixos"]) {
            return Self {
                packages: Known::unknown(
                    Because::NotApplicable,
                    "NixOS keeps no list of installed packages by name",
                ),
            };
        } else {
            &[Command::Rpm, Command::DpkgQuery, Command::Pacman]
        };
        let mut packages = Known::default();
        for manager in managers {
            packages = match root.command(*manager) {
                Ok(text) => Known::value(installed(*manager, &text), manager.name()),
                Err(error) => error.into(),
            };
            if packages.get().is_some() {
                break;
            }
        }
        Self { packages }
    }
}

/// Versions by name, in the forms in which the managers were asked to tell them.
fn installed(manager: Command, text: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for line in text.lines().take(4096) {
        let mut words = line.split_ascii_whitespace();
        if manager == Command::DpkgQuery && words.next() != Some("ii") {
            continue;
        }
        if let (Some(name), Some(version), None) = (words.next(), words.next(), words.next())
            && PACKAGES.contains(&name)
        {
            packages.insert(name.to_owned(), version.to_owned());
        }
    }
    packages
}

/// The version of the first of these packages that is installed.
pub(super) fn version_of(
    packages: &Known<BTreeMap<String, String>>,
    names: &[&str],
) -> Known<String> {
    match packages {
        Known::Value { value, source } => match names.iter().find_map(|name| value.get(*name)) {
            Some(version) => Known::value(version.clone(), source),
            None => Known::unknown(
                Because::Absent,
                format!("{source} knows no {}", names.join(", ")),
            ),
        },
        Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
    }
}

impl Vulkan {
    pub(super) fn collect(
        root: &Root,
        summary: Result<String, ReadError>,
        features: Result<String, ReadError>,
        packages: &Known<BTreeMap<String, String>>,
    ) -> Self {
        let manifests = |folder: &str| {
            let folders = VULKAN_FOLDERS
                .iter()
                .map(|begin| format!("{begin}/{folder}"));
            let paths = folders.flat_map(|folder| {
                let names = read::with_ending(root, &folder, ".json");
                names
                    .into_iter()
                    .map(move |name| format!("{folder}/{name}"))
            });
            paths.take(64).collect::<Vec<_>>()
        };
        let icds: Vec<VulkanIcd> = manifests("icd.d")
            .into_iter()
            .map(|path| VulkanIcd {
                library: library(root, &path).unwrap_or_default(),
                path,
            })
            .collect();
        let implicit_layers = manifests("implicit_layer.d");
        let foreign = |path: &str| read::last_name(path).starts_with("amd_icd");
        let hijacker = icds
            .iter()
            .find(|icd| foreign(&icd.path) || icd.library.contains("amdvlk"))
            .map(|icd| icd.path.clone())
            .or_else(|| implicit_layers.iter().find(|path| foreign(path)).cloned());
        let package = version_of(packages, &["amdvlk"]);
        let amdvlk = match (hijacker, &package) {
            (Some(path), _) => Known::value(true, path),
            (None, Known::Value { source, .. }) => Known::value(true, source),
            (None, Known::Unknown { .. }) => Known::value(false, "the Vulkan loader's folders"),
        };
        let devices = match summary {
            Ok(text) => {
                let mut devices = devices(&text);
                vulkan_features::complete(&mut devices, features);
                Known::value(devices, Command::Vulkaninfo.typed())
            }
            Err(error) => error.into(),
        };
        let driver = devices.get().and_then(|devices| mesa(devices));
        let mesa = match driver {
            Some(version) => Known::value(version, Command::Vulkaninfo.typed()),
            None => version_of(packages, &["mesa-vulkan-drivers", "vulkan-radeon", "mesa"])
                .map(|version| upstream(&version).to_owned()),
        };
        Self {
            icds: Known::value(icds, "the Vulkan loader's folders"),
            implicit_layers: Known::value(implicit_layers, "the Vulkan loader's folders"),
            amdvlk,
            devices,
            mesa,
        }
    }
}

fn library(root: &Root, path: &str) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_str(&root.text(path).ok()?).ok()?;
    let library = manifest.get("ICD")?.get("library_path")?.as_str()?;
    Some(library.chars().take(256).collect())
}

/// The devices of `vulkaninfo --summary`: a line `GPU0:`, then indented lines `name = value`.
fn devices(text: &str) -> Vec<VulkanDevice> {
    let mut devices = Vec::new();
    for line in text.lines() {
        if line.starts_with("GPU") && line.trim_end().ends_with(':') && devices.len() < 64 {
            devices.push(VulkanDevice::default());
        }
        let (Some(device), Some((name, value))) = (devices.last_mut(), line.split_once('=')) else {
            continue;
        };
        let value = value.trim().to_owned();
        match name.trim() {
            "deviceName" => device.name = value,
            "driverName" => device.driver = value,
            "driverInfo" => device.driver_info = value,
            "apiVersion" => device.api_version = value,
            "vendorID" => device.vendor_id = value,
            "deviceID" => device.device_id = value,
            "deviceType" => device.software = value == "PHYSICAL_DEVICE_TYPE_CPU",
            _ => {}
        }
    }
    devices
}

/// The version of Mesa that drives the hardware, else that of its software driver.
fn mesa(devices: &[VulkanDevice]) -> Option<String> {
    let version = |device: &VulkanDevice| {
        let (_, rest) = device.driver_info.split_once("Mesa ")?;
        let version = rest.split_ascii_whitespace().next()?;
        Some(upstream(version).to_owned())
    };
    let hardware = devices.iter().filter(|device| !device.software);
    hardware.chain(devices).find_map(version)
}

/// `1:26.2.1-1` without the distribution's epoch and revision.
pub(super) fn upstream(version: &str) -> &str {
    let version = version
        .split_once(':')
        .map_or(version, |(_, version)| version);
    let end = version.find(|letter: char| letter != '.' && !letter.is_ascii_digit());
    version[..end.unwrap_or(version.len())].trim_end_matches('.')
}

impl Rocm {
    pub(super) fn collect(root: &Root, packages: &Known<BTreeMap<String, String>>) -> Self {
        let folders = match root.names(OPT) {
            Ok(names) => Ok(names),
            Err(error) if error.because == Because::Absent => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        let installed: Known<BTreeMap<String, String>> = match folders {
            Ok(names) => {
                let names = names.into_iter().filter(|name| name.starts_with("rocm"));
                let versions = names.take(32).filter_map(|name| {
                    let version = read::line(root, &format!("{OPT}/{name}/.info/version"));
                    let version = upstream(version.get()?).to_owned();
                    (!version.is_empty()).then_some((name, version))
                });
                Known::value(versions.collect(), OPT)
            }
            Err(error) => error.into(),
        };
        let in_opt = installed.get().and_then(|installed| {
            let newest = || installed.iter().max_by_key(|(_, version)| numbers(version));
            installed.get_key_value("rocm").or_else(newest)
        });
        let package = version_of(
            packages,
            &[
                "rocm-core",
                "rocm-hip-runtime",
                "rocm-runtime",
                "hip-runtime-amd",
            ],
        );
        let version = match in_opt {
            Some((folder, version)) => {
                Known::value(version.clone(), format!("{OPT}/{folder}/.info/version"))
            }
            None => match package {
                Known::Value { value, source } => Known::value(upstream(&value).to_owned(), source),
                Known::Unknown { unknown, because } => {
                    Known::unknown(because, format!("no {OPT}/rocm, and {unknown}"))
                }
            },
        };
        let from_distribution = match (&version, in_opt) {
            (Known::Value { source, .. }, folder) => Known::value(folder.is_none(), source),
            (Known::Unknown { unknown, because }, _) => Known::unknown(*because, unknown),
        };
        let hip = match in_opt {
            Some((folder, _)) => hip(root, &format!("{OPT}/{folder}/share/hip/version")),
            None => Known::unknown(Because::Absent, format!("no {OPT}/rocm/share/hip/version")),
        };
        Self {
            installed,
            version,
            hip,
            from_distribution,
        }
    }
}

/// Numbers of a version, for comparing.
fn numbers(version: &str) -> Vec<u32> {
    let parts = version.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

fn hip(root: &Root, path: &str) -> Known<String> {
    read::told(&root.text(path), path, "HIP_VERSION", |text| {
        let part = |name: &str| read::assignment(text, name)?.parse::<u32>().ok();
        let major = part("HIP_VERSION_MAJOR")?;
        let minor = part("HIP_VERSION_MINOR")?;
        let last = part("HIP_VERSION_PATCH")?;
        Some(format!("{major}.{minor}.{last}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_in_the_words_of_each_manager() {
        let cases = [
            (Command::Rpm, "mesa 1-2\npackage xrt is not installed\n", 1),
            (
                Command::DpkgQuery,
                "ii  mesa 1:2-3\nun  tuned \nrc  xrt 1\n",
                1,
            ),
            (Command::Pacman, "mesa 1:2-3\nbash 5\nmesa\n", 1),
        ];
        for (manager, text, count) in cases {
            let packages = installed(manager, text);
            assert_eq!(packages.len(), count, "{packages:?}");
            assert!(packages.contains_key("mesa"));
        }
    }

    #[test]
    fn upstream_versions_have_no_epoch_and_no_revision() {
        for (version, expected) in [
            ("1:26.2.1-1", "26.2.1"),
            ("25.2.8-0ubuntu0.24.04.1", "25.2.8"),
            ("6.4.4-129", "6.4.4"),
            ("26.0.6~kisak1~n", "26.0.6"),
            ("git", ""),
        ] {
            assert_eq!(upstream(version), expected);
        }
    }

    #[test]
    fn the_mesa_that_counts_is_that_of_the_hardware() {
        let text = "GPU0:\n\tdeviceType = PHYSICAL_DEVICE_TYPE_CPU\n\tdriverInfo = Mesa 1.0 (LLVM 2)\nGPU1:\n\tdeviceName = Radeon\n\tdriverInfo = Mesa 26.0.6 - kisak-mesa PPA\n";
        let devices = devices(text);
        assert_eq!(mesa(&devices).as_deref(), Some("26.0.6"));
        assert_eq!(mesa(&devices[..1]).as_deref(), Some("1.0"));
        assert_eq!(mesa(&[]), None);
    }
}
