//! A worker without an engine, for the tests of the fleet, the server and the command line.
//!
//! It speaks the protocol of `aluco-worker` over the socket that is its standard input. The "model file" that it is asked to load
//! is a JSON [`Script`] that says what the model answers, how fast, and when it crashes or hangs; a new load reads the file anew.
//! A [`Persona`] beside a copy of the binary says who the worker claims to be. [`binary`] finds the executable for a test:
//!
//! ```no_run
//! use aluco_fake_worker::{Script, binary};
//!
//! let script = Script { tokens: vec!["Hi".into()], ..Script::default() };
//! script.write(std::path::Path::new("/tmp/model.gguf")).unwrap();
//! let worker = binary();
//! ```

mod accidents;
mod binary;
mod generate;
mod machine;
mod script;
mod session;
mod text;

pub use binary::{binary, install};
pub use machine::set_memory;
pub use script::{Crash, Gate, Hang, Persona, Place, Script};
pub use session::{answer_estimates, serve};
