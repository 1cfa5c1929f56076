//! What the terminal can show: colours and letters beyond ASCII, or neither.

use std::io::IsTerminal;

use ratatui::style::{Color, Modifier, Style};

use super::{events::Weight, pool::Part};

/// What may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Theme {
    pub(super) colour: bool,
    pub(super) unicode: bool,
}

impl Theme {
    /// What this process's terminal can show, by its variables.
    pub(super) fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self {
            colour: std::io::stdout().is_terminal(),
            unicode: false,
        }
        .told_by(variable)
    }

    /// `NO_COLOR` of any value but none (no-color.org), and the locale; the kernel's own console lacks most block letters.
    fn told_by(self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = filled("LC_ALL")
            .or_else(|| filled("LC_CTYPE"))
            .or_else(|| filled("LANG"))
            .unwrap_or_default()
            .to_ascii_lowercase();
        let terminal = filled("TERM").unwrap_or_default();
        Self {
            colour: self.colour && filled("NO_COLOR").is_none() && terminal != "dumb",
            unicode: (locale.contains("utf-8") || locale.contains("utf8")) && terminal != "linux",
        }
    }

    pub(super) fn title(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        if self.colour {
            Style::new().fg(Color::DarkGray)
        } else {
            Style::new()
        }
    }

    pub(super) fn marked() -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn weight(self, weight: Weight) -> Style {
        match weight {
            Weight::Bad => self.coloured(Color::Red),
            Weight::Warning => self.coloured(Color::Yellow),
            Weight::News => Style::new(),
        }
    }

    /// Of a share of something that may run out.
    pub(super) fn load(self, percent: f64) -> Style {
        self.coloured(match percent {
            90.0.. => Color::Red,
            60.0.. => Color::Yellow,
            _ => Color::Green,
        })
    }

    pub(super) fn part(self, part: Part) -> Style {
        self.coloured(match part {
            Part::Weights => Color::Blue,
            Part::Kv => Color::Magenta,
            Part::Compute => Color::Cyan,
            Part::Stored => Color::Green,
            Part::Others | Part::Used => Color::Yellow,
            Part::Reserve => Color::Red,
            Part::Free => Color::DarkGray,
        })
    }

    /// What a part of a bar is made of.
    pub(super) fn block(self, part: Part) -> char {
        match (self.colour && self.unicode, part) {
            (true, Part::Free) => '░',
            (true, _) => '█',
            (false, part) => part.letter(),
        }
    }

    /// A column of a sparkline for a share of 0 to 100.
    pub(super) fn column(self, percent: f64) -> char {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const LETTERS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let steps = if self.unicode { BLOCKS } else { LETTERS };
        let step = (percent.clamp(0.0, 100.0) / 100.0 * 7.0).round();
        steps[step as usize]
    }

    /// Between parts of a line.
    pub(super) fn dot(self) -> &'static str {
        if self.unicode { " · " } else { " | " }
    }

    pub(super) fn ellipsis(self) -> &'static str {
        if self.unicode { "…" } else { "~" }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> (bool, bool) {
        let all = Theme {
            colour: true,
            unicode: true,
        };
        let theme = all.told_by(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        (theme.colour, theme.unicode)
    }

    #[test]
    fn what_a_terminal_can_show_is_told_by_variables() {
        for (variables, expected) in [
            (&[("LANG", "en_US.UTF-8")][..], (true, true)),
            (&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")], (true, false)),
            (&[("LC_ALL", ""), ("LANG", "de_DE.utf8")], (true, true)),
            (&[("LANG", "C.UTF-8"), ("NO_COLOR", "1")], (false, true)),
            (&[("LANG", "C.UTF-8"), ("NO_COLOR", "")], (true, true)),
            (&[("LANG", "C.UTF-8"), ("TERM", "linux")], (true, false)),
            (&[], (true, false)),
        ] {
            assert_eq!(told(variables), expected, "{variables:?}");
        }
    }
}
