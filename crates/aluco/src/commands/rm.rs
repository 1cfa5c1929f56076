//! `aluco rm`: deletes models.

use std::io::{self, IsTerminal, Write};

use aluco_model::{ModelError, ModelSource, Size, Store};
use serde::Serialize;

use crate::{
    cli::RmArgs,
    config::Config,
    engine,
    failure::{Failure, Outcome, Status},
    render::{self, printable, say},
};

/// Something that is to be deleted.
struct Target {
    /// As the store calls it.
    name: String,
    size_bytes: u64,
}

/// What `--json` writes for each model.
#[derive(Serialize)]
struct Deleted {
    name: String,
    freed_bytes: u64,
}

/// Runs the command: all models or, if one of them is not there, none.
pub(crate) fn run(args: &RmArgs, config: &Config) -> Outcome {
    let store = engine::store(&config.settings);
    let mut targets: Vec<Target> = Vec::new();
    for name in &args.models {
        let target = find(&store, name)?;
        // Two names may mean the same model, which can be deleted only once.
        if !targets.iter().any(|known| known.name == target.name) {
            targets.push(target);
        }
    }
    for target in &targets {
        let what = format!("{} ({})", target.name, Size(target.size_bytes));
        if !args.yes && !confirmed(&what)? {
            say("nothing was deleted");
            return Ok(Status::Failed);
        }
    }
    let mut deleted = Vec::new();
    for Target { name, .. } in targets {
        let freed_bytes = store.remove(&name)?;
        if !args.json {
            tell(&name, freed_bytes);
        }
        deleted.push(Deleted { name, freed_bytes });
    }
    if args.json {
        render::print_json(&deleted)?;
    }
    Ok(Status::Done)
}

fn tell(name: &str, freed_bytes: u64) {
    let name = printable(name);
    if freed_bytes == 0 {
        // A link to a file elsewhere, or data that another model shares.
        say(&format!(
            "deleted {name}; its data is in use elsewhere and stays"
        ));
    } else {
        let freed = Size(freed_bytes);
        say(&format!("deleted {name}, {freed} are free again"));
    }
}

/// The model of this name or, since they take space like a model, the rest of one: a download that never ended, a deletion that was
/// broken off, a damaged import.
fn find(store: &Store, name: &str) -> Outcome<Target> {
    let model = match store.find(name) {
        Ok(model) => model,
        Err(
            error @ (ModelError::NotFound { .. }
            | ModelError::Damaged { .. }
            | ModelError::ImportVersion { .. }),
        ) => {
            return match store.removable_bytes(name)? {
                Some(size_bytes) => Ok(Target {
                    name: name.to_owned(),
                    size_bytes,
                }),
                None if matches!(error, ModelError::NotFound { .. }) => Err(Failure::new(format!(
                    "model {name} is not on this machine, so there is nothing to delete"
                ))
                .advise("`aluco list` shows what is here")),
                None => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    if model.source == ModelSource::File {
        let path = model.files.into_iter().next().unwrap_or_default();
        return Err(ModelError::NotOurs { path }.into());
    }
    Ok(Target {
        name: model.name,
        size_bytes: model.size_bytes,
    })
}

/// Asks whether to delete this.
pub(super) fn confirmed(what: &str) -> Outcome<bool> {
    let what = printable(what);
    if !io::stdin().is_terminal() {
        return Err(
            Failure::usage(format!("whether to delete {what} cannot be asked here"))
                .advise("say it with --yes"),
        );
    }
    let mut output = io::stderr().lock();
    write!(output, "delete {what}? [y/N] ")?;
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
