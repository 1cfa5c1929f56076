//! What became of the changes: whether the files are as they were written, and whether the running kernel took the values.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    change::{Action, Change, Check, Effect, FileChange},
    error::TuneError,
    journal::Journal,
    kernel_arguments::KernelArguments,
    runner::CommandLine,
    state_folder::StateFolder,
    tree::Tree,
};

/// One apply and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApplyStatus {
    /// When it was begun, in seconds since 1970.
    pub at_s: u64,
    /// Which version of Aluco did it.
    pub version: String,
    /// It was broken off, or an undo of it; `undo` takes back the rest.
    pub unfinished: bool,
    /// Its changes, in the order in which they were made.
    pub changes: Vec<ChangeStatus>,
}

/// One change and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangeStatus {
    /// What it does.
    pub title: String,
    /// The rules that asked for it.
    pub rules: Vec<String>,
    /// The file that it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether that is as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileStatus>,
    /// The command that was run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// Whether the running machine goes by it.
    pub verdict: Verdict,
}

/// Whether a file is as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileStatus {
    /// Byte for byte.
    AsWritten,
    /// A later apply changed it again.
    Superseded,
    /// Somebody changed it.
    ChangedSince,
    /// Somebody removed it.
    Missing,
    /// It is as it was before the change.
    NotWritten,
}

/// Whether the running machine goes by a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Verdict {
    /// It does.
    Active,
    /// It will after the next boot.
    WaitsForReboot,
    /// It does not.
    NotTaken {
        /// What is so instead, and what may be the reason.
        why: String,
    },
    /// That cannot be told.
    NotChecked {
        /// Why not.
        why: String,
    },
}

/// What became of the changes of all applies, oldest first.
pub fn status(tree: &Tree) -> Result<Vec<ApplyStatus>, TuneError> {
    let folder = StateFolder::find(tree)?;
    let journals = folder.journals()?;
    let mut applies = Vec::new();
    for (at, journal) in journals.iter().enumerate() {
        let Some(beginning) = &journal.beginning else {
            continue;
        };
        if journal.steps.is_empty() {
            continue;
        }
        let same_boot = match (&beginning.boot_id, boot_id(tree)) {
            (Some(then), Some(now)) => *then == now,
            // If neither tells, nobody knows that the machine was started since.
            _ => boot_time_s(tree).is_none_or(|booted_s| booted_s <= beginning.at_s),
        };
        let changes: Result<Vec<_>, _> = journal
            .steps
            .iter()
            .filter(|step| !step.taken_back)
            .map(|step| of_change(tree, &step.intent.change, &journals[at + 1..], same_boot))
            .collect();
        applies.push(ApplyStatus {
            at_s: beginning.at_s,
            version: beginning.version.clone(),
            unfinished: journal.is_unfinished(),
            changes: changes?,
        });
    }
    Ok(applies)
}

fn of_change(
    tree: &Tree,
    change: &Change,
    later: &[Journal],
    same_boot: bool,
) -> Result<ChangeStatus, TuneError> {
    let mut status = ChangeStatus {
        title: change.title.clone(),
        rules: change.rules().into_iter().map(str::to_owned).collect(),
        path: None,
        file: None,
        command: None,
        verdict: verdict(tree, change, same_boot),
    };
    match &change.action {
        Action::File(file) => {
            let found = file_status(tree, file, later)?;
            status.path = Some(file.path.clone());
            status.file = Some(found);
            match found {
                FileStatus::Superseded => {
                    let why = "a later apply changed the file again".to_owned();
                    status.verdict = Verdict::NotChecked { why };
                }
                FileStatus::ChangedSince | FileStatus::Missing | FileStatus::NotWritten
                    if status.verdict == Verdict::WaitsForReboot =>
                {
                    let why = "the file is not as it was written, so a reboot will not bring it";
                    status.verdict = Verdict::NotTaken {
                        why: why.to_owned(),
                    };
                }
                _ => {}
            }
        }
        Action::Command(command) => status.command = Some(command.command.clone()),
        Action::Rebuild { command } => status.command = Some(command.clone()),
    }
    Ok(status)
}

fn file_status(tree: &Tree, file: &FileChange, later: &[Journal]) -> Result<FileStatus, TuneError> {
    let content = tree.state(&file.path)?.map(|state| state.content);
    let changed_later = later.iter().any(|journal| {
        journal.steps.iter().any(|step| {
            matches!(&step.intent.change.action, Action::File(other) if other.path == file.path)
        })
    });
    Ok(if content == file.new {
        FileStatus::AsWritten
    } else if changed_later {
        FileStatus::Superseded
    } else if content == file.old.as_ref().map(|state| state.content.clone()) {
        FileStatus::NotWritten
    } else if content.is_none() {
        FileStatus::Missing
    } else {
        FileStatus::ChangedSince
    })
}

