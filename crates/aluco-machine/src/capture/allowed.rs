//! The list of what may be in a bundle. What is not listed is left out, whatever it is.

use super::content;
use crate::facts::memory::without_serials;

/// What is kept of a file.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// Text of the kernel or of a program: identifiers and names are replaced in it.
    Text(fn(&str) -> String),
    /// Text that people write: network addresses are replaced in it, too.
    Free(fn(&str) -> String),
    /// Bytes.
    Bytes(fn(&[u8]) -> Vec<u8>),
    /// That it is there, and who may use it.
    Node,
}

/// In a pattern, `*` is any one name and `**` any rest. The first that fits counts.
const ALLOWED: &[(&str, Keep)] = &[
    ("/proc/cpuinfo", Keep::Text(content::cpuinfo)),
    ("/proc/meminfo", Keep::Text(content::whole)),
    ("/proc/swaps", Keep::Free(content::whole)),
    ("/proc/pressure/memory", Keep::Text(content::whole)),
    ("/proc/sys/vm/*", Keep::Text(content::whole)),
    ("/proc/sys/kernel/arch", Keep::Text(content::whole)),
    ("/proc/sys/kernel/osrelease", Keep::Text(content::whole)),
    ("/proc/sys/kernel/tainted", Keep::Text(content::whole)),
    (
        "/proc/spl/kstat/zfs/arcstats",
        Keep::Text(content::size_of_cache),
    ),
    ("/proc/cmdline", Keep::Free(content::arguments)),
    ("/proc/self/status", Keep::Text(content::ids)),
    ("/proc/self/limits", Keep::Text(content::limits)),
    ("/proc/self/environ", Keep::Free(content::environ)),
    ("/proc/self/mountinfo", Keep::Free(content::mounts)),
    ("/proc/self/**", Keep::Node),
    ("/proc/*/comm", Keep::Text(content::whole)),
    ("/proc/*/cmdline", Keep::Text(content::command_line)),
    ("/proc/*/environ", Keep::Free(content::environ)),
    ("/proc/*/fd", Keep::Node),
    ("/proc/*/fd/*", Keep::Node),
    ("/proc/*/fdinfo/*", Keep::Text(content::fdinfo)),
    ("/sys/firmware/dmi/tables/DMI", Keep::Bytes(without_serials)),
    ("/sys/class/dmi/id/bios_date", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/bios_vendor", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/bios_version", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/board_name", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/board_vendor", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/product_name", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/product_sku", Keep::Text(content::whole)),
    ("/sys/class/dmi/id/sys_vendor", Keep::Text(content::whole)),
    ("/sys/class/drm", Keep::Node),
    (
        "/sys/class/drm/*/device/gpu_metrics",
        Keep::Bytes(<[u8]>::to_vec),
    ),
    ("/sys/class/drm/**", Keep::Text(content::whole)),
    ("/sys/class/kfd/**", Keep::Text(content::without_unique_id)),
    ("/sys/class/accel/**", Keep::Text(content::whole)),
    ("/sys/class/accel", Keep::Node),
    ("/sys/class/iommu/**", Keep::Node),
    ("/sys/class/iommu", Keep::Node),
    ("/sys/class/power_supply", Keep::Node),
    ("/sys/class/power_supply/*/type", Keep::Text(content::whole)),
    (
        "/sys/class/power_supply/*/online",
        Keep::Text(content::whole),
    ),
    (
        "/sys/class/power_supply/*/status",
        Keep::Text(content::whole),
    ),
    (
        "/sys/class/power_supply/*/scope",
        Keep::Text(content::whole),
    ),
    (
        "/sys/class/ec_su_axb35/apu/power_mode",
        Keep::Text(content::whole),
    ),
    ("/sys/class/net", Keep::Node),
    (
        "/sys/class/net/*/device/uevent",
        Keep::Text(content::driver),
    ),
    ("/sys/class/net/**", Keep::Text(content::whole)),
    ("/sys/class", Keep::Node),
    ("/sys/bus/pci/devices", Keep::Node),
    ("/sys/bus/pci/devices/**", Keep::Text(content::whole)),
    ("/sys/kernel/iommu_groups", Keep::Node),
    (
        "/sys/kernel/iommu_groups/*/type",
        Keep::Text(content::whole),
    ),
    (
        "/sys/kernel/mm/transparent_hugepage/*",
        Keep::Text(content::whole),
    ),
    ("/sys/kernel/debug/dri", Keep::Node),
    (
        "/sys/kernel/debug/dri/*/amdgpu_firmware_info",
        Keep::Text(content::mes),
    ),
    ("/sys/module", Keep::Node),
    ("/sys/module/**", Keep::Text(content::whole)),
    ("/sys/devices/system/cpu/**", Keep::Text(content::whole)),
    ("/sys/firmware", Keep::Node),
    ("/sys/firmware/acpi/*", Keep::Text(content::whole)),
    ("/sys/firmware/efi", Keep::Node),
    ("/sys/firmware/efi/efivars/*", Keep::Bytes(<[u8]>::to_vec)),
    ("/sys/fs/selinux/enforce", Keep::Text(content::whole)),
    ("/sys/block", Keep::Node),
    ("/sys/block/**", Keep::Text(content::whole)),
    ("/etc/os-release", Keep::Text(content::release)),
    ("/usr/lib/os-release", Keep::Text(content::release)),
    ("/etc/modprobe.d/*", Keep::Free(content::module_lines)),
    ("/run/modprobe.d/*", Keep::Free(content::module_lines)),
    (
        "/usr/local/lib/modprobe.d/*",
        Keep::Free(content::module_lines),
    ),
    ("/usr/lib/modprobe.d/*", Keep::Free(content::module_lines)),
    ("/lib/modprobe.d/*", Keep::Free(content::module_lines)),
    ("/etc/environment", Keep::Free(content::assignments)),
    ("/etc/environment.d/*", Keep::Free(content::assignments)),
    ("/etc/profile.d/*", Keep::Free(content::assignments)),
    (
        "/etc/security/pam_env.conf",
        Keep::Free(content::assignments),
    ),
    (
        "/etc/security/limits.conf",
        Keep::Text(content::limit_lines),
    ),
    ("/etc/security/limits.d/*", Keep::Text(content::limit_lines)),
    ("/etc/systemd/system/**", Keep::Free(content::unit)),
    ("/usr/lib/systemd/system/**", Keep::Free(content::unit)),
    ("/etc/group", Keep::Text(content::groups)),
    ("/etc/udev/rules.d", Keep::Node),
    ("/etc/udev/rules.d/*", Keep::Text(content::open_rules)),
    ("/etc/default/grub", Keep::Free(content::grub)),
    ("/etc/default/grub.d/*", Keep::Free(content::grub)),
    ("/etc/default/limine", Keep::Free(content::limine)),
    ("/etc/kernel/cmdline", Keep::Free(content::arguments)),
    ("/boot/loader/entries", Keep::Node),
    ("/boot/loader/entries/*", Keep::Free(content::entry)),
    ("/etc/tuned/active_profile", Keep::Text(content::whole)),
    ("/run/.containerenv", Keep::Text(content::image)),
    ("/run/systemd/container", Keep::Text(content::whole)),
    ("/etc/vulkan/**", Keep::Free(content::manifest)),
    ("/usr/local/etc/vulkan/**", Keep::Free(content::manifest)),
    ("/usr/local/share/vulkan/**", Keep::Free(content::manifest)),
    ("/usr/share/vulkan/**", Keep::Free(content::manifest)),
    (
        "/run/opengl-driver/share/vulkan/**",
        Keep::Free(content::manifest),
    ),
    ("/opt", Keep::Node),
    ("/opt/*/.info/version", Keep::Text(content::whole)),
    ("/opt/*/share/hip/version", Keep::Text(content::whole)),
    ("/lib/firmware/updates/amdgpu", Keep::Node),
    ("/commands/vulkaninfo", Keep::Text(content::vulkaninfo)),
    (
        "/commands/vulkaninfo-features",
        Keep::Text(content::vulkan_features),
    ),
    ("/commands/llama-server", Keep::Text(content::llama_server)),
    ("/commands/ollama", Keep::Text(content::ollama)),
    ("/commands/xrt-smi", Keep::Text(content::xrt)),
    ("/commands/rpm", Keep::Text(content::packages)),
    ("/commands/dpkg-query", Keep::Text(content::packages)),
    ("/commands/pacman", Keep::Text(content::packages)),
    ("/commands/*", Keep::Text(content::whole)),
    // Whether programs, markers and devices are there.
    ("/etc/NIXOS", Keep::Node),
    ("/run/ostree-booted", Keep::Node),
    ("/run/.toolboxenv", Keep::Node),
    ("/.dockerenv", Keep::Node),
    ("/.flatpak-info", Keep::Node),
    ("/boot/EFI/systemd", Keep::Node),
    ("/efi/EFI/systemd", Keep::Node),
    ("/boot/efi/EFI/systemd", Keep::Node),
    ("/usr/bin/*", Keep::Node),
    ("/usr/sbin/*", Keep::Node),
    ("/dev/kfd", Keep::Node),
    ("/dev/dri", Keep::Node),
    ("/dev/dri/*", Keep::Node),
    ("/dev/accel/*", Keep::Node),
];

