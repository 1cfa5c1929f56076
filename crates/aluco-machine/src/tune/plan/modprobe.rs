//! Options of kernel modules below `/etc/modprobe.d`, and the initial file system that may hold a copy of them.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::{draft::Draft, wishes::Wish};
use crate::{
    facts::Facts,
    tune::{Check, Effect, Reason, TuneError},
};

const OURS: &str = "/etc/modprobe.d/60-aluco.conf";
const ALL: &str = "/etc/modprobe.d/*.conf";
const HEAD: &str = "# Written by `aluco tune`; `aluco tune undo` takes it back.\n";

type Options = BTreeMap<(String, String), Wish<Option<String>>>;

/// Adds to the draft what gives modules these options.
pub(super) fn plan(
    draft: &mut Draft<'_>,
    facts: &Facts,
    options: &Options,
) -> Result<(), TuneError> {
    if options.is_empty() {
        return Ok(());
    }
    let mut files = draft.tree.matching(Path::new(ALL));
    if !files.iter().any(|path| path == Path::new(OURS)) {
        files.push(OURS.into());
    }
    let mut changed = false;
    for path in files {
        let is_ours = path == Path::new(OURS);
        let before = draft.text(&path)?;
        let mut text = before.clone().unwrap_or_default();
        let mut titles = Vec::new();
        let mut reasons: Vec<Reason> = Vec::new();
        let mut checks = Vec::new();
        for ((module, option), wish) in options {
            let kept = wish.what.as_deref().filter(|_| is_ours);
            let edited = match kept {
                Some(value) => set(&text, module, option, value),
                None => remove(&text, module, option),
            };
            if edited == text {
                continue;
            }
            text = edited;
            titles.push(match kept {
                Some(value) => format!("give {module} {option}={value}"),
                None => format!("take {option} from {module}"),
            });
            reasons.extend(wish.reasons.iter().cloned());
            if let Some(value) = kept {
                checks.push(Check::ModuleParameter {
                    module: module.clone(),
                    parameter: option.clone(),
                    value: value.to_owned(),
                });
            }
        }
        if titles.is_empty() {
            continue;
        }
        if before.is_none() {
            text.insert_str(0, HEAD);
        }
        draft.file(
            &path,
            Some(text),
            &titles.join(", "),
            reasons,
            Effect::Reboot,
            checks,
        )?;
        changed = true;
    }
    if changed {
        rebuild(draft, facts);
    }
    Ok(())
}

/// The initial file system holds copies of these files.
fn rebuild(draft: &mut Draft<'_>, facts: &Facts) {
    let title = "build the initial file system again, which holds a copy of the options";
    let maker = facts.boot.initramfs.get().map(String::as_str);
    let has = |name: &str, program: &str| {
        maker == Some(name) || maker.is_none() && draft.tree.has_program(program)
    };
    if facts.distribution.ostree.copied() == Some(true) {
        // The image's own initial file system has no copy of files below /etc.
    } else if has("initramfs-tools", "update-initramfs") {
        draft.rebuild(["update-initramfs", "-u", "-k", "all"], title);
    } else if has("mkinitcpio", "mkinitcpio") {
        draft.rebuild(["mkinitcpio", "-P"], title);
    } else if has("dracut", "dracut") {
        draft.rebuild(["dracut", "--force", "--regenerate-all"], title);
    } else if has("booster", "booster") {
        draft.rebuild(["/usr/lib/booster/regenerate_images"], title);
    } else {
        let text = "build the initial file system again as your distribution wants it";
        draft.instruct(title, text, Vec::new(), Vec::new(), true);
    }
}

/// Gives a module an option, in the place where it has it, or on a line of its own.
fn set(text: &str, module: &str, option: &str, value: &str) -> String {
    let wanted = format!("{option}={value}");
    let mut found = false;
    let mut out = edit(text, module, |word| {
        if name_of(word) == option {
            found = true;
            Some(wanted.clone())
        } else {
            Some(word.to_owned())
        }
    });
    if !found {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        let _ = writeln!(out, "options {module} {wanted}");
    }
    out
}

/// Takes an option from a module; a line without options goes.
fn remove(text: &str, module: &str, option: &str) -> String {
    edit(text, module, |word| {
        (name_of(word) != option).then(|| word.to_owned())
    })
}

/// Edits the options of a module; lines in which nothing changes stay byte for byte.
fn edit(text: &str, module: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let content = line.trim_end();
        let mut words = content.split_whitespace();
        if words.next() != Some("options") || words.next() != Some(module) {
            out.push_str(line);
            continue;
        }
        let old: Vec<String> = words.map(str::to_owned).collect();
        let new: Vec<String> = old.iter().filter_map(|word| change(word)).collect();
        if new == old {
            out.push_str(line);
        } else if !new.is_empty() {
            let _ = write!(out, "options {module} {}", new.join(" "));
            out.push_str(&line[content.len()..]);
        }
    }
    out
}

fn name_of(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_option_is_changed_where_it_stands() {
        let text = "# GPU\noptions  ttm pages_limit=1 page_pool_size=2\noptions amdgpu x=1";
        assert_eq!(
            set(text, "ttm", "pages_limit", "9"),
            "# GPU\noptions ttm pages_limit=9 page_pool_size=2\noptions amdgpu x=1"
        );
        assert_eq!(
            set(text, "ttm", "other", "9"),
            format!("{text}\noptions ttm other=9\n")
        );
    }

    #[test]
    fn a_line_without_options_goes() {
        let text = "a\noptions amdgpu gttsize=1\nb\n";
        assert_eq!(remove(text, "amdgpu", "gttsize"), "a\nb\n");
        assert_eq!(remove(text, "amdgpu", "gtt"), text);
        assert_eq!(remove(text, "ttm", "gttsize"), text);
    }

    proptest! {
        #[test]
        fn adding_and_removing_changes_nothing(text in "([ -~]{0,30}\n){0,4}") {
            let added = set(&text, "ttm", "new_option", "1");
            prop_assert!(added.contains("new_option=1"));
            prop_assert_eq!(remove(&added, "ttm", "new_option"), text);
        }
    }
}
