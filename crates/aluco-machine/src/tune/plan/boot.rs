//! Kernel arguments, changed as the boot loader of the machine wants it.

use std::path::{Path, PathBuf};

use super::{
    draft::Draft,
    entries, grub,
    wishes::{ArgumentWish, Wish},
};
use crate::{
    facts::{BootLoader, Facts},
    tune::{
        Action, Change, Check, CommandChange, CommandLine, Effect, KernelArguments, Reason,
        TuneError,
    },
};

const GRUB_FILE: &str = "/etc/default/grub";
const GRUB_FOLDER: &str = "/etc/default/grub.d/*.cfg";
const GRUB_OURS: &str = "/etc/default/grub.d/60-aluco.cfg";
const GRUB_OURS_HEAD: &str = "# Written by `aluco tune`; `aluco tune undo` takes it back.\n";
const KERNEL_LINE: &str = "/etc/kernel/cmdline";
/// Where the entries of the Boot Loader Specification are.
const ENTRY_FOLDERS: [&str; 4] = [
    "/boot/loader/entries/*.conf",
    "/efi/loader/entries/*.conf",
    "/boot/efi/loader/entries/*.conf",
    "/esp/loader/entries/*.conf",
];

/// How an argument is set and taken away in one kind of file.
struct Syntax {
    set: fn(&str, &str) -> String,
    remove: fn(&str, &str, Option<&str>) -> String,
}

const GRUB: Syntax = Syntax {
    set: grub::set,
    remove: grub::remove,
};
const LINE: Syntax = Syntax {
    set: entries::set_line,
    remove: entries::remove_line,
};
const ENTRY: Syntax = Syntax {
    set: entries::set,
    remove: entries::remove,
};

impl Syntax {
    /// The text as it is wished for.
    fn edit(&self, text: &str, wish: &ArgumentWish) -> String {
        match wish {
            ArgumentWish::Set(argument) => (self.set)(text, argument),
            ArgumentWish::Remove(name, value) => (self.remove)(text, name, value.as_deref()),
        }
    }
}

/// The wishes as arguments to set and to take away.
struct Wanted<'a> {
    wishes: Vec<&'a Wish<ArgumentWish>>,
}

/// Adds to the draft what makes the kernel start with these arguments.
pub(super) fn plan(
    draft: &mut Draft<'_>,
    facts: &Facts,
    wishes: &[&Wish<ArgumentWish>],
) -> Result<(), TuneError> {
    if wishes.is_empty() {
        return Ok(());
    }
    let wanted = Wanted {
        wishes: wishes.to_vec(),
    };
    let loader = facts.boot.loader.copied();
    match loader {
        Some(BootLoader::UpdateGrub) => grub_drop_in(draft, &wanted),
        Some(BootLoader::GrubMkconfig) => grub_file(draft, &wanted),
        Some(BootLoader::KernelCmdline) if has_kernel_line(draft)? => kernel_line(draft, &wanted),
        Some(BootLoader::LoaderEntries) => loader_entries(draft, &wanted),
        Some(BootLoader::Grubby) => {
            grubby(draft, facts, &wanted);
            Ok(())
        }
        Some(BootLoader::RpmOstree) => {
            rpm_ostree(draft, facts, &wanted);
            Ok(())
        }
        // NixOS has been seen to before.
        Some(
            BootLoader::KernelCmdline | BootLoader::Bootc | BootLoader::Limine | BootLoader::NixOs,
        )
        | None => {
            by_hand(draft, facts, loader, &wanted);
            Ok(())
        }
    }
}

