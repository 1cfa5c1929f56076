//! What can be done about a finding, as data: `doctor` shows it, `tune` turns it into a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One change that a finding asks for.
///
/// In a rule file the strings may hold `{expressions}` over the facts; in a [`Finding`](super::Finding) they are filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FixAction {
    /// Add an argument to the kernel's command line, or give it another value. Takes a reboot.
    SetKernelArgument {
        /// `ttm.pages_limit`
        name: String,
        /// `29360128`; `None` for an argument without a value, such as `quiet`.
        value: Option<String>,
    },
    /// Take an argument from the kernel's command line. Takes a reboot.
    RemoveKernelArgument {
        /// `amdgpu.gttsize`
        name: String,
        /// Only if it has this value; `None`: whatever its value.
        value: Option<String>,
    },
    /// A line `options MODULE OPTION=VALUE` below `/etc/modprobe.d`. Takes a new initramfs and a reboot.
    SetModuleOption {
        /// `ttm`
        module: String,
        /// `pages_limit`
        option: String,
        /// `29360128`
        value: String,
    },
    /// Take an option of a module from the files below `/etc/modprobe.d`. Takes a new initramfs and a reboot.
    RemoveModuleOption {
        /// `amdgpu`
        module: String,
        /// `gttsize`
        option: String,
    },
    /// A rule in a file of our own below `/etc/udev/rules.d`.
    SetUdevRule {
        /// Name of the file without its folder and number: `kfd`.
        name: String,
        /// The whole rule.
        rule: String,
    },
    /// Remove a file below `/etc/udev/rules.d`.
    RemoveUdevRule {
        /// Its whole path.
        path: String,
    },
    /// A limit below `/etc/security/limits.d`, soft and hard. Holds from the next login on.
    LimitsConf {
        /// Whom it is for: a user, `@group` or `*`.
        domain: String,
        /// `memlock`
        item: String,
        /// `unlimited`
        value: String,
    },
    /// A kernel setting below `/etc/sysctl.d`.
    Sysctl {
        /// `vm.swappiness`
        key: String,
        /// `10`
        value: String,
    },
    /// The active profile of TuneD.
    TunedProfile {
        /// `accelerator-performance`
        profile: String,
    },
    /// The firmware's power mode, `/sys/firmware/acpi/platform_profile`.
    PlatformProfile {
        /// `performance`
        profile: String,
    },
    /// Make the user a member of a group. Holds from the next login on.
    GroupMember {
        /// `render`
        group: String,
    },
    /// Keep units of systemd from being started.
    MaskUnits {
        /// `sleep.target`
        units: Vec<String>,
    },
    /// Install, upgrade or remove packages.
    Package {
        /// What to do with them.
        operation: PackageOperation,
        /// Their names, by the family of the distribution. A family that is absent has no such package.
        names: BTreeMap<PackageFamily, Vec<String>>,
    },
    /// Something to set in the firmware's setup, which no program can.
    BiosSetting {
        /// `UMA frame buffer`
        setting: String,
        /// `512 MB, or the smallest offered`
        value: String,
    },
    /// What a person has to do.
    Manual {
        /// One sentence.
        text: String,
        /// Shell commands that do it, if there are any.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        commands: Vec<String>,
    },
}

/// What to do with packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageOperation {
    /// Install them.
    Install,
    /// Bring them to the newest version.
    Upgrade,
    /// Remove them.
    Remove,
}

/// Distributions that share a package manager and the names of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageFamily {
    /// Fedora, RHEL and kin: dnf, or rpm-ostree where the system is an image.
    Fedora,
    /// Debian and kin, also Ubuntu where it is not named: apt.
    Debian,
    /// Ubuntu and kin, where a package is called otherwise than in Debian: apt.
    Ubuntu,
    /// Arch, CachyOS and kin: pacman.
    Arch,
    /// NixOS: options in its configuration.
    Nixos,
}

impl FixAction {
    /// Whether `aluco tune` can make this change and take it back.
    pub fn is_tunable(&self) -> bool {
        !matches!(
            self,
            Self::Package { .. } | Self::BiosSetting { .. } | Self::Manual { .. }
        )
    }

    /// Whether it holds only after a reboot.
    pub fn needs_reboot(&self) -> bool {
        matches!(
            self,
            Self::SetKernelArgument { .. }
                | Self::RemoveKernelArgument { .. }
                | Self::SetModuleOption { .. }
                | Self::RemoveModuleOption { .. }
                | Self::BiosSetting { .. }
        )
    }
}
