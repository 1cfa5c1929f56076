//! `/etc/default/grub` and its drop-ins: shell assignments whose values are kernel command lines.
//!
//! Only the value of an assignment is edited; comments, other lines, quotes, the absence of a last newline stay byte for byte.

use std::{fmt::Write as _, ops::Range};

use crate::tune::KernelArguments;

/// The variable whose arguments are not given to a rescue entry.
pub(super) const DEFAULT: &str = "GRUB_CMDLINE_LINUX_DEFAULT";
/// The variable whose arguments are given to all entries.
pub(super) const ALL: &str = "GRUB_CMDLINE_LINUX";

/// A value on a line that is an assignment to one of our variables.
struct Assignment {
    name: &'static str,
    /// Bytes of the value within the text, with its quotes.
    value: Range<usize>,
    quote: Option<char>,
}

/// Takes the arguments of a name out of all assignments.
pub(super) fn remove(text: &str, name: &str, value: Option<&str>) -> String {
    edit_all(text, |arguments| arguments.remove(name, value))
}

/// Adds an argument to the last assignment of [`DEFAULT`], or adds such an assignment. Others of its name go everywhere.
pub(super) fn set(text: &str, argument: &str) -> String {
    if effective(text).has(argument) {
        return text.to_owned();
    }
    let (name, _) = KernelArguments::split(argument);
    let places = assignments(text);
    let holder = places.iter().rposition(|place| place.name == DEFAULT);
    let Some(holder) = holder else {
        let mut text = remove(text, name, None);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "{DEFAULT}=\"{argument}\"");
        return text;
    };
    let mut out = text.to_owned();
    for (at, place) in places.iter().enumerate().rev() {
        edit(&mut out, place, |arguments| {
            if at == holder {
                arguments.set(argument);
            } else {
                arguments.remove(name, None);
            }
        });
    }
    out
}

/// The arguments of all assignments as GRUB puts them together, without what other files set.
pub(super) fn effective(text: &str) -> KernelArguments {
    let mut line = String::new();
    for name in [ALL, DEFAULT] {
        let of_name: Vec<_> = assignments(text)
            .into_iter()
            .filter(|place| place.name == name)
            .collect();
        // An assignment replaces those before it unless it repeats them.
        let from = of_name
            .iter()
            .rposition(|place| !repeats(text, place))
            .unwrap_or(0);
        for place in &of_name[from.min(of_name.len())..] {
            line.push_str(inner(text, place));
            line.push(' ');
        }
    }
    KernelArguments::parse(&line)
}

/// `X+=…` or `X="$X …"`.
fn repeats(text: &str, place: &Assignment) -> bool {
    let before = &text[..place.value.start];
    let value = inner(text, place);
    before.ends_with("+=")
        || value.contains(&format!("${}", place.name))
        || value.contains(&format!("${{{}}}", place.name))
}

fn edit_all(text: &str, change: impl Fn(&mut KernelArguments)) -> String {
    let mut out = text.to_owned();
    for place in assignments(text).iter().rev() {
        edit(&mut out, place, &change);
    }
    out
}

fn edit(text: &mut String, place: &Assignment, change: impl Fn(&mut KernelArguments)) {
    let old = inner(text, place);
    let mut arguments = KernelArguments::parse(old);
    change(&mut arguments);
    if arguments.text() == old {
        return;
    }
    let quote = place.quote.unwrap_or('"');
    let new = format!("{quote}{}{quote}", arguments.text());
    text.replace_range(place.value.clone(), &new);
}

/// The value without its quotes.
fn inner<'a>(text: &'a str, place: &Assignment) -> &'a str {
    let quotes = usize::from(place.quote.is_some());
    &text[place.value.start + quotes..place.value.end - quotes]
}

fn assignments(text: &str) -> Vec<Assignment> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(assignment) = assignment(line, start) {
            found.push(assignment);
        }
        start += line.len();
    }
    found
}

