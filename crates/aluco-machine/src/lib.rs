//! The machine: facts of the host, the doctor's rules over them, tuning with undo, telemetry, measurements.
//!
//! Everything is read below a root folder, `/` or a fixture, so that any machine can be replayed.

pub mod capture;
pub mod doctor;
mod error;
pub mod facts;
#[cfg(any(test, feature = "test-support"))]
pub mod fixture;
pub mod measure;
pub mod root;
pub mod telemetry;
pub mod tune;

pub use error::MachineError;
