//! How busy GPU, CPU and NPU are.

use std::collections::VecDeque;

use aluco_machine::{
    facts::Known,
    telemetry::{GpuSample, NpuSample, Sample},
};
use ratatui::text::{Line, Span};

use super::{dotted, one_line};
use crate::{
    commands::top::{screen::Screen, theme::Theme},
    config::show_size,
};

/// Columns of a sparkline: a quarter of the width, within these.
const SPARKLINE_MIN: usize = 8;
const SPARKLINE_MAX: usize = 60;

/// A line each for GPU, CPU and NPU; nothing if the server does not tell.
pub(super) fn lines(screen: &Screen, columns: usize) -> Vec<Line<'static>> {
    let look = screen.look.as_ref();
    let Some(machine) = look.and_then(|look| look.machine.as_ref()) else {
        return Vec::new();
    };
    let sample = &machine.sample;
    let gpu = match &sample.gpu {
        Some(gpu) => {
            let details = gpu_details(screen, gpu);
            busy(
                screen,
                "GPU",
                &gpu.busy_percent,
                &screen.gpu_busy,
                &details,
                columns,
            )
        }
        None => nothing(screen.theme, "GPU", "none"),
    };
    let cpu = busy(
        screen,
        "CPU",
        &sample.cpu_busy_percent,
        &screen.cpu_busy,
        &cpu_details(sample),
        columns,
    );
    let npu = match &sample.npu {
        Some(npu) => npu_line(screen, npu, columns),
        None => nothing(screen.theme, "NPU", "none"),
    };
    vec![gpu, cpu, npu]
}

fn busy<T: Copy + Into<f64>>(
    screen: &Screen,
    name: &'static str,
    percent: &Known<T>,
    history: &VecDeque<Option<f64>>,
    details: &[String],
    columns: usize,
) -> Line<'static> {
    let theme = screen.theme;
    let width = (columns / 4).clamp(SPARKLINE_MIN, SPARKLINE_MAX);
    let mut spans = vec![Span::styled(format!("{name}  "), theme.title())];
    match percent {
        Known::Value { value, .. } => {
            let percent: f64 = (*value).into();
            spans.push(Span::styled(
                format!("{percent:>3.0} %  "),
                theme.load(percent),
            ));
            let line = sparkline(theme, history, width);
            spans.push(Span::styled(line, theme.load(percent)));
            spans.push(Span::raw("  "));
        }
        Known::Unknown { unknown, .. } => {
            let text = format!("not known: {}  ", one_line(unknown));
            spans.push(Span::styled(text, theme.faint()));
        }
    }
    let room = columns.saturating_sub(spans.iter().map(Span::width).sum());
    spans.push(Span::raw(dotted(screen, details, room)));
    Line::from(spans)
}

/// The last values, the newest on the right.
fn sparkline(theme: Theme, history: &VecDeque<Option<f64>>, width: usize) -> String {
    let skipped = history.len().saturating_sub(width);
    let columns = history
        .iter()
        .skip(skipped)
        .map(|percent| percent.map_or(' ', |percent| theme.column(percent)));
    let line: String = columns.collect();
    format!("{line:>width$}")
}

fn gpu_details(screen: &Screen, gpu: &GpuSample) -> Vec<String> {
    let mut details = Vec::new();
    if let Some(power_mw) = gpu.power_mw.get() {
        details.push(format!("{:.1} W", *power_mw as f64 / 1e3));
    }
    if let Some(temperature_mc) = gpu.temperature_mc.get() {
        let degree = if screen.theme.unicode { "°C" } else { "C" };
        details.push(format!("{:.0} {degree}", *temperature_mc as f64 / 1e3));
    }
    if let Some(clock_hz) = gpu.clock_hz.get() {
        details.push(format!("{:.2} GHz", *clock_hz as f64 / 1e9));
    }
    let memory = &gpu.memory;
    for (name, used, total) in [
        ("GTT", &memory.gtt_used_bytes, &memory.gtt_total_bytes),
        ("VRAM", &memory.vram_used_bytes, &memory.vram_total_bytes),
    ] {
        if let (Some(used), Some(total)) = (used.get(), total.get()) {
            details.push(format!(
                "{name} {} of {}",
                show_size(*used),
                show_size(*total)
            ));
        }
    }
    let metrics = gpu.metrics.get();
    let rates = metrics.map(|it| (it.memory_read_mb_s, it.memory_write_mb_s));
    if let Some((Some(read), Some(written))) = rates {
        let rate = |mb_s: u16| {
            // There the firmware's counter ends.
            let beyond = if mb_s == u16::MAX { "over " } else { "" };
            format!("{beyond}{:.1}", f64::from(mb_s) / 1e3)
        };
        details.push(format!("bus {} + {} GB/s", rate(read), rate(written)));
    }
    details
}

fn cpu_details(sample: &Sample) -> Vec<String> {
    let memory = (
        sample.memory_available_bytes.get(),
        sample.memory_total_bytes.get(),
    );
    let (Some(available), Some(total)) = memory else {
        return Vec::new();
    };
    vec![format!(
        "{} of {} available",
        show_size(*available),
        show_size(*total)
    )]
}

fn npu_line(screen: &Screen, npu: &NpuSample, columns: usize) -> Line<'static> {
    let mut details = Vec::new();
    details.extend(npu.awake.get().map(|awake| {
        let state = if *awake { "in use" } else { "asleep" };
        state.to_owned()
    }));
    if npu.awake.copied() != Some(false) {
        if let Some(power_mw) = npu.power_mw.get() {
            details.push(format!("{:.1} W", f64::from(*power_mw) / 1e3));
        }
        if let Some(clock_mhz) = npu.clock_mhz.get().filter(|clock_mhz| **clock_mhz > 0) {
            details.push(format!("{:.2} GHz", f64::from(*clock_mhz) / 1e3));
        }
    }
    if details.is_empty() {
        details.push("not known whether it is in use".to_owned());
    }
    Line::from(vec![
        Span::styled("NPU  ", screen.theme.title()),
        Span::raw(dotted(screen, &details, columns)),
    ])
}

fn nothing(theme: Theme, name: &'static str, text: &'static str) -> Line<'static> {
    Line::from(vec![
        Span::styled(format!("{name}  "), theme.title()),
        Span::styled(text, theme.faint()),
    ])
}
