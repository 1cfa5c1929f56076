//! Whether we are in a container, and which can be started.

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::Root;

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

const PODMAN: &str = "/run/.containerenv";
const MARKERS: &[(&str, ContainerKind)] = &[
    ("/run/.toolboxenv", ContainerKind::Toolbox),
    ("/usr/bin/distrobox-host-exec", ContainerKind::Distrobox),
    ("/.flatpak-info", ContainerKind::Flatpak),
    (PODMAN, ContainerKind::Podman),
    ("/.dockerenv", ContainerKind::Docker),
];

/// Programs that start containers.
pub(crate) const RUNTIMES: &[&str] = &["podman", "docker", "toolbox", "distrobox"];

impl Container {
    pub(super) fn collect(root: &Root) -> Self {
        let inside = inside(root);
        let in_one = inside
            .get()
            .is_some_and(|kind| *kind != ContainerKind::None);
        let image = if in_one {
            let text = root.text(PODMAN);
            read::told(&text, PODMAN, "its image", |text| {
                let image = read::unquoted(read::assignment(text, "image")?);
                (!image.is_empty()).then(|| image.chars().take(256).collect())
            })
        } else {
            Known::unknown(Because::NotApplicable, "not in a container")
        };
        let runtimes = RUNTIMES
            .iter()
            .filter(|name| root.has(&format!("/usr/bin/{name}")))
            .map(|name| (*name).to_owned());
        let enforce = "/sys/fs/selinux/enforce";
        let selinux = read::parsed(root, enforce, "0 or 1", |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        });
        Self {
            inside,
            image,
            runtimes: Known::value(runtimes.collect(), "/usr/bin"),
            selinux_enforcing: read::absent_is(selinux, false),
        }
    }

    /// Whether we are in one for sure.
    pub fn is_inside(&self) -> bool {
        self.inside
            .get()
            .is_some_and(|kind| *kind != ContainerKind::None)
    }
}

fn inside(root: &Root) -> Known<ContainerKind> {
    for (path, kind) in MARKERS {
        if root.has(path) {
            return Known::value(*kind, *path);
        }
    }
    // systemd in a container writes it there; others only tell their first process.
    let path = "/run/systemd/container";
    let manager = read::line(root, path).get().cloned();
    let words = root.words("/proc/self/environ");
    let told = manager.map(|name| (name, path)).or_else(|| {
        let words = words.as_ref().ok()?;
        let name = words
            .iter()
            .find_map(|word| word.strip_prefix("container="))?;
        Some((name.to_owned(), "/proc/self/environ"))
    });
    match told {
        Some((name, source)) => Known::value(
            match &*name {
                "podman" => ContainerKind::Podman,
                "docker" => ContainerKind::Docker,
                "lxc" => ContainerKind::Lxc,
                "systemd-nspawn" => ContainerKind::Nspawn,
                _ => ContainerKind::Other,
            },
            source,
        ),
        None => match words {
            Ok(_) => Known::value(ContainerKind::None, "no marker of any container"),
            Err(error) => error.into(),
        },
    }
}
