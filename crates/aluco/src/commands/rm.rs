//! `aluco rm`: deletes models.

use std::io::{self, IsTerminal, Write};

use aluco_model::{ModelError, Size};

use crate::{
    cli::RmArgs,
    config::Config,
    engine,
    failure::{Failure, Outcome, Status},
    render::{printable, say},
};

/// Runs the command: all models or, if one of them is not there, none.
pub(crate) fn run(args: &RmArgs, config: &Config) -> Outcome {
    let store = engine::store(&config.settings);
    for name in &args.models {
        match store.find(name) {
            Ok(model) => {
                if !args.yes && !confirmed(&model.name, model.size_bytes)? {
                    say("nothing was deleted");
                    return Ok(Status::Failed);
                }
            }
            // It may be a download that never ended, which takes space like a model.
            Err(ModelError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for name in &args.models {
        let freed = store.remove(name)?;
        say(&format!(
            "deleted {}, {} are free again",
            printable(name),
            Size(freed)
        ));
    }
    Ok(Status::Done)
}

fn confirmed(name: &str, size_bytes: u64) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(
            Failure::usage(format!("whether to delete {name} cannot be asked here"))
                .advise("say it with --yes"),
        );
    }
    let mut output = io::stderr().lock();
    write!(
        output,
        "delete {} ({})? [y/N] ",
        printable(name),
        Size(size_bytes)
    )?;
    output.flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
