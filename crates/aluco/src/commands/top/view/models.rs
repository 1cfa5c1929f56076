//! The table of models.

use std::{borrow::Cow, time::SystemTime};

use console::{Alignment, measure_text_width, pad_str, truncate_str};
use ratatui::text::Line;

use super::one_line;
use crate::{
    client::wire::ModelStatus,
    commands::{
        ps::Part,
        top::{events, screen::Screen, theme::Theme},
    },
    render::Align,
};

const GAP: &str = "  ";

/// A name is not cut shorter than this before columns are left out: those that say least, and all others.
const NAME_GOOD: usize = 40;
const NAME_MIN: usize = 14;

/// What is told of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    /// The same as `aluco ps` tells.
    Ps(Part),
    /// How it is run otherwise than configured.
    Fallback,
}

/// All columns in their order.
const COLUMNS: [Column; 12] = [
    Column::Ps(Part::Model),
    Column::Ps(Part::State),
    Column::Ps(Part::Busy),
    Column::Ps(Part::Decode),
    Column::Ps(Part::Prefill),
    Column::Ps(Part::Cached),
    Column::Ps(Part::Memory),
    Column::Ps(Part::Until),
    Column::Ps(Part::Device),
    Column::Ps(Part::Context),
    Column::Ps(Part::Restarts),
    Column::Fallback,
];

/// Columns that are left out where there is no room, in this order.
const SPARED_FIRST: [Part; 3] = [Part::Restarts, Part::Context, Part::Device];
const SPARED: [Part; 6] = [
    Part::Until,
    Part::Memory,
    Part::Cached,
    Part::Prefill,
    Part::Busy,
    Part::Decode,
];

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Ps(part) => part.column().title,
            Self::Fallback => "FALLBACK",
        }
    }

    fn alignment(self) -> Alignment {
        match self {
            Self::Ps(part) if part.column().align == Align::Right => Alignment::Right,
            _ => Alignment::Left,
        }
    }

    fn text(self, model: &ModelStatus, restarts: Option<u64>, now: SystemTime) -> String {
        match self {
            Self::Ps(part) => one_line(&part.text(model, restarts, now)),
            Self::Fallback => events::steps(model),
        }
    }
}

/// The table in at most so many lines; the marked model is among them.
pub(super) fn lines(
    screen: &Screen,
    now: SystemTime,
    columns: usize,
    rows: usize,
) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let Some(look) = &screen.look else {
        return Vec::new();
    };
    let models = screen.models();
    if models.is_empty() {
        let lines = vec![
            Line::styled("MODELS", theme.title()),
            Line::styled("no model is loaded", theme.faint()),
        ];
        return lines.into_iter().take(rows).collect();
    }
    let restarts = look.worker.as_ref().map(|worker| worker.restarts);
    let shown = fitting(&models, restarts, now, columns);
    let widths = widths(&shown, &models, restarts, now, columns);
    let row = |texts: Vec<String>| {
        let cells = texts.iter().zip(&shown).zip(&widths);
        let cells = cells.map(|((text, column), width)| {
            let cut = cut(text, *width, theme.ellipsis());
            pad_str(&cut, *width, column.alignment(), None).into_owned()
        });
        cells.collect::<Vec<_>>().join(GAP)
    };
    let titles = shown.iter().map(|column| column.title().to_owned());
    let mut lines = vec![Line::styled(row(titles.collect()), theme.title())];
    let room = rows.saturating_sub(1);
    let marked = models
        .iter()
        .position(|model| Some(&model.name) == screen.marked.as_ref());
    // Scrolled just so far that the marked one is seen.
    let first = marked.map_or(0, |marked| (marked + 1).saturating_sub(room.max(1)));
    for (index, model) in models.iter().enumerate().skip(first).take(room) {
        let texts = shown.iter().map(|column| column.text(model, restarts, now));
        let text = row(texts.collect());
        lines.push(if marked == Some(index) && !screen.is_still {
            Line::styled(format!("{text:columns$}"), Theme::marked())
        } else {
            Line::raw(text)
        });
    }
    lines.truncate(rows);
    lines
}

/// Text that is not wider than this. Of a file's path the end tells more than the beginning.
fn cut<'a>(text: &'a str, width: usize, sign: &str) -> Cow<'a, str> {
    let excess = measure_text_width(text).saturating_sub(width);
    if excess == 0 || !text.starts_with('/') {
        return truncate_str(text, width, sign);
    }
    let mut rest = text.chars();
    while measure_text_width(rest.as_str()) + measure_text_width(sign) > width
        && rest.next().is_some()
    {}
    Cow::Owned(format!("{sign}{}", rest.as_str()))
}

/// The columns for which there is room.
fn fitting(
    models: &[&ModelStatus],
    restarts: Option<u64>,
    now: SystemTime,
    columns: usize,
) -> Vec<Column> {
    let mut shown = COLUMNS.to_vec();
    if models.iter().all(|model| model.fallback.is_none()) {
        shown.retain(|column| *column != Column::Fallback);
    }
    let is_too_wide = |shown: &[Column], name_min: usize| {
        let widths = natural(shown, models, restarts, now);
        let gaps = GAP.len() * shown.len().saturating_sub(1);
        let name = widths[0].min(name_min);
        name + widths[1..].iter().sum::<usize>() + gaps > columns
    };
    let spared_first = SPARED_FIRST.map(|part| (part, NAME_GOOD));
    for (spared, name_min) in spared_first
        .into_iter()
        .chain(SPARED.map(|part| (part, NAME_MIN)))
    {
        if is_too_wide(&shown, name_min) {
            shown.retain(|column| *column != Column::Ps(spared));
        }
    }
    if is_too_wide(&shown, NAME_MIN) {
        shown.retain(|column| *column != Column::Fallback);
    }
    shown
}

/// As wide as the widest text.
fn natural(
    shown: &[Column],
    models: &[&ModelStatus],
    restarts: Option<u64>,
    now: SystemTime,
) -> Vec<usize> {
    let width = |column: &Column| {
        let texts = models.iter().map(|model| column.text(model, restarts, now));
        let widths = texts.map(|text| measure_text_width(&text));
        widths.chain([column.title().len()]).max().unwrap_or(0)
    };
    shown.iter().map(width).collect()
}

/// The same, with the name cut so that the table fits.
fn widths(
    shown: &[Column],
    models: &[&ModelStatus],
    restarts: Option<u64>,
    now: SystemTime,
    columns: usize,
) -> Vec<usize> {
    let mut widths = natural(shown, models, restarts, now);
    let gaps = GAP.len() * shown.len().saturating_sub(1);
    let all = widths.iter().sum::<usize>() + gaps;
    widths[0] = widths[0].saturating_sub(all.saturating_sub(columns)).max(1);
    widths
}
