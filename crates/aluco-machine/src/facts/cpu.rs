//! The processor.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{ReadError, Root};

/// The processor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// Its name as it tells it, such as `AMD RYZEN AI MAX+ 395 w/ Radeon 8060S`.
    pub model: Known<String>,
    /// Who made it.
    pub maker: Known<CpuMaker>,
    /// Family of an x86 processor: 26 is Zen 5.
    pub family: Known<u32>,
    /// Model number of an x86 processor: 112 is Strix Halo.
    pub model_number: Known<u32>,
    /// Stepping of an x86 processor.
    pub stepping: Known<u32>,
    /// Microcode revision, as in `0xb700032`.
    pub microcode: Known<String>,
    /// Cores, over all sockets.
    pub cores: Known<u32>,
    /// Threads that can run at once.
    pub threads: Known<u32>,
    /// Sockets.
    pub sockets: Known<u32>,
    /// Whether cores run more than one thread.
    pub smt: Known<bool>,
    /// Instruction sets that matter for inference, under the kernel's names, each with whether it is there: `avx2`, `fma`, `f16c`, `avx_vnni`,
    /// `avx512f`, `avx512bw`, `avx512vl`, `avx512_vnni`, `avx512_bf16`, `avx512_vp2intersect`; on Arm `asimddp`, `i8mm`, `bf16`, `sve`, `sve2`.
    pub features: Known<BTreeMap<String, bool>>,
    /// Whether this is a virtual machine.
    pub virtual_machine: Known<bool>,
}

/// Who made a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuMaker {
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Arm itself: the cores of NVIDIA's GB10 among others.
    Arm,
    /// NVIDIA.
    Nvidia,
    /// Apple.
    Apple,
    /// Somebody else.
    Other,
}

/// The kernel writes about 1.5 kB for each of up to a few thousand threads.
pub(crate) const CPUINFO_BYTES_MAX: usize = 4 << 20;

const CPUINFO: &str = "/proc/cpuinfo";

const X86_FEATURES: &[&str] = &[
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vp2intersect",
    "amx_tile",
];

const ARM_FEATURES: &[&str] = &[
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
];

/// Names of Arm's cores by part number, those that machines for inference have.
const ARM_CORES: &[(&str, &str)] = &[
    ("0xd0c", "Neoverse N1"),
    ("0xd40", "Neoverse V1"),
    ("0xd49", "Neoverse N2"),
    ("0xd4f", "Neoverse V2"),
    ("0xd84", "Neoverse V3"),
    ("0xd85", "Cortex-X925"),
    ("0xd87", "Cortex-A725"),
    ("0xd8e", "Neoverse N3"),
];

impl Cpu {
    pub(super) fn collect(root: &Root) -> Self {
        let text = root.text_up_to(CPUINFO, CPUINFO_BYTES_MAX);
        let blocks = text.as_deref().map(Blocks::read).map_err(Clone::clone);
        let word = |name: &str| {
            let found = |blocks: &Blocks| blocks.first.get(name).cloned();
            from(&blocks, name, found)
        };
        let number = |name: &str| {
            let found = |blocks: &Blocks| blocks.first.get(name)?.parse().ok();
            from(&blocks, name, found)
        };
        let threads = from(&blocks, "processor", |blocks: &Blocks| {
            (blocks.threads > 0).then_some(blocks.threads)
        });
        let cores = from(&blocks, "core id", Blocks::cores);
        let smt = read::parsed(
            root,
            "/sys/devices/system/cpu/smt/active",
            "0 or 1",
            |text| match text {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            },
        );
        let smt = smt.or_else(|| match (threads.copied(), cores.copied()) {
            (Some(threads), Some(cores)) => Known::value(threads > cores, CPUINFO),
            _ => Known::default(),
        });
        Self {
            model: word("model name").or_else(|| from(&blocks, "CPU part", Blocks::arm_name)),
            maker: from(&blocks, "vendor_id", Blocks::maker),
            family: number("cpu family"),
            model_number: number("model"),
            stepping: number("stepping"),
            microcode: word("microcode"),
            cores,
            threads,
            sockets: from(&blocks, "physical id", Blocks::sockets),
            smt,
            features: from(&blocks, "flags", Blocks::features),
            virtual_machine: from(&blocks, "flags", |blocks: &Blocks| {
                let flags = blocks.first.get("flags")?;
                Some(
                    flags
                        .split_ascii_whitespace()
                        .any(|flag| flag == "hypervisor"),
                )
            }),
        }
    }
}

