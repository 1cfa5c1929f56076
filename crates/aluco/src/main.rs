//! The `aluco` command: reads the command line, runs one verb, and turns what came of it into words and an exit status.
//!
//! Nothing heavy happens before the command line is read: no async runtime, no log, no look at the machine.

mod chat;
mod cli;
mod client;
mod commands;
mod config;
mod engine;
mod failure;
mod log;
mod operator;
mod render;
mod service;
mod signals;
mod watching;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(cli::expand(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no error; a closed output is none either.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::dispatch(&cli) {
        Ok(status) => status.into(),
        Err(failure) => {
            failure.report();
            failure.status.into()
        }
    }
}
