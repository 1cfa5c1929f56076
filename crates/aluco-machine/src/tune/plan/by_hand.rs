//! What a person has to do: packages, the BIOS, everything that is no setting.

use super::{draft::Draft, wishes::Wish};
use crate::{
    doctor::{FixAction, elsewhere},
    facts::Facts,
};

/// Adds to the draft what has to be done by hand.
pub(super) fn plan(draft: &mut Draft<'_>, facts: &Facts, wishes: &[Wish<FixAction>]) {
    for wish in wishes {
        let reasons = wish.reasons.clone();
        match &wish.what {
            FixAction::Package { operation, names } => {
                let verb = operation.verb();
                let (title, text, line) = match operation.here(facts, names) {
                    Some((names, command)) => {
                        (format!("{verb} {}", names.join(", ")), "run this", command)
                    }
                    None => (
                        format!("{verb} packages"),
                        "as your distribution calls them; elsewhere they are",
                        elsewhere(names).join(" "),
                    ),
                };
                draft.instruct(&title, text, vec![line], reasons, false);
            }
            FixAction::BiosSetting { setting, value } => {
                let title = format!("set {setting} to {value}");
                let text = "in the firmware's setup, which no program can do for you";
                draft.instruct(&title, text, Vec::new(), reasons, true);
            }
            FixAction::Manual { text, commands } => {
                draft.instruct(text, "", commands.clone(), reasons, false);
            }
            _ => {}
        }
    }
}
