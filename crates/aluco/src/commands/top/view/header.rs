//! Which server, which machine, and how they are.

use std::time::Duration;

use ratatui::text::{Line, Span};

use super::{both_sides, dotted, one_line};
use crate::{
    commands::{
        ps::brief,
        top::{events::Weight, screen::Screen, theme::Theme},
    },
    render::thousands,
};

/// The server, its machine, and what is wrong.
pub(super) fn lines(screen: &Screen, columns: usize) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let right = state(screen);
    let mut parts = vec![format!(
        "aluco {}",
        screen.url.strip_prefix("http://").unwrap_or(&screen.url)
    )];
    parts.extend(worker(screen));
    let room = columns.saturating_sub(right.width() + 1);
    let mut lines = vec![both_sides(
        &Span::styled(dotted(screen, &parts, room), theme.title()),
        right,
        columns,
        theme.ellipsis(),
    )];
    if let Some((reason, since)) = &screen.lost {
        let waiting = brief(since.elapsed());
        let text = format!("{}, retrying for {waiting}", one_line(reason));
        lines.push(Line::styled(text, theme.weight(Weight::Bad)));
    } else if screen.look.is_none() {
        lines.push(Line::raw(format!("looking at {}", screen.url)));
    }
    let machine = dotted(screen, &machine(screen), columns);
    if !machine.is_empty() {
        lines.push(Line::styled(machine, theme.faint()));
    }
    lines
}

/// What must be seen first.
fn state(screen: &Screen) -> Span<'static> {
    let theme = screen.theme;
    let machine = screen.look.as_ref().and_then(|look| look.machine.as_ref());
    let kernel = machine.and_then(|machine| machine.kernel.as_ref());
    let warnings = kernel.map_or(0, |kernel| kernel.warnings);
    if screen.lost.is_some() {
        Span::styled("gone", theme.weight(Weight::Bad))
    } else if screen.is_paused {
        Span::styled("PAUSED", Theme::marked())
    } else if warnings > 0 {
        let text = counted(warnings, "kernel warning");
        Span::styled(text, theme.weight(Weight::Warning))
    } else {
        Span::raw("")
    }
}

/// `up 2h`, `vulkan worker 4711`, `1 restart`
fn worker(screen: &Screen) -> Vec<String> {
    let Some(look) = &screen.look else {
        return Vec::new();
    };
    let mut parts = Vec::new();
    if let Some(machine) = &look.machine {
        let up = Duration::from_millis(machine.uptime_ms);
        parts.push(format!("up {}", brief(up)));
    }
    match &look.worker {
        Some(worker) => {
            let pid = worker.hello.pid;
            let pid = pid.map_or_else(String::new, |pid| format!(" {pid}"));
            parts.push(format!("{} worker{pid}", worker.hello.backend));
            if worker.restarts > 0 {
                parts.push(counted(worker.restarts, "restart"));
            }
        }
        None => parts.push("no worker runs".to_owned()),
    }
    parts
}

fn machine(screen: &Screen) -> Vec<String> {
    let look = screen.look.as_ref();
    let Some(machine) = look.and_then(|look| look.machine.as_ref()) else {
        return Vec::new();
    };
    let name = &machine.machine;
    // Some processors are named with their GPU.
    let cpu = name.cpu.clone().unwrap_or_default();
    let gpu = name.gpu.clone().filter(|gpu| !cpu.contains(gpu.as_str()));
    let mut parts: Vec<String> = name.product.iter().cloned().collect();
    parts.push(cpu);
    parts.extend(gpu);
    let worker = look.and_then(|look| look.worker.as_ref());
    parts.extend(worker.map(|worker| worker.hello.engine_build.clone()));
    parts
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(count))
}
