//! Taking changes back, in reverse order, byte for byte; also those of an apply that was broken off anywhere.

use std::{collections::BTreeSet, path::Path};

use super::{
    apply::{Host, Progress, passing_path, remove, write},
    change::{Action, CommandChange, FileChange},
    error::TuneError,
    journal::{Journal, Record, Step, Touched},
    runner::{CommandLine, Ran},
    state_folder::{StateFolder, lock},
    tree::{FileState, Tree, is_absent},
};

/// How much to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The last apply.
    Last,
    /// All of them.
    All,
}

/// What an undo did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undone {
    /// Number of applies that were taken back whole.
    pub applies: usize,
    /// Number of changes that were taken back.
    pub changes: usize,
    /// Commands that were not run, because the root is not the running machine's.
    pub left_out: Vec<CommandLine>,
}

/// Takes applies back. Files that somebody changed since are overwritten only with `force`; commands that fail are passed over with
/// it.
pub fn undo(host: &mut Host<'_>, extent: Extent, force: bool) -> Result<Undone, TuneError> {
    let _lock = lock(host.tree)?;
    let folder = StateFolder::find(host.tree)?;
    let mut journals = folder.journals()?;
    let mut undone = Undone::default();
    while let Some(mut journal) = journals.pop() {
        // One that was broken off before its first change was no apply.
        let counts = !journal.steps.is_empty();
        if counts && extent == Extent::Last && undone.applies > 0 {
            journals.push(journal);
            break;
        }
        let one = take_back(host, &mut journal, force)?;
        journal.remove(host.disk)?;
        undone.applies += usize::from(counts);
        undone.changes += one.changes;
        undone.left_out.extend(one.left_out);
    }
    if journals.is_empty() {
        folder.remove(host.disk)?;
    }
    Ok(undone)
}

/// Takes back all changes of one apply that are not taken back yet.
pub(crate) fn take_back(
    host: &mut Host<'_>,
    journal: &mut Journal,
    force: bool,
) -> Result<Undone, TuneError> {
    if !force {
        refuse_if_changed(host.tree, journal)?;
    }
    let mut undone = Undone::default();
    let todo: Vec<Step> = journal
        .steps
        .iter()
        .filter(|step| !step.taken_back)
        .cloned()
        .collect();
    let (rebuilds, settings): (Vec<_>, Vec<_>) = todo
        .into_iter()
        .partition(|step| matches!(step.intent.change.action, Action::Rebuild { .. }));
    // What is built from files is built again when they are what they were.
    for step in settings.iter().rev().chain(&rebuilds) {
        (host.progress)(Progress::TakingBack(&step.intent.change));
        match &step.intent.change.action {
            Action::File(file) => take_back_file(host, step, file)?,
            Action::Command(command) => {
                take_back_command(host, journal, step, command, force, &mut undone.left_out)?;
            }
            Action::Rebuild { command } => {
                run(host, step, command, force, &mut undone.left_out)?;
            }
        }
        let record = Record::TakenBack {
            step: step.intent.step,
        };
        journal.write(host.disk, record)?;
        undone.changes += 1;
    }
    Ok(undone)
}

/// What there is to do for a file.
#[derive(Debug, PartialEq, Eq)]
enum Situation {
    /// It is as the apply left it.
    Changed,
    /// It is as it was before: the apply was broken off before it, or an undo after it.
    AsBefore,
    /// Somebody changed it since.
    Foreign,
}

fn situation(tree: &Tree, file: &FileChange) -> Result<Situation, TuneError> {
    let state = tree.state(&file.path)?;
    let content = state.as_ref().map(|state| &state.content);
    Ok(if state == file.old {
        Situation::AsBefore
    } else if content == file.new.as_ref() {
        Situation::Changed
    } else {
        Situation::Foreign
    })
}

fn refuse_if_changed(tree: &Tree, journal: &Journal) -> Result<(), TuneError> {
    let mut seen = BTreeSet::new();
    let mut foreign = Vec::new();
    for step in journal.steps.iter().rev().filter(|step| !step.taken_back) {
        if let Action::File(file) = &step.intent.change.action
            // Of a file that was changed twice, the last change is what must be there.
            && seen.insert(&file.path)
            && situation(tree, file)? == Situation::Foreign
        {
            foreign.push(file.path.clone());
        }
    }
    if foreign.is_empty() {
        Ok(())
    } else {
        foreign.sort();
        Err(TuneError::ChangedSince { paths: foreign })
    }
}