fn from<T>(
    blocks: &Result<Blocks, ReadError>,
    name: &str,
    find: impl FnOnce(&Blocks) -> Option<T>,
) -> Known<T> {
    match blocks {
        Ok(blocks) => match find(blocks) {
            Some(value) => Known::value(value, CPUINFO),
            None => Known::unknown(Because::Absent, format!("{CPUINFO} says nothing of {name}")),
        },
        Err(error) => error.clone().into(),
    }
}

/// `/proc/cpuinfo`: one block for each thread. All of the first, and of the others what counts cores.
#[derive(Debug, Default)]
struct Blocks {
    first: BTreeMap<String, String>,
    threads: u32,
    /// Pairs of socket and core.
    cores: BTreeSet<(u32, u32)>,
    sockets: BTreeSet<u32>,
    arm_parts: BTreeMap<String, u32>,
}

impl Blocks {
    fn read(text: &str) -> Self {
        let mut blocks = Self::default();
        let mut socket = 0;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            match name {
                "processor" => blocks.threads = blocks.threads.saturating_add(1),
                "physical id" => {
                    socket = value.parse().unwrap_or(0);
                    blocks.sockets.insert(socket);
                }
                "core id" => {
                    if let Ok(core) = value.parse() {
                        blocks.cores.insert((socket, core));
                    }
                }
                "CPU part" => *blocks.arm_parts.entry(value.to_owned()).or_default() += 1,
                _ => {}
            }
            // Of a heterogeneous processor, the first block stands for all.
            if blocks.threads <= 1 && !value.is_empty() {
                let entry = blocks.first.entry(name.to_owned());
                entry.or_insert_with(|| value.to_owned());
            }
        }
        blocks
    }

    fn cores(&self) -> Option<u32> {
        if !self.cores.is_empty() {
            return u32::try_from(self.cores.len()).ok();
        }
        // Arm's kernel names no cores, and no Arm core for inference has more than one thread.
        (!self.arm_parts.is_empty()).then_some(self.threads)
    }

    fn sockets(&self) -> Option<u32> {
        let sockets = u32::try_from(self.sockets.len()).ok()?;
        (sockets > 0).then_some(sockets)
    }

    fn maker(&self) -> Option<CpuMaker> {
        if let Some(vendor) = self.first.get("vendor_id") {
            return Some(match vendor.as_str() {
                "AuthenticAMD" => CpuMaker::Amd,
                "GenuineIntel" => CpuMaker::Intel,
                _ => CpuMaker::Other,
            });
        }
        Some(match self.first.get("CPU implementer")?.as_str() {
            "0x41" => CpuMaker::Arm,
            "0x4e" => CpuMaker::Nvidia,
            "0x61" => CpuMaker::Apple,
            _ => CpuMaker::Other,
        })
    }

    fn arm_name(&self) -> Option<String> {
        let name = |part: &str| {
            let known = ARM_CORES.iter().find(|(number, _)| *number == part);
            known.map_or_else(|| format!("Arm {part}"), |(_, name)| (*name).to_owned())
        };
        let parts: Vec<String> = self
            .arm_parts
            .iter()
            .take(4)
            .map(|(part, count)| format!("{count} x {}", name(part)))
            .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    fn features(&self) -> Option<BTreeMap<String, bool>> {
        let (names, told) = match self.first.get("flags") {
            Some(flags) => (X86_FEATURES, flags),
            None => (ARM_FEATURES, self.first.get("Features")?),
        };
        let told: BTreeSet<&str> = told.split_ascii_whitespace().collect();
        let features = names.iter();
        Some(
            features
                .map(|name| ((*name).to_owned(), told.contains(name)))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_core_are_one_core() {
        let text = "processor: 0\nphysical id: 0\ncore id: 0\n\nprocessor: 1\nphysical id: 0\ncore id: 0\n\nprocessor: 2\nphysical id: 1\ncore id: 0\n";
        let blocks = Blocks::read(text);
        assert_eq!((blocks.threads, blocks.cores()), (3, Some(2)));
        assert_eq!(blocks.sockets(), Some(2));
    }

    #[test]
    fn cores_of_arm_are_named_by_their_part() {
        let text = "processor: 0\nCPU implementer: 0x41\nCPU part: 0xd85\nFeatures: i8mm\n\nprocessor: 1\nCPU part: 0xd87\n\nprocessor: 2\nCPU part: 0xfff\n";
        let blocks = Blocks::read(text);
        assert_eq!(
            blocks.arm_name().as_deref(),
            Some("1 x Cortex-X925, 1 x Cortex-A725, 1 x Arm 0xfff")
        );
        assert_eq!(blocks.maker(), Some(CpuMaker::Arm));
        let features = blocks.features().unwrap();
        assert_eq!((features["i8mm"], features["sve2"]), (true, false));
        assert!(!features.contains_key("avx2"));
    }
}
