//! `aluco import`: takes a GGUF file into the store.

use aluco_model::{ImportMode, ImportOptions};

use crate::{
    cli::ImportArgs,
    config::Config,
    engine,
    failure::{Outcome, Status},
    render::{self, Transfer, say},
};

/// Runs the command.
pub(crate) fn run(args: &ImportArgs, config: &Config) -> Outcome {
    let name = args.name.as_deref().map(str::parse).transpose()?;
    let mode = match (args.copy, args.link, args.move_file) {
        (true, _, _) => ImportMode::Copy,
        (_, true, _) => ImportMode::Link,
        (_, _, true) => ImportMode::Move,
        _ => ImportMode::Share,
    };
    let transfer = Transfer::new();
    let imported = engine::store(&config.settings).import(
        &args.file,
        &ImportOptions { name, mode },
        &mut |progress| transfer.show("importing", progress.done_bytes, progress.total_bytes),
    );
    transfer.clear();
    let model = imported?;
    if args.json {
        render::print_json(&model)?;
    } else {
        say(&format!(
            "{0} is here; run it with: aluco run {0}",
            model.name
        ));
    }
    Ok(Status::Done)
}
