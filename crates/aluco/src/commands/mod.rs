//! One file per verb.

mod bench;
mod cache;
mod config;
mod connection;
mod doctor;
mod documents;
mod import;
mod list;
mod load;
mod machine;
mod mem;
mod operate;
pub(crate) mod prediction;
mod ps;
mod pull;
mod rm;
mod run;
mod serve;
mod show;
mod stop;
mod top;
mod tune;
mod version;

use crate::{
    cli::{Cli, Command},
    config::{Environment, Files},
    failure::Outcome,
    operator::Sources,
};

/// Runs the command.
pub(crate) fn dispatch(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Completions(args) => return documents::completions(args),
        Command::Man(args) => return documents::manual(args),
        Command::Tune(args) => return tune::run(args),
        _ => {}
    }
    let environment = Environment::of_process();
    let files = Files::find(&environment, cli.config.as_deref());
    if let Command::Config(args) = &cli.command
        && let Some(outcome) = config::without_values(args, &files)
    {
        return outcome;
    }
    let sources = Sources {
        environment,
        files,
        flags: cli.command.given().to_vec(),
    };
    let config = sources.load()?;
    match &cli.command {
        Command::Run(args) => run::run(args, &config, &sources.environment),
        Command::Serve(args) => serve::run(args, &config, sources),
        Command::Ps(args) => ps::run(args, &config),
        Command::Top(args) => top::run(args, &config),
        Command::Load(args) => load::run(args, &config),
        Command::Mem(args) => mem::run(args, &config),
        Command::Stop(args) => stop::run(args, &config),
        Command::Reload(args) => operate::reload(args, &config),
        Command::Log(args) => operate::log(args, &config),
        Command::Pull(args) => pull::run(args, &config),
        Command::Import(args) => import::run(args, &config),
        Command::List(args) => list::run(args, &config),
        Command::Show(args) => show::run(args, &config),
        Command::Rm(args) => rm::run(args, &config),
        Command::Cache(args) => cache::run(args, &config),
        Command::Bench(args) => bench::run(args, &config),
        Command::Doctor(args) => doctor::run(args, &config),
        Command::Tune(args) => tune::run(args),
        Command::Machine(args) => machine::run(args, &config),
        Command::Config(args) => config::run(args, &config),
        Command::Version(args) => version::run(args, &config),
        Command::Completions(args) => documents::completions(args),
        Command::Man(args) => documents::manual(args),
    }
}
