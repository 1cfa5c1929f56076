//! What is done with each input, and what must hold for every one of them.

#[cfg(feature = "proto")]
mod frames;
#[cfg(feature = "model")]
mod gguf;
#[cfg(feature = "machine")]
mod machine;
#[cfg(feature = "prefix")]
mod prefix;

#[cfg(feature = "proto")]
pub use frames::proto_frame;
#[cfg(feature = "model")]
pub use gguf::gguf_header;
#[cfg(feature = "machine")]
pub use machine::{machine_files, machine_tuned};
#[cfg(feature = "prefix")]
pub use prefix::prefix_entry;
