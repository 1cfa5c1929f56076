//! The few forms in which the kernel and the files of `/etc` tell things.

use std::str::FromStr;

use super::{Because, Known};
use crate::root::{ReadError, Root};

/// Longest text that one fact may have.
const LETTERS_MAX: usize = 1024;

/// A file with one line, without the white space around it.
pub(super) fn line(root: &Root, path: &str) -> Known<String> {
    parsed(root, path, "a line of text", |text| Some(text.to_owned()))
}

/// A file with one number.
pub(super) fn number<T: FromStr>(root: &Root, path: &str) -> Known<T> {
    parsed(root, path, "a number", |text| text.parse().ok())
}

/// A file with one line that means something. `expected` is for the reason if it does not.
pub(super) fn parsed<T>(
    root: &Root,
    path: &str,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Known<T> {
    match root.text(path) {
        Ok(text) => {
            let text = text.trim();
            let value = if text.is_empty() || text.len() > LETTERS_MAX {
                None
            } else {
                parse(text)
            };
            match value {
                Some(value) => Known::value(value, path),
                None => malformed(path, text, expected),
            }
        }
        Err(error) => error.into(),
    }
}

/// What a file says has no meaning there.
pub(super) fn malformed<T>(path: &str, text: &str, expected: &str) -> Known<T> {
    if text.is_empty() {
        return Known::unknown(Because::Malformed, format!("{path} is empty"));
    }
    let begin: String = text.chars().take(32).collect();
    let more = if begin.len() < text.len() { "…" } else { "" };
    Known::unknown(
        Because::Malformed,
        format!("{path} says {begin:?}{more}, which is not {expected}"),
    )
}

/// What is told in a file under a name; `table` is the file's text, or why there is none.
pub(super) fn told<T>(
    table: &Result<String, ReadError>,
    path: &str,
    name: &str,
    find: impl FnOnce(&str) -> Option<T>,
) -> Known<T> {
    match table {
        Ok(text) => match find(text) {
            Some(value) => Known::value(value, path),
            None => Known::unknown(Because::Absent, format!("{path} says nothing of {name}")),
        },
        Err(error) => error.clone().into(),
    }
}

/// Takes the absence of a file or folder for this value: there is nothing because nobody made it.
pub(super) fn absent_is<T>(known: Known<T>, value: T) -> Known<T> {
    match known {
        Known::Unknown {
            unknown,
            because: Because::Absent,
        } => Known::value(value, unknown),
        known => known,
    }
}

/// The choice in brackets: `madvise` of `always [madvise] never`.
pub(super) fn bracketed(text: &str) -> Option<String> {
    let (_, begin) = text.split_once('[')?;
    let (choice, _) = begin.split_once(']')?;
    (!choice.is_empty()).then(|| choice.to_owned())
}

/// The digits of a PCI id without `0x`, in lower case, if there are so many.
pub(super) fn pci_digits(text: &str, count: usize) -> Option<String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let fits = digits.len() == count && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| digits.to_ascii_lowercase())
}

/// `0x00000080` as a number.
pub(super) fn hexadecimal(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The value of `NAME=value` in lines such as those of a `uevent`.
pub(super) fn assignment<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?
        .trim();
    (!value.is_empty()).then_some(value)
}

/// The same, where a shell would take the quotes away.
pub(super) fn unquoted(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote)
            && let Some(inner) = inner.strip_suffix(quote)
        {
            return inner;
        }
    }
    value
}

/// The last name of a path.
pub(super) fn last_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// The names in a folder that are wanted; an absent folder has none.
pub(super) fn files(root: &Root, folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let names = root.names(folder).unwrap_or_default();
    names.into_iter().filter(|name| wanted(name)).collect()
}

/// The names in a folder that end so; an absent folder has none.
pub(super) fn with_ending(root: &Root, folder: &str, ending: &str) -> Vec<String> {
    files(root, folder, |name| name.ends_with(ending))
}

/// Files of several folders by name: one in an earlier folder hides those of its name in later ones, as systemd and modprobe do it.
pub(super) fn layered(root: &Root, folders: &[&str], ending: &str) -> Vec<String> {
    let mut paths = std::collections::BTreeMap::new();
    for folder in folders {
        for name in with_ending(root, folder, ending) {
            let path = format!("{folder}/{name}");
            paths.entry(name).or_insert(path);
        }
    }
    paths.into_values().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_ids_and_quotes_are_read_and_rubbish_is_not() {
        assert_eq!(
            bracketed("always [madvise] never").as_deref(),
            Some("madvise")
        );
        assert_eq!(bracketed("always madvise"), None);
        assert_eq!(bracketed("[]"), None);
        assert_eq!(pci_digits("0x1586", 4).as_deref(), Some("1586"));
        assert_eq!(pci_digits("17F0", 4).as_deref(), Some("17f0"));
        assert_eq!(pci_digits("0x15g6", 4), None);
        assert_eq!(hexadecimal("0x00000083"), Some(131));
        assert_eq!(hexadecimal("83"), None);
        assert_eq!(unquoted("\"a b\""), "a b");
        assert_eq!(unquoted("\""), "\"");
        assert_eq!(assignment("ID_LIKE=x\nID=y\n", "ID"), Some("y"));
    }
}