/// The assignment on a line that begins at `start`. A line that does more than assign one value is none of ours.
fn assignment(line: &str, start: usize) -> Option<Assignment> {
    let mut rest = line.trim_start();
    if let Some(exported) = rest.strip_prefix("export ") {
        rest = exported.trim_start();
    }
    // The longer name first: the other one is its beginning.
    let name = [DEFAULT, ALL].into_iter().find(|name| {
        rest.strip_prefix(*name)
            .is_some_and(|rest| rest.starts_with('=') || rest.starts_with("+="))
    })?;
    rest = &rest[name.len()..];
    rest = rest.strip_prefix('+').unwrap_or(rest).strip_prefix('=')?;
    let quote = rest
        .chars()
        .next()
        .filter(|first| matches!(first, '"' | '\''));
    let length = match quote {
        Some(quote) => {
            let mut escaped = false;
            let (at, _) = rest.char_indices().skip(1).find(|(_, character)| {
                let closes = *character == quote && !escaped;
                escaped = *character == '\\' && quote == '"' && !escaped;
                closes
            })?;
            at + 1
        }
        None => rest
            .find(|character: char| character.is_whitespace() || character == '#')
            .unwrap_or(rest.len()),
    };
    let value = &rest[..length];
    if quote.is_none() && value.contains(['"', '\'', '\\', ';', '&', '|', '(', '`']) {
        return None;
    }
    let after = rest[length..].trim_start();
    if !(after.is_empty() || after.starts_with('#')) {
        return None;
    }
    let begin = start + (line.len() - rest.len());
    Some(Assignment {
        name,
        value: begin..begin + length,
        quote,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEBIAN: &str = "# If you change this file, run 'update-grub' afterwards\nGRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet  splash\"\t# as installed\nGRUB_CMDLINE_LINUX=''\n";

    #[test]
    fn an_argument_goes_into_the_quotes() {
        assert_eq!(
            set(DEBIAN, "x=1"),
            DEBIAN.replace("quiet  splash", "quiet  splash x=1")
        );
        assert_eq!(set(&set(DEBIAN, "x=1"), "x=1"), set(DEBIAN, "x=1"));
        assert_eq!(
            set(&set(DEBIAN, "x=1"), "x=2"),
            DEBIAN.replace("quiet  splash", "quiet  splash x=2")
        );
    }

    #[test]
    fn other_values_of_its_name_go_everywhere() {
        let text = "GRUB_CMDLINE_LINUX='x=1 a'\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n";
        assert_eq!(
            set(text, "x=2"),
            "GRUB_CMDLINE_LINUX='a'\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet x=2\"\n"
        );
        assert_eq!(remove(text, "x", None), text.replace("x=1 a", "a"));
    }

    #[test]
    fn a_missing_assignment_is_added_at_the_end() {
        assert_eq!(
            set("# nothing", "x=1"),
            "# nothing\nGRUB_CMDLINE_LINUX_DEFAULT=\"x=1\"\n"
        );
        assert_eq!(set("", "x=1"), "GRUB_CMDLINE_LINUX_DEFAULT=\"x=1\"\n");
    }

    #[test]
    fn expansions_and_additions_repeat_what_came_before() {
        let text = "GRUB_CMDLINE_LINUX_DEFAULT=\"a=1\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT b=1\"\nGRUB_CMDLINE_LINUX_DEFAULT+=\" c=1\"\n";
        let line = effective(text);
        assert!(line.has("a=1") && line.has("b=1") && line.has("c=1"));
        let replaced = format!("{text}GRUB_CMDLINE_LINUX_DEFAULT=d\n");
        assert!(!effective(&replaced).has("a=1") && effective(&replaced).has("d"));
        assert_eq!(remove(text, "b", None), text.replace(" b=1", ""));
    }

    #[test]
    fn comments_and_lines_that_do_more_are_left_alone() {
        for text in [
            "#GRUB_CMDLINE_LINUX_DEFAULT=\"x=1\"\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"x=1\" other\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=\"x=1\n",
            "GRUB_CMDLINE_LINUX_DEFAULTS=\"x=1\"\n",
            "GRUB_CMDLINE_LINUX_DEFAULT=`x=1`\n",
        ] {
            assert_eq!(remove(text, "x", None), text);
        }
    }

    proptest! {
        #[test]
        fn adding_and_removing_changes_nothing(
            before in "(#[ -~]{0,20}\n|[A-Z_]{1,8}=[a-z]{0,5}\n|\n){0,3}",
            value in "([a-w.=0-9]{1,8}[ \t]{1,2}){0,4}[a-w]{1,4}",
            quote in "[\"']",
            after in "([ \t]*#[ -~]{0,10})?(\n[A-Z]{1,5}=1)?\n?",
        ) {
            let text = format!("{before}{DEFAULT}={quote}{value}{quote}{after}");
            prop_assume!(!value.contains("x.y"));
            let added = set(&text, "x.y=1");
            prop_assert!(effective(&added).has("x.y=1"));
            prop_assert_eq!(remove(&added, "x.y", None), text);
        }

        #[test]
        fn any_text_can_be_edited(text: String) {
            let added = set(&text, "x.y=1");
            prop_assert!(effective(&added).has("x.y=1"), "{}", added);
            prop_assert!(!effective(&remove(&added, "x.y", None)).has("x.y=1"));
        }

        #[test]
        fn any_assignments_can_be_edited(
            lines in proptest::collection::vec(
                "(export )?GRUB_CMDLINE_LINUX(_DEFAULT)?\\+?=[\"' a-z=$#\\\\]{0,12}",
                0..5,
            ),
        ) {
            let text = lines.join("\n");
            let added = set(&text, "x.y=1");
            prop_assert!(assignments(&added).iter().any(|place| inner(&added, place).contains("x.y=1")), "{}", added);
        }
    }
}
