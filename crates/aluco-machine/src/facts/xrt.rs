//! The NPU as XRT sees it, through `xrt-smi examine`.

use serde::{Deserialize, Serialize};

use super::{Because, Known};
use crate::root::{Command, ReadError, Root};

/// What XRT says of itself and of the NPUs that it sees.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Xrt {
    /// Its version, such as `2.21.75`.
    pub version: Known<String>,
    /// Version of the driver as it names it, such as `2.19.0_20250330` of AMD's own or the kernel's release of one that is part of it.
    pub driver: Known<String>,
    /// Version of the NPU's firmware.
    pub firmware: Known<String>,
    /// The devices that programs can open through it.
    pub devices: Known<Vec<XrtDevice>>,
}

/// A device that programs can open through XRT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XrtDevice {
    /// Where it is on the PCI bus.
    pub slot: String,
    /// Its name, such as `RyzenAI-npu5` or `NPU Strix Halo`.
    pub name: String,
}

impl Xrt {
    /// Asks XRT, if there is an NPU for it to see.
    pub(super) fn collect(root: &Root, npu: &Known<String>) -> Self {
        Self::of(match npu {
            Known::Value { .. } => root.command(Command::XrtSmi),
            Known::Unknown { because, unknown } => {
                let error = ReadError::new(Command::XrtSmi.typed(), *because);
                Err(error.detail(unknown.clone()))
            }
        })
    }

    fn of(answer: Result<String, ReadError>) -> Self {
        let text = match answer {
            Ok(text) => text,
            Err(error) => {
                return Self {
                    version: error.clone().into(),
                    driver: error.clone().into(),
                    firmware: error.clone().into(),
                    devices: error.into(),
                };
            }
        };
        let source = Command::XrtSmi.typed();
        let told = |name: &str, line: Option<&str>| {
            // The commit follows the version of a driver.
            let value = line.map(|line| line.split(',').next().unwrap_or(line).trim());
            match value.filter(|value| is_version(value)) {
                Some(value) => Known::value(value.to_owned(), &source),
                None => Known::unknown(Because::Malformed, format!("{source} tells no {name}")),
            }
        };
        let within = section(&text, "XRT");
        let line = |name: &str| {
            let mut lines = within.iter().filter_map(|line| line.split_once(':'));
            lines.find_map(|(key, value)| key.trim().eq_ignore_ascii_case(name).then_some(value))
        };
        let firmware = line("NPU Firmware Version").or_else(|| line("Firmware Version"));
        Self {
            version: told("version of XRT", line("Version")),
            driver: told("version of amdxdna", line("amdxdna")),
            firmware: told("firmware", firmware),
            devices: match devices(&text) {
                Some(devices) => Known::value(devices, source),
                None => Known::unknown(Because::Malformed, format!("{source} lists no devices")),
            },
        }
    }
}

fn is_version(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+~".contains(&byte);
    (1..=64).contains(&text.len())
        && text.bytes().all(plain)
        && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// The lines that stand indented below a heading.
fn section<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| line.trim_end() != heading);
    let within = lines.skip(1).take_while(|line| !line.trim().is_empty());
    within.take(64).collect()
}

/// The table below `Device(s) Present`, or `Devices present` in older ones; `None` if there is neither a table nor word that it would be empty.
fn devices(text: &str) -> Option<Vec<XrtDevice>> {
    let lines = text.lines().skip_while(|line| {
        let line = line.trim_end();
        !(line.eq_ignore_ascii_case("Device(s) Present")
            || line.eq_ignore_ascii_case("Devices present"))
    });
    let mut devices = Vec::new();
    let mut told = false;
    for line in lines.skip(1).take(64) {
        told |= line.trim() == "0 devices found" || line.trim_start_matches('|').starts_with("BDF");
        // `|[0000:c6:00.1]  |RyzenAI-npu5  |`, or `[0000:c6:00.1]  :  RyzenAI-npu1`.
        let Some((slot, name)) = line
            .trim_start_matches('|')
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        else {
            continue;
        };
        let is_slot = slot.len() <= 16
            && slot
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
        let name = name.trim_matches(|letter: char| " |:\t".contains(letter));
        let name = name.split('|').next().unwrap_or(name).trim();
        if is_slot && !name.is_empty() && devices.len() < 16 {
            devices.push(XrtDevice {
                slot: slot.to_owned(),
                name: name.chars().take(64).collect(),
            });
        }
    }
    (told || !devices.is_empty()).then_some(devices)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// From issue 2167 of Xilinx/mlir-aie, shortened; the name of Strix Halo's from its pull request 2450.
    const SEEN: &str = "System Configuration\n  OS Name              : Linux\n  Release              : 6.11.0-21-generic\n\nXRT\n  Version              : 2.19.0\n  Branch               : HEAD\n  Hash                 : 2eeedb2f504b7c6392c1c10a1a1f0c83a87b0e07\n  Hash Date            : 2025-03-30 09:47:56\n  xocl                 : unknown, unknown\n  xclmgmt              : unknown, unknown\nWARNING: xclmgmt version is unknown. Is xclmgmt driver loaded? Or is MSD/MPD running?\n  amdxdna              : 2.19.0_20250330, 7c1d273ef9946848a9f236f1216cfda10d9465cb\n  NPU Firmware Version : 1.0.0.63\n\nDevice(s) Present\n|BDF             |Name            |\n|----------------|----------------|\n|[0000:c6:00.1]  |NPU Strix Halo  |\n\n\n";

    fn told(text: &str) -> Xrt {
        Xrt::of(Ok(text.to_owned()))
    }

    #[test]
    fn an_npu_is_told_with_the_versions_around_it() {
        let xrt = told(SEEN);
        assert_eq!(xrt.version.get().unwrap(), "2.19.0");
        assert_eq!(xrt.driver.get().unwrap(), "2.19.0_20250330");
        assert_eq!(xrt.firmware.get().unwrap(), "1.0.0.63");
        let devices = xrt.devices.get().unwrap();
        assert_eq!(devices[0].slot, "0000:c6:00.1");
        assert_eq!(devices[0].name, "NPU Strix Halo");
        assert_eq!(devices.len(), 1);
    }

    #[test]
    fn the_older_form_is_read_too() {
        // From issue 8145 of Xilinx/XRT.
        let xrt = told(
            "XRT\n  Version              : 2.17.0\n  AMDXDNA              : 0.1, unknown\n  Firmware Version     : N/A\n\nDevices present\nBDF             :  Name\n---------------------------------\n[0000:c7:00.1]  :  RyzenAI-npu1\n",
        );
        assert_eq!(xrt.driver.get().unwrap(), "0.1");
        assert_eq!(xrt.firmware.why().unwrap().0, Because::Malformed);
        assert_eq!(xrt.devices.get().unwrap()[0].name, "RyzenAI-npu1");
    }

    #[test]
    fn no_device_is_another_thing_than_no_answer() {
        // From issue 14 of amd/xdna-driver.
        let xrt = told("XRT\n  Version : 2.17.0\n\nDevices present\n  0 devices found\n");
        assert_eq!(xrt.devices.get().unwrap(), &[]);
        assert_eq!(told("").devices.get(), None);
        assert_eq!(told("Device(s) Present\n").devices.get(), None);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(text in "(XRT\n|Device\\(s\\) Present\n|  Version : |\\|\\[|\\]|[0-9a-f:.,| \n])*") {
            let _ = told(&text);
        }
    }
}
