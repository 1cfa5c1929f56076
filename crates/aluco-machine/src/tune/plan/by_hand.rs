//! What a person has to do: packages, the BIOS, everything that is no setting.

use std::collections::BTreeSet;

use super::{draft::Draft, wishes::Wish};
use crate::{
    doctor::{FixAction, PackageFamily, PackageOperation},
    facts::Facts,
};

/// Adds to the draft what has to be done by hand.
pub(super) fn plan(draft: &mut Draft<'_>, facts: &Facts, wishes: &[Wish<FixAction>]) {
    for wish in wishes {
        let reasons = wish.reasons.clone();
        match &wish.what {
            FixAction::Package { operation, names } => {
                let family = family(facts);
                let Some(names) = family.and_then(|family| names.get(&family)) else {
                    let all: BTreeSet<_> = names.values().flatten().cloned().collect();
                    let all: Vec<_> = all.into_iter().collect();
                    let text = format!("{} as your distribution wants it", verb(*operation));
                    draft.instruct("packages", &text, vec![all.join(" ")], reasons, false);
                    continue;
                };
                let image = facts.distribution.ostree.copied() == Some(true);
                let line = family.map(|family| command(family, *operation, image, names));
                let title = format!("{} {}", verb(*operation), names.join(", "));
                draft.instruct(
                    &title,
                    "run this",
                    line.into_iter().collect(),
                    reasons,
                    false,
                );
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

fn verb(operation: PackageOperation) -> &'static str {
    match operation {
        PackageOperation::Install => "install",
        PackageOperation::Upgrade => "upgrade",
        PackageOperation::Remove => "remove",
    }
}

fn command(
    family: PackageFamily,
    operation: PackageOperation,
    image: bool,
    names: &[String],
) -> String {
    use PackageFamily as F;
    use PackageOperation as O;
    let names = names.join(" ");
    match (family, operation) {
        (F::Fedora, O::Install) if image => format!("sudo rpm-ostree install {names}"),
        (F::Fedora, O::Upgrade) if image => "sudo rpm-ostree upgrade".to_owned(),
        (F::Fedora, O::Remove) if image => format!("sudo rpm-ostree override remove {names}"),
        (F::Fedora, O::Install) => format!("sudo dnf install {names}"),
        (F::Fedora, O::Upgrade) => format!("sudo dnf upgrade {names}"),
        (F::Fedora, O::Remove) => format!("sudo dnf remove {names}"),
        (F::Debian, O::Install | O::Upgrade) => {
            format!("sudo apt update && sudo apt install {names}")
        }
        (F::Debian, O::Remove) => format!("sudo apt remove --purge {names}"),
        (F::Arch, O::Install) => format!("sudo pacman -S {names}"),
        // Arch does not support upgrades of single packages.
        (F::Arch, O::Upgrade) => format!("sudo pacman -Syu {names}"),
        (F::Arch, O::Remove) => format!("sudo pacman -Rns {names}"),
        (F::Nixos, O::Install | O::Upgrade) => {
            format!("environment.systemPackages = with pkgs; [ {names} ];")
        }
        (F::Nixos, O::Remove) => {
            format!("# take from the system's configuration: {names}")
        }
    }
}

fn family(facts: &Facts) -> Option<PackageFamily> {
    let own = facts.distribution.id.get().into_iter();
    let like = facts.distribution.like.get().into_iter().flatten();
    own.chain(like).find_map(|name| match name.as_str() {
        "fedora" | "rhel" | "centos" => Some(PackageFamily::Fedora),
        "debian" | "ubuntu" => Some(PackageFamily::Debian),
        "arch" => Some(PackageFamily::Arch),
        "nixos" => Some(PackageFamily::Nixos),
        _ => None,
    })
}
