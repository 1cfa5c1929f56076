//! Telemetry: what the kernel says of GPU and memory as it happens, and cheap samples of how busy the machine is.
//!
//! [`KernelLog`] watches the kernel's messages for hangs, faults and kills; whoever restarts a worker asks it what happened
//! [recently](KernelLog::recent). The parsers and [`classify`] are pure and take any bytes.

mod classify;
mod event;
mod kernel_log;
mod line;
mod rfc3339;
mod sample;
mod sampler;
mod tracker;

pub use classify::classify;
pub use event::{KernelEvent, KernelEventKind};
pub use kernel_log::{KernelLog, LogError, LogSource};
pub use line::{KmsgRecord, LogLine, parse_kmsg, parse_monotonic_line};
pub use sample::{GpuSample, NpuSample, Sample};
pub use sampler::Sampler;
pub use tracker::Tracker;
