//! Packages by the names and with the commands of this distribution.

use std::collections::BTreeMap;

use super::fix::{PackageFamily, PackageOperation};
use crate::facts::Facts;

/// Names of packages by the family of the distribution.
pub(crate) type PackageNames = BTreeMap<PackageFamily, Vec<String>>;

impl PackageOperation {
    /// What a person does, in one word.
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Install => "install",
            Self::Upgrade => "upgrade",
            Self::Remove => "remove",
        }
    }

    /// The packages as they are called here, and the command for them. `None` if nobody knows what they are called here.
    pub(crate) fn here<'a>(
        self,
        facts: &Facts,
        names: &'a PackageNames,
    ) -> Option<(&'a [String], String)> {
        let (family, names) = families(facts).find_map(|family| {
            let names = names.get(&family)?;
            Some((family, names))
        })?;
        let is_image = facts.distribution.ostree.copied() == Some(true);
        Some((names, self.command(family, is_image, &names.join(" "))))
    }

    fn command(self, family: PackageFamily, is_image: bool, names: &str) -> String {
        use PackageFamily as F;
        match (family, self) {
            (F::Fedora, Self::Install) if is_image => format!("sudo rpm-ostree install {names}"),
            (F::Fedora, Self::Upgrade) if is_image => "sudo rpm-ostree upgrade".to_owned(),
            (F::Fedora, Self::Remove) if is_image => {
                format!("sudo rpm-ostree override remove {names}")
            }
            (F::Fedora, _) => format!("sudo dnf {} {names}", self.verb()),
            (F::Debian | F::Ubuntu, Self::Install | Self::Upgrade) => {
                format!("sudo apt update && sudo apt install {names}")
            }
            (F::Debian | F::Ubuntu, Self::Remove) => format!("sudo apt remove --purge {names}"),
            (F::Arch, Self::Install) => format!("sudo pacman -S {names}"),
            // Arch does not support upgrades of single packages.
            (F::Arch, Self::Upgrade) => format!("sudo pacman -Syu {names}"),
            (F::Arch, Self::Remove) => format!("sudo pacman -Rns {names}"),
            (F::Nixos, Self::Install | Self::Upgrade) => {
                format!("environment.systemPackages = with pkgs; [ {names} ];")
            }
            (F::Nixos, Self::Remove) => format!("# take from the system's configuration: {names}"),
        }
    }
}

/// What the packages are called elsewhere, each name once.
pub(crate) fn elsewhere(names: &PackageNames) -> Vec<&str> {
    let mut all: Vec<&str> = names.values().flatten().map(String::as_str).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The families of this distribution, the nearest first: Ubuntu is a Debian, too.
fn families(facts: &Facts) -> impl Iterator<Item = PackageFamily> {
    let own = facts.distribution.id.get().into_iter();
    let like = facts.distribution.like.get().into_iter().flatten();
    let families = own.chain(like).filter_map(|name| match name.as_str() {
        "fedora" | "rhel" | "centos" => Some(PackageFamily::Fedora),
        "debian" => Some(PackageFamily::Debian),
        "ubuntu" => Some(PackageFamily::Ubuntu),
        "arch" => Some(PackageFamily::Arch),
        "nixos" => Some(PackageFamily::Nixos),
        _ => None,
    });
    families.flat_map(|family| match family {
        PackageFamily::Ubuntu => vec![PackageFamily::Ubuntu, PackageFamily::Debian],
        family => vec![family],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Known;

    fn on(id: &str, like: &[&str]) -> Facts {
        let mut facts = Facts::default();
        facts.distribution.id = Known::value(id.to_owned(), "/etc/os-release");
        let like = like.iter().map(|name| (*name).to_owned()).collect();
        facts.distribution.like = Known::value(like, "/etc/os-release");
        facts
    }

    fn command(facts: &Facts, families: &[(PackageFamily, &str)]) -> Option<String> {
        let names = families
            .iter()
            .map(|(family, name)| (*family, vec![(*name).to_owned()]))
            .collect();
        let here = PackageOperation::Upgrade.here(facts, &names);
        here.map(|(_, command)| command)
    }

    #[test]
    fn ubuntu_and_its_kin_take_their_own_name_before_that_of_debian() {
        use PackageFamily as F;
        let both = [
            (F::Debian, "linux-image-amd64"),
            (F::Ubuntu, "linux-generic"),
        ];
        let apt = |name: &str| Some(format!("sudo apt update && sudo apt install {name}"));
        assert_eq!(command(&on("debian", &[]), &both), apt("linux-image-amd64"));
        assert_eq!(
            command(&on("ubuntu", &["debian"]), &both),
            apt("linux-generic")
        );
        let mint = on("linuxmint", &["ubuntu", "debian"]);
        assert_eq!(command(&mint, &both), apt("linux-generic"));
        assert_eq!(command(&mint, &both[..1]), apt("linux-image-amd64"));
        assert_eq!(command(&on("debian", &[]), &both[1..]), None);
        assert_eq!(command(&on("gentoo", &[]), &both), None);
    }
}