fn verdict(tree: &Tree, change: &Change, same_boot: bool) -> Verdict {
    if matches!(change.action, Action::Rebuild { .. }) {
        let why = "its result shows in the changes that it serves".to_owned();
        return Verdict::NotChecked { why };
    }
    if change.checks.is_empty() {
        let why = match change.effect {
            Effect::Login => "it holds from the next login on",
            Effect::Now | Effect::Reboot => "nothing in the running machine shows it",
        };
        return Verdict::NotChecked {
            why: why.to_owned(),
        };
    }
    let failed: Vec<String> = change
        .checks
        .iter()
        .filter_map(|check| difference(tree, check))
        .collect();
    if failed.is_empty() {
        Verdict::Active
    } else if change.effect == Effect::Reboot && same_boot {
        Verdict::WaitsForReboot
    } else {
        Verdict::NotTaken {
            why: failed.join("; "),
        }
    }
}

/// How the running machine differs from what a check asks for; `None` if it does not.
fn difference(tree: &Tree, check: &Check) -> Option<String> {
    match check {
        Check::KernelArgument { argument } => {
            let running = running_arguments(tree)?;
            let (name, value) = KernelArguments::split(argument);
            let last = running.last_of(name);
            match last {
                Some(found) if KernelArguments::split(found).1 == value => None,
                Some(found) => Some(format!(
                    "the kernel was started with {found}, which stands later or in the entry that was booted"
                )),
                None => Some(format!(
                    "the kernel was started without {argument}: the boot loader's configuration was not built again, or another entry was booted"
                )),
            }
        }
        Check::NoKernelArgument { name } => {
            let running = running_arguments(tree)?;
            running.last_of(name).map(|found| {
                format!("the kernel was started with {found}: another file adds it, or another entry was booted")
            })
        }
        Check::ModuleParameter {
            module,
            parameter,
            value,
        } => {
            let path = format!("/sys/module/{module}/parameters/{parameter}");
            match tree.text(&path) {
                Some(found) if found.trim() == value => None,
                Some(found) => Some(format!(
                    "{path} is {}, not {value}: another argument or a file in /etc/modprobe.d sets it, or the initramfs was not built again",
                    found.trim()
                )),
                None => Some(format!(
                    "{path} is not there: the module {module} is not loaded or has no such parameter"
                )),
            }
        }
        Check::Sysctl { key, value } => {
            let path = format!("/proc/sys/{}", key.replace('.', "/"));
            let found = tree.text(&path);
            let found = found.as_deref().map_or("not there", str::trim);
            (found != value).then(|| {
                format!("{path} is {found}, not {value}: another file in /etc/sysctl.d sets it later, or a daemon did")
            })
        }
        Check::Line { path, text } => {
            let found = tree.text(path);
            let found = found.as_deref().and_then(|text| text.lines().next());
            let found = found.map_or("not there", str::trim);
            (found != text).then(|| format!("{path} is {found}, not {text}"))
        }
        Check::GroupMember { group, user } => {
            let groups = tree.text("/etc/group").unwrap_or_default();
            let is_member = groups.lines().any(|line| {
                let mut fields = line.split(':');
                fields.next() == Some(group)
                    && fields
                        .nth(2)
                        .is_some_and(|members| members.split(',').any(|name| name == user))
            });
            (!is_member).then(|| format!("{user} is no member of {group} in /etc/group"))
        }
        Check::Masked { unit } => {
            let resolved = tree.resolve(Path::new(&format!("/etc/systemd/system/{unit}")));
            let masked = resolved.is_ok_and(|path| path == Path::new("/dev/null"));
            (!masked).then(|| format!("{unit} is not masked"))
        }
    }
}

fn running_arguments(tree: &Tree) -> Option<KernelArguments> {
    Some(KernelArguments::parse(
        tree.text("/proc/cmdline")?.trim_end(),
    ))
}

/// Which boot of the kernel this is.
pub(crate) fn boot_id(tree: &Tree) -> Option<String> {
    let id = tree.text("/proc/sys/kernel/random/boot_id")?;
    Some(id.trim().to_owned())
}

fn boot_time_s(tree: &Tree) -> Option<u64> {
    let stat = tree.text("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}
