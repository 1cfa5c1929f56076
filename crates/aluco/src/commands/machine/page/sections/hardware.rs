//! Processor, memory, GPU and disks.

use aluco_machine::facts::{Cpu, CpuMaker, Disk, DiskKind, Facts, Gpu};

use super::{Page, row_of, size, text, words};
use crate::config::show_size;

pub(super) fn cpu(page: &mut Page, cpu: &Cpu) {
    page.section("Processor");
    page.fact("model", &cpu.model, text);
    let counts = [
        page.part("cores", &cpu.cores, |count| format!("{count} cores")),
        page.part("threads", &cpu.threads, |count| format!("{count} threads")),
    ];
    row_of(page, "cores", counts, ", ");
    page.fact("instructions", &cpu.features, |features| {
        let there = features.iter().filter(|(_, there)| **there);
        let names: Vec<String> = there.map(|(name, _)| name.clone()).collect();
        words(&names)
    });
    if matches!(cpu.maker.get(), Some(CpuMaker::Amd | CpuMaker::Intel)) {
        page.fact("microcode", &cpu.microcode, text);
    }
    if cpu.virtual_machine.copied() == Some(true) {
        page.row("virtual", "yes");
    }
}

pub(super) fn memory(page: &mut Page, facts: &Facts) {
    page.section("Memory");
    let memory = &facts.memory;
    page.fact("installed", &memory.installed_bytes, size);
    page.fact("for the system", &memory.total_bytes, size);
    page.fact("available", &memory.available_bytes, size);
    let bandwidth = facts.identity.memory_bandwidth.get();
    let speed = [
        page.part("speed", &memory.speed_mt_s, |speed| format!("{speed} MT/s")),
        page.part("width", &memory.width_bits, |bits| format!("{bits} bits")),
        bandwidth.map(|bytes| format!("{} GB/s at best", bytes / 1_000_000_000)),
    ];
    row_of(page, "speed", speed, ", ");
    page.fact("swap", &memory.swaps, |swaps| {
        let areas = swaps.iter().map(|swap| {
            let kind = if swap.zram { "zram" } else { &swap.kind };
            format!("{kind} {}", show_size(swap.bytes))
        });
        let areas: Vec<String> = areas.collect();
        match &areas[..] {
            [] => "none".to_owned(),
            areas => areas.join(", "),
        }
    });
    page.fact("huge pages", &memory.transparent_hugepages, |choice| {
        format!("transparent: {choice}")
    });
    page.fact("pressure", &memory.pressure, |pressure| {
        format!("{:.1} % of the last minute", pressure.some_60)
    });
    if memory.tmp_in_memory.copied() == Some(true) {
        page.row("/tmp", "in memory");
    }
}

pub(super) fn gpu(page: &mut Page, gpu: &Gpu) {
    page.section("GPU");
    let device = [
        Some(gpu.card.clone()),
        page.part("vendor", &gpu.vendor, text),
        page.part("device", &gpu.device, text),
        page.part("slot", &gpu.slot, |slot| format!("at {slot}")),
        page.part("driver", &gpu.driver, |driver| format!("by {driver}")),
    ];
    row_of(page, "device", device, " ");
    let memory = &gpu.memory;
    for (label, used, total) in [
        (
            "carve-out",
            &memory.vram_used_bytes,
            &memory.vram_total_bytes,
        ),
        ("GTT", &memory.gtt_used_bytes, &memory.gtt_total_bytes),
    ] {
        let room = [
            page.part(label, total, size),
            page.part(&format!("{label} in use"), used, |used| {
                format!("{} in use", show_size(*used))
            }),
        ];
        row_of(page, label, room, ", ");
    }
    page.fact("busy", &gpu.busy_percent, |percent| format!("{percent} %"));
    let sensors = [
        page.part("power", &gpu.sensors.power_mw, |power| {
            format!("{:.1} W", *power as f64 / 1e3)
        }),
        page.part("temperature", &gpu.sensors.temperature_mc, |degrees| {
            format!("{:.0} °C", *degrees as f64 / 1e3)
        }),
        page.part("clock", &gpu.sensors.clock_hz, |hertz| {
            format!("{} MHz", hertz / 1_000_000)
        }),
    ];
    row_of(page, "now", sensors, ", ");
    let mut clocks = Vec::new();
    for (domain, steps) in &gpu.clocks {
        clocks.extend(page.part(domain, steps, |steps| {
            let highest = steps.iter().map(|step| step.mhz).max().unwrap_or(0);
            format!("{domain} {highest}")
        }));
    }
    if !clocks.is_empty() {
        page.row("clocks up to", &format!("{} MHz", clocks.join(", ")));
    }
    page.fact("firmware", &gpu.firmware, |versions| {
        let parts = ["mes", "smc", "sdma", "vcn"].iter().filter_map(|part| {
            let version = versions.get(*part)?;
            let digits = version.trim_start_matches("0x").trim_start_matches('0');
            Some(format!("{part} 0x{digits}"))
        });
        parts.collect::<Vec<_>>().join(", ")
    });
    let _ = page.known("metrics", &gpu.metrics);
}

pub(super) fn disks(page: &mut Page, facts: &Facts) {
    page.section("Disks");
    if let Some(disks) = page.known("drives", &facts.disks) {
        for each in disks {
            page.row(&each.name, &disk(each));
        }
    }
    for folder in &facts.folders {
        let room = [
            page.part("free room", &folder.free_bytes, |free| {
                format!("{} free", show_size(*free))
            }),
            page.part("room", &folder.total_bytes, |total| {
                format!("of {}", show_size(*total))
            }),
            page.part("file system", &folder.file_system, |name| {
                format!("({name})")
            }),
            (folder.path.len() > 14).then(|| format!("at {}", folder.path)),
        ];
        let label = if folder.path.len() > 14 {
            "models"
        } else {
            &folder.path
        };
        row_of(page, label, room, " ");
    }
}

fn disk(disk: &Disk) -> String {
    let kind = match disk.kind {
        DiskKind::Nvme => "NVMe",
        DiskKind::Ssd => "SSD",
        DiskKind::Spinning => "spinning",
        DiskKind::Virtual => "virtual",
        DiskKind::Card => "card",
    };
    let mut parts = vec![kind.to_owned(), show_size(disk.bytes)];
    if !disk.model.is_empty() {
        parts.push(disk.model.clone());
    }
    parts.join(", ")
}
