//! Bytes before they are allocated: what a model will take, and who holds which part of the one pool of memory.
//!
//! * [`Shape`] is what a GGUF header says of memory; [`predict`] makes a [`MemoryPlan`] of it: bytes by consumer and place.
//! * [`pool::Facts`] reads the kernel's and the driver's files below a root; [`pool::Pool`] draws the conclusion: a budget, a reserve, and
//!   what limits them.
//! * [`Ledger`] keeps one entry for every consumer. A [`Candidate`] that does not fit gets a [`Refusal`]: a table of what it needs, what is
//!   free and who holds the rest, with up to three ways out that were tried.
//! * [`speed::SpeedPlan`] says how fast a model will decode, prefill and load, from its header and what the machine was measured to do.
//! * [`PressureGauge`] says when memory is to be given back to others.
//!
//! Everything but [`pool::Facts::read`] and [`pool::anonymous_bytes`] is pure. Nothing here knows of workers, servers or terminals; texts
//! fit 80 columns and name the options of `aluco`.

mod bytes;
mod ledger;
pub mod pool;
mod predict;
mod pressure;
mod shape;
pub mod speed;

pub use bytes::Bytes;
pub use ledger::{
    Candidate, Entry, Fit, HolderReport, Ledger, LedgerReport, Origin, OverBudget, Refusal,
    Reservation, Tight, WayOut,
};
pub use predict::{CONTEXT_TOKENS_DEFAULT, Consumer, Item, MemoryPlan, Place, Setting, predict};
pub use pressure::{Pressure, PressureGauge, Reading};
pub use shape::{Attention, Experts, Layer, Shape, ShapeError, State};
