//! What starts the kernel, and where its arguments are kept.

use serde::{Deserialize, Serialize};

use super::{Because, Container, Kernel, Known, read};
use crate::root::Root;

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

const ENTRIES: &str = "/boot/loader/entries";
const CMDLINE: &str = "/etc/kernel/cmdline";
const GRUB: &str = "/etc/default/grub";
const GRUB_MORE: &str = "/etc/default/grub.d";
const LIMINE: &str = "/etc/default/limine";

/// What the loader says of itself, in UTF-16 after four bytes of attributes.
const LOADER_INFO: &str =
    "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

impl Boot {
    pub(super) fn collect(root: &Root, kernel: &Kernel, container: &Container) -> Self {
        if container.is_inside() {
            fn of_the_host<T>() -> Known<T> {
                Known::unknown(
                    Because::NotApplicable,
                    "in a container: the host starts the kernel",
                )
            }
            return Self {
                loader: of_the_host(),
                configured_arguments: of_the_host(),
                initramfs: of_the_host(),
            };
        }
        let loader = loader(root);
        let release = kernel.release.get().map_or("", String::as_str);
        Self {
            configured_arguments: match loader.copied() {
                Some(loader) => configured(root, loader, release),
                None => Known::unknown(Because::NotApplicable, "the boot loader is not known"),
            },
            initramfs: initramfs(root),
            loader,
        }
    }
}

fn program(root: &Root, name: &str) -> Option<String> {
    let folders = ["/usr/bin", "/usr/sbin"];
    let mut paths = folders.iter().map(|folder| format!("{folder}/{name}"));
    paths.find(|path| root.has(path))
}

fn loader(root: &Root) -> Known<BootLoader> {
    let known = |loader, source: String| Known::value(loader, source);
    if root.has("/etc/NIXOS") {
        return known(BootLoader::NixOs, "/etc/NIXOS".to_owned());
    }
    if root.has("/run/ostree-booted") {
        if let Some(path) = program(root, "rpm-ostree") {
            return known(BootLoader::RpmOstree, path);
        }
        if let Some(path) = program(root, "bootc") {
            return known(BootLoader::Bootc, path);
        }
    }
    if root.has(LIMINE) {
        return known(BootLoader::Limine, LIMINE.to_owned());
    }
    let systemd_boot = [
        "/boot/EFI/systemd",
        "/efi/EFI/systemd",
        "/boot/efi/EFI/systemd",
    ];
    let systemd_boot = systemd_boot.into_iter().find(|path| root.has(path));
    let by_systemd = |path: &str| {
        if root.has(CMDLINE) {
            known(BootLoader::KernelCmdline, CMDLINE.to_owned())
        } else {
            known(BootLoader::LoaderEntries, path.to_owned())
        }
    };
    // With several loaders installed, the one that ran counts.
    if loader_info(root).is_some_and(|name| name.starts_with("systemd-boot")) {
        return by_systemd(LOADER_INFO);
    }
    if let Some(path) = program(root, "grubby")
        && (root.has(ENTRIES) || root.has(GRUB))
    {
        return known(BootLoader::Grubby, path);
    }
    if root.has(GRUB) {
        if let Some(path) = program(root, "update-grub") {
            return known(BootLoader::UpdateGrub, path);
        }
        if let Some(path) =
            program(root, "grub-mkconfig").or_else(|| program(root, "grub2-mkconfig"))
        {
            return known(BootLoader::GrubMkconfig, path);
        }
    }
    match systemd_boot {
        Some(path) => by_systemd(path),
        None => Known::unknown(
            Because::Absent,
            "neither GRUB's nor systemd-boot's nor another loader's files were found",
        ),
    }
}

fn loader_info(root: &Root) -> Option<String> {
    let bytes = root.read(LOADER_INFO).ok()?;
    let letters = bytes.get(4..)?.chunks_exact(2);
    let letters = letters.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let letters: Vec<u16> = letters.take_while(|letter| *letter != 0).collect();
    Some(String::from_utf16_lossy(&letters))
}

fn configured(root: &Root, loader: BootLoader, release: &str) -> Known<Vec<String>> {
    match loader {
        BootLoader::Grubby | BootLoader::RpmOstree | BootLoader::LoaderEntries => {
            entry(root, release).or_else(|| from_file(root, CMDLINE, |text| Some(text.to_owned())))
        }
        BootLoader::KernelCmdline => from_file(root, CMDLINE, |text| Some(text.to_owned())),
        BootLoader::UpdateGrub | BootLoader::GrubMkconfig => grub(root),
        BootLoader::Limine => from_file(root, LIMINE, limine),
        BootLoader::NixOs | BootLoader::Bootc => Known::unknown(
            Because::NotApplicable,
            "the image's or system's configuration holds them",
        ),
    }
}

fn from_file(
    root: &Root,
    path: &str,
    find: impl FnOnce(&str) -> Option<String>,
) -> Known<Vec<String>> {
    read::told(&root.text(path), path, "kernel arguments", find).map(|line| own_arguments(&line))
}

