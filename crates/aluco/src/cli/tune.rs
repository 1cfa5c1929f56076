//! The command line of `aluco tune`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::parse_size;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  aluco tune               what would be changed, and why; changes nothing
  sudo aluco tune apply    make the changes, all of them or none
  aluco tune --npu no      you do not use the NPU: the IOMMU may be turned off
  aluco tune --gtt 112GiB  give the GPU just this much memory
  sudo aluco tune undo     put everything back byte for byte

After a reboot, `sudo aluco tune status` tells whether the kernel took each
value."
)]
pub(crate) struct TuneArgs {
    #[command(subcommand)]
    pub(crate) action: Option<TuneAction>,
    #[command(flatten)]
    pub(crate) plan: TunePlanArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TuneAction {
    /// Show what would be changed, and why
    Plan(TunePlanArgs),
    /// Make the changes, all of them or none
    Apply(TuneApplyArgs),
    /// Tell whether the running kernel took what was changed
    Status(TuneStatusArgs),
    /// Put back what was changed, byte for byte
    Undo(TuneUndoArgs),
}

/// What only the user can know.
#[derive(Debug, Args)]
pub(crate) struct TuneChoiceArgs {
    /// Work on the files below this folder; commands are shown, not run
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Memory that the GPU may have
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "reserve")]
    pub(crate) gtt: Option<u64>,
    /// Memory that is left to everything but the GPU
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) reserve: Option<u64>,
    /// Whether you use the NPU; it needs the IOMMU, which costs the GPU a few percent
    #[arg(long, value_name = "YES|NO", value_enum)]
    pub(crate) npu: Option<Answer>,
    /// Only what these rules ask for
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Nothing of what these rules ask for
    #[arg(long, value_name = "RULE", value_delimiter = ',')]
    pub(crate) skip: Vec<String>,
    /// Also what is worth a few percent or is not certain
    #[arg(long)]
    pub(crate) hints: bool,
    /// Who runs models, and is to be a member of groups [default: you]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Answer {
    Yes,
    No,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  aluco tune plan --reserve 16GiB")]
pub(crate) struct TunePlanArgs {
    #[command(flatten)]
    pub(crate) choices: TuneChoiceArgs,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  sudo aluco tune apply --only MEM-02

What is changed is shown first. A journal keeps the bytes from before for
`aluco tune undo`, also when this is interrupted.")]
pub(crate) struct TuneApplyArgs {
    #[command(flatten)]
    pub(crate) choices: TuneChoiceArgs,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  sudo aluco tune status")]
pub(crate) struct TuneStatusArgs {
    /// Work on the files below this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  sudo aluco tune undo --all")]
pub(crate) struct TuneUndoArgs {
    /// Work on the files below this folder; commands are shown, not run
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// All applies, not only the last one
    #[arg(long)]
    pub(crate) all: bool,
    /// Overwrite what was changed since, and go on past commands that fail
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}
