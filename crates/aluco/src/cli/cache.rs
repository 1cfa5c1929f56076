//! The command line of `aluco cache`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Caching, Overrides};
use crate::config::Given;

#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  aluco cache ls                        the stored conversations
  aluco cache rm --older-than 7d        what nobody has used for a week
  aluco cache pin 3f2a                  never evict this one

A conversation is named by the beginning of its key, as many digits as tell it
from others. No server need be running, and one that is may go on."
)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

impl CacheArgs {
    /// The configuration that its flags give.
    pub(crate) fn given(&self) -> &[Given] {
        match &self.action {
            CacheAction::Ls(args) => &args.overrides.given,
            CacheAction::Stat(args) => &args.overrides.given,
            CacheAction::Rm(args) => &args.overrides.given,
            CacheAction::Verify(args) => &args.overrides.given,
            CacheAction::Pin(args) | CacheAction::Unpin(args) => &args.overrides.given,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheAction {
    /// List the stored conversations
    #[command(visible_alias = "list")]
    Ls(CacheLsArgs),
    /// Show what is stored for each model
    Stat(CacheStatArgs),
    /// Delete stored conversations
    Rm(CacheRmArgs),
    /// Read everything and delete what is damaged
    Verify(CacheVerifyArgs),
    /// Keep conversations whatever the budget
    Pin(CachePinArgs),
    /// No longer keep conversations
    Unpin(CachePinArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco cache ls
  aluco cache ls --model smollm2:135m --json")]
pub(crate) struct CacheLsArgs {
    /// Only those of this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Caching>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  aluco cache stat")]
pub(crate) struct CacheStatArgs {
    /// Write JSON, with all that the stored states depend on
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Caching>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco cache rm 3f2a 71c0d
  aluco cache rm --model smollm2:135m --older-than 12h
  aluco cache rm --all --yes

What other conversations begin with stays. --older-than spares what is pinned.")]
pub(crate) struct CacheRmArgs {
    /// Conversations to delete
    #[arg(
        value_name = "KEY",
        required_unless_present_any = ["model", "older_than", "all"],
        conflicts_with_all = ["model", "older_than", "all"]
    )]
    pub(crate) keys: Vec<String>,
    /// Those of this model
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Those that nobody has used for so long, as in 7d or 12h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) older_than: Option<Duration>,
    /// All
    #[arg(long, conflicts_with_all = ["model", "older_than"])]
    pub(crate) all: bool,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Caching>,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim())
        .map_err(|_| "expected a time such as \"7d\", \"12h\" or \"1h 30m\"".to_owned())
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco cache verify
  aluco cache verify --keep && echo all is well

Exit status 1: something was damaged.")]
pub(crate) struct CacheVerifyArgs {
    /// Only tell what is damaged
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Caching>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco cache pin 3f2a
  aluco cache unpin 3f2a")]
pub(crate) struct CachePinArgs {
    /// Conversations, from their first token on
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Caching>,
}
