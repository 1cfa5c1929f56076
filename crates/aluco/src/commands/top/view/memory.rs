//! The bar of the memory.

use ratatui::{
    style::Style,
    text::{Line, Span},
};

use crate::{
    commands::top::{
        pool::{Part, Pool},
        screen::Screen,
        theme::Theme,
    },
    config::show_size,
};

/// What is held, as a title, a bar and what its parts mean; nothing if that is not known.
pub(super) fn lines(screen: &Screen, columns: usize) -> Vec<Line<'static>> {
    let theme = screen.theme;
    let Some(look) = &screen.look else {
        return Vec::new();
    };
    let Some(pool) = Pool::of(look.ledger.as_ref(), look.machine.as_ref()) else {
        return Vec::new();
    };
    let title = Line::from(vec![
        Span::styled("MEMORY  ", theme.title()),
        Span::raw(pool.title.clone()),
    ]);
    let width = u16::try_from(columns).unwrap_or(u16::MAX);
    let bar = pool.cells(width).into_iter().map(|(part, count)| {
        let cells = theme.block(part).to_string().repeat(count.into());
        Span::styled(cells, theme.part(part))
    });
    let mut lines = vec![title, bar.collect()];
    lines.extend(legend(theme, &pool, columns));
    lines
}

/// What each part is and how large, over as many lines as it takes.
fn legend(theme: Theme, pool: &Pool, columns: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for (part, bytes) in &pool.parts {
        let text = format!("{} {}", part.name(), show_size(*bytes));
        let sign = theme.block(*part).to_string();
        let item = [
            Span::styled(sign, theme.part(*part)),
            Span::styled(format!(" {text}  "), style(theme, *part)),
        ];
        let width: usize = item.iter().map(Span::width).sum();
        match lines.last_mut() {
            // Two spaces behind the last one need no room.
            Some(line) if line.width() + width <= columns + 2 => line.spans.extend(item),
            _ => lines.push(Line::from(item.to_vec())),
        }
    }
    lines
}

fn style(theme: Theme, part: Part) -> Style {
    match part {
        Part::Others | Part::Reserve => theme.faint(),
        _ => Style::new(),
    }
}
