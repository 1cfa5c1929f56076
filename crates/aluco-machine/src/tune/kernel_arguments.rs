//! The kernel's command line as a text whose arguments can be added and taken away, while everything else stays byte for byte.
//!
//! As the kernel reads it (`lib/cmdline.c`): arguments are divided by white space, and double quotes hold white space together.
//! `-` and `_` are the same in a name. Of an argument that stands twice, the later one wins.

use std::ops::Range;

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelArguments {
    text: String,
}

impl KernelArguments {
    /// Takes a line as it is.
    pub fn parse(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    /// The line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The arguments, in order.
    pub fn arguments(&self) -> impl Iterator<Item = &str> {
        self.ranges().into_iter().map(|range| &self.text[range])
    }

    /// Name and value of an argument.
    pub fn split(argument: &str) -> (&str, Option<&str>) {
        match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument, None),
        }
    }

    /// The last argument of a name, which is the one that counts.
    pub fn last_of(&self, name: &str) -> Option<&str> {
        self.arguments()
            .filter(|argument| same_name(Self::split(argument).0, name))
            .last()
    }

    /// Whether an argument counts: it is there, and no later one gives its name another value.
    pub fn has(&self, argument: &str) -> bool {
        let (name, value) = Self::split(argument);
        self.last_of(name)
            .is_some_and(|found| Self::split(found).1 == value)
    }

    /// Makes an argument the only one of its name: in the place of the first of that name, or else at the end. What already counts
    /// is left alone.
    pub fn set(&mut self, argument: &str) {
        let (name, _) = Self::split(argument);
        if self.has(argument) {
            return;
        }
        let places = self.of_name(name, None);
        let Some((first, others)) = places.split_first() else {
            let end = self.text.trim_ascii_end().len();
            let space = if end == 0 { "" } else { " " };
            self.text.insert_str(end, &format!("{space}{argument}"));
            return;
        };
        for place in others.iter().rev() {
            self.cut(place.clone());
        }
        self.text.replace_range(first.clone(), argument);
    }

    /// Takes the arguments of a name away, all or those of one value.
    pub fn remove(&mut self, name: &str, value: Option<&str>) {
        for place in self.of_name(name, value).into_iter().rev() {
            self.cut(place);
        }
    }

    fn of_name(&self, name: &str, value: Option<&str>) -> Vec<Range<usize>> {
        let mut ranges = self.ranges();
        ranges.retain(|range| {
            let (found, given) = Self::split(&self.text[range.clone()]);
            same_name(found, name) && (value.is_none() || given == value)
        });
        ranges
    }

    /// Takes an argument away with the white space before it or, at the beginning, after it.
    fn cut(&mut self, place: Range<usize>) {
        let before = self.text[..place.start].trim_ascii_end().len();
        if before > 0 {
            self.text.replace_range(before..place.end, "");
        } else {
            let after =
                self.text[place.end..].len() - self.text[place.end..].trim_ascii_start().len();
            self.text.replace_range(place.start..place.end + after, "");
        }
    }

    fn ranges(&self) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = None;
        let mut quoted = false;
        for (at, character) in self.text.char_indices() {
            match character {
                '"' => quoted = !quoted,
                _ if character.is_ascii_whitespace() && !quoted => {
                    if let Some(start) = start.take() {
                        ranges.push(start..at);
                    }
                    continue;
                }
                _ => {}
            }
            start.get_or_insert(at);
        }
        if let Some(start) = start {
            ranges.push(start..self.text.len());
        }
        ranges
    }
}

/// To the kernel, `-` and `_` are the same in the name of a parameter.
fn same_name(one: &str, other: &str) -> bool {
    one.len() == other.len()
        && one.bytes().zip(other.bytes()).all(|(a, b)| {
            let plain = |byte: u8| if byte == b'-' { b'_' } else { byte };
            plain(a) == plain(b)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(text: &str, change: impl Fn(&mut KernelArguments)) -> String {
        let mut arguments = KernelArguments::parse(text);
        change(&mut arguments);
        arguments.text
    }

    #[test]
    fn quotes_hold_an_argument_together() {
        let line = KernelArguments::parse(r#"a "b c" d="e f"g  h"#);
        let found: Vec<_> = line.arguments().collect();
        assert_eq!(found, ["a", r#""b c""#, r#"d="e f"g"#, "h"]);
    }

    #[test]
    fn the_last_of_a_name_counts_and_dashes_are_underscores() {
        let line = KernelArguments::parse("amd_iommu=on quiet amd-iommu=off");
        assert!(line.has("amd_iommu=off"));
        assert!(!line.has("amd_iommu=on"));
        assert!(line.has("quiet") && !line.has("splash"));
    }

    #[test]
    fn an_argument_takes_the_place_of_others_of_its_name() {
        let set = |text: &str| after(text, |line| line.set("x=2"));
        assert_eq!(set("a  x=1\tb x=3 "), "a  x=2\tb ");
        assert_eq!(set("a "), "a x=2 ");
        assert_eq!(set(""), "x=2");
        assert_eq!(set("x=1 x=2"), "x=1 x=2", "the last one counts already");
    }

    #[test]
    fn an_argument_goes_with_the_space_before_it() {
        let remove = |text: &str| after(text, |line| line.remove("x", None));
        assert_eq!(remove("a x=1 b"), "a b");
        assert_eq!(remove("x  b"), "b");
        assert_eq!(remove("x=1"), "");
        assert_eq!(remove("a xx=1"), "a xx=1");
        let one = after("x=1 x=2", |line| line.remove("x", Some("1")));
        assert_eq!(one, "x=2");
    }

    proptest! {
        #[test]
        fn adding_and_removing_changes_nothing(
            words in proptest::collection::vec(r#"[a-w_.=0-9"$]{0,8}"#, 0..8),
            spaces in proptest::collection::vec("[ \t]{0,3}", 9),
        ) {
            let mut text = String::new();
            for (word, space) in words.iter().zip(&spaces) {
                text.push_str(space);
                text.push_str(word);
            }
            // An open quote swallows what comes after it, as it does for the kernel.
            prop_assume!(text.matches('"').count().is_multiple_of(2));
            text.push_str(&spaces[8]);
            prop_assume!(!text.trim().is_empty() || text.is_empty());
            let changed = after(&text, |line| {
                line.set("xyz.new=1");
                assert!(line.has("xyz.new=1"));
                line.remove("xyz.new", None);
            });
            prop_assert_eq!(changed, text);
        }

        #[test]
        fn any_text_can_be_edited(text: String, name in "[a-z_-]{1,4}") {
            let mut line = KernelArguments::parse(&text);
            line.remove(&name, None);
            prop_assert!(line.last_of(&name).is_none());
        }
    }
}
