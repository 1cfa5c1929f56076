//! The processor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Known;

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
