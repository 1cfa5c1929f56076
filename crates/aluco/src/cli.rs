//! The command line as types. Flags that set configuration come from the table of keys, so help and configuration cannot disagree.

mod bench;
mod bench_shorts;
mod cache;
mod doctor;
mod machine;
mod mem;
mod overrides;
mod run;
mod store;
mod top;
mod tune;

use std::path::PathBuf;

use aluco_fleet::KeepAlive;
use clap::{Args, Parser, Subcommand};

pub(crate) use bench::{BenchArgs, BenchFormat};
pub(crate) use bench_shorts::expand;
pub(crate) use cache::{
    CacheAction, CacheArgs, CacheLsArgs, CachePinArgs, CacheRmArgs, CacheStatArgs, CacheVerifyArgs,
};
pub(crate) use doctor::DoctorArgs;
pub(crate) use machine::{MachineAction, MachineArgs, MachineBenchArgs, MachineCaptureArgs};
pub(crate) use mem::MemArgs;
pub(crate) use overrides::{
    Caching, Client, Measuring, Overrides, Running, Selection, Serving, Storing,
};
pub(crate) use run::{RunArgs, SamplingArgs, finite};
pub(crate) use store::{ImportArgs, PullArgs, RmArgs, ShowArgs};
pub(crate) use top::TopArgs;
pub(crate) use tune::{
    Answer, TuneAction, TuneApplyArgs, TuneArgs, TuneChoiceArgs, TunePlanArgs, TuneStatusArgs,
    TuneUndoArgs,
};

use crate::config::Given;

/// Local AI for AMD Strix Halo and other machines whose CPU and GPU share memory.
#[derive(Debug, Parser)]
#[command(
    name = "aluco",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
Start with:  aluco pull smollm2:135m  and then  aluco run smollm2:135m

Exit status: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. Commands
that have others tell them in their own help."
)]
pub(crate) struct Cli {
    /// Configuration file to read instead of the user's own
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Chat with a model, or ask it one question
    Run(RunArgs),
    /// Serve models over HTTP
    Serve(ServeArgs),
    /// Show the models that a running server holds
    #[command(after_help = "\
DECODE is how fast a model writes answers, PREFILL how fast it reads prompts:
tokens per second over the last seconds, of all answers together.

Example:  aluco ps")]
    Ps(PlainArgs<Client>),
    /// Watch a running server live
    Top(TopArgs),
    /// Have a running server load a model
    Load(LoadArgs),
    /// Show who holds how much memory, and what a model would take
    Mem(MemArgs),
    /// Unload a model, or stop the server
    Stop(StopArgs),
    /// Have a running server read its configuration again
    #[command(after_help = "\
Answers that are being written go on. What takes effect only after a restart is
told.

Example:  aluco reload")]
    Reload(PlainArgs<Client>),
    /// Show or change what a running server logs
    Log(LogArgs),
    /// Download a model
    Pull(PullArgs),
    /// Take a GGUF file into the model store
    Import(ImportArgs),
    /// List the models on this machine
    #[command(visible_alias = "ls", after_help = "Example:  aluco list")]
    List(PlainArgs<Storing>),
    /// Show what a model is
    Show(ShowArgs),
    /// Delete models from this machine
    Rm(RmArgs),
    /// See to the prompts that are stored on disk
    Cache(CacheArgs),
    /// Measure how fast a model reads and writes, as llama-bench does
    Bench(BenchArgs),
    /// Examine this machine: what is wrong, what it costs, what to do
    Doctor(DoctorArgs),
    /// Change the machine's settings for local AI, and take the changes back
    Tune(TuneArgs),
    /// Show what this machine is
    Machine(MachineArgs),
    /// Show the configuration and where each value came from
    Config(ConfigArgs),
    /// Write a completion script for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Man(ManArgs),
    /// Show the versions of Aluco and of its worker
    Version(VersionArgs),
}

