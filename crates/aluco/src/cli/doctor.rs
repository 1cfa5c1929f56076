//! The words of `aluco doctor`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco doctor                     what is wrong here, and what it costs
  aluco doctor --explain MEM-02    the whole story of one rule, with its sources
  aluco doctor --root bundle.json  another machine, from its bundle or file tree
  aluco doctor --json | jq .findings

Exit status: 0 nothing worse than a hint, 3 warnings, 4 errors; 1 the
examination failed, 2 wrong usage.")]
pub(crate) struct DoctorArgs {
    /// Tell everything about one rule, such as MEM-02
    #[arg(long, value_name = "RULE")]
    pub(crate) explain: Option<String>,
    /// Also list the rules that found nothing, and those about things that are not here
    #[arg(long)]
    pub(crate) all: bool,
    /// Examine another machine: a folder with its file tree, or a bundle of it
    #[arg(long, value_name = "DIR|BUNDLE")]
    pub(crate) root: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}
