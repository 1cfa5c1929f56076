//! The command line of `aluco mem`.

use std::path::PathBuf;

use clap::Args;

use super::overrides::{Overrides, Selection};
use crate::config::{Key, Part};

/// `aluco mem`: how to reach a server, where models are, how they would be loaded.
#[derive(Debug)]
pub(crate) struct Planning;

impl Selection for Planning {
    fn takes(key: &Key) -> bool {
        matches!(key.part, Part::Connection | Part::Store | Part::Engine)
            || matches!(
                key.name,
                "backend" | "worker" | "memory_limit" | "memory_reserve"
            )
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco mem                               who holds how much, and what is free
  aluco mem smollm2:135m --context 32768  what a model takes, and how fast it is

Nothing is loaded for it. Speed is predicted from what `aluco machine bench`
has measured.
Exit status 1: the model does not fit. What would make it fit is told with it.")]
pub(crate) struct MemArgs {
    /// Model: a name, a Hugging Face repository, or a file; nothing is loaded
    pub(crate) model: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Folder with copies of another machine's /proc and /sys to look at instead
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub(crate) root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Planning>,
}
