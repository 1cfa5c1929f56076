//! `aluco machine bench`: what memory, processor, disk and devices do, with what they could do at most where that is known.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aluco_fleet::{Fleet, FleetConfig};
use aluco_machine::{
    facts::{Facts, Known},
    measure::{Change, DeviceSpeed, Limit, MachineReport, Plan, Records, UNKNOWN, Versions},
};
use indicatif::ProgressBar;

use crate::{
    cli::MachineBenchArgs,
    config::{Config, Settings},
    engine,
    failure::{Outcome, Status},
    render::{self, ago, say},
};

/// Bytes that are taken where the kernel does not say how many are free.
const AVAILABLE_UNKNOWN: u64 = 1 << 30;

/// Measures, shows and keeps.
pub(super) fn run(args: &MachineBenchArgs, facts: &Facts, json: bool, config: &Config) -> Outcome {
    let settings = &config.settings;
    let bar = if io::stderr().is_terminal() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    let folder = args.folder.clone().unwrap_or_else(|| models(settings));
    let now = SystemTime::now();
    let at = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let available = facts.memory.available_bytes.get().copied();
    let mut plan = Plan::new(cores(facts), folder, available.unwrap_or(AVAILABLE_UNKNOWN));
    if args.brief {
        plan = Plan {
            array_bytes: 8 << 20,
            rounds: 1,
            arithmetic_time: Duration::from_millis(1),
            disk_bytes: 8 << 20,
            disk_time: Duration::from_millis(1),
            ..plan
        };
    }
    let mut report = plan.run(at, versions(facts), limit(facts), |step| {
        bar.set_message(format!("measuring {step}"));
    });
    bar.set_message("measuring devices");
    devices(settings, &mut report)?;
    bar.finish_and_clear();

    let records = Records::new(&settings.measurements_folder);
    let before = records.all().unwrap_or_default().pop();
    if !args.no_keep
        && let Err(error) = records.add(&report)
    {
        say(&format!("the report is not kept: {error}"));
    }
    if json {
        render::print_json(&report)?;
    } else {
        let text = text(&report, before.as_ref(), now);
        io::stdout().lock().write_all(text.as_bytes())?;
    }
    Ok(Status::Done)
}

/// The nearest folder that exists: that of the models may not be there yet, and its disk matters.
fn models(settings: &Settings) -> PathBuf {
    let folder = std::path::absolute(&settings.models_folder)
        .unwrap_or_else(|_| settings.models_folder.clone());
    let exists = folder.ancestors().find(|folder| folder.is_dir());
    exists.unwrap_or(Path::new("/")).to_owned()
}

/// Physical cores that this process may use: a second thread on a core moves no more memory.
fn cores(facts: &Facts) -> NonZeroUsize {
    let allowed = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let cores = facts.cpu.cores.get().map(|cores| *cores as usize);
    cores
        .and_then(NonZeroUsize::new)
        .map_or(allowed, |cores| cores.min(allowed))
}

/// What this machine runs, without what its workers are built of.
pub(crate) fn versions(facts: &Facts) -> Versions {
    let or_unknown = |text: Option<&String>| text.map_or(UNKNOWN, String::as_str).to_owned();
    Versions {
        aluco: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: or_unknown(facts.kernel.release.get()),
        cpu: or_unknown(facts.cpu.model.get()),
        gpu: facts.identity.gpu_name.get().cloned(),
        engines: BTreeMap::new(),
    }
}

fn limit(facts: &Facts) -> Option<Limit> {
    match &facts.identity.memory_bandwidth {
        Known::Value { value, source } => Some(Limit {
            bytes_per_second: *value as f64,
            source: source.clone(),
        }),
        Known::Unknown { .. } => None,
    }
}

/// Asks the worker of each backend that is there.
fn devices(settings: &Settings, report: &mut MachineReport) -> Result<(), crate::failure::Failure> {
    let runtime = crate::commands::run::current_thread()?;
    let (answers, engines) = runtime.block_on(async {
        let fleet = Fleet::new(engine::fleet(settings));
        let answers = fleet.device_speeds().await;
        let mut engines = BTreeMap::new();
        for (backend, _) in answers.iter().flatten() {
            let fleet = Fleet::new(FleetConfig {
                backend: Some(*backend),
                ..engine::fleet(settings)
            });
            if let Ok((_, hello)) = fleet.worker().await {
                engines.insert(backend.name().to_owned(), hello.engine_build);
            }
        }
        (answers, engines)
    });
    report.versions.engines = engines;
    match answers {
        Ok(answers) => {
            for (backend, answer) in answers {
                match answer {
                    Ok(speeds) => {
                        let speeds = speeds.into_iter().map(|speed| DeviceSpeed {
                            backend: backend.name().to_owned(),
                            device: speed.device,
                            description: speed.description,
                            upload: speed.upload,
                            download: speed.download,
                            copy: speed.copy,
                            matrix: speed.matrix,
                        });
                        report.devices.extend(speeds);
                    }
                    Err(error) => report.device_failures.push(format!("{backend}: {error}")),
                }
            }
        }
        Err(error) => report.device_failures.push(error.to_string()),
    }
    Ok(())
}