/// The entry of the kernel that runs, else the first that is no fallback.
fn entry(root: &Root, release: &str) -> Known<Vec<String>> {
    let names = match root.names(ENTRIES) {
        Ok(names) => names,
        Err(error) => return error.into(),
    };
    let mut names: Vec<String> = names
        .into_iter()
        .filter(|name| name.strip_suffix(".conf").is_some())
        .take(64)
        .collect();
    names.sort_by_key(|name| {
        let running = !release.is_empty() && name.contains(release);
        (
            !running,
            name.contains("fallback") || name.contains("rescue"),
        )
    });
    match names.first() {
        Some(name) => from_file(root, &format!("{ENTRIES}/{name}"), |text| {
            let options = text.lines().filter_map(|line| {
                let rest = line.strip_prefix("options")?;
                rest.starts_with([' ', '\t']).then_some(rest)
            });
            let options: Vec<&str> = options.collect();
            (!options.is_empty()).then(|| options.join(" "))
        }),
        None => Known::unknown(Because::Absent, format!("no entries in {ENTRIES}")),
    }
}

/// GRUB's two variables, as its files set them one after the other. A file may refer to what an earlier one set.
fn grub(root: &Root) -> Known<Vec<String>> {
    const NAMES: [&str; 2] = ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"];
    let mut paths = vec![GRUB.to_owned()];
    let more = read::with_ending(root, GRUB_MORE, ".cfg");
    paths.extend(
        more.iter()
            .take(64)
            .map(|name| format!("{GRUB_MORE}/{name}")),
    );
    let mut values = [String::new(), String::new()];
    for path in &paths {
        let text = match root.text(path) {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        for line in text.lines() {
            for (index, name) in NAMES.iter().enumerate() {
                let Some(value) = line.trim().strip_prefix(name) else {
                    continue;
                };
                let (append, value) = match (value.strip_prefix("+="), value.strip_prefix('=')) {
                    (Some(value), _) => (true, value),
                    (None, Some(value)) => (false, value),
                    (None, None) => continue,
                };
                let before = values[index].clone();
                let value = read::unquoted(value)
                    .replace(&format!("${{{name}}}"), &before)
                    .replace(&format!("${name}"), &before);
                let value = if append { before + &value } else { value };
                values[index] = value.chars().take(4096).collect();
            }
        }
    }
    Known::value(own_arguments(&values.join(" ")), GRUB)
}

/// `KERNEL_CMDLINE[default]+="quiet"`, once or more.
fn limine(text: &str) -> Option<String> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let name = name.trim_end_matches('+');
        (name == "KERNEL_CMDLINE[default]").then(|| read::unquoted(value))
    });
    let lines: Vec<&str> = lines.collect();
    (!lines.is_empty()).then(|| lines.join(" "))
}

/// Arguments without those that name the kernel and its root.
fn own_arguments(line: &str) -> Vec<String> {
    let beginnings = [
        "BOOT_IMAGE=",
        "initrd=",
        "init=",
        "root=",
        "rootflags=",
        "rootfstype=",
        "resume=",
        "resume_offset=",
        "ostree=",
        "cryptdevice=",
        "rd.luks.",
        "rd.lvm.",
        "rd.md.",
        "$",
    ];
    let mut arguments = super::kernel::arguments(line);
    arguments.retain(|argument| {
        let names_root = beginnings.iter().any(|begin| argument.starts_with(begin));
        !names_root && !matches!(&**argument, "ro" | "rw")
    });
    arguments
}

fn initramfs(root: &Root) -> Known<String> {
    let makers = [
        ("update-initramfs", "initramfs-tools"),
        ("mkinitcpio", "mkinitcpio"),
        ("dracut", "dracut"),
        ("booster", "booster"),
    ];
    let found = makers
        .iter()
        .find_map(|(name, maker)| Some((program(root, name)?, *maker)));
    match found {
        Some((path, maker)) => Known::value(maker.to_owned(), path),
        None => Known::unknown(
            Because::Absent,
            "neither update-initramfs nor mkinitcpio nor dracut nor booster is installed",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::{Bundle, Entry};

    fn machine(files: &[(&str, &str)]) -> Root {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), Entry::Text((*text).to_owned())));
        Root::bundle(Bundle {
            files: files.collect(),
            ..Bundle::default()
        })
    }

    #[test]
    fn later_files_of_grub_refer_to_earlier_ones() {
        let root = machine(&[
            (
                GRUB,
                "GRUB_CMDLINE_LINUX=\"\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n",
            ),
            (
                "/etc/default/grub.d/60-aluco.cfg",
                "GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT ttm.pages_limit=1\"\n",
            ),
        ]);
        assert_eq!(grub(&root).get().unwrap(), &["quiet", "ttm.pages_limit=1"]);
    }

    #[test]
    fn the_loader_that_ran_counts_where_several_are_installed() {
        let mut info = vec![7, 0, 0, 0];
        info.extend(
            "systemd-boot 258\0"
                .encode_utf16()
                .flat_map(u16::to_le_bytes),
        );
        let mut bundle = Bundle::default();
        for path in ["/usr/bin/grubby", GRUB, ENTRIES] {
            let entry = Entry::Text(String::new());
            bundle.files.insert(path.to_owned(), entry);
        }
        let without = Root::bundle(bundle.clone());
        bundle
            .files
            .insert(LOADER_INFO.to_owned(), Entry::from(&info[..]));
        assert_eq!(loader(&without).copied(), Some(BootLoader::Grubby));
        assert_eq!(
            loader(&Root::bundle(bundle)).copied(),
            Some(BootLoader::LoaderEntries)
        );
    }

    #[test]
    fn what_limine_appends_is_one_line() {
        let text = "KERNEL_CMDLINE[default]=\"quiet\"\nKERNEL_CMDLINE[lts]=\"x\"\nKERNEL_CMDLINE[default]+=\" iommu=pt\"\n";
        assert_eq!(own_arguments(&limine(text).unwrap()), ["quiet", "iommu=pt"]);
    }
}
