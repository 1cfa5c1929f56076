//! What happened between two looks, in words. Pure.

use std::time::SystemTime;

use aluco_machine::telemetry::KernelEvent;
use aluco_plan::Pressure;

use super::look::Look;
use crate::client::wire::{ModelState, ModelStatus};

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Something went wrong.
    Bad,
    /// Something may go wrong.
    Warning,
    /// It is good to know.
    News,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happening {
    pub(super) at: SystemTime,
    pub(super) weight: Weight,
    pub(super) text: String,
}

/// What happened since the look before; without one, only what the server remembers.
pub(super) fn since(before: Option<&Look>, now: &Look, at: SystemTime) -> Vec<Happening> {
    let mut texts = Vec::new();
    if let Some(before) = before {
        deaths(before, now, &mut texts);
        fallbacks(before, now, &mut texts);
        models(before, now, &mut texts);
        pressure(before, now, &mut texts);
    }
    let told = texts
        .into_iter()
        .map(|(weight, text)| Happening { at, weight, text });
    kernel(before, now).chain(told).collect()
}

fn deaths(before: &Look, now: &Look, texts: &mut Vec<(Weight, String)>) {
    for (kind, count) in &now.mishaps.worker_deaths {
        let known = before.mishaps.worker_deaths.get(kind).unwrap_or(&0);
        // A server that was started again counts from zero.
        let new = count.saturating_sub(*known);
        if new > 0 {
            let times = if new == 1 {
                String::new()
            } else {
                format!(", {new} times")
            };
            texts.push((
                Weight::Bad,
                format!("a worker died: {}{times}", kind.replace('_', " ")),
            ));
        }
    }
    if let (Some(old), Some(new)) = (&before.worker, &now.worker)
        && old.hello.pid != new.hello.pid
    {
        let pid = new
            .hello
            .pid
            .map_or_else(String::new, |pid| format!(" {pid}"));
        texts.push((
            Weight::News,
            format!("worker{pid} computes now, on {}", new.hello.backend),
        ));
    }
    let resumed = now
        .mishaps
        .streams_resumed
        .saturating_sub(before.mishaps.streams_resumed);
    match resumed {
        0 => {}
        1 => texts.push((
            Weight::News,
            "a stream went on in another worker".to_owned(),
        )),
        count => texts.push((
            Weight::News,
            format!("{count} streams went on in another worker"),
        )),
    }
}

fn fallbacks(before: &Look, now: &Look, texts: &mut Vec<(Weight, String)>) {
    for model in &now.models {
        let Some(fallback) = &model.fallback else {
            continue;
        };
        let mut old = before.models.iter().filter(|old| old.name == model.name);
        let steps = steps(model);
        if old.all(|old| self::steps(old) != steps) {
            texts.push((
                Weight::Bad,
                format!(
                    "{} runs with {steps} from now on: {}",
                    short(&model.name),
                    fallback.cause
                ),
            ));
        }
    }
}

/// Of a model that is a file, the file's name.
pub(super) fn short(model: &str) -> &str {
    match model.rsplit_once('/') {
        Some((_, file)) if model.starts_with('/') => file,
        _ => model,
    }
}

/// How a model is run otherwise than configured: `micro-batch 128, flash attention off`. Empty if it is not.
pub(super) fn steps(model: &ModelStatus) -> String {
    let steps = model.fallback.iter().flat_map(|fallback| &fallback.steps);
    let steps: Vec<String> = steps.map(ToString::to_string).collect();
    steps.join(", ")
}

fn models(before: &Look, now: &Look, texts: &mut Vec<(Weight, String)>) {
    for model in &now.models {
        let old = before.models.iter().find(|old| old.name == model.name);
        let text = match (old.map(|old| old.state), model.state) {
            (None | Some(ModelState::Ready), ModelState::Loading { .. }) => "is being loaded",
            (None | Some(ModelState::Loading { .. }), ModelState::Ready) => "is loaded",
            _ => continue,
        };
        texts.push((Weight::News, format!("{} {text}", short(&model.name))));
    }
    for old in &before.models {
        if !now.models.iter().any(|model| model.name == old.name) {
            texts.push((
                Weight::News,
                format!("{} is not loaded any more", short(&old.name)),
            ));
        }
    }
}

fn pressure(before: &Look, now: &Look, texts: &mut Vec<(Weight, String)>) {
    let of = |look: &Look| {
        look.ledger
            .as_ref()
            .map_or(Pressure::Calm, |it| it.pressure)
    };
    if of(before) == of(now) {
        return;
    }
    texts.push(match of(now) {
        Pressure::Calm => (Weight::News, "memory is not short any more".to_owned()),
        Pressure::ShrinkCache => (
            Weight::Warning,
            "memory is short: stored prompts are being dropped".to_owned(),
        ),
        Pressure::EvictIdle => (
            Weight::Warning,
            "memory is very short: idle models are being unloaded".to_owned(),
        ),
    });
}

fn kernel<'a>(
    before: Option<&'a Look>,
    now: &'a Look,
) -> impl Iterator<Item = Happening> + use<'a> {
    let known = kernel_events(before).last().map(|event| event.at);
    kernel_events(Some(now))
        .iter()
        .filter(move |event| known.is_none_or(|known| event.at > known))
        .map(|event| Happening {
            at: event.at,
            weight: if event.kind.loses_gpu_work() {
                Weight::Bad
            } else {
                Weight::Warning
            },
            text: format!("kernel: {}", event.line),
        })
}

fn kernel_events(look: Option<&Look>) -> &[KernelEvent] {
    look.and_then(|look| look.machine.as_ref()?.kernel.as_ref())
        .map_or(&[], |kernel| &kernel.events)
}
