//! Bytes before they are allocated: what a model will take, and who holds which part of the one pool of memory.

mod bytes;
mod ledger;
pub mod pool;
mod predict;
mod pressure;
mod shape;

pub use bytes::Bytes;
pub use ledger::{
    Candidate, Entry, Fit, HolderReport, Ledger, LedgerReport, Origin, OverBudget, Refusal,
    Reservation, Tight, WayOut,
};
pub use predict::{CONTEXT_TOKENS_DEFAULT, Consumer, Item, MemoryPlan, Place, Setting, predict};
pub use pressure::{Pressure, PressureGauge, Reading};
pub use shape::{Attention, Experts, Layer, Shape, ShapeError, State};
