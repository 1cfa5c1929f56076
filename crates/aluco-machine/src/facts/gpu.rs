//! GPUs, as the kernel shows them below `/sys/class/drm`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Known;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// The kernel's name of it, such as `card1`.
    pub card: String,
    /// Where it is on the PCI bus, such as `0000:c6:00.0`.
    pub slot: Known<String>,
    /// PCI vendor, four hexadecimal digits: `1002` is AMD, `10de` NVIDIA, `8086` Intel.
    pub vendor: Known<String>,
    /// PCI device, four hexadecimal digits: `1586` is Strix Halo.
    pub device: Known<String>,
    /// PCI revision, two hexadecimal digits: `c1` or `d1` on Strix Halo.
    pub revision: Known<String>,
    /// PCI subsystem as `vendor:device`.
    pub subsystem: Known<String>,
    /// The driver, such as `amdgpu`.
    pub driver: Known<String>,
    /// Version of its video BIOS.
    pub vbios: Known<String>,
    /// Memory that it can use.
    pub memory: GpuMemory,
    /// How busy it is, in percent.
    pub busy_percent: Known<u32>,
    /// How busy its video engines are, in percent.
    pub video_busy_percent: Known<u32>,
    /// Clocks that the driver can choose, by domain: `sclk` (shaders), `mclk` (memory), `fclk` (fabric), `socclk`. Which one is marked says nothing
    /// when the GPU is idle.
    pub clocks: BTreeMap<String, Known<Vec<ClockStep>>>,
    /// What the driver was told about clocks: `auto`, `low`, `high`, `manual`…
    pub performance_level: Known<String>,
    /// Power, temperature and clock at this moment.
    pub sensors: Sensors,
    /// What the firmware measures.
    pub metrics: Known<GpuMetrics>,
    /// Versions of the firmware that is loaded, by part: `mes` → `0x00000080`.
    pub firmware: Known<BTreeMap<String, String>>,
    /// Whether a built-in screen is attached.
    pub built_in_screen: Known<bool>,
}

/// Memory that a GPU can use, in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuMemory {
    /// Its own; where memory is shared, what the BIOS carved out for it.
    pub vram_total_bytes: Known<u64>,
    /// Used of its own.
    pub vram_used_bytes: Known<u64>,
    /// Main memory that it may use.
    pub gtt_total_bytes: Known<u64>,
    /// Used of that.
    pub gtt_used_bytes: Known<u64>,
}

/// A clock that a driver can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// MHz.
    pub mhz: u32,
    /// Whether it is marked as chosen.
    pub chosen: bool,
}

/// Sensors of the driver.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sensors {
    /// Power of the whole package, in mW.
    pub power_mw: Known<u64>,
    /// Temperature, in thousandths of a degree Celsius.
    pub temperature_mc: Known<i64>,
    /// Shader clock, in Hz.
    pub clock_hz: Known<u64>,
}

/// What the firmware of an APU measures: `gpu_metrics` of format 3.0. A value that the firmware does not set is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuMetrics {
    /// Version of the format, such as `3.0`. Only 3.0 is read; of others, the rest is `None`.
    pub format: String,
    /// Temperature of the GPU, in hundredths of a degree Celsius.
    pub gpu_temperature_cc: Option<u16>,
    /// Temperature of the chip, in hundredths of a degree Celsius.
    pub soc_temperature_cc: Option<u16>,
    /// Temperature of the case, in hundredths of a degree Celsius.
    pub skin_temperature_cc: Option<u16>,
    /// How busy the GPU is, as the firmware counts: percent or, with old firmware, hundredths of it.
    pub gpu_activity: Option<u16>,
    /// How busy the video engine is, in hundredths of a percent.
    pub video_activity: Option<u16>,
    /// Memory read, in MB/s; it ends at 65535, far below what the memory can do.
    pub memory_read_mb_s: Option<u16>,
    /// Memory written, in MB/s; it ends at 65535.
    pub memory_write_mb_s: Option<u16>,
    /// Power of the socket, in mW.
    pub socket_power_mw: Option<u32>,
    /// Power of the NPU, in mW.
    pub npu_power_mw: Option<u16>,
    /// Power of the GPU, in mW.
    pub gpu_power_mw: Option<u32>,
    /// Power of all cores, in mW.
    pub cores_power_mw: Option<u32>,
    /// Power of the whole machine, in mW.
    pub system_power_mw: Option<u16>,
    /// The limit of sustained power, in mW.
    pub stapm_limit_mw: Option<u16>,
    /// GPU clock, in MHz.
    pub gpu_clock_mhz: Option<u16>,
    /// Fabric clock, in MHz.
    pub fabric_clock_mhz: Option<u16>,
    /// Memory clock, in MHz.
    pub memory_clock_mhz: Option<u16>,
    /// NPU clock, in MHz.
    pub npu_clock_mhz: Option<u16>,
    /// What the GPU was slowed by, as counters that only rise.
    pub throttle: Option<Throttle>,
}

/// Counters of time under each limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// The board asked for it.
    pub prochot: u32,
    /// Sustained power.
    pub spl: u32,
    /// Fast power limit.
    pub fppt: u32,
    /// Slow power limit.
    pub sppt: u32,
    /// Heat of the cores.
    pub heat_cores: u32,
    /// Heat of the GPU.
    pub heat_gpu: u32,
    /// Heat of the chip.
    pub heat_soc: u32,
}

impl Gpu {
    /// Whether this is the GPU of Strix Halo, by its PCI id.
    pub fn is_strix_halo(&self) -> bool {
        let is = |known: &Known<String>, id| known.get().is_some_and(|text| text == id);
        is(&self.vendor, "1002") && is(&self.device, "1586")
    }
}
