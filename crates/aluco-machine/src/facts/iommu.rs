//! Whether the addresses that devices use are translated.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

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

const CLASS: &str = "/sys/class/iommu";
const GROUPS: &str = "/sys/kernel/iommu_groups";

impl Iommu {
    /// `gpu` and `npu` are their places on the PCI bus.
    pub(super) fn collect(root: &Root, gpu: Option<&str>, npu: Option<&str>) -> Self {
        let groups = root.names(GROUPS);
        let count = match &groups {
            Ok(names) => Known::value(u32::try_from(names.len()).unwrap_or(u32::MAX), GROUPS),
            Err(error) => error.clone().into(),
        };
        let units = root.names(CLASS);
        if let (Ok(units), Ok(names)) = (&units, &groups)
            && units.is_empty()
            && names.is_empty()
        {
            let off = || Known::value(IommuMode::Off, CLASS);
            return Self {
                mode: off(),
                groups: count,
                npu_mode: match npu {
                    Some(_) => off(),
                    None => no_npu(),
                },
            };
        }
        let of_device = |slot: &str| {
            let path = format!("/sys/bus/pci/devices/{slot}/iommu_group/type");
            read::parsed(root, &path, "a kind of translation", mode)
        };
        let of_most = || match &groups {
            Ok(names) => most(root, names),
            Err(error) => error.clone().into(),
        };
        Self {
            mode: match gpu {
                Some(slot) => of_device(slot).or_else(of_most),
                None => of_most(),
            },
            groups: count,
            npu_mode: match npu {
                Some(slot) => of_device(slot),
                None => no_npu(),
            },
        }
    }
}

fn no_npu() -> Known<IommuMode> {
    Known::unknown(Because::NotApplicable, "no NPU was found on the PCI bus")
}

fn most(root: &Root, names: &[String]) -> Known<IommuMode> {
    let mut counts = BTreeMap::<IommuMode, usize>::new();
    let mut last = None;
    for name in names.iter().take(256) {
        match read::parsed(
            root,
            &format!("{GROUPS}/{name}/type"),
            "a kind of translation",
            mode,
        ) {
            Known::Value { value, .. } => *counts.entry(value).or_default() += 1,
            unknown @ Known::Unknown { .. } => last = Some(unknown),
        }
    }
    match counts.into_iter().max_by_key(|(_, count)| *count) {
        Some((mode, _)) => Known::value(mode, GROUPS),
        None => {
            last.unwrap_or_else(|| Known::unknown(Because::Absent, format!("{GROUPS} is empty")))
        }
    }
}

fn mode(text: &str) -> Option<IommuMode> {
    match text {
        "identity" => Some(IommuMode::Passthrough),
        text if text.starts_with("DMA") => Some(IommuMode::Translated),
        _ => None,
    }
}
