//! Changes of the machine's settings: shown first, journalled, and taken back byte for byte.
//!
//! [`apply`] makes [`Change`]s, which are files and commands. Before each of them the journal below the machine's
//! `/var/lib/aluco-tune/journal` says what was there; so [`undo`] can put everything back, also after a crash at any moment.
//! [`status`] tells whether the running kernel took the values. Everything works below a root folder, so that it can be tried on
//! a copy of a machine's files.

mod apply;
mod change;
mod content;
mod diff;
mod disk;
mod error;
mod journal;
mod kernel_arguments;
mod plan;
mod runner;
mod shell;
mod state_folder;
mod status;
mod tree;
mod undo;

pub use apply::{Applied, Host, Progress, apply};
pub use change::{Action, Change, Check, CommandChange, Effect, FileChange, Reason};
pub use content::{Content, ContentHash};
pub use diff::unified_diff;
pub use disk::{Attributes, Disk, RealDisk};
pub use error::TuneError;
pub use kernel_arguments::KernelArguments;
pub use plan::{Choices, GttChoice, GttSize, Instruction, LeftOut, Plan};
pub use runner::{CommandLine, NoRunner, Ran, RealRunner, Runner};
pub use shell::as_shell;
pub use status::{ApplyStatus, ChangeStatus, FileStatus, Verdict, status};
pub use tree::{FileState, Tree};
pub use undo::{Extent, Undone, undo};
