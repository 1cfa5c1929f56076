//! Text in a column: as wide as the terminal, in colours only if it has them.

use console::{Style, measure_text_width};

use crate::render::{LongWord, wrapped};

/// Wider lines of prose are hard to read.
const PROSE_MAX: usize = 116;

/// What a report is written on.
pub(super) struct Paper {
    /// Columns of the terminal.
    width: usize,
    colours: bool,
    text: String,
}

impl Paper {
    pub(super) fn new(width: usize, colours: bool) -> Self {
        Self {
            width: width.max(40),
            colours,
            text: String::new(),
        }
    }

    /// All that was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// Text in a style, if there are colours.
    pub(super) fn paint(&self, style: &Style, text: &str) -> String {
        style
            .clone()
            .force_styling(self.colours)
            .apply_to(text)
            .to_string()
    }

    /// An empty line.
    pub(super) fn gap(&mut self) {
        self.text.push('\n');
    }

    /// One line as it is.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// A paragraph after a label; its further lines stand below the first word. Every word takes the style.
    pub(super) fn paragraph(&mut self, label: &str, text: &str, style: &Style) {
        let indent = measure_text_width(label);
        let room = self.width.min(PROSE_MAX).saturating_sub(indent).max(24);
        for (index, line) in wrapped(text, room, LongWord::Whole).iter().enumerate() {
            let painted = self.paint(style, line);
            if index == 0 {
                self.line(&format!("{label}{painted}"));
            } else {
                self.line(&format!("{}{painted}", " ".repeat(indent)));
            }
        }
    }

    /// A command after a label, in one piece if it fits; else broken where a shell lets a line end.
    pub(super) fn command(&mut self, label: &str, command: &str) {
        let style = Style::new().cyan();
        let indent = measure_text_width(label);
        let room = self.width.saturating_sub(indent);
        for (index, piece) in broken(command, room).iter().enumerate() {
            let painted = self.paint(&style, piece);
            if index == 0 {
                self.line(&format!("{label}{painted}"));
            } else {
                self.line(&format!("{}  {painted}", " ".repeat(indent)));
            }
        }
    }
}

/// A command broken after `&&` and `|`, as a shell reads it in one go.
fn broken(command: &str, room: usize) -> Vec<String> {
    if measure_text_width(command) <= room {
        return vec![command.to_owned()];
    }
    let mut pieces = Vec::new();
    let mut rest = command;
    while let Some((at, length)) = next_joint(rest) {
        pieces.push(rest[..at + length].trim_end().to_owned());
        rest = &rest[at + length..];
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Where a line may end: behind ` && ` or ` | ` outside quotes.
fn next_joint(text: &str) -> Option<(usize, usize)> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, ' ') => {
                if let Some(joint) = [" && ", " | "]
                    .into_iter()
                    .find(|joint| text[at..].starts_with(joint))
                {
                    return Some((at, joint.len()));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_broken_only_where_a_shell_lets_it() {
        let command = "echo 'a | b && c' | sudo tee /etc/one && sudo update-grub";
        assert_eq!(
            broken(command, 30),
            [
                "echo 'a | b && c' |",
                "sudo tee /etc/one &&",
                "sudo update-grub"
            ]
        );
        assert_eq!(broken(command, 80), [command]);
    }

    #[test]
    fn paragraphs_stay_within_the_width_and_hang_below_their_label() {
        let mut paper = Paper::new(40, false);
        let text = "one two three four five six seven eight nine ten eleven twelve";
        paper.paragraph("  label  ", text, &Style::new());
        let text = paper.into_text();
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
        assert!(
            text.lines()
                .skip(1)
                .all(|line| line.starts_with("         "))
        );
    }
}