fn text(report: &MachineReport, before: Option<&MachineReport>, now: SystemTime) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{}", format!("{label:<18}{value}").trim_end());
    };
    let bandwidth = &report.bandwidth;
    line(
        "Memory",
        &format!(
            "{} threads, {} MiB arrays, best of its rounds, counted as STREAM counts",
            bandwidth.threads,
            bandwidth.array_bytes >> 20
        ),
    );
    for (label, rate) in [
        ("  read", bandwidth.read),
        ("  copy", bandwidth.copy),
        ("  triad", bandwidth.triad),
    ] {
        let share = report.bandwidth_limit.as_ref().map(|limit| {
            format!(
                "  {:.0} % of the {:.0} GB/s that {} gives",
                100.0 * rate / limit.bytes_per_second,
                limit.bytes_per_second / 1e9,
                limit.source
            )
        });
        line(
            label,
            &format!("{}{}", giga(rate, "B/s"), share.unwrap_or_default()),
        );
    }
    if report.bandwidth_limit.is_none() {
        line("", "what this memory could do at most is not known");
    }
    let arithmetic = &report.arithmetic;
    line(
        "Processor",
        &format!("f32 multiply-adds with {}", arithmetic.instructions),
    );
    line("  one thread", &giga(arithmetic.one_thread, "FLOP/s"));
    line(
        &format!("  {} threads", arithmetic.threads),
        &giga(arithmetic.all_threads, "FLOP/s"),
    );
    match &report.disk {
        Ok(disk) => {
            line(
                "Disk",
                &format!("{} MiB of {}", disk.bytes >> 20, disk.file.display()),
            );
            let direct = disk.direct.map_or_else(
                || "not offered by this file system".to_owned(),
                |rate| giga(rate, "B/s"),
            );
            line("  direct", &direct);
            line("  buffered", &giga(disk.buffered, "B/s"));
            line("  from memory", &giga(disk.cached, "B/s"));
        }
        Err(reason) => line("Disk", reason),
    }
    for device in &report.devices {
        line(
            "Device",
            &format!(
                "{} by the {} worker: {}",
                device.device, device.backend, device.description
            ),
        );
        line("  upload", &giga(device.upload, "B/s"));
        line("  download", &giga(device.download, "B/s"));
        line("  copy", &giga(device.copy, "B/s"));
        line(
            "  matrix product",
            &giga(device.matrix, "FLOP/s, f16 by f32, 4096 x 4096 x 512"),
        );
    }
    for failure in &report.device_failures {
        line("Device", failure);
    }
    if let Some(before) = before {
        let then = UNIX_EPOCH + Duration::from_secs(before.at);
        line("", "");
        line(
            "Before",
            &format!(
                "{}: memory {}, processor {} (kernel {}, Aluco {})",
                ago(then, now),
                ratio(bandwidth.triad, before.bandwidth.triad),
                ratio(arithmetic.all_threads, before.arithmetic.all_threads),
                before.versions.kernel,
                before.versions.aluco
            ),
        );
        let changes = before.versions.changes(&report.versions);
        for change in changes.iter().map(Change::to_string) {
            line("", &format!("measured with {change}"));
        }
    }
    render::printable(&text).into_owned()
}

fn giga(rate: f64, unit: &str) -> String {
    format!("{:8.1} G{unit}", rate / 1e9)
}

/// How the new figure stands to the old one.
fn ratio(new: f64, old: f64) -> String {
    format!("{:.2}x of that", new / old.max(1.0))
}

#[cfg(test)]
mod tests {
    use aluco_machine::measure::{Arithmetic, Bandwidth, DiskRead};

    use super::*;

    fn report() -> MachineReport {
        MachineReport {
            at: 1_000_000_000,
            versions: Versions {
                aluco: "0.1.0".to_owned(),
                kernel: "7.1.3".to_owned(),
                cpu: "AMD RYZEN AI MAX+ 395".to_owned(),
                gpu: Some("Radeon 8060S".to_owned()),
                engines: BTreeMap::from([("vulkan".to_owned(), "b12032".to_owned())]),
            },
            bandwidth: Bandwidth {
                threads: 16,
                array_bytes: 256 << 20,
                read: 108.6e9,
                copy: 100.4e9,
                triad: 101.5e9,
            },
            bandwidth_limit: Some(Limit {
                bytes_per_second: 256e9,
                source: "8000 MT/s on 256 bits".to_owned(),
            }),
            arithmetic: Arithmetic {
                threads: 16,
                instructions: "AVX-512".to_owned(),
                one_thread: 163e9,
                all_threads: 2300e9,
            },
            disk: Ok(DiskRead {
                file: PathBuf::from("/models/a.gguf"),
                bytes: 4 << 30,
                direct: Some(6.9e9),
                buffered: 5.1e9,
                cached: 21e9,
            }),
            devices: vec![DeviceSpeed {
                backend: "vulkan".to_owned(),
                device: "Vulkan0".to_owned(),
                description: "Radeon 8060S Graphics".to_owned(),
                upload: 30e9,
                download: 28e9,
                copy: 200e9,
                matrix: 25e12,
            }],
            device_failures: vec!["rocm: no device".to_owned()],
        }
    }

    #[test]
    fn figures_stand_beside_what_could_be() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_600);
        let mut before = report();
        before.versions.kernel = "6.17.1".to_owned();
        insta::assert_snapshot!(text(&report(), Some(&before), now));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_600);
        let report = MachineReport {
            bandwidth_limit: None,
            disk: Err("the disk below /models could not be measured: Permission denied".to_owned()),
            devices: Vec::new(),
            ..report()
        };
        insta::assert_snapshot!(text(&report, None, now));
    }
}
