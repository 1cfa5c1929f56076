//! `aluco ps`: the models that a running server holds.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use super::{
    connection::{configured, told},
    run::current_thread,
};
use crate::{
    cli::PsArgs,
    client::wire::{Activity, Memory, ModelState, ModelStatus},
    config::{Config, show_size},
    failure::{Outcome, Status},
    render::{self, Column, Table, ago, say, thousands},
};

/// Runs the command.
pub(crate) fn run(args: &PsArgs, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server would answer with a page of its own.
    runtime.block_on(client.check()).map_err(told)?;
    if args.json {
        let status = runtime.block_on(client.status_json()).map_err(told)?;
        render::print_json(&status)?;
        return Ok(Status::Done);
    }
    let status = runtime.block_on(client.status()).map_err(told)?;
    if status.models.is_empty() {
        say(&format!("no model is loaded at {}", client.url()));
        return Ok(Status::Done);
    }
    let table = table(&status.models, SystemTime::now());
    write!(
        io::stdout().lock(),
        "{}",
        table.render(render::terminal_columns())
    )?;
    Ok(Status::Done)
}

fn table(models: &[ModelStatus], now: SystemTime) -> Table {
    let mut table = Table::new([
        Column::long_words("MODEL"),
        Column::words("STATE"),
        Column::numbers("CONTEXT"),
        Column::numbers("BUSY"),
        Column::numbers("CACHED"),
        Column::long_words("MEMORY"),
        Column::words("UNTIL"),
    ]);
    for model in models {
        table.row(row(model, now));
    }
    table
}

fn row(model: &ModelStatus, now: SystemTime) -> [String; 7] {
    let none = || "-".to_owned();
    let state = match model.state {
        ModelState::Loading { progress } => {
            format!("loading {:.0} %", progress.clamp(0.0, 1.0) * 100.0)
        }
        ModelState::Ready => "ready".to_owned(),
    };
    let cached = model.activity.as_ref().and_then(Activity::cached_share);
    // What the worker holds now is truer than what it held after the load.
    let memory = model
        .activity
        .as_ref()
        .map(|activity| &*activity.memory)
        .filter(|memory| !memory.is_empty())
        .or(model.loaded.as_ref().map(|loaded| &*loaded.memory))
        .unwrap_or_default();
    let until = match (model.state, model.expires_at) {
        (ModelState::Loading { .. }, _) => none(),
        (ModelState::Ready, Some(_)) if model.requests > 0 => "in use".to_owned(),
        (ModelState::Ready, Some(time)) if time <= now => "now".to_owned(),
        (ModelState::Ready, Some(time)) => ago(time, now),
        (ModelState::Ready, None) => "forever".to_owned(),
    };
    [
        model.name.clone(),
        state,
        model
            .loaded
            .as_ref()
            .map_or_else(none, |loaded| thousands(loaded.context_tokens)),
        busy(model),
        cached.map_or_else(none, |share| format!("{:.0} %", share * 100.0)),
        by_device(memory),
        until,
    ]
}

/// Sequences that run and may run, and requests that wait: `4/4 +2`. While a model is being loaded, all requests wait.
fn busy(model: &ModelStatus) -> String {
    let activity = model.activity.as_ref();
    let (running, waiting) = match model.state {
        ModelState::Loading { .. } => (0, model.requests),
        ModelState::Ready => activity.map_or((0, 0), |activity| {
            (activity.sequences_running, activity.requests_waiting)
        }),
    };
    let mut texts = Vec::new();
    if let Some(loaded) = &model.loaded {
        texts.push(format!("{running}/{}", loaded.sequences_max));
    }
    if waiting > 0 {
        texts.push(format!("+{}", thousands(waiting)));
    }
    if texts.is_empty() {
        texts.push("-".to_owned());
    }
    texts.join(" ")
}

/// `Vulkan0 1.2 GiB, CPU 98.9 MiB`, the largest first.
fn by_device(memory: &[Memory]) -> String {
    let mut devices: Vec<&Memory> = memory.iter().filter(|device| device.bytes() > 0).collect();
    devices.sort_by_key(|device| std::cmp::Reverse(device.bytes()));
    let texts: Vec<String> = devices
        .into_iter()
        .map(|device| format!("{} {}", device.device, show_size(device.bytes())))
        .collect();
    if texts.is_empty() {
        "-".to_owned()
    } else {
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn models_are_told_in_a_table() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let memory = serde_json::json!([
            { "device": "CPU", "description": "", "weights_bytes": 0, "context_bytes": 0, "compute_bytes": 0 },
            { "device": "CPU_REPACK", "weights_bytes": 100 << 20, "context_bytes": 0, "compute_bytes": 3 << 19 },
            { "device": "Vulkan0", "weights_bytes": 3_u64 << 30, "context_bytes": 3 << 29, "compute_bytes": 0 },
        ]);
        let time = |time| humantime::format_rfc3339(time).to_string();
        let models: Vec<ModelStatus> = serde_json::from_value(serde_json::json!([
            { "name": "smollm2:135m", "state": { "loading": { "progress": 0.426 } }, "requests": 2 },
            { "name": "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M", "state": "ready", "requests": 0,
              "loaded": { "context_tokens": 32768, "sequences_max": 4, "memory": memory },
              "activity": { "sequences_running": 0, "prefill_tokens": 1000, "memory": [],
                "cache": { "device_hit_tokens": 900, "ram_hit_tokens": 2000, "disk_hit_tokens": 100 } },
              "expires_at": time(now + Duration::from_secs(240)) },
            { "name": "owl", "state": "ready", "requests": 3,
              "loaded": { "context_tokens": 4096, "sequences_max": 1, "memory": [] },
              "activity": { "sequences_running": 1, "requests_waiting": 2, "prefill_tokens": 7 },
              "expires_at": time(now) },
            { "name": "kept", "state": "ready" },
        ]))
        .unwrap();
        insta::assert_snapshot!(table(&models, now).render(None));
        let narrow = table(&models[1..], now).render(Some(80));
        let widest = narrow.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{narrow}");
    }
}
