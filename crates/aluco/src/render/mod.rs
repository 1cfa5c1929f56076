//! What people see: standard output is data, standard error is talk.

mod table;
mod transfer;
mod wrap;

use std::{
    borrow::Cow,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use serde::Serialize;

pub(crate) use table::{Align, Column, Table};
pub(crate) use transfer::Transfer;
pub(crate) use wrap::{LongWord, wrapped};

/// Writes one line to standard error. If nobody listens there, so be it.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a value as indented JSON and a line end to standard output.
pub(crate) fn print_json<T: Serialize>(value: &T) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer_pretty(&mut output, value)?;
    writeln!(output)?;
    output.flush()
}

/// Columns of the terminal at standard output; `None` if it is none, and then nothing is cut.
pub(crate) fn terminal_columns() -> Option<usize> {
    console::Term::stdout()
        .size_checked()
        .map(|(_, columns)| usize::from(columns))
}

/// Text from outside, safe for a terminal: control characters other than line ends and tabs become `�`.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let unsafe_for_terminals = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    if text.contains(unsafe_for_terminals) {
        Cow::Owned(text.replace(unsafe_for_terminals, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// How long ago, or how soon, in one unit: `3 minutes`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3600, "hour"),
        172_800..=5_183_999 => (seconds / 86_400, "day"),
        5_184_000..=63_071_999 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// When something happened, as seen from now.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    match now.duration_since(then) {
        Ok(passed) if passed.as_secs() == 0 => "now".to_owned(),
        Ok(passed) => format!("{} ago", span(passed)),
        Err(ahead) => format!("in {}", span(ahead.duration())),
    }
}

/// A whole number with commas between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_one_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (seconds, expected) in [
            (0, "now"),
            (1, "1 second ago"),
            (119, "119 seconds ago"),
            (600, "10 minutes ago"),
            (86_400, "24 hours ago"),
            (864_000, "10 days ago"),
            (10_000_000, "3 months ago"),
            (100_000_000, "3 years ago"),
        ] {
            assert_eq!(ago(now - Duration::from_secs(seconds), now), expected);
        }
        assert_eq!(ago(now + Duration::from_secs(300), now), "in 5 minutes");
    }

    #[test]
    fn thousands_are_parted() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), expected);
        }
    }

    #[test]
    fn escape_sequences_from_outside_do_not_reach_the_terminal() {
        assert_eq!(
            printable("a\x1b[31mb\n\tc\u{9b}d"),
            "a\u{fffd}[31mb\n\tc\u{fffd}d"
        );
        assert!(matches!(printable("plain"), Cow::Borrowed("plain")));
    }
}
