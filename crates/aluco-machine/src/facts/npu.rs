//! The NPU.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, Xrt, read};
use crate::root::Root;

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
    /// What XRT itself says, if it is installed and there is an NPU.
    pub seen_by_xrt: Xrt,
}

const PCI: &str = "/sys/bus/pci/devices";
const ACCEL: &str = "/sys/class/accel";

/// PCI devices of AMD's NPUs: Phoenix and Hawk Point; Strix, Strix Halo and Krackan.
const DEVICES: [&str; 2] = ["1502", "17f0"];

impl Npu {
    /// Where it is on the PCI bus; not applicable if the bus has none.
    pub(super) fn find(root: &Root) -> Known<String> {
        slot(root)
    }

    pub(super) fn collect(
        root: &Root,
        slot: Known<String>,
        seen_by_xrt: Xrt,
        packages: &Known<BTreeMap<String, String>>,
    ) -> Self {
        let file = |name: &str| match slot.get() {
            Some(slot) => read::line(root, &format!("{PCI}/{slot}/{name}")),
            None => slot.clone(),
        };
        let accel = accel(root);
        let class_file = |name: &str| match accel.get() {
            Some(accel) => read::line(root, &format!("{ACCEL}/{accel}/device/{name}")),
            None => accel.clone(),
        };
        let module = "/sys/module/amdxdna";
        let loaded = match root.node(module) {
            Ok(_) => Known::value(true, module),
            Err(error) => match (error.because, root.has("/sys/module")) {
                (Because::Absent, true) => Known::value(false, error.to_string()),
                _ => error.into(),
            },
        };
        let driver = match slot.get() {
            Some(slot) => {
                let path = format!("{PCI}/{slot}/uevent");
                read::told(&root.text(&path), &path, "DRIVER", |text| {
                    read::assignment(text, "DRIVER").map(str::to_owned)
                })
            }
            None => slot.clone(),
        };
        let present = match &slot {
            Known::Value { source, .. } => Known::value(true, source),
            Known::Unknown {
                because: Because::NotApplicable,
                unknown,
            } => Known::value(false, unknown),
            Known::Unknown { unknown, because } => Known::unknown(*because, unknown),
        };
        let version = |names: &[&str]| super::software::version_of(packages, names);
        Self {
            present,
            revision: file("revision").map(|text| {
                let digits = read::pci_digits(&text, 2);
                digits.unwrap_or(text)
            }),
            driver,
            firmware: class_file("fw_version")
                .or_else(|| file("fw_version"))
                .or_else(|| seen_by_xrt.firmware.clone()),
            name: class_file("vbnv").or_else(|| file("vbnv")),
            device: accel.clone().map(|name| format!("/dev/accel/{name}")),
            module_loaded: loaded,
            xrt: version(&["libxrt-npu2", "xrt-plugin-amdxdna", "xrt", "libxrt2"]),
            fastflowlm: version(&["fastflowlm"]),
            seen_by_xrt,
            slot,
        }
    }
}

/// Where it is on the PCI bus; not applicable if the bus has none.
fn slot(root: &Root) -> Known<String> {
    let slots = match root.names(PCI) {
        Ok(slots) => slots,
        Err(error) => return error.into(),
    };
    let is = |slot: &str, file: &str, wanted: &[&str]| {
        let text = read::line(root, &format!("{PCI}/{slot}/{file}"));
        let digits = text.get().and_then(|text| read::pci_digits(text, 4));
        digits.is_some_and(|digits| wanted.contains(&&*digits))
    };
    let found = slots
        .into_iter()
        .take(1024)
        .find(|slot| is(slot, "vendor", &["1022"]) && is(slot, "device", &DEVICES));
    match found {
        Some(slot) => {
            let source = format!("{PCI}/{slot}");
            Known::value(slot, source)
        }
        None => Known::unknown(
            Because::NotApplicable,
            "no NPU was found on the PCI bus".to_owned(),
        ),
    }
}

/// The kernel's name of its device node, such as `accel0`.
fn accel(root: &Root) -> Known<String> {
    let names = match root.names(ACCEL) {
        Ok(names) => names,
        Err(error) => return error.into(),
    };
    let amd = names.into_iter().find(|name| {
        let vendor = read::line(root, &format!("{ACCEL}/{name}/device/vendor"));
        vendor.get().is_some_and(|vendor| vendor == "0x1022")
    });
    match amd {
        Some(name) => Known::value(name, ACCEL),
        None => Known::unknown(Because::Absent, format!("no NPU below {ACCEL}")),
    }
}
