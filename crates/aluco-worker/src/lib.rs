//! The worker: runs models on llama.cpp for the Aluco supervisor.
//!
//! The binary is a thin shell around these modules, which tests use directly. [`session`] reads commands from the socket; each loaded
//! model is a [`resident`] with a [`model_loop`]; [`planner`], [`sampling`], [`stream`] and [`text`] are pure; [`ffi`] is the only
//! place with `unsafe`.

pub mod bench;
pub mod cpu;
pub mod ffi;
pub mod governor;
pub mod hello;
mod intake;
mod log;
pub mod model_loop;
pub mod outbox;
pub mod planner;
pub mod prefix_cache;
pub mod prompt;
pub mod resident;
pub mod sampling;
pub mod session;
pub mod stream;
pub mod text;
pub mod threads;
