//! How fast a model will be on this machine: what its header says, with what `aluco machine bench` has measured here.

mod told;

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use aluco_fleet::Fleet;
use aluco_machine::{
    facts::{Facts, Known, Request},
    measure::{Change, MachineReport, Records},
    root::Root,
};
use aluco_model::StoredModel;
use aluco_plan::speed::{
    BytesPerSecond, FlopsPerSecond, Rates, SpeedPlan, TokensPerSecond, Work, decode_limit,
};
use aluco_proto::{Backend, LoadOptions, WeightLoading, WorkerHello};
use serde::Serialize;

use super::machine::versions;
use crate::{config::Settings, engine, render::say};

/// How fast a model will be, as far as that is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Prediction {
    /// On what it would be computed.
    backend: Backend,
    #[serde(flatten)]
    speeds: Option<SpeedPlan>,
    /// What no machine with this memory exceeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_at_most: Option<AtMost>,
    origin: Origin,
}

/// A theoretical bound.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct AtMost {
    tokens_per_second: TokensPerSecond,
    bytes_per_second: BytesPerSecond,
    source: String,
}

/// Where a prediction comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    Measured(Measured),
    /// Nothing is predicted before something was measured.
    NotMeasured,
    /// Nothing can be predicted, and why.
    Unknown(String),
}

/// A report of `aluco machine bench`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    /// When, in RFC 3339.
    at: String,
    /// With what, such as `Vulkan0`. `None`: what this backend computes on was not measured then.
    device: Option<String>,
    /// How fast that reads memory.
    memory: Option<BytesPerSecond>,
    /// What has changed since.
    changes: Vec<Change>,
    /// Why a load is not predicted, if something was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_load: Option<String>,
}

/// What would be loaded, and how.
pub(super) struct Subject<'a> {
    pub(super) model: &'a StoredModel,
    pub(super) options: &'a LoadOptions,
    pub(super) context_tokens: u64,
    pub(super) backend: Backend,
    /// Of that backend, if there is one.
    pub(super) worker: Option<&'a WorkerHello>,
}

/// The worker that would compute, asked who it is.
pub(super) async fn worker(settings: &Settings) -> Option<WorkerHello> {
    let fleet = Fleet::new(engine::fleet(settings));
    fleet.worker().await.ok().map(|(_, hello)| hello)
}

/// How fast a model will be. `root`: another machine's files; what was measured here says nothing of that one.
pub(super) fn predict(
    subject: &Subject<'_>,
    settings: &Settings,
    root: Option<&Path>,
) -> Prediction {
    let nothing = |origin| Prediction {
        backend: subject.backend,
        speeds: None,
        decode_at_most: None,
        origin,
    };
    let work = match Work::read(subject.model) {
        Ok(work) => work,
        Err(error) => return nothing(Origin::Unknown(error.to_string())),
    };
    let facts = Root::open(root.unwrap_or(Path::new("/")));
    let facts = facts.map(|root| Facts::collect(&root, &Request::default()));
    let reports = match root {
        Some(_) => Vec::new(),
        None => reports(settings),
    };
    let Some(report) = newest(&reports, subject.backend) else {
        return Prediction {
            decode_at_most: facts.ok().and_then(|facts| at_most(&work, &facts)),
            ..nothing(Origin::NotMeasured)
        };
    };
    let disk = disk(report, subject);
    let rates = rates(report, subject.backend, disk.clone().ok());
    let mut now = facts.map_or_else(|_| report.versions.clone(), |facts| versions(&facts));
    if let Some(worker) = subject.worker {
        let backend = worker.backend.name().to_owned();
        now.engines.insert(backend, worker.engine_build.clone());
    }
    let mut changes = report.versions.changes(&now);
    if subject.backend == Backend::Cpu {
        changes.retain(|change| change.what != GPU);
    } else if changes.iter().all(|change| change.what != GPU) {
        changes.extend(gpu_change(report, subject));
    }
    let at = std::time::UNIX_EPOCH + Duration::from_secs(report.at.min(LAST_SECOND));
    Prediction {
        backend: subject.backend,
        speeds: Some(SpeedPlan::of(
            &work,
            subject.options,
            &rates,
            subject.context_tokens,
        )),
        decode_at_most: None,
        origin: Origin::Measured(Measured {
            at: humantime::format_rfc3339_seconds(at).to_string(),
            device: device(report, subject.backend),
            memory: rates.memory,
            changes,
            no_load: disk.err(),
        }),
    }
}