fn grub_drop_in(draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Result<(), TuneError> {
    let ours = Path::new(GRUB_OURS);
    let mut others = draft.tree.matching(Path::new(GRUB_FOLDER));
    others.retain(|path| path != ours);
    others.push(GRUB_FILE.into());
    let together: String = others
        .iter()
        .rev()
        .filter_map(|path| draft.tree.text(path.to_str()?))
        .map(|text| text + "\n")
        .collect();
    let elsewhere = grub::effective(&together);
    let mut reasons = Vec::new();
    let before = draft.text(ours)?.unwrap_or_default();
    let mut own = before.clone();
    for wish in &wanted.wishes {
        match &wish.what {
            ArgumentWish::Set(argument) if !elsewhere.has(argument) => {
                if own.is_empty() {
                    own.push_str(GRUB_OURS_HEAD);
                    own.push_str("GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT\"\n");
                }
                own = grub::set(&own, argument);
            }
            ArgumentWish::Set(argument) => {
                // It stands elsewhere, and a value of ours must not come after it.
                own = grub::remove(&own, KernelArguments::split(argument).0, None);
            }
            ArgumentWish::Remove(name, value) => {
                own = grub::remove(&own, name, value.as_deref());
            }
        }
        reasons.extend(wish.reasons.iter().cloned());
    }
    let mut changed = own != before;
    if changed {
        draft.file(
            ours,
            Some(own),
            &wanted.title(),
            reasons.clone(),
            Effect::Reboot,
            wanted.checks(),
        )?;
    }
    for path in &others {
        let edited = edit(draft, wanted, path, |text, wish| match wish {
            ArgumentWish::Set(argument) if elsewhere.has(argument) => text.to_owned(),
            // Ours comes later and wins, but two values of one name mislead whoever reads them.
            ArgumentWish::Set(argument) => {
                grub::remove(text, KernelArguments::split(argument).0, None)
            }
            ArgumentWish::Remove(..) => GRUB.edit(text, wish),
        })?;
        if let (true, Some(change)) = (edited, draft.changes.last_mut()) {
            "take out what no longer holds".clone_into(&mut change.title);
            change
                .checks
                .retain(|check| matches!(check, Check::NoKernelArgument { .. }));
        }
        changed |= edited;
    }
    if changed {
        draft.rebuild(["update-grub"], "build GRUB's menu again");
    }
    Ok(())
}

fn grub_file(draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Result<(), TuneError> {
    let changed = edit(draft, wanted, Path::new(GRUB_FILE), |text, wish| {
        GRUB.edit(text, wish)
    })?;
    if changed {
        let (program, menu) = if draft.tree.has_program("grub2-mkconfig") {
            ("grub2-mkconfig", "/boot/grub2/grub.cfg")
        } else {
            ("grub-mkconfig", "/boot/grub/grub.cfg")
        };
        draft.rebuild([program, "-o", menu], "build GRUB's menu again");
    }
    Ok(())
}

/// Where the file is missing or empty, the running kernel's line is taken in its place; a file with nothing but our arguments would lose
/// the root file system.
fn has_kernel_line(draft: &Draft<'_>) -> Result<bool, TuneError> {
    let text = draft.text(Path::new(KERNEL_LINE))?.unwrap_or_default();
    Ok(entries::line(&text).arguments().next().is_some())
}

fn kernel_line(draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Result<(), TuneError> {
    let changed = edit(draft, wanted, Path::new(KERNEL_LINE), |text, wish| {
        LINE.edit(text, wish)
    })?;
    if changed {
        if draft.tree.has_program("mkinitcpio") {
            draft.rebuild(
                ["mkinitcpio", "-P"],
                "build the images that hold the line again",
            );
        } else {
            draft.rebuild(
                ["kernel-install", "add-all"],
                "build the entries that hold the line again",
            );
        }
    }
    Ok(())
}

fn loader_entries(draft: &mut Draft<'_>, wanted: &Wanted<'_>) -> Result<(), TuneError> {
    for path in entry_files(draft) {
        edit(draft, wanted, &path, |text, wish| {
            if entries::starts_linux(text) {
                ENTRY.edit(text, wish)
            } else {
                text.to_owned()
            }
        })?;
    }
    Ok(())
}

/// Edits a file by all wishes; whether that changed it.
fn edit(
    draft: &mut Draft<'_>,
    wanted: &Wanted<'_>,
    path: &Path,
    change: impl Fn(&str, &ArgumentWish) -> String,
) -> Result<bool, TuneError> {
    let before = draft.text(path)?.unwrap_or_default();
    let mut text = before.clone();
    let mut part = Wanted { wishes: Vec::new() };
    for wish in &wanted.wishes {
        let changed = change(&text, &wish.what);
        if changed != text {
            text = changed;
            part.wishes.push(wish);
        }
    }
    if text == before {
        return Ok(false);
    }
    let reasons = part.reasons();
    let (title, checks) = (part.title(), part.checks());
    draft.file(path, Some(text), &title, reasons, Effect::Reboot, checks)?;
    Ok(true)
}

fn grubby(draft: &mut Draft<'_>, facts: &Facts, wanted: &Wanted<'_>) {
    let lines: Vec<KernelArguments> = entry_files(draft)
        .iter()
        .filter_map(|path| draft.tree.text(path.to_str()?))
        .filter(|text| entries::starts_linux(text))
        .map(|text| entries::arguments(&text))
        .collect();
    let lines = if lines.is_empty() {
        vec![configured(facts)]
    } else {
        lines
    };
    let Some(change) = wanted.as_difference(&lines) else {
        return;
    };
    let command = |remove: &[String], add: &[String]| {
        let mut words = vec!["grubby".to_owned(), "--update-kernel=ALL".to_owned()];
        if !remove.is_empty() {
            words.push(format!("--remove-args={}", remove.join(" ")));
        }
        if !add.is_empty() {
            words.push(format!("--args={}", add.join(" ")));
        }
        CommandLine::new(words)
    };
    draft.changes.push(Change {
        title: change.part.title(),
        reasons: change.part.reasons(),
        effect: Effect::Reboot,
        checks: change.part.checks(),
        action: Action::Command(CommandChange {
            command: command(&change.old, &change.new),
            undo: command(&change.new, &change.old),
            touches: vec![
                ENTRY_FOLDERS[0].into(),
                KERNEL_LINE.into(),
                GRUB_FILE.into(),
                "/boot/grub2/grubenv".into(),
            ],
        }),
    });
}

fn rpm_ostree(draft: &mut Draft<'_>, facts: &Facts, wanted: &Wanted<'_>) {
    // The deployment that starts next has the last entry.
    let next = entry_files(draft)
        .iter()
        .rev()
        .filter_map(|path| draft.tree.text(path.to_str()?))
        .find(|text| entries::starts_linux(text));
    let line = next.map_or_else(|| configured(facts), |text| entries::arguments(&text));
    let Some(change) = wanted.as_difference(&[line]) else {
        return;
    };
    let command = |remove: &[String], add: &[String]| {
        let removed = remove
            .iter()
            .map(|argument| format!("--delete-if-present={argument}"));
        let added = add
            .iter()
            .map(|argument| format!("--append-if-missing={argument}"));
        let head = ["rpm-ostree", "kargs"].map(str::to_owned);
        CommandLine::new(head.into_iter().chain(removed).chain(added))
    };
    draft.changes.push(Change {
        title: change.part.title(),
        reasons: change.part.reasons(),
        effect: Effect::Reboot,
        checks: change.part.checks(),
        action: Action::Command(CommandChange {
            command: command(&change.old, &change.new),
            undo: command(&change.new, &change.old),
            // It makes a new deployment with entries of its own, so old bytes must not be put in their place.
            touches: Vec::new(),
        }),
    });
}

fn by_hand(draft: &mut Draft<'_>, facts: &Facts, loader: Option<BootLoader>, wanted: &Wanted<'_>) {
    let Some(change) = wanted.as_difference(&[configured(facts)]) else {
        return;
    };
    let (add, remove) = (&change.new, &change.old);
    let quoted: Vec<String> = add
        .iter()
        .map(|argument| format!("\"{argument}\""))
        .collect();
    let (text, lines) = match loader {
        Some(BootLoader::Bootc) => (
            "put this into /usr/lib/bootc/kargs.d/50-aluco.toml where the image is built",
            vec![format!("kargs = [{}]", quoted.join(", "))],
        ),
        Some(BootLoader::Limine) => (
            "put this into /etc/default/limine and run `sudo limine-mkinitcpio` (that command is not verified)",
            vec![format!("KERNEL_CMDLINE[default]+=\" {}\"", add.join(" "))],
        ),
        Some(BootLoader::KernelCmdline) => (
            "write the whole line that /proc/cmdline shows, without BOOT_IMAGE= and initrd=, and these behind it, to /etc/kernel/cmdline, then run `sudo kernel-install add-all`",
            vec![add.join(" ")],
        ),
        _ => (
            "the boot loader is not known; add these to the kernel's command line as yours wants it",
            vec![add.join(" ")],
        ),
    };
    let mut lines = if add.is_empty() { Vec::new() } else { lines };
    if !remove.is_empty() {
        lines.push(format!("# take away: {}", remove.join(" ")));
    }
    draft.instruct(
        &change.part.title(),
        text,
        lines,
        change.part.reasons(),
        true,
    );
}

fn entry_files(draft: &Draft<'_>) -> Vec<PathBuf> {
    ENTRY_FOLDERS
        .iter()
        .map(|pattern| draft.tree.matching(Path::new(pattern)))
        .find(|files| !files.is_empty())
        .unwrap_or_default()
}

/// What the loader's files ask for or, if they cannot be read, what the kernel was started with.
fn configured(facts: &Facts) -> KernelArguments {
    let known = facts
        .boot
        .configured_arguments
        .get()
        .or(facts.kernel.arguments.get());
    KernelArguments::parse(&known.map(|list| list.join(" ")).unwrap_or_default())
}

/// What differs from a command line.
struct Difference<'a> {
    /// Arguments that go.
    old: Vec<String>,
    /// Arguments that come.
    new: Vec<String>,
    /// The wishes that are not fulfilled yet.
    part: Wanted<'a>,
}

impl<'a> Wanted<'a> {
    /// What is to be done so that all of these command lines are as wished; `None`: nothing.
    fn as_difference(&self, lines: &[KernelArguments]) -> Option<Difference<'a>> {
        let mut difference = Difference {
            old: Vec::new(),
            new: Vec::new(),
            part: Wanted { wishes: Vec::new() },
        };
        for wish in &self.wishes {
            let (name, value, new) = match &wish.what {
                ArgumentWish::Set(argument) => {
                    (KernelArguments::split(argument).0, None, Some(argument))
                }
                ArgumentWish::Remove(name, value) => (name.as_str(), value.as_deref(), None),
            };
            if new.is_some_and(|new| lines.iter().all(|line| line.has(new))) {
                continue;
            }
            let mut old: Vec<String> = Vec::new();
            for line in lines {
                let mut without = line.clone();
                without.remove(name, value);
                let kept: Vec<&str> = without.arguments().collect();
                for argument in line.arguments() {
                    if !kept.contains(&argument)
                        && Some(argument) != new.map(String::as_str)
                        && !old.iter().any(|known| known == argument)
                    {
                        old.push(argument.to_owned());
                    }
                }
            }
            if old.is_empty() && new.is_none() {
                continue;
            }
            difference.old.extend(old);
            difference.new.extend(new.cloned());
            difference.part.wishes.push(wish);
        }
        (!difference.part.wishes.is_empty()).then_some(difference)
    }

    fn title(&self) -> String {
        let mut with = Vec::new();
        let mut without = Vec::new();
        for wish in &self.wishes {
            match &wish.what {
                ArgumentWish::Set(argument) => with.push(argument.clone()),
                ArgumentWish::Remove(name, None) => without.push(name.clone()),
                ArgumentWish::Remove(name, Some(value)) => without.push(format!("{name}={value}")),
            }
        }
        let mut title = "start the kernel".to_owned();
        if !with.is_empty() {
            title = format!("{title} with {}", with.join(" "));
        }
        if !without.is_empty() {
            let and = if with.is_empty() { "" } else { " and" };
            title = format!("{title}{and} without {}", without.join(" "));
        }
        title
    }

    fn reasons(&self) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = Vec::new();
        for reason in self.wishes.iter().flat_map(|wish| &wish.reasons) {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
        reasons
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for wish in &self.wishes {
            match &wish.what {
                ArgumentWish::Set(argument) => {
                    checks.push(Check::KernelArgument {
                        argument: argument.clone(),
                    });
                    let (name, value) = KernelArguments::split(argument);
                    if let (Some((module, parameter)), Some(value)) = (name.split_once('.'), value)
                    {
                        checks.push(Check::ModuleParameter {
                            module: module.to_owned(),
                            parameter: parameter.to_owned(),
                            value: value.to_owned(),
                        });
                    }
                }
                ArgumentWish::Remove(name, None) => {
                    checks.push(Check::NoKernelArgument { name: name.clone() });
                }
                ArgumentWish::Remove(_, Some(_)) => {}
            }
        }
        checks
    }
}
