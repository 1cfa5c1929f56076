//! The screen as lines. Pure: what is on it, the time and the size in, lines out.

mod busy;
mod header;
mod memory;
mod models;

use std::time::{Duration, SystemTime};

use ratatui::{
    buffer::{Buffer, Cell},
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use super::{
    events::{Happening, short},
    screen::{Dialog, Screen},
    theme::Theme,
};
use crate::{commands::ps::brief, render::printable};

/// Lines that happenings take, title included, where there is room for all.
const HAPPENINGS_LINES: usize = 6;

/// Rows of models that there should be before happenings get any.
const MODELS_LINES: usize = 5;

/// From this height on, parts are set apart by empty lines.
const ROOMY: usize = 32;

/// Draws the screen.
pub(super) fn draw(screen: &Screen, now: SystemTime, area: Rect, buffer: &mut Buffer) {
    let lines = fitted(screen, now, area.width.into(), area.height.into());
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buffer.set_line(area.left(), y, line, area.width);
    }
}

/// All there is to tell, as text for what is no terminal.
pub(super) fn text(screen: &Screen, now: SystemTime, width: u16) -> String {
    let columns = usize::from(width);
    let mut parts = vec![
        header::lines(screen, columns),
        memory::lines(screen, columns),
        busy::lines(screen, columns),
        models::lines(screen, now, columns, usize::MAX),
    ];
    if !screen.happenings.is_empty() {
        parts.push(happenings(screen, now, usize::MAX));
    }
    parts.retain(|part| !part.is_empty());
    let lines = parts.join(&Line::default());
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let mut text = String::new();
    for line in lines.into_iter().take(height.into()) {
        let mut row = Buffer::empty(Rect::new(0, 0, width, 1));
        row.set_line(0, 0, &line, width);
        let cells: String = row.content.iter().map(Cell::symbol).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// As many lines as there are rows: the parts that matter less go first where there are few.
fn fitted(screen: &Screen, now: SystemTime, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let mut header = header::lines(screen, columns);
    header.truncate(if rows >= 14 { 3 } else { 1 });
    if screen.dialog == Dialog::Help {
        header.extend(help(screen));
        return header;
    }
    let footer = if rows >= 4 {
        vec![footer(screen)]
    } else {
        Vec::new()
    };
    let mut memory = memory::lines(screen, columns);
    memory.truncate(match rows {
        0..8 => 0,
        8..20 => 2,
        _ => memory.len(),
    });
    let mut busy = busy::lines(screen, columns);
    busy.truncate(match rows {
        0..10 => 0,
        10..14 => 1,
        _ => busy.len(),
    });
    let mut parts = vec![header, memory, busy];
    parts.retain(|part| !part.is_empty());
    let gap = usize::from(rows >= ROOMY);
    let mut lines = if gap == 1 {
        let mut lines = parts.join(&Line::default());
        lines.push(Line::default());
        lines
    } else {
        parts.concat()
    };
    let left = rows.saturating_sub(lines.len() + footer.len());
    let happenings_rows = left
        .saturating_sub(MODELS_LINES + gap)
        .min(HAPPENINGS_LINES.max(left / 3));
    let happenings = if happenings_rows >= 2 {
        happenings(screen, now, happenings_rows)
    } else {
        Vec::new()
    };
    let models_rows = left.saturating_sub(happenings.len() + gap);
    let models = models::lines(screen, now, columns, models_rows);
    lines.extend(models);
    lines.resize(
        rows.saturating_sub(happenings.len() + footer.len()),
        Line::default(),
    );
    lines.extend(happenings);
    lines.extend(footer);
    lines
}

fn happenings(screen: &Screen, now: SystemTime, rows: usize) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let title = Line::styled("EVENTS", theme.title());
    if screen.happenings.is_empty() {
        return vec![title, Line::styled("nothing has happened", theme.faint())];
    }
    let told = screen.happenings.iter().rev().map(|happening| {
        let Happening { at, weight, text } = happening;
        let passed = now.duration_since(*at).unwrap_or(Duration::ZERO);
        Line::from(vec![
            Span::styled(
                format!("{:>9}  ", format!("{} ago", brief(passed))),
                theme.faint(),
            ),
            Span::styled(one_line(text), theme.weight(*weight)),
        ])
    });
    std::iter::once(title).chain(told).take(rows).collect()
}

fn footer(screen: &Screen) -> Line<'static> {
    let theme = screen.theme;
    if let Dialog::Unload(model) = &screen.dialog {
        let question = format!(
            "unload {}? y to do it, any other key to leave it",
            one_line(short(model))
        );
        return Line::styled(question, Theme::marked());
    }
    if let Some(notice) = &screen.notice {
        return Line::styled(one_line(notice), Theme::marked());
    }
    let pause = if screen.is_paused { "go on" } else { "pause" };
    let sort = screen.sort.name();
    let keys = format!("q quit  p {pause}  s sort: {sort}  u unload  ? help");
    Line::styled(keys, theme.faint())
}

fn help(screen: &Screen) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let mut lines = vec![Line::default(), Line::styled("KEYS", theme.title())];
    lines.extend(
        [
            "q, Esc      quit",
            "p, space    pause: the screen stays as it is",
            "s           sort the models by name, memory or decode",
            "up, down    mark a model",
            "u           unload the marked model",
            "?           this help; any key ends it",
            "",
            "BUSY is sequences that run and may run, and +requests that wait. DECODE and PREFILL",
            "are tokens per second of all sequences together. CACHED is the share of the prompts'",
            "tokens since the load that did not have to be computed.",
        ]
        .map(Line::raw),
    );
    lines
}

/// Joins what is there, as far as there is room for whole parts.
fn dotted(screen: &Screen, parts: &[String], columns: usize) -> String {
    let mut text = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let dot = if text.is_empty() {
            ""
        } else {
            screen.theme.dot()
        };
        let longer = format!("{text}{dot}{}", one_line(part));
        if !text.is_empty() && console::measure_text_width(&longer) > columns {
            break;
        }
        text = longer;
    }
    text
}

/// Text from outside, safe for a terminal, on one line.
fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Text on the left and on the right of a line; the left one gives way.
fn both_sides(
    left: &Span<'static>,
    right: Span<'static>,
    columns: usize,
    cut: &str,
) -> Line<'static> {
    let room = columns.saturating_sub(right.width() + 1);
    let text = console::truncate_str(&left.content, room, cut).into_owned();
    let padding = columns.saturating_sub(console::measure_text_width(&text) + right.width());
    Line::from(vec![
        Span::styled(text, left.style),
        Span::styled(" ".repeat(padding), Style::new()),
        right,
    ])
}