fn take_back_file(host: &Host<'_>, step: &Step, file: &FileChange) -> Result<(), TuneError> {
    let resolved = match &step.intent.resolved {
        Some(resolved) => resolved.clone(),
        None => host.tree.resolve(&file.path)?,
    };
    // Folders on the way that became links since would lead elsewhere.
    if host.tree.resolve(&resolved)? != resolved {
        return Err(TuneError::ChangedSince {
            paths: vec![file.path.clone()],
        });
    }
    remove_unfinished(host, &resolved)?;
    if host.tree.state(&resolved)? != file.old {
        restore(host, &resolved, file.old.as_ref())?;
    }
    for folder in step.intent.folders.iter().rev() {
        let host_path = host.tree.host(folder);
        match host.disk.remove_folder(&host_path) {
            // Somebody else put something there, which needs the folder.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => break,
            Err(error) if !is_absent(&error) => {
                return Err(TuneError::io("remove the folder", folder)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes what was written of a file when the process ended.
fn remove_unfinished(host: &Host<'_>, resolved: &Path) -> Result<(), TuneError> {
    let unfinished = host.tree.host(&passing_path(resolved));
    match host.disk.remove_file(&unfinished) {
        Err(error) if !is_absent(&error) => Err(TuneError::io("remove", unfinished)(error)),
        _ => Ok(()),
    }
}

fn restore(host: &Host<'_>, resolved: &Path, old: Option<&FileState>) -> Result<(), TuneError> {
    match old {
        Some(state) => write(host, resolved, &state.content, Some(state)),
        None => remove(host, resolved),
    }
}

fn take_back_command(
    host: &mut Host<'_>,
    journal: &mut Journal,
    step: &Step,
    change: &CommandChange,
    force: bool,
    left_out: &mut Vec<CommandLine>,
) -> Result<(), TuneError> {
    let before = &step.intent.before;
    let mut ours = Vec::new();
    let mut as_before = true;
    for Touched { path, state } in before {
        remove_unfinished(host, &host.tree.resolve(path)?)?;
        let now = host.tree.state(path)?;
        as_before &= now == *state;
        let hash = now.map(|state| state.content.hash());
        // Broken off while the command ran: what differs is its doing.
        let is_ours = step
            .made
            .as_ref()
            .is_none_or(|after| after.iter().any(|(of, was)| of == path && *was == hash));
        if is_ours {
            ours.push(path.clone());
        }
    }
    if as_before && !before.is_empty() {
        return Ok(());
    }
    // The command changes the files again, so whose they are must be known before it runs.
    let ours = match &step.ours {
        Some(ours) => ours.clone(),
        None if before.is_empty() => Vec::new(),
        None => {
            let record = Record::TakingBack {
                step: step.intent.step,
                ours: ours.clone(),
            };
            journal.write(host.disk, record)?;
            ours
        }
    };
    run(host, step, &change.undo, force, left_out)?;
    for Touched { path, state } in before {
        if ours.contains(path) && host.tree.state(path)? != *state {
            let resolved = host.tree.resolve(path)?;
            restore(host, &resolved, state.as_ref())?;
        }
    }
    Ok(())
}

fn run(
    host: &mut Host<'_>,
    step: &Step,
    command: &CommandLine,
    force: bool,
    left_out: &mut Vec<CommandLine>,
) -> Result<(), TuneError> {
    if !host.runner.runs() {
        (host.progress)(Progress::LeftOut(command));
        left_out.push(command.clone());
        return Ok(());
    }
    (host.progress)(Progress::Running(command));
    let why = match host.runner.run(command) {
        Ok(Ran::Done) => return Ok(()),
        Ok(Ran::Failed(why)) => why,
        Err(error) => error.to_string(),
    };
    // What did not work in the first place cannot be expected to work backwards; and what ran before an undo was broken off may
    // have nothing left to do. Files that it touches are put back in any case.
    if force || step.made.is_none() || step.ours.is_some() {
        (host.progress)(Progress::Tolerated(command, &why));
        return Ok(());
    }
    Err(TuneError::Command {
        command: command.clone(),
        why,
    })
}
