//! Making the changes of a plan.

use std::path::{Path, PathBuf};

use super::{
    change::{Action, Change, CommandChange, FileChange},
    content::Content,
    disk::{Attributes, Disk},
    error::TuneError,
    journal::{Beginning, Intent, Journal, Record, Touched, next_path},
    runner::{CommandLine, Ran, Runner},
    state_folder::{StateFolder, lock},
    status::boot_id,
    tree::{FileState, Tree},
    undo,
};

/// The machine to change, and the ways to do it.
pub struct Host<'a> {
    /// Its files.
    pub tree: &'a Tree,
    /// What changes files.
    pub disk: &'a dyn Disk,
    /// What runs commands.
    pub runner: &'a mut dyn Runner,
    /// Seconds since 1970.
    pub now_s: u64,
    /// Asked between changes: whether to stop and put everything back.
    pub interrupted: &'a dyn Fn() -> bool,
    /// Is told what is done.
    pub progress: &'a mut dyn FnMut(Progress<'_>),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A change is made.
    Making(&'a Change),
    /// A change is taken back.
    TakingBack(&'a Change),
    /// A command runs, which may take minutes.
    Running(&'a CommandLine),
    /// A command is left out, because the root is not the running machine's.
    LeftOut(&'a CommandLine),
    /// A command failed, and that it did does not matter enough to stop.
    Tolerated(&'a CommandLine, &'a str),
}

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Number of changes that were made.
    pub changes: usize,
    /// Commands that were not run, because the root is not the running machine's.
    pub left_out: Vec<CommandLine>,
}

/// Makes changes, all of them or none: when one fails, those before it are taken back.
pub fn apply(host: &mut Host<'_>, changes: &[Change]) -> Result<Applied, TuneError> {
    if changes.is_empty() {
        return Ok(Applied::default());
    }
    let _lock = lock(host.tree)?;
    let folder = StateFolder::find(host.tree)?;
    let journals = folder.journals()?;
    if journals.iter().any(Journal::is_unfinished) {
        return Err(TuneError::Unfinished);
    }
    // Before anything is done, so that nothing has to be taken back.
    for change in changes {
        if let Action::File(file) = &change.action {
            unchanged(host.tree, file)?;
        }
    }
    folder.create(host.disk)?;
    let mut journal = Journal::new(next_path(&folder.host(), &journals));
    let made = make_all(host, &mut journal, changes);
    made.map_err(|cause| {
        let taken_back = undo::take_back(host, &mut journal, false)
            .and_then(|_| journal.remove(host.disk))
            .and_then(|()| folder.remove(host.disk));
        let cause = Box::new(cause);
        match taken_back {
            Ok(()) => TuneError::TakenBack { cause },
            Err(rollback) => TuneError::HalfDone {
                cause,
                rollback: Box::new(rollback),
            },
        }
    })
}

fn make_all(
    host: &mut Host<'_>,
    journal: &mut Journal,
    changes: &[Change],
) -> Result<Applied, TuneError> {
    let beginning = Beginning::new(host.now_s, boot_id(host.tree));
    journal.write(host.disk, Record::Begin(beginning))?;
    let mut applied = Applied::default();
    for change in changes {
        if (host.interrupted)() {
            return Err(TuneError::Interrupted);
        }
        let command = match &change.action {
            Action::File(file) => {
                (host.progress)(Progress::Making(change));
                make_file(host, journal, change, file)?;
                applied.changes += 1;
                continue;
            }
            Action::Command(CommandChange { command, .. }) | Action::Rebuild { command } => command,
        };
        if host.runner.runs() {
            (host.progress)(Progress::Making(change));
            make_by_command(host, journal, change, command)?;
            applied.changes += 1;
        } else {
            (host.progress)(Progress::LeftOut(command));
            applied.left_out.push(command.clone());
        }
    }
    journal.write(host.disk, Record::Complete)?;
    Ok(applied)
}

fn make_file(
    host: &mut Host<'_>,
    journal: &mut Journal,
    change: &Change,
    file: &FileChange,
) -> Result<(), TuneError> {
    // Again: time has passed since all files were looked at.
    unchanged(host.tree, file)?;
    let resolved = host.tree.resolve(&file.path)?;
    let mut folders: Vec<PathBuf> = resolved
        .ancestors()
        .skip(1)
        .take_while(|folder| !host.tree.host(folder).is_dir())
        .map(Path::to_owned)
        .collect();
    folders.reverse();
    let step = journal.steps.len();
    let intent = Intent {
        step,
        change: change.clone(),
        resolved: Some(resolved.clone()),
        folders: folders.clone(),
        before: Vec::new(),
    };
    journal.write(host.disk, Record::Intend(Box::new(intent)))?;
    for folder in &folders {
        let folder = host.tree.host(folder);
        host.disk
            .create_folder(&folder, 0o755)
            .map_err(TuneError::io("make the folder", &folder))?;
        sync_parent(host, &folder)?;
    }
    match &file.new {
        Some(content) => write(host, &resolved, content, file.old.as_ref())?,
        None => remove(host, &resolved)?,
    }
    let record = Record::Made {
        step,
        touched: Vec::new(),
    };
    journal.write(host.disk, record)
}

fn make_by_command(
    host: &mut Host<'_>,
    journal: &mut Journal,
    change: &Change,
    command: &CommandLine,
) -> Result<(), TuneError> {
    let step = journal.steps.len();
    let touches: &[PathBuf] = match &change.action {
        Action::Command(command) => &command.touches,
        _ => &[],
    };
    let before: Result<Vec<Touched>, TuneError> = touches
        .iter()
        .flat_map(|pattern| host.tree.matching(pattern))
        .map(|path| {
            let state = host.tree.state(&path)?;
            Ok(Touched { path, state })
        })
        .collect();
    let before = before?;
    let intent = Intent {
        step,
        change: change.clone(),
        resolved: None,
        folders: Vec::new(),
        before: before.clone(),
    };
    journal.write(host.disk, Record::Intend(Box::new(intent)))?;
    let failed = |why: String| TuneError::Command {
        command: command.clone(),
        why,
    };
    (host.progress)(Progress::Running(command));
    match host.runner.run(command) {
        Ok(Ran::Done) => {}
        Ok(Ran::Failed(why)) => return Err(failed(why)),
        Err(error) => {
            // It never ran, so there is nothing to take back.
            journal.write(host.disk, Record::TakenBack { step })?;
            return Err(failed(error.to_string()));
        }
    }
    let mut after = Vec::new();
    for Touched { path, .. } in before {
        let hash = host.tree.state(&path)?.map(|state| state.content.hash());
        after.push((path, hash));
    }
    let record = Record::Made {
        step,
        touched: after,
    };
    journal.write(host.disk, record)
}

/// Puts a content in the place of a file, which afterwards is either the old one or the new one whole. What was there, if it is
/// known, lends its rights and owner.
pub(crate) fn write(
    host: &Host<'_>,
    resolved: &Path,
    content: &Content,
    like: Option<&FileState>,
) -> Result<(), TuneError> {
    let target = host.tree.host(resolved);
    let unfinished = host.tree.host(&passing_path(resolved));
    let because = |doing| TuneError::io(doing, resolved);
    let attributes = Attributes {
        mode: like.map_or(0o644, |state| state.mode),
        owner: like.map(|state| (state.user, state.group)),
        like: target.exists().then_some(target.as_path()),
    };
    host.disk
        .write_new(&unfinished, content.bytes(), attributes)
        .map_err(because("write"))?;
    host.disk.sync(&unfinished).map_err(because("write"))?;
    host.disk
        .rename(&unfinished, &target)
        .map_err(because("replace"))?;
    sync_parent(host, &target)
}

/// Removes a file.
pub(crate) fn remove(host: &Host<'_>, resolved: &Path) -> Result<(), TuneError> {
    let target = host.tree.host(resolved);
    host.disk
        .remove_file(&target)
        .map_err(TuneError::io("remove", resolved))?;
    sync_parent(host, &target)
}

/// The name that a file has until it is whole. Programs that read a folder of settings pass over it.
pub(crate) fn passing_path(resolved: &Path) -> PathBuf {
    let name = resolved.file_name().unwrap_or_default().to_string_lossy();
    resolved.with_file_name(format!(".{name}.aluco-tune"))
}

fn sync_parent(host: &Host<'_>, path: &Path) -> Result<(), TuneError> {
    let parent = path.parent().unwrap_or(path);
    host.disk
        .sync(parent)
        .map_err(TuneError::io("write", parent))
}

fn unchanged(tree: &Tree, file: &FileChange) -> Result<(), TuneError> {
    if tree.state(&file.path)? == file.old {
        Ok(())
    } else {
        Err(TuneError::ChangedUnderneath {
            path: file.path.clone(),
        })
    }
}
