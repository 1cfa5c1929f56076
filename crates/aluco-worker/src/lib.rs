//! The worker: runs models on llama.cpp for the Aluco supervisor.
//!
//! The binary is a thin shell around these modules, which tests use directly. [`session`] reads commands from the socket; each loaded
//! model is a [`resident`] with a [`model_loop`], which decides by `aluco-schedule` and keeps what was computed in `aluco-prefix` by way of
//! [`memory`]; [`sampling`], [`stream`] and [`text`] are pure; [`ffi`] is the only
//! place with `unsafe`.

pub mod bench;
pub mod cpu;
pub mod estimate;
mod fault;
pub mod ffi;
mod finding;
mod fingerprint;
pub mod governor;
pub mod hello;
mod intake;
mod keeping;
pub mod loading;
mod log;
mod memo;
pub mod memory;
pub mod model_loop;
pub mod outbox;
pub mod prompt;
pub mod resident;
pub mod sampling;
pub mod session;
pub mod stream;
pub mod text;
pub mod threads;