/// What a change of the GPU is called.
const GPU: &str = "GPU";

/// Whether the device that was measured is another one now, as the worker names them.
fn gpu_change(report: &MachineReport, subject: &Subject<'_>) -> Option<Change> {
    let then = report.device(subject.backend.name())?;
    let mut devices = subject.worker?.devices.iter();
    let now = devices.find(|device| device.device == then.device)?;
    let has_changed = now.description != then.description && !now.description.is_empty();
    has_changed.then(|| Change {
        what: GPU.to_owned(),
        then: then.description.clone(),
        now: now.description.clone(),
    })
}

/// The last second of the year 9999: a damaged report may claim any.
const LAST_SECOND: u64 = 253_402_300_799;

/// How fast the disk with models was read when that was measured last, through the page cache.
pub(crate) fn disk_rate(settings: &Settings) -> Option<BytesPerSecond> {
    let reports = reports(settings);
    let mut disks = reports.iter().rev().filter_map(|it| it.disk.as_ref().ok());
    disks.next().map(|disk| BytesPerSecond(disk.buffered))
}

fn reports(settings: &Settings) -> Vec<MachineReport> {
    match Records::new(&settings.measurements_folder).all() {
        Ok(reports) => reports,
        Err(error) => {
            say(&error.to_string());
            Vec::new()
        }
    }
}

/// The newest report that knows the backend's device, else the newest of all.
fn newest(reports: &[MachineReport], backend: Backend) -> Option<&MachineReport> {
    let mut newest_first = reports.iter().rev();
    let knows = |report: &&MachineReport| device(report, backend).is_some();
    newest_first.find(knows).or(reports.last())
}

/// What was measured of a backend.
fn device(report: &MachineReport, backend: Backend) -> Option<String> {
    match backend {
        Backend::Cpu => Some(format!("{} threads", report.bandwidth.threads)),
        _ => report
            .device(backend.name())
            .map(|found| found.device.clone()),
    }
}

fn rates(report: &MachineReport, backend: Backend, disk: Option<BytesPerSecond>) -> Rates {
    let device = report.device(backend.name());
    let matrix = device.map(|device| device.matrix);
    let (memory, matrix) = match backend {
        Backend::Cpu => (
            Some(report.bandwidth.read),
            matrix.or(Some(report.arithmetic.all_threads)),
        ),
        _ => (device.map(|device| device.copy), matrix),
    };
    Rates {
        backend,
        memory: memory.map(BytesPerSecond),
        matrix: matrix.map(FlopsPerSecond),
        disk,
    }
}

/// How fast the model's file is read, or why that is not known.
fn disk(report: &MachineReport, subject: &Subject<'_>) -> Result<BytesPerSecond, String> {
    let disk = report.disk.as_ref().map_err(Clone::clone)?;
    let of = |path: &Path| Some(fs::metadata(path).ok()?.dev());
    let (there, here) = (
        disk.file.parent().and_then(of),
        subject.model.files.first().and_then(|file| of(file)),
    );
    if there != here && there.is_some() && here.is_some() {
        return Err("another disk was measured than the one that the model is on".to_owned());
    }
    let direct = disk
        .direct
        .filter(|_| subject.options.weight_loading == WeightLoading::DirectIo);
    Ok(BytesPerSecond(direct.unwrap_or(disk.buffered)))
}

/// The bound that the memory's clock and width set.
fn at_most(work: &Work, facts: &Facts) -> Option<AtMost> {
    match &facts.identity.memory_bandwidth {
        Known::Value { value, source } => {
            let memory = BytesPerSecond(*value as f64);
            Some(AtMost {
                tokens_per_second: decode_limit(work, memory),
                bytes_per_second: memory,
                source: source.clone(),
            })
        }
        Known::Unknown { .. } => None,
    }
}

#[cfg(test)]
mod tests;
