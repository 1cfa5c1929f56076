//! `aluco load`: has a running server load a model, and shows how far that is.

use std::io::{self, IsTerminal, Write};

use aluco_proto::{Backend, WorkerHello};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{
    connection::{configured, told},
    prediction::{self, Prediction, Subject},
    run::{absolute, current_thread},
};
use crate::{
    cli::LoadArgs,
    client::{
        Client, ClientError, LoadEvent,
        wire::{LoadPlan, LoadRequest, Loaded, Memory},
    },
    config::{Config, show_size},
    engine,
    failure::{Outcome, Status},
    render::{self, printable, say, thousands},
    signals::Signals,
};

/// Runs the command.
pub(crate) fn run(args: &LoadArgs, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server must not be asked for anything.
    runtime.block_on(client.check()).map_err(told)?;
    let model = absolute(&args.model)?;
    let request = LoadRequest {
        model: &model,
        keep_alive: args.keep_alive,
        pin: args.pin,
    };
    if args.dry_run {
        let plan = runtime.block_on(client.plan_load(&model)).map_err(told)?;
        let read: LoadPlan = serde_json::from_value(plan.clone()).map_err(io::Error::from)?;
        let speed = runtime.block_on(speed(&read, &client, config));
        if args.json {
            let mut plan = plan;
            if let (Some(speed), Some(fields)) = (&speed, plan.as_object_mut()) {
                let speed = serde_json::to_value(speed).map_err(io::Error::from)?;
                fields.insert("speed".to_owned(), speed);
            }
            render::print_json(&plan)?;
        } else {
            let mut output = io::stdout().lock();
            writeln!(output, "{}", printable(&text(&read)))?;
            if let Some(speed) = &speed {
                write!(output, "\n{}", printable(&speed.to_string()))?;
            }
        }
        return Ok(if read.is_refused {
            Status::Failed
        } else {
            Status::Done
        });
    }
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            biased;
            () = signals.next() => {
                say(&format!(
                    "interrupted; the server goes on loading, aluco stop {} ends that",
                    printable(&args.model)
                ));
                Ok(Status::Interrupted)
            }
            loaded = follow(&client, &request, args) => {
                loaded.map_err(|error| match error {
                    FollowError::Client(error) => told(error),
                    FollowError::Output(error) => error.into(),
                })
            }
        }
    })
}

/// How fast the model would be, if the server is on this machine, whose speed was measured.
async fn speed(plan: &LoadPlan, client: &Client, config: &Config) -> Option<Prediction> {
    if plan.is_loaded || plan.is_refused || client.is_far() {
        return None;
    }
    let fit = plan.fit.as_ref().map(|fit| fit.plan.context_tokens);
    let refused = plan.refusal.as_ref().map(|it| it.context_tokens);
    let context_tokens = fit.or(refused)?;
    let settings = &config.settings;
    let model = engine::store(settings).find(&plan.model).ok()?;
    let running = client.status_json().await.ok().and_then(|mut status| {
        let hello = status.pointer_mut("/workers/0/hello")?.take();
        serde_json::from_value::<WorkerHello>(hello).ok()
    });
    let worker = match running {
        Some(worker) => Some(worker),
        None => prediction::worker(settings).await,
    };
    let computes = worker.as_ref().map(|worker| worker.backend);
    let subject = Subject {
        model: &model,
        options: &settings.load_options(),
        context_tokens,
        backend: settings.backend.or(computes).unwrap_or(Backend::Cpu),
        worker: worker.as_ref(),
    };
    Some(prediction::predict(&subject, settings, None))
}

enum FollowError {
    Client(ClientError),
    Output(io::Error),
}

