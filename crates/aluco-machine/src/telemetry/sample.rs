//! How busy a machine is at one moment, and how much memory and power it takes.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::facts::{GpuMemory, GpuMetrics, Known};

/// How busy a machine is at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was taken.
    #[serde(with = "super::rfc3339")]
    pub at: SystemTime,
    /// The GPU that matters; `None` if there is none.
    pub gpu: Option<GpuSample>,
    /// The NPU; `None` if there is none.
    pub npu: Option<NpuSample>,
    /// How busy all cores were since the sample before, in percent; not known of the first one.
    pub cpu_busy_percent: Known<f64>,
    /// What the kernel has, in bytes.
    pub memory_total_bytes: Known<u64>,
    /// What programs could still get without swapping, in bytes.
    pub memory_available_bytes: Known<u64>,
}

/// The GPU at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    /// The kernel's name of it, such as `card1`.
    pub card: String,
    /// How busy it is, in percent.
    pub busy_percent: Known<u32>,
    /// How busy its video engines are, in percent.
    pub video_busy_percent: Known<u32>,
    /// Its shader clock, in Hz.
    pub clock_hz: Known<u64>,
    /// Power of the whole package, in mW.
    pub power_mw: Known<u64>,
    /// Its temperature, in thousandths of a degree Celsius.
    pub temperature_mc: Known<i64>,
    /// Memory that it has and uses.
    pub memory: GpuMemory,
    /// What the firmware measures: power by part, clocks, the rates of memory, what it is slowed by. Rates of memory end at
    /// 65535 MB/s, so they tell idle from busy and not how busy.
    pub metrics: Known<GpuMetrics>,
}

/// The NPU at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NpuSample {
    /// Whether it is switched on, which its driver does only while a program uses it.
    pub awake: Known<bool>,
    /// Its power, in mW.
    pub power_mw: Known<u32>,
    /// Its clock, in MHz.
    pub clock_mhz: Known<u32>,
}
