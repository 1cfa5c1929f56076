//! The page that people read: what is known in sections, then what is not, with the reasons.

mod sections;

use std::{collections::BTreeMap, fmt::Write};

use aluco_machine::facts::{Because, Facts, Known};

use crate::render::{LongWord, printable, wrapped};

/// Where values stand.
const INDENT: usize = 18;

/// What is known of a machine, in lines of at most so many columns.
pub(super) fn page(facts: &Facts, columns: usize) -> String {
    let mut page = Page {
        columns: columns.clamp(40, 160),
        ..Page::default()
    };
    sections::write(&mut page, facts);
    page.finish()
}

#[derive(Default)]
struct Page {
    columns: usize,
    text: String,
    /// The heading of the section that is being written, until a row stands below it.
    heading: Option<&'static str>,
    section: &'static str,
    /// What is not known, by reason.
    unknown: BTreeMap<Because, BTreeMap<String, Vec<String>>>,
}

impl Page {
    fn section(&mut self, heading: &'static str) {
        self.heading = Some(heading);
        self.section = heading;
    }

    fn row(&mut self, label: &str, value: &str) {
        if let Some(heading) = self.heading.take() {
            if !self.text.is_empty() {
                self.text.push('\n');
            }
            self.text.push_str(heading);
            self.text.push('\n');
        }
        let value = printable(value);
        let width = self.columns - INDENT;
        let mut label = label;
        for line in wrapped(&value, width, LongWord::Cut) {
            let row = format!("  {label:<width$}{line}", width = INDENT - 2);
            self.text.push_str(row.trim_end());
            self.text.push('\n');
            label = "";
        }
    }

    /// A row for what is known, or a line at the end for what is not.
    fn fact<T>(&mut self, label: &str, known: &Known<T>, show: impl FnOnce(&T) -> String) {
        if let Some(value) = self.known(label, known) {
            let shown = show(value);
            self.row(label, &shown);
        }
    }

    /// A part of a row: its text if it is known, or a line at the end if it is not.
    fn part<T>(
        &mut self,
        label: &str,
        known: &Known<T>,
        show: impl FnOnce(&T) -> String,
    ) -> Option<String> {
        self.known(label, known).map(show)
    }

    fn known<'a, T>(&mut self, label: &str, known: &'a Known<T>) -> Option<&'a T> {
        if let Some((because, why)) = known.why() {
            let name = format!("{} {label}", self.section.to_lowercase());
            let whys = self.unknown.entry(because).or_default();
            let names = whys.entry(why.to_owned()).or_default();
            names.push(name);
        }
        known.get()
    }

    fn finish(mut self) -> String {
        if self.unknown.is_empty() {
            return self.text;
        }
        self.text.push_str("\nNot known\n");
        let unknown = std::mem::take(&mut self.unknown);
        for (because, whys) in unknown {
            let _ = writeln!(self.text, "  {}", reason(because));
            for (why, mut names) in whys {
                names.dedup();
                let line = format!("{}: {why}", names.join(", "));
                let mut indent = "    ";
                for line in wrapped(&printable(&line), self.columns - 6, LongWord::Cut) {
                    self.text.push_str(indent);
                    self.text.push_str(line);
                    self.text.push('\n');
                    indent = "      ";
                }
            }
        }
        self.text
    }
}

fn reason(because: Because) -> &'static str {
    match because {
        Because::Absent => "is not there:",
        Because::Permission => "this user may not read it (root may):",
        Because::TooLarge => "larger than what belongs there:",
        Because::NotText => "no text:",
        Because::Loop => "links lead in a circle:",
        Because::NotAFile => "no file:",
        Because::Malformed => "makes no sense:",
        Because::NotApplicable => "does not apply here:",
        Because::TimedOut => "no answer in time:",
        Because::Failed => "could not be read:",
        Because::NotCollected => "was not looked at:",
    }
}

#[cfg(test)]
mod tests {
    use aluco_machine::{facts::Request, fixture};
    use console::measure_text_width;

    use super::*;

    fn facts(name: &str) -> Facts {
        Facts::collect(&fixture::root(name), &Request::default())
    }

    #[test]
    fn every_machine_has_its_page() {
        for name in fixture::names() {
            insta::with_settings!({ description => name.clone() }, {
                insta::assert_snapshot!(name.clone(), page(&facts(&name), 80));
            });
        }
    }

    #[test]
    fn pages_fit_their_columns_and_hold_no_control_characters() {
        for name in fixture::names() {
            for columns in [40, 80, 160] {
                let page = page(&facts(&name), columns);
                for line in page.lines() {
                    assert!(measure_text_width(line) <= columns, "{name}: {line}");
                    assert!(!line.contains(char::is_control), "{name}: {line:?}");
                }
            }
        }
    }
}
