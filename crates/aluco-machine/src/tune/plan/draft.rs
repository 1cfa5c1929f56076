//! A plan in the making.

use std::path::Path;

use super::Instruction;
use crate::tune::{
    Action, Change, Check, CommandLine, Content, Effect, FileChange, Reason, Tree, TuneError,
};

/// A plan in the making.
pub(super) struct Draft<'a> {
    pub(super) tree: &'a Tree,
    /// Files and settings, in the order in which they are changed.
    pub(super) changes: Vec<Change>,
    /// What is built from them afterwards.
    rebuilds: Vec<Change>,
    pub(super) instructions: Vec<Instruction>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            changes: Vec::new(),
            rebuilds: Vec::new(),
            instructions: Vec::new(),
        }
    }

    /// The text of a file of settings as it is; `None` if it is not there. One that is no text cannot be edited.
    pub(super) fn text(&self, path: &Path) -> Result<Option<String>, TuneError> {
        let Some(state) = self.tree.state(path)? else {
            return Ok(None);
        };
        String::from_utf8(state.content.bytes().to_vec())
            .map(Some)
            .map_err(|_| TuneError::NotPlain { path: path.into() })
    }

    /// Changes a file. What is asked for a second time is put together.
    pub(super) fn file(
        &mut self,
        path: &Path,
        new: Option<String>,
        title: &str,
        reasons: Vec<Reason>,
        effect: Effect,
        checks: Vec<Check>,
    ) -> Result<(), TuneError> {
        let old = self.tree.state(path)?;
        let new = new.map(Content::new);
        if old.as_ref().map(|state| &state.content) == new.as_ref() {
            return Ok(());
        }
        let path = path.to_owned();
        self.changes.push(Change {
            title: title.to_owned(),
            reasons: without_repetition(reasons),
            effect,
            checks,
            action: Action::File(FileChange { path, old, new }),
        });
        Ok(())
    }

    /// Builds something from the files, once.
    pub(super) fn rebuild<const N: usize>(&mut self, words: [&str; N], title: &str) {
        let action = Action::Rebuild {
            command: CommandLine::new(words),
        };
        if self.rebuilds.iter().any(|known| known.action == action) {
            return;
        }
        self.rebuilds.push(Change {
            title: title.to_owned(),
            reasons: Vec::new(),
            effect: Effect::Now,
            checks: Vec::new(),
            action,
        });
    }

    /// Tells what a person has to do.
    pub(super) fn instruct(
        &mut self,
        title: &str,
        text: &str,
        lines: Vec<String>,
        reasons: Vec<Reason>,
        needs_reboot: bool,
    ) {
        self.instructions.push(Instruction {
            title: title.to_owned(),
            text: text.to_owned(),
            lines,
            reasons,
            needs_reboot,
        });
    }

    /// All changes: files before the commands that use them, and last what is built from both.
    pub(super) fn finish(self) -> (Vec<Change>, Vec<Instruction>) {
        let (mut changes, commands): (Vec<_>, Vec<_>) = self
            .changes
            .into_iter()
            .partition(|change| matches!(change.action, Action::File(_)));
        changes.extend(commands);
        changes.extend(self.rebuilds);
        (changes, self.instructions)
    }
}

fn without_repetition(reasons: Vec<Reason>) -> Vec<Reason> {
    let mut kept: Vec<Reason> = Vec::new();
    for reason in reasons {
        if !kept.contains(&reason) {
            kept.push(reason);
        }
    }
    kept
}
