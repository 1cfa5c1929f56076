//! How a person makes a change on this machine: by its boot loader and its package manager.

use serde::Serialize;

use super::{
    fix::{FixAction, PackageOperation},
    packages::{PackageNames, elsewhere},
};
use crate::facts::{BootLoader, Facts};

/// One change in words, with the commands that make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What to do, without a full stop.
    pub what: String,
    /// Shell commands that do it; empty if there are none, or if this machine's boot loader is not known.
    pub commands: Vec<String>,
    /// Whether it holds only after a reboot.
    pub needs_reboot: bool,
}

impl FixAction {
    /// How to make this change on this machine by hand.
    pub fn step(&self, facts: &Facts) -> Step {
        let (what, commands) = match self {
            Self::SetKernelArgument { name, value } => {
                let argument = argument(name, value.as_deref());
                let commands = set_argument(facts, name, &argument);
                (format!("add the kernel argument {argument}"), commands)
            }
            Self::RemoveKernelArgument { name, value } => {
                let argument = match value {
                    Some(value) => argument(name, Some(value)),
                    None => present_argument(facts, name),
                };
                let commands = remove_argument(facts, &argument);
                (format!("remove the kernel argument {argument}"), commands)
            }
            Self::SetModuleOption {
                module,
                option,
                value,
            } => (
                format!("set the option {option}={value} of the module {module}"),
                vec![
                    format!(
                        "echo 'options {module} {option}={value}' | sudo tee -a /etc/modprobe.d/60-aluco.conf"
                    ),
                    initramfs(facts),
                ],
            ),
            Self::RemoveModuleOption { module, option } => {
                let mut options = facts.modules.options.get().into_iter().flatten();
                let file = options
                    .rfind(|each| &each.module == module && &each.name == option)
                    .map_or("/etc/modprobe.d/*.conf", |each| each.file.as_str());
                (
                    format!("remove {option} of the module {module} from {file}"),
                    vec![
                        format!("sudo sed -i '/^options {module} .*{option}=/d' {file}"),
                        initramfs(facts),
                    ],
                )
            }
            Self::SetUdevRule { name, rule } => (
                format!("add a udev rule for {name}"),
                vec![
                    format!("echo '{rule}' | sudo tee /etc/udev/rules.d/60-aluco-{name}.rules"),
                    "sudo udevadm control --reload && sudo udevadm trigger".to_owned(),
                ],
            ),
            Self::RemoveUdevRule { path } => (
                format!("remove {path}"),
                vec![
                    format!("sudo rm {path}"),
                    "sudo udevadm control --reload && sudo udevadm trigger".to_owned(),
                ],
            ),
            Self::LimitsConf {
                domain,
                item,
                value,
            } => (
                format!("raise the limit {item} of {domain} to {value}, from the next login on"),
                vec![format!(
                    "printf '{domain} soft {item} {value}\\n{domain} hard {item} {value}\\n' | sudo tee /etc/security/limits.d/60-aluco.conf"
                )],
            ),
            Self::Sysctl { key, value } => (
                format!("set {key} to {value}"),
                vec![format!(
                    "echo '{key} = {value}' | sudo tee -a /etc/sysctl.d/60-aluco.conf && sudo sysctl --system"
                )],
            ),
            Self::TunedProfile { profile } => (
                format!("choose TuneD's profile {profile}"),
                vec![
                    "sudo systemctl enable --now tuned".to_owned(),
                    format!("sudo tuned-adm profile {profile}"),
                ],
            ),
            Self::PlatformProfile { profile } => (
                format!(
                    "set the firmware's profile to {profile} (until the next reboot; aluco tune makes it last)"
                ),
                vec![format!(
                    "echo {profile} | sudo tee /sys/firmware/acpi/platform_profile"
                )],
            ),
            Self::GroupMember { group } => (
                format!("become a member of the group {group}, then log in anew"),
                group_member(group, facts),
            ),
            Self::MaskUnits { units } => {
                let units = units.join(" ");
                (
                    format!("keep {units} from being started"),
                    vec![format!("sudo systemctl mask {units}")],
                )
            }
            Self::Package { operation, names } => package(facts, *operation, names),
            Self::BiosSetting { setting, value } => {
                (format!("in the BIOS, {setting}: {value}"), Vec::new())
            }
            Self::Manual { text, commands } => (in_a_list(text), commands.clone()),
        };
        let by_host = !matches!(
            self,
            Self::Package { .. } | Self::BiosSetting { .. } | Self::Manual { .. }
        );
        let (what, commands) = if by_host && facts.container.is_inside() {
            // What a command would change in a container is not what the finding is about.
            (format!("on the host, {what}"), Vec::new())
        } else {
            (what, commands)
        };
        Step {
            what,
            commands: commands
                .into_iter()
                .filter(|line| !line.is_empty())
                .collect(),
            needs_reboot: self.needs_reboot(),
        }
    }
}

