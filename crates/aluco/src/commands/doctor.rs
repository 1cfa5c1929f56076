//! `aluco doctor`: what is wrong with this machine, what that costs, and what to do about it.

mod explanation;
mod page;
mod paper;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use aluco_machine::{
    doctor::{self, Catalogue, Report, Severity, Step},
    facts::{Facts, Request},
    root::Root,
};
use serde::Serialize;

use crate::{
    cli::DoctorArgs,
    config::Config,
    failure::{Failure, Outcome, Status, chain},
    render,
};

/// Width where the output is no terminal.
const WIDTH_ELSEWHERE: usize = 100;

/// What `--json` writes.
#[derive(Serialize)]
struct Document<'a> {
    /// How bad the worst finding is; absent if there is none.
    worst: Option<Severity>,
    #[serde(flatten)]
    report: &'a Report,
    /// For each finding, in order: how to make its changes on this machine by hand.
    steps: Vec<Vec<Step>>,
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs, config: &Config) -> Outcome {
    let rule = match &args.explain {
        None => None,
        Some(id) => Some(
            Catalogue::embedded()
                .rule(id)
                .ok_or_else(|| unknown_rule(id))?,
        ),
    };
    let root = match &args.root {
        None => Root::live(),
        Some(path) => Root::open(path),
    };
    let root = root.map_err(|error| Failure::new(chain(&error)))?;
    let facts = Facts::collect(&root, &request(&root, config));
    let events = doctor::kernel_events(&root);
    let report = doctor::examine_with_log(&facts, &events);
    if args.json {
        return json(&report, &facts);
    }
    let width = render::terminal_columns().unwrap_or(WIDTH_ELSEWHERE);
    let colours = console::colors_enabled();
    let text = match rule {
        Some(rule) => explanation::render(rule, &report, &facts, width, colours),
        None => page::render(&report, &facts, args.all, width, colours),
    };
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(match rule {
        // A question was answered; that is no examination.
        Some(_) => Status::Done,
        None => status(&report),
    })
}

fn json(report: &Report, facts: &Facts) -> Outcome {
    let steps = report.findings.iter();
    let steps = steps.map(|finding| {
        finding
            .fix
            .iter()
            .map(|action| action.step(facts))
            .collect()
    });
    render::print_json(&Document {
        worst: report.worst(),
        report,
        steps: steps.collect(),
    })?;
    Ok(status(report))
}

/// The folders whose room matters; those of our configuration only on the machine that we run on.
fn request(root: &Root, config: &Config) -> Request {
    let models = &config.settings.models_folder;
    let folders = root
        .is_live()
        .then(|| models.to_string_lossy().into_owned());
    Request {
        folders: folders.into_iter().collect(),
    }
}

fn status(report: &Report) -> Status {
    match report.worst() {
        None | Some(Severity::Hint) => Status::Done,
        Some(Severity::Warning) => Status::Warnings,
        Some(Severity::Error) => Status::Errors,
    }
}

fn unknown_rule(id: &str) -> Failure {
    let rules = Catalogue::embedded().rules();
    let known: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    Failure::usage(format!("there is no rule {id:?}"))
        .advise(format!("the rules are {}", known.join(", ")))
}
