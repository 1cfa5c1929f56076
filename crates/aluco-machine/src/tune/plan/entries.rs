//! Entries of the Boot Loader Specification, `/boot/loader/entries/*.conf`, and the one line of `/etc/kernel/cmdline`.

use std::ops::Range;

use crate::tune::KernelArguments;

/// The arguments of an entry: those of all its `options` lines.
pub(super) fn arguments(text: &str) -> KernelArguments {
    let lines: Vec<&str> = options(text)
        .into_iter()
        .map(|place| &text[place])
        .collect();
    KernelArguments::parse(&lines.join(" "))
}

/// Whether an entry starts a Linux kernel, and not a rescue system, a memory test or another boot loader.
pub(super) fn starts_linux(text: &str) -> bool {
    text.lines()
        .any(|line| keyed(line, "linux").is_some() || keyed(line, "uki").is_some())
        && !text.lines().any(|line| {
            keyed(line, "title").is_some_and(|place| line[place].to_lowercase().contains("rescue"))
        })
}

/// Adds an argument to an entry. Others of its name go.
pub(super) fn set(text: &str, argument: &str) -> String {
    if arguments(text).has(argument) {
        return text.to_owned();
    }
    let (name, _) = KernelArguments::split(argument);
    let places = options(text);
    let Some((last, others)) = places.split_last() else {
        let newline = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        return format!("{text}{newline}options {argument}\n");
    };
    let mut out = text.to_owned();
    edit(&mut out, last, |arguments| arguments.set(argument));
    for place in others.iter().rev() {
        edit(&mut out, place, |arguments| arguments.remove(name, None));
    }
    out
}

/// Takes the arguments of a name out of an entry.
pub(super) fn remove(text: &str, name: &str, value: Option<&str>) -> String {
    let mut out = text.to_owned();
    for place in options(text).iter().rev() {
        edit(&mut out, place, |arguments| arguments.remove(name, value));
    }
    out
}

/// Adds an argument to `/etc/kernel/cmdline`, which is one line; what comes after a first line that holds anything is ignored by those
/// who read it, so it is left alone.
pub(super) fn set_line(text: &str, argument: &str) -> String {
    edit_line(text, |arguments| arguments.set(argument))
}

/// Takes the arguments of a name out of `/etc/kernel/cmdline`.
pub(super) fn remove_line(text: &str, name: &str, value: Option<&str>) -> String {
    edit_line(text, |arguments| arguments.remove(name, value))
}

/// The first line that holds anything.
pub(super) fn line(text: &str) -> KernelArguments {
    KernelArguments::parse(&text[line_place(text)])
}

fn edit_line(text: &str, change: impl Fn(&mut KernelArguments)) -> String {
    let mut out = text.to_owned();
    edit(&mut out, &line_place(text), change);
    if !out.is_empty() && text.is_empty() {
        out.push('\n');
    }
    out
}

fn line_place(text: &str) -> Range<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim_ascii_end();
        if !content.trim_ascii().is_empty() && !content.trim_ascii_start().starts_with('#') {
            return start..start + content.len();
        }
        start += line.len();
    }
    text.len()..text.len()
}

fn edit(text: &mut String, place: &Range<usize>, change: impl Fn(&mut KernelArguments)) {
    let mut arguments = KernelArguments::parse(&text[place.clone()]);
    change(&mut arguments);
    text.replace_range(place.clone(), arguments.text());
}

/// Where the values of the `options` lines are.
fn options(text: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(place) = keyed(line, "options") {
            places.push(start + place.start..start + place.end);
        }
        start += line.len();
    }
    places
}

/// Where the value is on a line of this key.
fn keyed(line: &str, key: &str) -> Option<Range<usize>> {
    let content = line.trim_ascii_end();
    let rest = content.trim_ascii_start().strip_prefix(key)?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return None;
    }
    let value = rest.trim_ascii_start();
    Some(content.len() - value.len()..content.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENTRY: &str = "title\tArch Linux\nlinux /vmlinuz-linux\ninitrd /initramfs-linux.img\noptions root=UUID=1 rw\noptions\tquiet  splash\n";

    #[test]
    fn an_argument_goes_to_the_last_line_of_options() {
        assert_eq!(set(ENTRY, "x=1"), ENTRY.replace("splash", "splash x=1"));
        assert_eq!(
            set(ENTRY, "rw=1"),
            ENTRY.replace(" rw", "").replace("splash", "splash rw=1"),
            "the other value of its name goes"
        );
        assert_eq!(remove(ENTRY, "quiet", None), ENTRY.replace("quiet  ", ""));
        assert!(arguments(ENTRY).has("root=UUID=1") && arguments(ENTRY).has("splash"));
        assert_eq!(set("linux /v", "x=1"), "linux /v\noptions x=1\n");
    }

    #[test]
    fn only_entries_of_linux_are_meant() {
        assert!(starts_linux(ENTRY));
        assert!(!starts_linux("title Memtest\nefi /memtest.efi\n"));
        assert!(!starts_linux(
            "title Fedora (0-rescue-abc)\nlinux /vmlinuz\n"
        ));
    }

    #[test]
    fn the_kernel_line_stays_one_line() {
        assert_eq!(set_line("root=/dev/x rw\n", "x=1"), "root=/dev/x rw x=1\n");
        assert_eq!(set_line("root=/dev/x rw", "x=1"), "root=/dev/x rw x=1");
        assert_eq!(set_line("", "x=1"), "x=1\n");
        assert_eq!(
            set_line("# comment\n\na b\n", "x=1"),
            "# comment\n\na b x=1\n"
        );
        assert_eq!(remove_line("a x=1 b\n", "x", None), "a b\n");
        assert!(line("a x=1 b\n").has("x=1"));
    }

    proptest! {
        #[test]
        fn adding_and_removing_changes_nothing(
            before in "(title [a-z ]{0,8}\n|#[ -~]{0,9}\n|\n){0,3}",
            value in "([a-w.=0-9]{1,8}[ \t]{1,2}){0,4}[a-w]{1,4}",
            after in "[ \t]{0,2}(\nlinux /x)?\n?",
        ) {
            prop_assume!(!value.contains("x.y"));
            let entry = format!("{before}options {value}{after}");
            let added = set(&entry, "x.y=1");
            prop_assert!(arguments(&added).has("x.y=1"));
            prop_assert_eq!(remove(&added, "x.y", None), entry);
            let kernel_line = format!("{value}{after}");
            let added = set_line(&kernel_line, "x.y=1");
            prop_assert!(line(&added).has("x.y=1"));
            prop_assert_eq!(remove_line(&added, "x.y", None), kernel_line);
        }

        #[test]
        fn any_text_can_be_edited(text: String) {
            let added = set(&text, "x.y=1");
            prop_assert_eq!(remove(&added, "x.y", None).contains("x.y=1"), text.contains("x.y=1"));
            let _ = remove_line(&set_line(&text, "x.y=1"), "x.y", None);
        }
    }
}
