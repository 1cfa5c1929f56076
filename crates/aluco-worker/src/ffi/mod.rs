//! The one place that talks to llama.cpp's C API: a thin safe layer over the raw bindings that holds only what Aluco needs.
//!
//! Nothing outside this module is `unsafe`. Calls that may throw a C++ exception go through `guard.cpp`. A failed assertion in ggml
//! still ends the process: that is why models run in a worker, and why a worker's death is an ordinary event for the supervisor.

#![allow(unsafe_code)]

mod backend;
mod chat;
mod context;
mod model;
mod signals;
mod speed;

pub use backend::{
    CpuBuild, Device, Engine, EngineBuild, give_back_freed_memory, map_large_buffers,
};
pub use chat::{ChatTemplates, RenderedChat};
pub use context::{Batch, Context, ContextOptions, Decoded, SequenceId, StatePart};
pub use model::{Model, ModelOptions};
pub use signals::end_on_memory_faults;

use std::ffi::{CStr, c_char};

/// Why llama.cpp could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file is no model that this build can run.
    #[error("llama.cpp cannot load {path}: {reason}")]
    Load {
        /// The file.
        path: String,
        /// The error lines that llama.cpp logged meanwhile.
        reason: String,
    },
    /// No context of this size could be made: usually memory.
    #[error("llama.cpp cannot make a context of {context_tokens} tokens: {reason}")]
    Context {
        /// KV cells asked for.
        context_tokens: u32,
        /// The error lines that llama.cpp logged meanwhile.
        reason: String,
    },
    /// The chat template does not take these messages.
    #[error("the chat template refused the messages: {0}")]
    Template(String),
    /// Text holds a NUL byte where llama.cpp takes a C string.
    #[error("{0} holds a NUL character")]
    NulByte(&'static str),
    /// llama.cpp threw, or answered with an error status.
    #[error("llama.cpp failed in {call}: {reason}")]
    Failed {
        /// Which call.
        call: &'static str,
        /// What it said.
        reason: String,
    },
}

const MESSAGE_BYTES: usize = 512;
const THROWN: i32 = i32::MIN;

/// Runs a call of `guard.cpp`, which gets a buffer for the message of what was thrown.
fn guarded(
    call: &'static str,
    function: impl FnOnce(*mut c_char, usize) -> i32,
) -> Result<i32, EngineError> {
    let mut message = [0 as c_char; MESSAGE_BYTES];
    let status = function(message.as_mut_ptr(), MESSAGE_BYTES);
    if status == THROWN {
        // SAFETY: the guard wrote a string that `snprintf` terminated within the buffer, which was zeroed before.
        let reason = unsafe { CStr::from_ptr(message.as_ptr()) };
        return Err(EngineError::Failed {
            call,
            reason: reason.to_string_lossy().into_owned(),
        });
    }
    Ok(status)
}

/// Copies a C string that llama.cpp owns; empty for NULL.
///
/// # Safety
/// `text` is NULL or points to a terminated string that lives during the call.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the contract above.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Ends the process at once. `std::process::exit` would run the destructors of llama.cpp's globals under threads that still compute.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(status) }
}