/// A sentence as an item of a list: without a full stop, and with a small letter unless it begins with a name.
fn in_a_list(sentence: &str) -> String {
    let sentence = sentence.trim_end_matches('.');
    let first = sentence.split_whitespace().next().unwrap_or_default();
    let is_word = first
        .chars()
        .skip(1)
        .all(|letter| letter.is_ascii_lowercase());
    if !is_word {
        return sentence.to_owned();
    }
    let mut letters = sentence.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn argument(name: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{name}={value}"),
        None => name.to_owned(),
    }
}

/// The argument of this name as the kernel was given it.
fn present_argument(facts: &Facts, name: &str) -> String {
    let mut arguments = facts.kernel.arguments.get().into_iter().flatten();
    arguments
        .rfind(|argument| {
            argument
                .strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
        .cloned()
        .unwrap_or_else(|| name.to_owned())
}

fn set_argument(facts: &Facts, name: &str, argument: &str) -> Vec<String> {
    let Some(loader) = facts.boot.loader.get() else {
        return Vec::new();
    };
    let before = present_argument(facts, name);
    let replaces = before != name && before != argument;
    let lines = match loader {
        BootLoader::Grubby if replaces => format!(
            "sudo grubby --update-kernel=ALL --remove-args=\"{before}\" --args=\"{argument}\""
        ),
        BootLoader::Grubby => format!("sudo grubby --update-kernel=ALL --args=\"{argument}\""),
        BootLoader::RpmOstree if replaces => format!(
            "sudo rpm-ostree kargs --delete-if-present={before} --append-if-missing={argument}"
        ),
        BootLoader::RpmOstree => {
            format!("sudo rpm-ostree kargs --append-if-missing={argument}")
        }
        BootLoader::Bootc => format!(
            "echo 'kargs = [\"{argument}\"]' > /usr/lib/bootc/kargs.d/60-aluco.toml  # when the image is built"
        ),
        BootLoader::UpdateGrub => format!(
            "echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT {argument}\"' | sudo tee -a /etc/default/grub.d/60-aluco.cfg && sudo update-grub"
        ),
        BootLoader::GrubMkconfig => format!(
            "sudo sed -i 's/^\\(GRUB_CMDLINE_LINUX_DEFAULT=.*\\)\"$/\\1 {argument}\"/' /etc/default/grub && sudo grub-mkconfig -o /boot/grub/grub.cfg"
        ),
        BootLoader::KernelCmdline => format!(
            "sudo sed -i '1s/$/ {argument}/' /etc/kernel/cmdline && {}",
            entries(facts)
        ),
        BootLoader::LoaderEntries => {
            format!("sudo sed -i '/^options/s/$/ {argument}/' /boot/loader/entries/*.conf")
        }
        BootLoader::Limine => format!(
            "echo 'KERNEL_CMDLINE[default]+=\" {argument}\"' | sudo tee -a /etc/default/limine && sudo limine-mkinitcpio"
        ),
        BootLoader::NixOs => format!(
            "boot.kernelParams = [ \"{argument}\" ];  # in configuration.nix, then: sudo nixos-rebuild boot"
        ),
    };
    vec![lines]
}

/// Where text is edited, the borders of words keep `iommu=off` from being found in `amd_iommu=off`.
fn remove_argument(facts: &Facts, argument: &str) -> Vec<String> {
    let Some(loader) = facts.boot.loader.get() else {
        return Vec::new();
    };
    let lines = match loader {
        BootLoader::Grubby => {
            format!("sudo grubby --update-kernel=ALL --remove-args=\"{argument}\"")
        }
        BootLoader::RpmOstree => {
            format!("sudo rpm-ostree kargs --delete-if-present={argument}")
        }
        BootLoader::Bootc => {
            format!(
                "grep -rl '{argument}' /usr/lib/bootc/kargs.d  # remove it when the image is built"
            )
        }
        BootLoader::UpdateGrub => format!(
            "sudo sed -i 's/ *\\b{argument}\\b//' /etc/default/grub /etc/default/grub.d/*.cfg && sudo update-grub"
        ),
        BootLoader::GrubMkconfig => format!(
            "sudo sed -i 's/ *\\b{argument}\\b//' /etc/default/grub && sudo grub-mkconfig -o /boot/grub/grub.cfg"
        ),
        BootLoader::KernelCmdline => format!(
            "sudo sed -i 's/ *\\b{argument}\\b//' /etc/kernel/cmdline && {}",
            entries(facts)
        ),
        BootLoader::LoaderEntries => {
            format!("sudo sed -i '/^options/s/ *\\b{argument}\\b//' /boot/loader/entries/*.conf")
        }
        BootLoader::Limine => {
            format!(
                "sudo sed -i 's/ *\\b{argument}\\b//' /etc/default/limine && sudo limine-mkinitcpio"
            )
        }
        BootLoader::NixOs => format!(
            "# take \"{argument}\" from boot.kernelParams in configuration.nix, then: sudo nixos-rebuild boot"
        ),
    };
    vec![lines]
}

/// What writes the entries of systemd-boot anew.
fn entries(facts: &Facts) -> &'static str {
    match facts.boot.initramfs.get().map(String::as_str) {
        Some("mkinitcpio") => "sudo mkinitcpio -P",
        _ => "sudo kernel-install add-all",
    }
}

/// What makes the initramfs anew; empty if it is not known here.
fn initramfs(facts: &Facts) -> String {
    match facts.boot.initramfs.get().map(String::as_str) {
        Some("dracut") => "sudo dracut -f --regenerate-all",
        Some("initramfs-tools") => "sudo update-initramfs -u -k all",
        Some("mkinitcpio") => "sudo mkinitcpio -P",
        Some("booster") => "sudo /usr/lib/booster/regenerate_images",
        _ => "",
    }
    .to_owned()
}

fn package(
    facts: &Facts,
    operation: PackageOperation,
    names: &PackageNames,
) -> (String, Vec<String>) {
    let verb = operation.verb();
    if let Some((names, command)) = operation.here(facts, names) {
        return (format!("{verb} {}", names.join(", ")), vec![command]);
    }
    let names = elsewhere(names).join(", ");
    let what = format!("{verb} what your distribution calls {names}");
    (what, Vec::new())
}

/// On an image system the group may stand in /usr/lib/group, where `usermod` does not look.
fn group_member(group: &str, facts: &Facts) -> Vec<String> {
    let copied =
        format!("grep -q '^{group}:' /etc/group || getent group {group} | sudo tee -a /etc/group");
    let of_image = facts.distribution.ostree.copied() == Some(true);
    let joined = format!("sudo usermod -aG {group} $USER");
    of_image
        .then_some(copied)
        .into_iter()
        .chain([joined])
        .collect()
}
