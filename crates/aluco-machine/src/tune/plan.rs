//! From findings to a plan: which files and commands would change what on this machine, and what a person has to do.

mod boot;
mod by_hand;
mod draft;
mod entries;
mod grub;
mod gtt;
mod modprobe;
mod nixos;
mod settings;
mod wishes;

use serde::Serialize;

pub use gtt::{GttChoice, GttSize};

use self::{
    draft::Draft,
    wishes::{ArgumentWish, Wish, Wishes},
};
use super::{Change, Effect, Reason, Tree, TuneError};
use crate::{
    doctor::Finding,
    facts::{BootLoader, ContainerKind, Facts},
};

/// What only the user can know.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    /// How much memory the GPU may have.
    pub gtt: GttChoice,
    /// Whether the NPU is used; `None`: nobody said, so it is kept.
    pub npu: Option<bool>,
    /// Only what these rules ask for; empty: all.
    pub only: Vec<String>,
    /// Nothing of what these rules ask for.
    pub skip: Vec<String>,
    /// Also what is worth a few percent, or is not certain.
    pub hints: bool,
    /// Who runs models, and is to be a member of groups.
    pub user: Option<String>,
}

/// What would be changed, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The distribution, by its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// How kernel arguments are changed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_loader: Option<BootLoader>,
    /// How much memory the GPU is to have, if the plan changes that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gtt: Option<GttSize>,
    /// What would be changed, in this order.
    pub changes: Vec<Change>,
    /// What a person has to do.
    pub instructions: Vec<Instruction>,
    /// What is not done, and why.
    pub left_out: Vec<LeftOut>,
}

/// What a person has to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// What, in a few words.
    pub title: String,
    /// How, in one sentence; may be empty.
    pub text: String,
    /// The exact lines to run or to write.
    pub lines: Vec<String>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Whether it holds only after a reboot.
    pub needs_reboot: bool,
}

/// A finding that the plan does nothing about, though something could be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The rule.
    pub rule: String,
    /// What it found.
    pub title: String,
    /// Why nothing is done about it.
    pub why: String,
}

impl Plan {
    /// Makes a plan from what the doctor found. `tree` is where files are read: the plan rests on what they are now.
    pub fn make(
        facts: &Facts,
        findings: &[Finding],
        tree: &Tree,
        choices: &Choices,
    ) -> Result<Self, TuneError> {
        let gtt = size(facts, choices)?;
        let mut wishes = Wishes::of(findings, choices, gtt.as_ref());
        if let (Some(gtt), true) = (&gtt, choices.gtt != GttChoice::Usual) {
            wishes.add_gtt(gtt, facts);
        }
        let mut draft = Draft::new(tree);
        let arguments: Vec<&Wish<ArgumentWish>> = wishes.arguments.values().collect();
        let inside = facts.container.inside.copied();
        if inside.is_some_and(|inside| inside != ContainerKind::None) {
            refuse_in_container(&mut draft, &wishes);
        } else if facts.boot.loader.copied() == Some(BootLoader::NixOs) {
            nixos::plan(&mut draft, choices, &wishes);
        } else {
            boot::plan(&mut draft, facts, &arguments)?;
            modprobe::plan(&mut draft, facts, &wishes.module_options)?;
            settings::plan(&mut draft, facts, choices, &wishes)?;
        }
        by_hand::plan(&mut draft, facts, &wishes.by_hand);
        let (changes, instructions) = draft.finish();
        let sizes_gtt = wishes.arguments.keys().any(|name| wishes::sizes_gtt(name));
        Ok(Self {
            distribution: facts.distribution.name.get().cloned(),
            boot_loader: facts.boot.loader.copied(),
            gtt: gtt.filter(|_| sizes_gtt),
            changes,
            instructions,
            left_out: wishes.left_out,
        })
    }

    /// Whether something holds only after a reboot.
    pub fn needs_reboot(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.effect == Effect::Reboot)
    }

    /// Whether something holds only from the user's next login on.
    pub fn needs_login(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.effect == Effect::Login)
    }
}

/// How much memory the GPU is to have; `None` if nobody knows how much there is, and nobody asked for a size.
fn size(facts: &Facts, choices: &Choices) -> Result<Option<GttSize>, TuneError> {
    let asked = choices.gtt != GttChoice::Usual;
    match facts.memory.total_bytes.copied() {
        Some(total_bytes) => match GttSize::of(total_bytes, choices.gtt) {
            Ok(size) => Ok(Some(size)),
            Err(error) if asked => Err(error),
            // A small machine, for which no rule asks for it either.
            Err(_) => Ok(None),
        },
        None if asked => Err(TuneError::Size(
            "the size of the memory is not known, so no share of it can be given to the GPU"
                .to_owned(),
        )),
        None => Ok(None),
    }
}

fn refuse_in_container(draft: &mut Draft<'_>, wishes: &Wishes) {
    let mut reasons: Vec<Reason> = Vec::new();
    let mut add = |more: &[Reason]| {
        for reason in more {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
    };
    wishes
        .arguments
        .values()
        .for_each(|wish| add(&wish.reasons));
    wishes
        .module_options
        .values()
        .for_each(|wish| add(&wish.reasons));
    wishes.sysctls.values().for_each(|wish| add(&wish.reasons));
    wishes.limits.values().for_each(|wish| add(&wish.reasons));
    wishes.udev.values().for_each(|wish| add(&wish.reasons));
    wishes.groups.values().for_each(|wish| add(&wish.reasons));
    wishes
        .masked_units
        .values()
        .for_each(|wish| add(&wish.reasons));
    wishes
        .tuned_profile
        .iter()
        .for_each(|wish| add(&wish.reasons));
    wishes
        .platform_profile
        .iter()
        .for_each(|wish| add(&wish.reasons));
    if !reasons.is_empty() {
        draft.instruct(
            "change the settings of the host",
            "this is a container, whose files the kernel does not go by; run this outside of it",
            vec!["aluco tune".to_owned()],
            reasons,
            false,
        );
    }
}
