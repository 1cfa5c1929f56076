//! `aluco completions` and `aluco man`: what an installation puts beside the program, made from the command line's own types.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::{
    cli::{Cli, CompletionsArgs, ManArgs},
    failure::{Failure, Outcome, Status},
};

/// Writes a completion script to standard output.
pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "aluco", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Status::Done)
}

/// Writes manual pages: into a folder, or the first one to standard output.
pub(crate) fn manual(args: &ManArgs) -> Outcome {
    let command = Cli::command();
    let Some(folder) = &args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        io::stdout().lock().write_all(&page)?;
        return Ok(Status::Done);
    };
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .map_err(|error| {
            Failure::new(format!(
                "cannot write manual pages to {}: {error}",
                folder.display()
            ))
        })?;
    Ok(Status::Done)
}
