//! `aluco ps`: the models that a running server holds.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use super::{
    connection::{configured, told},
    run::current_thread,
};
use crate::{
    cli::{self, PlainArgs},
    client::{
        Client, ClientError, wire,
        wire::{Activity, Memory, ModelState, ModelStatus},
    },
    config::{Config, show_size},
    failure::{Outcome, Status},
    render::{self, Column, Table, say, thousands},
};

/// Speeds are counted from one look to the next; so if something runs, a second look comes after this time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) fn run(args: &PlainArgs<cli::Client>, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server would answer with a page of its own.
    runtime.block_on(client.check()).map_err(told)?;
    let status = runtime.block_on(with_speeds(&client)).map_err(told)?;
    if args.json {
        render::print_json(&runtime.block_on(client.status_json()).map_err(told)?)?;
        return Ok(Status::Done);
    }
    if status.models.is_empty() {
        say(&format!("no model is loaded at {}", client.url()));
        return Ok(Status::Done);
    }
    let table = fitting(&status, SystemTime::now(), render::terminal_columns());
    write!(io::stdout().lock(), "{table}")?;
    for line in fallbacks(&status, SystemTime::now()) {
        writeln!(io::stdout().lock(), "{line}")?;
    }
    Ok(Status::Done)
}

/// The status; with the speeds of models that run, if nobody else has looked lately.
async fn with_speeds(client: &Client) -> Result<wire::Status, ClientError> {
    let status = client.status().await?;
    let lacks_speed = |model: &ModelStatus| {
        let activity = model.activity.as_ref();
        model.speed.is_none() && activity.is_some_and(|it| it.sequences_running > 0)
    };
    if !status.models.iter().any(lacks_speed) {
        return Ok(status);
    }
    tokio::time::sleep(LOOK_INTERVAL).await;
    client.status().await
}

/// What is told of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Model,
    State,
    Device,
    Memory,
    Context,
    Busy,
    Decode,
    Prefill,
    Cached,
    Restarts,
    Until,
}

/// All parts, in their order.
const PARTS: [Part; 11] = [
    Part::Model,
    Part::State,
    Part::Device,
    Part::Memory,
    Part::Context,
    Part::Busy,
    Part::Decode,
    Part::Prefill,
    Part::Cached,
    Part::Restarts,
    Part::Until,
];

/// Parts that are left out before a name is cut, the least telling first.
const SPARED_FIRST: [Part; 2] = [Part::Context, Part::Restarts];

/// Parts that are left out if it is still too wide.
const SPARED_AT_LAST: [Part; 3] = [Part::Device, Part::Prefill, Part::Cached];

impl Part {
    pub(super) fn column(self) -> Column {
        match self {
            Self::Model => Column::long_words("MODEL"),
            Self::State => Column::words("STATE"),
            Self::Device => Column::words("DEVICE"),
            Self::Memory => Column::numbers("MEMORY"),
            Self::Context => Column::numbers("CONTEXT"),
            Self::Busy => Column::numbers("BUSY"),
            Self::Decode => Column::numbers("DECODE"),
            Self::Prefill => Column::numbers("PREFILL"),
            Self::Cached => Column::numbers("CACHED"),
            Self::Restarts => Column::numbers("RESTARTS"),
            Self::Until => Column::words("UNTIL"),
        }
    }

    pub(super) fn text(
        self,
        model: &ModelStatus,
        restarts: Option<u64>,
        now: SystemTime,
    ) -> String {
        let speed = |of: fn(&wire::Speed) -> f64| model.speed.as_ref().map(of).map(per_second);
        let text = match self {
            Self::Model => Some(model.name.clone()),
            Self::State => Some(state(model)),
            Self::Device => devices(model),
            Self::Memory => memory(model),
            Self::Context => model
                .loaded
                .as_ref()
                .map(|loaded| thousands(loaded.context_tokens)),
            Self::Busy => Some(busy(model)),
            Self::Decode => speed(|it| it.decode_per_second),
            Self::Prefill => speed(|it| it.prefill_per_second),
            Self::Cached => model
                .activity
                .as_ref()
                .and_then(Activity::cached_share)
                .map(|share| format!("{:.0} %", share * 100.0)),
            Self::Restarts => restarts.map(thousands),
            Self::Until => until(model, now),
        };
        text.unwrap_or_else(|| "-".to_owned())
    }
}

/// The table with all parts for which there is room.
fn fitting(status: &wire::Status, now: SystemTime, columns_max: Option<usize>) -> String {
    let mut parts = PARTS.to_vec();
    let is_too_wide = |text: &str| {
        let widths = text.lines().map(console::measure_text_width);
        columns_max.is_some_and(|max| widths.max().unwrap_or(0) > max)
    };
    for spared in SPARED_FIRST {
        if is_too_wide(&table(status, &parts, now).render(None)) {
            parts.retain(|part| *part != spared);
        }
    }
    for spared in SPARED_AT_LAST {
        if is_too_wide(&table(status, &parts, now).render(columns_max)) {
            parts.retain(|part| *part != spared);
        }
    }
    table(status, &parts, now).render(columns_max)
}