impl Command {
    /// The configuration that its flags give.
    pub(crate) fn given(&self) -> &[Given] {
        match self {
            Self::Run(args) => &args.overrides.given,
            Self::Serve(args) => &args.overrides.given,
            Self::Ps(args) | Self::Reload(args) => &args.overrides.given,
            Self::Top(args) => &args.overrides.given,
            Self::Load(args) => &args.overrides.given,
            Self::Mem(args) => &args.overrides.given,
            Self::Stop(args) => &args.overrides.given,
            Self::Log(args) => &args.overrides.given,
            Self::Pull(args) => &args.overrides.given,
            Self::Import(args) => &args.overrides.given,
            Self::List(args) => &args.overrides.given,
            Self::Show(args) => &args.overrides.given,
            Self::Rm(args) => &args.overrides.given,
            Self::Cache(args) => args.given(),
            Self::Bench(args) => &args.overrides.given,
            Self::Doctor(_)
            | Self::Tune(_)
            | Self::Machine(_)
            | Self::Config(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Version(_) => &[],
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco serve                                        http://127.0.0.1:13313
  aluco serve --preload smollm2:135m --keep-alive forever
  ALUCO_API_KEY=secret aluco serve --host 0.0.0.0    for other machines")]
pub(crate) struct ServeArgs {
    /// Model to load at the start, beside those of --preload
    #[arg(long = "model", value_name = "MODEL")]
    pub(crate) models: Vec<String>,
    /// File or pipe to read the kernel's messages from in the place of /dev/kmsg
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) kernel_log: Option<PathBuf>,
    /// Folder with copies of a machine's /proc and /sys to read of its memory in the place of /
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub(crate) memory_root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Serving>,
}

/// A command with no flags but `--json` and those of the configuration.
#[derive(Debug, Args)]
pub(crate) struct PlainArgs<S: Selection> {
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<S>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco load smollm2:135m                     so that no request has to wait
  aluco load smollm2:135m --pin               until aluco stop smollm2:135m
  aluco load smollm2:135m --keep-alive 2h     two hours after its last request
  aluco load smollm2:135m --dry-run           what would go for it")]
pub(crate) struct LoadArgs {
    /// Model: a name, a Hugging Face repository, or a file
    pub(crate) model: String,
    /// Keep it until it is stopped by name: neither time nor another model makes it go
    #[arg(long)]
    pub(crate) pin: bool,
    /// How long it stays when nobody uses it: 5m, 1h30m, seconds, 0 or forever
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write JSON, one object a line as the load goes on
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Client>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Levels are off, error, warn, info, debug and trace. They hold until the server
reads its configuration again.

Examples:
  aluco log                               what is logged now
  aluco log debug
  aluco log info,aluco::worker=trace      more of one part")]
pub(crate) struct LogArgs {
    /// Levels to log from now on
    pub(crate) levels: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Client>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco stop smollm2:135m    free the memory of this model
  aluco stop                 stop the server")]
pub(crate) struct StopArgs {
    /// Model to unload; without it the server stops
    pub(crate) model: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Client>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco config          every value and where it came from
  aluco config path     the file to edit
  aluco config keys     every key, its variables and what it means")]
pub(crate) struct ConfigArgs {
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) topic: Option<ConfigTopic>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigTopic {
    /// Where the configuration file is
    Path,
    /// Every key, its variables and what it means
    Keys,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  aluco completions bash > ~/.local/share/bash-completion/completions/aluco")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  aluco man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder for one page per command; without it aluco(1) goes to standard output
    pub(crate) folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:  aluco version")]
pub(crate) struct VersionArgs {
    /// Write JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn negative_numbers_are_values_and_what_is_no_number_is_none() {
        let parsed = |flag: &str, value: &str| {
            let cli = Cli::try_parse_from(["aluco", "run", "owl", flag, value, "hi"]);
            cli.map(|cli| match cli.command {
                Command::Run(args) => args.sampling,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(parsed("--seed", "-1").unwrap().seed, Some(-1));
        assert_eq!(parsed("--top-p", "-1").unwrap().top_p, Some(-1.0));
        for (flag, value) in [
            ("--seed", "-2"),
            ("--seed", "4294967296"),
            ("--top-k", "-1"),
            ("--temperature", "NaN"),
            ("--temperature", "inf"),
            ("--min-p", "1e39"),
        ] {
            let error = parsed(flag, value).unwrap_err().to_string();
            assert!(
                error.contains(&format!("invalid value '{value}'")),
                "{error}"
            );
        }
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_help().to_string();
            assert!(help.contains("Example"), "{}", command.get_name());
        }
    }

    #[test]
    fn examples_of_a_command_are_not_broken_by_a_terminal_of_80_columns() {
        let mut waiting = vec![Cli::command()];
        while let Some(command) = waiting.pop() {
            let after = command.get_after_help().map(ToString::to_string);
            for line in after.iter().flat_map(|help| help.lines()) {
                let is_short = line.chars().count() <= 80;
                assert!(is_short, "{}: {line}", command.get_name());
            }
            waiting.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn completions_know_every_command() {
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "aluco", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: {name}");
            }
        }
    }
}
