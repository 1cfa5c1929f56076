//! Whether we are in a container, and which can be started.

use serde::{Deserialize, Serialize};

use super::Known;

/// Whether we are in a container, and which can be started.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Container {
    /// What we are in.
    pub inside: Known<ContainerKind>,
    /// The image that the container was made from.
    pub image: Known<String>,
    /// Programs that start containers: `podman`, `docker`, `toolbox`, `distrobox`.
    pub runtimes: Known<Vec<String>>,
    /// Whether SELinux is enforced.
    pub selinux_enforcing: Known<bool>,
}

/// What a process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerKind {
    /// No container.
    None,
    /// Toolbox.
    Toolbox,
    /// Distrobox.
    Distrobox,
    /// Podman.
    Podman,
    /// Docker.
    Docker,
    /// Flatpak.
    Flatpak,
    /// LXC or Incus.
    Lxc,
    /// `systemd-nspawn`.
    Nspawn,
    /// Another one.
    Other,
}