impl From<ClientError> for FollowError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for FollowError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn follow(
    client: &Client,
    request: &LoadRequest<'_>,
    args: &LoadArgs,
) -> Result<Status, FollowError> {
    let bar = bar(&args.model, !args.json);
    let mut stream = client.follow_load(request).await?;
    loop {
        match stream.next().await? {
            LoadEvent::Progress(progress) if args.json => {
                line(&json!({"event": "progress", "model": request.model, "progress": progress}))?;
            }
            LoadEvent::Progress(progress) => {
                bar.set_position((progress.clamp(0.0, 1.0) * 100.0) as u64);
            }
            LoadEvent::Loaded(loaded) if args.json => {
                line(&json!({"event": "loaded", "model": request.model, "loaded": loaded}))?;
                return Ok(Status::Done);
            }
            LoadEvent::Loaded(loaded) => {
                bar.finish_and_clear();
                say(&summary(&args.model, loaded));
                return Ok(Status::Done);
            }
        }
    }
}

/// One JSON object a line, each as soon as it is known.
fn line(value: &Value) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{value}")?;
    output.flush()
}

/// On a terminal; elsewhere it is not seen.
fn bar(model: &str, is_wanted: bool) -> ProgressBar {
    let target = if is_wanted && io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{msg}  {wide_bar:.dim}  {percent:>3} %  {elapsed}")
        .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(100), target)
        .with_style(style)
        .with_message(printable(model).into_owned())
}

fn summary(name: &str, loaded: Value) -> String {
    let name = printable(name).into_owned();
    let Ok(loaded) = serde_json::from_value::<Loaded>(loaded) else {
        return format!("{name} is loaded");
    };
    let bytes: u64 = loaded.memory.iter().map(Memory::bytes).sum();
    format!(
        "{name} is loaded: {}, context of {} tokens for {} sequences",
        show_size(bytes),
        thousands(loaded.context_tokens),
        loaded.sequences_max
    )
}

/// What a load would do, and what the model would take.
fn text(plan: &LoadPlan) -> String {
    let mut text = if plan.is_refused {
        String::new()
    } else {
        sentence(plan) + "\n"
    };
    let table = match (&plan.fit, &plan.refusal) {
        (Some(fit), _) => fit.to_string(),
        (None, Some(refusal)) => refusal.to_string(),
        (None, None) => return sentence(plan),
    };
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(table.trim_end());
    text
}

/// What a load would do.
fn sentence(plan: &LoadPlan) -> String {
    let name = &plan.model;
    if plan.is_loaded {
        return format!("{name} is loaded already");
    }
    let what = format!("{name} would be loaded ({})", show_size(plan.file_bytes));
    if plan.waits {
        format!("{what} when a place is free: all models that are loaded are in use or pinned")
    } else if plan.unloads.is_empty() {
        what
    } else {
        format!("{what} in place of {}", plan.unloads.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_told_in_one_sentence() {
        let told = |fields: Value| {
            let mut plan = json!({"model": "owl", "is_loaded": false, "file_bytes": 3_u64 << 30,
                "unloads": [], "waits": false});
            plan.as_object_mut()
                .unwrap()
                .extend(fields.as_object().unwrap().clone());
            sentence(&serde_json::from_value(plan).unwrap())
        };
        assert_eq!(told(json!({})), "owl would be loaded (3.00 GiB)");
        assert_eq!(
            told(json!({"unloads": ["a", "b"]})),
            "owl would be loaded (3.00 GiB) in place of a, b"
        );
        assert!(told(json!({"waits": true})).contains("when a place is free"));
        assert_eq!(told(json!({"is_loaded": true})), "owl is loaded already");
    }

    #[test]
    fn what_was_loaded_is_told_as_far_as_it_is_known() {
        let loaded = json!({"context_tokens": 8192, "sequences_max": 4, "memory": [
            {"device": "CPU", "weights_bytes": 3 << 20, "context_bytes": 1 << 20, "compute_bytes": 0},
        ]});
        assert_eq!(
            summary("owl", loaded),
            "owl is loaded: 4.00 MiB, context of 8,192 tokens for 4 sequences"
        );
        assert_eq!(summary("owl", json!({})), "owl is loaded");
    }
}
