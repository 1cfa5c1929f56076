//! `aluco mem`: who holds how much of the memory, what a model would take, and how fast it would be.

use std::{
    io::{self, Write},
    path::Path,
};

use aluco_fleet::told_gpus;
use aluco_plan::{
    Bytes, Candidate, Fit, Ledger, LedgerReport, Pressure, Refusal, Setting, Shape,
    pool::{Facts, Held, Pool},
};
use aluco_proto::{Backend, WorkerHello};
use serde::Serialize;
use serde_json::Value;

use super::{
    connection::{configured, told},
    prediction::{self, Prediction, Subject},
    run::{absolute, current_thread},
};
use crate::{
    cli::MemArgs,
    client::ClientError,
    config::{Config, Settings},
    engine,
    failure::{Failure, Outcome, Status},
    render,
};

/// What `--json` writes of a model.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    answer: Answer,
    /// How fast it would be, if there is room.
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<Prediction>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// There is room.
    Fits(Fit),
    /// There is not.
    DoesNotFit(Box<Refusal>),
}

/// Runs the command.
pub(crate) fn run(args: &MemArgs, config: &Config) -> Outcome {
    let runtime = current_thread()?;
    // Another machine's files say nothing of a server here.
    let served = match &args.root {
        Some(_) => None,
        None => runtime.block_on(served(config))?,
    };
    let Some(model) = &args.model else {
        let report = match served {
            Some(report) => report,
            None => Ledger::new(pool(args, &config.settings, None)).report(Pressure::Calm),
        };
        if args.json {
            render::print_json(&report)?;
        } else {
            write!(
                io::stdout().lock(),
                "{}",
                render::printable(&report.to_string())
            )?;
        }
        return Ok(Status::Done);
    };
    let settings = &config.settings;
    let worker = match args.root {
        Some(_) => None,
        None => runtime.block_on(prediction::worker(settings)),
    };
    let mut ledger = match served {
        Some(report) => report.ledger(),
        None => Ledger::new(pool(args, settings, worker.as_ref())),
    };
    let stored = engine::store(settings).find(&absolute(model)?)?;
    let shape = Shape::read(&stored).map_err(|error| Failure::new(error.to_string()))?;
    // Loading it again would free it first.
    for reservation in ledger.find(&stored.name) {
        ledger.release(reservation);
    }
    let options = settings.load_options();
    let backend = backend(config, worker.as_ref());
    let candidate = Candidate {
        name: &stored.name,
        shape: &shape,
        options: &options,
        setting: Setting {
            backend,
            store: ledger.pool().default_store(),
        },
    };
    let answer = match ledger.check(&candidate) {
        Ok(fit) => Answer::Fits(fit),
        Err(refusal) => Answer::DoesNotFit(refusal),
    };
    let speed = match &answer {
        // Nothing is known of the speed of a server elsewhere.
        Answer::Fits(fit) if !configured(config)?.is_far() => {
            let subject = Subject {
                model: &stored,
                options: &options,
                context_tokens: fit.plan.context_tokens,
                backend,
                worker: worker.as_ref(),
            };
            Some(prediction::predict(
                &subject,
                settings,
                args.root.as_deref(),
            ))
        }
        Answer::Fits(_) | Answer::DoesNotFit(_) => None,
    };
    let told = Told { answer, speed };
    if args.json {
        render::print_json(&told)?;
    } else {
        let text = match &told.answer {
            Answer::Fits(fit) => fit.to_string(),
            Answer::DoesNotFit(refusal) => refusal.to_string(),
        };
        let mut output = io::stdout().lock();
        write!(output, "{}", render::printable(&text))?;
        if let Some(speed) = &told.speed {
            write!(output, "\n{}", render::printable(&speed.to_string()))?;
        }
    }
    Ok(match told.answer {
        Answer::Fits(_) => Status::Done,
        Answer::DoesNotFit(_) => Status::Failed,
    })
}

/// The ledger of the server that the configuration names. `None` if no server runs, or if it keeps none.
async fn served(config: &Config) -> Outcome<Option<LedgerReport>> {
    let client = configured(config)?;
    match client.check().await {
        Ok(()) => {}
        Err(ClientError::NoServer { .. }) if config.settings.url.is_none() => return Ok(None),
        Err(error) => return Err(told(config, error)),
    }
    let mut status = client
        .status_json()
        .await
        .map_err(|error| told(config, error))?;
    match status.get_mut("ledger").map(Value::take) {
        None | Some(Value::Null) => Ok(None),
        Some(ledger) => serde_json::from_value(ledger)
            .map(Some)
            .map_err(|error| Failure::new(format!("the server's ledger cannot be read: {error}"))),
    }
}

/// The memory of this machine, as far as no server accounts for it.
fn pool(args: &MemArgs, settings: &Settings, worker: Option<&WorkerHello>) -> Pool {
    let mut facts = Facts::read(args.root.as_deref().unwrap_or(Path::new("/")));
    if facts.gpus.is_empty() {
        facts.gpus = worker.map_or_else(Vec::new, told_gpus);
    }
    let pool = Pool::of(&facts, Held::default(), settings.memory_reserve.map(Bytes));
    match settings.memory_limit {
        Some(limit) => pool.limited(Bytes(limit), "memory_limit of the configuration"),
        None => pool,
    }
}

/// On what the model would be computed: what is asked for, else what the best worker computes on.
fn backend(config: &Config, worker: Option<&WorkerHello>) -> Backend {
    let asked = config.settings.backend;
    asked.unwrap_or_else(|| worker.map_or(Backend::Cpu, |worker| worker.backend))
}
