//! `aluco reload` and `aluco log`: a running server reads its configuration again, or changes its log.

use aluco_server::Reloaded;

use super::{
    connection::{configured, told},
    run::current_thread,
};
use crate::{
    cli::{Client, LogArgs, PlainArgs},
    config::Config,
    failure::{Outcome, Status},
    render::{self, say},
};

/// Runs `aluco reload`.
pub(crate) fn reload(args: &PlainArgs<Client>, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server must not be asked for anything.
    runtime.block_on(client.check()).map_err(told)?;
    let reloaded = runtime.block_on(client.reload()).map_err(told)?;
    if args.json {
        render::print_json(&reloaded)?;
    } else {
        say(&sentence(&reloaded));
    }
    Ok(Status::Done)
}

fn sentence(reloaded: &Reloaded) -> String {
    let parts = [
        (&reloaded.changed, "changed"),
        (
            &reloaded.next_load,
            "for models that are loaded from now on",
        ),
        (&reloaded.needs_restart, "only after a restart"),
    ];
    let told: Vec<String> = parts
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, what)| format!("{what}: {}", names.join(", ")))
        .collect();
    if told.is_empty() {
        return "the configuration was read again, and nothing has changed".to_owned();
    }
    format!("the configuration was read again\n{}", told.join("\n"))
}

/// Runs `aluco log`.
pub(crate) fn log(args: &LogArgs, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server must not be asked for anything.
    runtime.block_on(client.check()).map_err(told)?;
    let asked = client.log(args.levels.as_deref());
    let levels = runtime.block_on(asked).map_err(told)?;
    if args.json {
        render::print_json(&levels)?;
    } else {
        say(&format!("the server logs {}", levels.filter));
    }
    Ok(Status::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_does_not_reach_is_told() {
        let mut reloaded = Reloaded::default();
        assert!(sentence(&reloaded).ends_with("nothing has changed"));
        reloaded.changed = vec!["api_keys".to_owned(), "keep_alive".to_owned()];
        reloaded.needs_restart = vec!["port".to_owned()];
        assert_eq!(
            sentence(&reloaded),
            "the configuration was read again\nchanged: api_keys, keep_alive\nonly after a restart: port"
        );
    }
}
