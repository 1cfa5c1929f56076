//! The command line of `aluco machine`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = false,
    after_help = "\
Examples:
  aluco machine                      what is known of this machine, and what not
  aluco machine --json               the same, each fact with its source
  aluco machine capture report.json  a file for a bug report
  aluco machine --root report.json   look at somebody else's
  aluco machine bench                measure memory, processor, disk, devices"
)]
pub(crate) struct MachineArgs {
    /// Write JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Folder or captured file to read instead of this machine
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    #[command(subcommand)]
    pub(crate) action: Option<MachineAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MachineAction {
    /// Write what is known into a file that says nothing of you
    Capture(MachineCaptureArgs),
    /// Measure memory, processor, disk and devices
    Bench(MachineBenchArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  aluco machine bench

Memory bandwidth as STREAM counts it, multiply-adds of the processor, reads of
the disk where models live, and what the devices of each installed worker copy
and multiply. Takes about ten seconds, and means something only while the
machine does nothing else.

The report is kept with its date and versions: `aluco mem MODEL` predicts from
it how fast a model will be, and `aluco serve` what a load costs.")]
pub(crate) struct MachineBenchArgs {
    /// Folder whose disk is read, in place of that of the models
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Do not keep the report
    #[arg(long)]
    pub(crate) no_keep: bool,
    /// Take little memory and time, for figures that mean nothing
    #[arg(long, hide = true, requires = "no_keep")]
    pub(crate) brief: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:  aluco machine capture report.json

The file holds what the facts were told from, and only that: kernel settings,
firmware and driver versions, sizes. Serial numbers, hardware and network
addresses, names of hosts and users and paths of homes are left out or
replaced. It is plain text: read it before you send it.")]
pub(crate) struct MachineCaptureArgs {
    /// File to write; it must not exist yet
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}
