//! A sample as metrics: what is known of it, in base units.

use aluco_machine::{
    facts::GpuMetrics,
    telemetry::{GpuSample, NpuSample, Sample},
};
use aluco_server::MachineGauge;

use super::KernelTold;

/// What is known; there is no zero for what is not.
pub(super) fn gauges(sample: &Sample, kernel: Option<&KernelTold>) -> Vec<MachineGauge> {
    let percent = sample.cpu_busy_percent.copied();
    let mut gauges = vec![
        known(
            "cpu_busy",
            "Share of their time that the cores were busy",
            "ratio",
            percent.map(|percent| percent / 100.0),
        ),
        known(
            "memory_machine",
            "Memory that the kernel has",
            "bytes",
            sample.memory_total_bytes.copied().map(float),
        ),
        known(
            "memory_available",
            "Memory that programs could still get without swapping",
            "bytes",
            sample.memory_available_bytes.copied().map(float),
        ),
        known(
            "kernel_warnings",
            "Messages of the kernel that bode ill and of which no worker has died",
            "",
            kernel.map(|kernel| float(kernel.warnings)),
        ),
    ];
    gauges.extend(sample.gpu.iter().flat_map(of_gpu));
    gauges.extend(sample.npu.iter().flat_map(of_npu));
    gauges.into_iter().flatten().collect()
}

fn of_gpu(gpu: &GpuSample) -> Vec<Option<MachineGauge>> {
    let memory = &gpu.memory;
    let used = |kind, bytes: Option<u64>| {
        let help = "Memory that the GPU uses: gtt is the machine's, vram is set apart for it";
        known("gpu_memory_used", help, "bytes", bytes.map(float))
            .map(|it| it.labelled("kind", kind))
    };
    let total = |kind, bytes: Option<u64>| {
        let help = "Memory that the GPU may use: gtt is the machine's, vram is set apart for it";
        known("gpu_memory_total", help, "bytes", bytes.map(float))
            .map(|it| it.labelled("kind", kind))
    };
    let metrics = gpu.metrics.get();
    let bus = |direction, rate_mb_s: fn(&GpuMetrics) -> Option<u16>| {
        let help = "What goes over the bus of the memory; the firmware counts to 65535 MB/s and no further";
        let rate = metrics
            .and_then(rate_mb_s)
            .map(|rate| f64::from(rate) * 1e6);
        known("memory_bus", help, "bytes_per_second", rate)
            .map(|it| it.labelled("direction", direction))
    };
    vec![
        known(
            "gpu_busy",
            "Share of its time that the GPU was busy",
            "ratio",
            gpu.busy_percent.copied().map(|it| f64::from(it) / 100.0),
        ),
        known(
            "gpu_clock",
            "Shader clock of the GPU",
            "hertz",
            gpu.clock_hz.copied().map(float),
        ),
        known(
            "package_power",
            "Power of the package that holds CPU and GPU",
            "watts",
            gpu.power_mw.copied().map(|it| float(it) / 1e3),
        ),
        known(
            "gpu_temperature",
            "Temperature of the GPU",
            "celsius",
            gpu.temperature_mc.copied().map(|it| it as f64 / 1e3),
        ),
        used("gtt", memory.gtt_used_bytes.copied()),
        used("vram", memory.vram_used_bytes.copied()),
        total("gtt", memory.gtt_total_bytes.copied()),
        total("vram", memory.vram_total_bytes.copied()),
        bus("read", |it| it.memory_read_mb_s),
        bus("write", |it| it.memory_write_mb_s),
    ]
}

fn of_npu(npu: &NpuSample) -> Vec<Option<MachineGauge>> {
    vec![
        known(
            "npu_awake",
            "1 if a program uses the NPU",
            "",
            npu.awake.copied().map(|awake| f64::from(u8::from(awake))),
        ),
        known(
            "npu_power",
            "Power of the NPU",
            "watts",
            npu.power_mw.copied().map(|it| f64::from(it) / 1e3),
        ),
        known(
            "npu_clock",
            "Clock of the NPU",
            "hertz",
            npu.clock_mhz.copied().map(|it| f64::from(it) * 1e6),
        ),
    ]
}

fn known(
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    value: Option<f64>,
) -> Option<MachineGauge> {
    value.map(|value| MachineGauge::new(name, help, unit, value))
}

fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use aluco_machine::{
        facts::{Facts, Request},
        fixture,
        telemetry::Sampler,
    };

    use super::*;

    fn told(machine: &str) -> Vec<String> {
        let root = fixture::root(machine);
        let facts = Facts::collect(&root, &Request::default());
        let sample = Sampler::new(&root, &facts).sample();
        let gauges = gauges(&sample, None);
        gauges
            .iter()
            .map(|it| {
                let label = it
                    .label
                    .map_or_else(String::new, |(_, value)| format!(" {value}"));
                format!("{}{label}: {} {}", it.name, it.value, it.unit)
            })
            .collect()
    }

    #[test]
    fn what_a_strix_halo_tells_becomes_metrics_in_base_units() {
        insta::assert_debug_snapshot!(told("strix-halo-fedora-healthy-128g"));
    }

    #[test]
    fn what_is_not_known_is_no_metric() {
        let told = told("server-x86-no-gpu");
        assert!(
            told.iter().all(|line| line.starts_with("memory_")),
            "{told:?}"
        );
    }
}
