//! The command line of `aluco top`.

use clap::Args;

use super::overrides::{Client, Overrides};

#[derive(Debug, Args)]
#[command(after_help = "\
Keys:  q quit   p pause   s sort   u unload the marked model   ? help
Where standard output is no terminal, one look is written, as with --once.

Examples:
  aluco top                   live, once per second
  aluco top --once            one look, as text
  aluco top --url http://box:13313")]
pub(crate) struct TopArgs {
    /// Look once, write it and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Look once and write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Client>,
}
