//! What `aluco serve` watches of its machine: the kernel's messages, which explain deaths of workers and warn of them, and how busy
//! everything is.

mod gauges;
mod kernel;
mod machine;
mod quiet;

pub(crate) use kernel::KernelWatch;
pub(crate) use machine::{KernelTold, MachineReport, MachineWatch};
