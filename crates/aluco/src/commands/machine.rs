//! `aluco machine`: what this machine is, and what of it is not known.

mod measure;
mod page;

use std::{
    io::{self, Write},
    path::Path,
};

use aluco_machine::{
    capture::capture,
    facts::{Facts, Request},
    root::Root,
};

pub(super) use measure::versions;

use crate::{
    cli::{MachineAction, MachineArgs, MachineCaptureArgs},
    config::{Config, Settings},
    failure::{Failure, Outcome, Status, chain},
    render::{self, say},
};

/// Runs the command.
pub(crate) fn run(args: &MachineArgs, config: &Config) -> Outcome {
    let root = Root::open(&args.root).map_err(|error| Failure::new(chain(&error)))?;
    let request = request(&root, &config.settings);
    if let Some(MachineAction::Capture(args)) = &args.action {
        return write_capture(args, &root, &request);
    }
    let facts = Facts::collect(&root, &request);
    if let Some(MachineAction::Bench(bench)) = &args.action {
        if !root.is_live() {
            return Err(Failure::usage(
                "only this machine can be measured; leave --root out",
            ));
        }
        return measure::run(bench, &facts, args.json, config);
    }
    if args.json {
        render::print_json(&facts)?;
    } else {
        let columns = render::terminal_columns().unwrap_or(80);
        write!(io::stdout().lock(), "{}", page::page(&facts, columns))?;
    }
    Ok(Status::Done)
}

/// The folders where models are matter here; on a machine that is replayed they are somebody else's.
fn request(root: &Root, settings: &Settings) -> Request {
    let folders = [&settings.models_folder, &settings.hub_cache];
    let folders = folders.into_iter().filter(|_| root.is_live());
    let mut folders: Vec<String> = folders
        .filter_map(|folder| {
            let folder = std::path::absolute(folder).ok()?;
            Some(folder.to_str()?.to_owned())
        })
        .collect();
    folders.dedup();
    Request { folders }
}

fn write_capture(args: &MachineCaptureArgs, root: &Root, request: &Request) -> Outcome {
    let bundle = capture(root, request, env!("CARGO_PKG_VERSION"));
    let mut text = serde_json::to_vec_pretty(&bundle).map_err(io::Error::other)?;
    text.push(b'\n');
    create(&args.file, &text).map_err(|error| {
        let failure = Failure::new(format!("cannot write {}: {error}", args.file.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => failure.advise("name a file that does not exist yet"),
            _ => failure,
        }
    })?;
    say(&format!(
        "{} files in {}; read it before you send it",
        bundle.files.len(),
        args.file.display()
    ));
    Ok(Status::Done)
}

fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text)?;
    file.sync_all()
}