fn table(status: &wire::Status, parts: &[Part], now: SystemTime) -> Table {
    let restarts = status.workers.first().map(|worker| worker.restarts);
    let columns: Vec<Column> = parts.iter().map(|part| part.column()).collect();
    let mut table = Table::new(columns);
    for model in &status.models {
        let texts: Vec<String> = parts
            .iter()
            .map(|part| part.text(model, restarts, now))
            .collect();
        table.row(texts);
    }
    table
}

/// A line for each model that is run otherwise than configured.
fn fallbacks(status: &wire::Status, now: SystemTime) -> Vec<String> {
    let models = status.models.iter();
    models
        .filter_map(|model| {
            let fallback = model.fallback.as_ref()?;
            let steps: Vec<String> = fallback.steps.iter().map(ToString::to_string).collect();
            let since = fallback
                .since
                .map(|since| format!(" since {}", render::ago(since, now)))
                .unwrap_or_default();
            let deaths = match fallback.deaths {
                1 => "a death of its worker".to_owned(),
                deaths => format!("{deaths} deaths of its worker"),
            };
            let line = format!(
                "{}: {}{since}, after {deaths}: {}",
                model.name,
                steps.join(", "),
                fallback.cause
            );
            Some(render::printable(&line).into_owned())
        })
        .collect()
}

fn state(model: &ModelStatus) -> String {
    match model.state {
        ModelState::Loading { progress } => {
            format!("loading {:.0} %", progress.clamp(0.0, 1.0) * 100.0)
        }
        ModelState::Ready => "ready".to_owned(),
    }
}

/// What the worker holds now is truer than what it held after the load.
pub(super) fn held(model: &ModelStatus) -> impl Iterator<Item = &Memory> {
    let now = model.activity.as_ref().map(|activity| &*activity.memory);
    now.filter(|memory| !memory.is_empty())
        .or(model.loaded.as_ref().map(|loaded| &*loaded.memory))
        .unwrap_or_default()
        .iter()
        .filter(|memory| memory.bytes() > 0)
}

/// `Vulkan0`, or `Vulkan0+CPU` where the second holds a good part, as it does when layers do not fit. Buffers that ggml has rearranged
/// for the CPU are the CPU's.
fn devices(model: &ModelStatus) -> Option<String> {
    let mut devices: Vec<(&str, u64)> = Vec::new();
    for memory in held(model) {
        let name = if memory.device.starts_with("CPU") {
            "CPU"
        } else {
            &memory.device
        };
        match devices.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += memory.bytes(),
            None => devices.push((name, memory.bytes())),
        }
    }
    devices.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let all: u64 = devices.iter().map(|(_, bytes)| bytes).sum();
    devices.retain(|(_, bytes)| bytes.saturating_mul(10) >= all);
    let names: Vec<&str> = devices.into_iter().map(|(name, _)| name).collect();
    (!names.is_empty()).then(|| names.join("+"))
}

