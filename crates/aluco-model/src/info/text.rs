//! Texts from files and numbers, made fit to be shown.

use std::fmt;

use crate::gguf::Grouped;

/// Longest text that is taken over from a file, in characters.
const TEXT_CHARACTERS_MAX: usize = 200;

/// A text from a file without what could disturb a terminal, or `None` if nothing is left of it.
pub(super) fn clean(text: &str) -> Option<String> {
    let text = text.trim();
    let mut cleaned: String = text
        .chars()
        .take(TEXT_CHARACTERS_MAX)
        .map(|character| {
            if disturbs(character) {
                char::REPLACEMENT_CHARACTER
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(TEXT_CHARACTERS_MAX).is_some() {
        cleaned.push('…');
    }
    (!cleaned.is_empty()).then_some(cleaned)
}

/// Control characters, line separators, and the marks that turn the direction of writing.
fn disturbs(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A number with its thousands set apart, and what it counts, in the plural where needed.
pub(super) fn counted(number: u64, what: &str) -> String {
    match (what, number) {
        ("", _) => Grouped(number).to_string(),
        (_, 1) => format!("1 {what}"),
        _ => format!("{} {what}s", Grouped(number)),
    }
}

/// A number of parameters in the way models are named by it: `134.5 M`, `30.5 B`.
pub(super) struct Parameters(pub(super) u64);

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{}", self.0),
            1_000..999_950 => write!(f, "{:.1} K", number / 1e3),
            999_950..999_950_000 => write!(f, "{:.1} M", number / 1e6),
            999_950_000..999_950_000_000 => write!(f, "{:.1} B", number / 1e9),
            _ => write!(f, "{:.2} T", number / 1e12),
        }
    }
}

/// Bytes of memory, in binary units.
pub(super) struct BinarySize(pub(super) u64);

impl fmt::Display for BinarySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let bytes = self.0 as f64;
        match self.0 {
            0..KIB => write!(f, "{} B", self.0),
            KIB..MIB => write!(f, "{:.1} KiB", bytes / KIB as f64),
            MIB..GIB => write!(f, "{:.1} MiB", bytes / MIB as f64),
            _ => write!(f, "{:.1} GiB", bytes / GIB as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lose_what_disturbs_a_terminal() {
        assert_eq!(clean("  plain name ").as_deref(), Some("plain name"));
        assert_eq!(
            clean("a\u{1b}[31mb\nc\u{202e}d\u{9b}").as_deref(),
            Some("a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}")
        );
        assert_eq!(clean(" \t\n"), None);
        let long = clean(&"x".repeat(1000)).unwrap();
        assert_eq!(long.chars().count(), TEXT_CHARACTERS_MAX + 1);
        assert!(long.ends_with('…'));
        assert_eq!(clean(&"ß".repeat(200)), Some("ß".repeat(200)));
    }

    #[test]
    fn numbers_are_rounded_into_the_unit_they_are_read_in() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0 K"),
            (999_960, "1.0 M"),
            (134_515_008, "134.5 M"),
            (999_960_000, "1.0 B"),
            (30_532_122_624, "30.5 B"),
            (1_026_470_000_000, "1.03 T"),
        ] {
            assert_eq!(Parameters(number).to_string(), expected);
        }
        for (bytes, expected) in [
            (512, "512 B"),
            (23_040, "22.5 KiB"),
            (98_304, "96.0 KiB"),
            (3 << 20, "3.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(BinarySize(bytes).to_string(), expected);
        }
        assert_eq!(counted(1, "part"), "1 part");
        assert_eq!(counted(8192, "token"), "8,192 tokens");
        assert_eq!(counted(1_000_000, ""), "1,000,000");
    }
}
