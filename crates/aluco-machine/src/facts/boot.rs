//! What starts the kernel, and where its arguments are kept.

use serde::{Deserialize, Serialize};

use super::Known;

/// What starts the kernel, and where its arguments are kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Boot {
    /// How kernel arguments are changed on this machine.
    pub loader: Known<BootLoader>,
    /// Arguments that the loader's files ask for at the next start, without those that name the kernel and its root; in the file that `source` names.
    pub configured_arguments: Known<Vec<String>>,
    /// What makes the initial file system: `dracut`, `initramfs-tools`, `mkinitcpio` or `booster`.
    pub initramfs: Known<String>,
}

/// How kernel arguments are changed. Told from what is installed, not from the name of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootLoader {
    /// GRUB with entries of the Boot Loader Specification, by `grubby`: Fedora, RHEL.
    Grubby,
    /// An image, by `rpm-ostree kargs`: Silverblue, Bazzite.
    RpmOstree,
    /// An image, whose arguments `/usr/lib/bootc/kargs.d` holds when it is built.
    Bootc,
    /// GRUB, by `/etc/default/grub.d` and `update-grub`: Debian, Ubuntu.
    UpdateGrub,
    /// GRUB, by `/etc/default/grub` and `grub-mkconfig`: Arch and others.
    GrubMkconfig,
    /// systemd-boot, whose arguments `/etc/kernel/cmdline` holds, by `kernel-install` or `mkinitcpio`.
    KernelCmdline,
    /// systemd-boot with entries that are written by hand.
    LoaderEntries,
    /// Limine, by `/etc/default/limine`: CachyOS.
    Limine,
    /// NixOS: by its configuration only.
    NixOs,
}