fn memory(model: &ModelStatus) -> Option<String> {
    let bytes: u64 = held(model).map(Memory::bytes).sum();
    (bytes > 0).then(|| show_size(bytes))
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

/// Tokens per second, with a decimal where that says something.
fn per_second(speed: f64) -> String {
    if speed > 0.0 && speed < 9.95 {
        format!("{speed:.1}")
    } else {
        thousands(speed.round() as u64)
    }
}

fn until(model: &ModelStatus, now: SystemTime) -> Option<String> {
    let text = match (model.state, model.expires_at) {
        (ModelState::Loading { .. }, _) => return None,
        (ModelState::Ready, _) if model.pinned => "pinned".to_owned(),
        (ModelState::Ready, _) if model.requests > 0 => "in use".to_owned(),
        (ModelState::Ready, Some(time)) => match time.duration_since(now) {
            Ok(left) if left >= Duration::from_secs(1) => format!("in {}", brief(left)),
            _ => "now".to_owned(),
        },
        (ModelState::Ready, None) => "forever".to_owned(),
    };
    Some(text)
}

/// In one unit and few letters.
pub(super) fn brief(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn at(seconds: u64) -> String {
        humantime::format_rfc3339(now() + Duration::from_secs(seconds)).to_string()
    }

    fn status(models: &serde_json::Value) -> wire::Status {
        let workers = json!([{ "hello": { "backend": "vulkan" }, "restarts": 2 }]);
        serde_json::from_value(json!({ "workers": workers, "models": models })).unwrap()
    }

    fn memory() -> serde_json::Value {
        json!([
            { "device": "CPU", "description": "", "weights_bytes": 0, "context_bytes": 0, "compute_bytes": 1 << 20 },
            { "device": "CPU_REPACK", "weights_bytes": 100 << 20, "context_bytes": 0, "compute_bytes": 3 << 19 },
            { "device": "Vulkan0", "weights_bytes": 3_u64 << 30, "context_bytes": 3 << 29, "compute_bytes": 0 },
        ])
    }

    /// A loading one, an idle one with a long name, a busy one, one that stays, and one of an older server.
    fn many() -> wire::Status {
        status(&json!([
            { "name": "smollm2:135m", "state": { "loading": { "progress": 0.426 } }, "requests": 2 },
            { "name": "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M", "state": "ready", "requests": 0,
              "loaded": { "context_tokens": 32768, "sequences_max": 4, "memory": memory() },
              "activity": { "sequences_running": 0, "prefill_tokens": 1000, "memory": [],
                "cache": { "device_hit_tokens": 900, "ram_hit_tokens": 2000, "disk_hit_tokens": 100 } },
              "speed": { "decode_per_second": 0.0, "prefill_per_second": 0.0 },
              "expires_at": at(240) },
            { "name": "owl", "state": "ready", "requests": 3, "keep_alive": "5m",
              "loaded": { "context_tokens": 4096, "sequences_max": 1, "memory": [] },
              "activity": { "sequences_running": 1, "requests_waiting": 2, "prefill_tokens": 7 },
              "speed": { "decode_per_second": 7.26, "prefill_per_second": 1234.4 } },
            { "name": "kept", "state": "ready", "pinned": true },
            { "name": "old", "state": "ready" },
        ]))
    }

    #[test]
    fn models_are_told_in_a_table() {
        insta::assert_snapshot!(fitting(&many(), now(), None));
    }

    #[test]
    fn in_a_narrow_terminal_less_is_told() {
        insta::assert_snapshot!(fitting(&many(), now(), Some(80)));
        insta::assert_snapshot!(fitting(&many(), now(), Some(60)));
    }

    #[test]
    fn a_normal_case_fits_without_loss_but_for_what_seldom_matters() {
        let status = status(&json!([
            { "name": "qwen3:30b-a3b", "state": "ready", "requests": 1,
              "loaded": { "context_tokens": 32768, "sequences_max": 4, "memory": memory() },
              "activity": { "sequences_running": 1, "prefill_tokens": 1000, "memory": [],
                "cache": { "device_hit_tokens": 9000 } },
              "speed": { "decode_per_second": 72.6, "prefill_per_second": 812.4 } },
        ]));
        insta::assert_snapshot!(fitting(&status, now(), Some(80)));
    }

    #[test]
    fn a_model_that_is_run_otherwise_than_configured_has_a_line_of_its_own() {
        let past = humantime::format_rfc3339(now() - Duration::from_secs(720)).to_string();
        let status = status(&json!([
            { "name": "fine", "state": "ready", "fallback": null },
            { "name": "gpt-oss", "state": "ready", "fallback": {
                "steps": [{ "micro_batch": 128 }, "flash_attention_off", { "backend": "cpu" }, { "prayer": 1 }],
                "cause": "it was ended by SIGABRT\u{1b}[31m", "deaths": 3, "since": past } },
            { "name": "old", "state": "ready", "fallback": {
                "steps": ["flash_attention_off"], "cause": "it exited", "deaths": 1 } },
        ]));
        assert_eq!(
            fallbacks(&status, now()),
            [
                "gpt-oss: micro-batch 128, flash attention off, backend cpu, {\"prayer\":1} since 12 minutes ago, \
                 after 3 deaths of its worker: it was ended by SIGABRT\u{fffd}[31m",
                "old: flash attention off, after a death of its worker: it exited",
            ]
        );
    }

    #[test]
    fn a_device_is_named_for_what_it_holds() {
        let told = |sizes: &[(&str, u64)]| {
            let memory: Vec<_> = sizes
                .iter()
                .map(|(device, bytes)| json!({ "device": device, "weights_bytes": bytes }))
                .collect();
            let loaded = json!({ "context_tokens": 1, "sequences_max": 1, "memory": memory });
            let models = json!([{ "name": "m", "state": "ready", "loaded": loaded }]);
            devices(&status(&models).models[0])
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[("CPU", 5), ("CPU_REPACK", 9)]).unwrap(), "CPU");
        assert_eq!(told(&[("CPU", 5), ("Vulkan0", 90)]).unwrap(), "Vulkan0");
        assert_eq!(told(&[("CPU", 50), ("ROCm0", 90)]).unwrap(), "ROCm0+CPU");
    }

    #[test]
    fn the_time_that_is_left_is_told_in_few_letters() {
        let told = |seconds| {
            let models = json!([{ "name": "m", "state": "ready", "expires_at": at(seconds) }]);
            until(&status(&models).models[0], now()).unwrap()
        };
        for (seconds, expected) in [
            (0, "now"),
            (1, "in 1s"),
            (119, "in 119s"),
            (300, "in 5m"),
            (86_400, "in 24h"),
            (864_000, "in 10d"),
        ] {
            assert_eq!(told(seconds), expected);
        }
    }
}
