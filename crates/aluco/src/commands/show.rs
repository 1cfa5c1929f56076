//! `aluco show`: what a model is, from its header.

use std::io::{self, Write};

use aluco_model::{ModelInfo, StoredModel};
use serde::Serialize;

use crate::{
    cli::ShowArgs,
    config::Config,
    engine,
    failure::{Outcome, Status},
    render::{self, printable},
};

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a StoredModel,
    info: &'a ModelInfo,
}

/// Runs the command.
pub(crate) fn run(args: &ShowArgs, config: &Config) -> Outcome {
    let model = engine::store(&config.settings).find(&args.model)?;
    let info = ModelInfo::read(&model)?;
    if args.json {
        render::print_json(&Report {
            model: &model,
            info: &info,
        })?;
        return Ok(Status::Done);
    }
    let mut output = io::stdout().lock();
    let rows = info.rows();
    let files = model.files.iter();
    let files: Vec<_> = files
        .map(|file| ("file", printable(&file.display().to_string()).into_owned()))
        .collect();
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    writeln!(output, "{}", printable(&model.name))?;
    for (label, value) in rows.iter().chain(&files) {
        writeln!(output, "  {label:width$}  {value}")?;
    }
    Ok(Status::Done)
}
