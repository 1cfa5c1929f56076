//! Flags of the commands that change or show what models there are.

use std::path::PathBuf;

use clap::Args;

use super::{Overrides, Storing};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco pull smollm2:135m
  aluco pull unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M")]
pub(crate) struct PullArgs {
    /// Model: a name of the catalogue, or a Hugging Face repository with a quantisation
    pub(crate) model: String,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Storing>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco import ./my-model-Q4_K_M.gguf
  aluco import ./download.gguf --name my-model:q4 --move")]
pub(crate) struct ImportArgs {
    /// GGUF file; any part of a split model
    pub(crate) file: PathBuf,
    /// What to call it; by default a name made from the file's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Copy the file
    #[arg(long, group = "how")]
    pub(crate) copy: bool,
    /// Only refer to the file, which has to stay where it is
    #[arg(long, group = "how")]
    pub(crate) link: bool,
    /// Delete the file once it is imported
    #[arg(long = "move", group = "how")]
    pub(crate) move_file: bool,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Storing>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco show smollm2:135m
  aluco show ./my-model-Q4_K_M.gguf --json")]
pub(crate) struct ShowArgs {
    /// Model: a name, a Hugging Face repository, or a file
    pub(crate) model: String,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Storing>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  aluco rm smollm2:135m")]
pub(crate) struct RmArgs {
    /// Models to delete
    #[arg(required = true, value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Storing>,
}