/// What may be kept of a path; `None` if nothing.
pub(super) fn keep(path: &str) -> Option<Keep> {
    let allowed = ALLOWED.iter();
    allowed
        .into_iter()
        .find(|(pattern, _)| fits(pattern, path))
        .map(|(_, keep)| *keep)
}

/// Whether a name in a folder that was listed may be kept.
pub(super) fn keeps_name(folder: &str, name: &str) -> bool {
    match folder {
        "/sys/class/drm"
        | "/sys/class/iommu"
        | "/sys/class/accel"
        | "/sys/class/power_supply"
        | "/sys/bus/pci/devices"
        | "/sys/kernel/iommu_groups"
        | "/dev/dri" => true,
        "/sys/class/net" => content::is_device_name(name),
        "/opt" => name.starts_with("rocm"),
        "/lib/firmware/updates/amdgpu" => {
            let letters = name.bytes();
            letters.len() <= 64 && name.contains(".bin")
        }
        folder if folder.ends_with("/vulkan/implicit_layer.d") => {
            name.strip_suffix(".json").is_some()
        }
        folder => folder.starts_with("/sys/class/kfd/"),
    }
}

fn fits(pattern: &str, path: &str) -> bool {
    let mut names = path.split('/');
    for part in pattern.split('/') {
        if part == "**" {
            return names.next().is_some();
        }
        match names.next() {
            Some(name) if part == "*" || part == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_name_and_two_are_any_rest() {
        assert!(fits("/a/*/c", "/a/b/c"));
        assert!(!fits("/a/*/c", "/a/b/b/c"));
        assert!(fits("/a/**", "/a/b/c"));
        assert!(!fits("/a/**", "/a"));
        assert!(!fits("/a", "/a/b"));
    }

    #[test]
    fn what_is_not_listed_is_left_out() {
        for path in [
            "/etc/passwd",
            "/etc/machine-id",
            "/etc/hostname",
            "/proc/sys/kernel/hostname",
            "/sys/class/dmi/id/product_serial",
            "/sys/class/dmi/id/product_uuid",
            "/home/somebody/.bashrc",
        ] {
            assert!(keep(path).is_none(), "{path}");
        }
    }
}
