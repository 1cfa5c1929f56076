//! One file per verb.

mod config;
mod documents;
mod ps;
mod run;
mod stop;

use crate::{
    cli::{Cli, Command},
    config::{Config, Environment, Files, load},
    failure::Outcome,
};

/// Runs the command.
pub(crate) fn dispatch(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Completions(args) => return documents::completions(args),
        Command::Man(args) => return documents::manual(args),
        _ => {}
    }
    let environment = Environment::of_process();
    let files = Files::find(&environment, cli.config.as_deref());
    if let Command::Config(args) = &cli.command
        && let Some(outcome) = config::without_values(args, &files)
    {
        return outcome;
    }
    let config: Config = load(&environment, files, cli.command.given())?;
    match &cli.command {
        Command::Config(args) => config::run(args, &config),
        Command::Run(args) => run::run(args, &config, &environment),
        Command::Ps(args) => ps::run(args, &config),
        Command::Stop(args) => stop::run(args, &config),
        _ => Err(crate::failure::Failure::new("not yet")),
    }
}
