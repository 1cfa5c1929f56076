//! Firmware packages, and files that shadow what they bring.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Container, Gpu, Known, read, software::version_of};
use crate::root::Root;

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

/// Packages with the firmware of AMD's GPUs, the closest first.
const PACKAGES: [&str; 4] = [
    "linux-firmware-amdgpu",
    "amd-gpu-firmware",
    "firmware-amd-graphics",
    "linux-firmware",
];

const UPDATES: &str = "/lib/firmware/updates/amdgpu";

impl Firmware {
    pub(super) fn collect(
        root: &Root,
        packages: &Known<BTreeMap<String, String>>,
        gpu: Option<&Gpu>,
        container: &Container,
    ) -> Self {
        let package = match packages {
            Known::Value { value, source } => {
                match PACKAGES.iter().find(|name| value.contains_key(**name)) {
                    Some(name) => Known::value((*name).to_owned(), source),
                    None => Known::unknown(
                        Because::Absent,
                        format!("{source} knows no package of firmware for AMD's GPUs"),
                    ),
                }
            }
            Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
        };
        let version = match package.get() {
            Some(name) => version_of(packages, &[name]),
            None => package.clone(),
        };
        let release = match &version {
            Known::Value { value, source } => match day(value) {
                Some(day) => Known::value(day, source),
                None => Known::unknown(
                    Because::Malformed,
                    format!("the version {value} names no day"),
                ),
            },
            Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
        };
        let updates = match root.names(UPDATES) {
            Ok(names) => Known::value(names, UPDATES),
            Err(error) => error.into(),
        };
        Self {
            package,
            package_version: version,
            release,
            mes: mes(root, gpu),
            // The firmware that counts is the host's.
            updates: if container.is_inside() {
                Known::unknown(Because::NotApplicable, "in a container")
            } else {
                read::absent_is(updates, Vec::new())
            },
        }
    }
}

/// The kernel's debug files tell it too, to root.
fn mes(root: &Root, gpu: Option<&Gpu>) -> Known<u32> {
    let Some(gpu) = gpu else {
        return Known::unknown(
            Because::NotApplicable,
            "no GPU was found below /sys/class/drm",
        );
    };
    let from_sysfs = match &gpu.firmware {
        Known::Value { value, source } => {
            match value
                .get("mes")
                .and_then(|version| read::hexadecimal(version))
            {
                Some(version) => Known::value(version, format!("{source}/mes_fw_version")),
                None => Known::unknown(Because::Absent, format!("{source} tells nothing of MES")),
            }
        }
        Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
    };
    from_sysfs.or_else(|| {
        let folder = "/sys/kernel/debug/dri";
        let found = read::files(root, folder, |_| true).iter().find_map(|name| {
            let path = format!("{folder}/{name}/amdgpu_firmware_info");
            let version = debug_version(&root.text(&path).ok()?)?;
            Some(Known::value(version, path))
        });
        found.unwrap_or_default()
    })
}

/// `MES feature version: 1, firmware version: 0x00000080`.
fn debug_version(text: &str) -> Option<u32> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MES feature"))?;
    let (_, version) = line.split_once("firmware version:")?;
    read::hexadecimal(version.trim())
}

/// The day in `20260309-1.fc43`, `20240318.git3b128b60-0ubuntu2.27`, `1:20260810-2`: the first eight digits that are one.
fn day(version: &str) -> Option<u32> {
    let numbers = version.split(|letter: char| !letter.is_ascii_digit());
    numbers
        .filter(|digits| digits.len() == 8)
        .filter_map(|digits| digits.parse().ok())
        .find(|day| (20_000_101..=20_991_231).contains(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_a_release_is_found_in_every_distributions_version() {
        for (version, expected) in [
            ("20260309-1.fc43", Some(20_260_309)),
            ("20240318.git3b128b60-0ubuntu2.27", Some(20_240_318)),
            ("1:20260810-2", Some(20_260_810)),
            ("1.2.3", None),
            ("99999999", None),
        ] {
            assert_eq!(day(version), expected, "{version}");
        }
    }

    #[test]
    fn the_version_of_mes_is_not_that_of_its_queue() {
        let text = "MES_KIQ feature version: 6, firmware version: 0x0000006f\nMES feature version: 1, firmware version: 0x00000080\n";
        assert_eq!(debug_version(text), Some(0x80));
        assert_eq!(debug_version("MES feature"), None);
    }
}
