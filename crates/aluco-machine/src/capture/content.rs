//! What is kept of each kind of file: the lines that facts are told from.

use crate::{
    facts::{
        environment::matters,
        kernel::arguments as parted,
        modules::MODULES,
        process::{flags, program},
        vulkan_features,
    },
    root::PACKAGES,
};

pub(super) fn whole(text: &str) -> String {
    text.to_owned()
}

fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    mapped(text, |line| keep(line).then(|| line.to_owned()))
}

fn mapped(text: &str, keep: impl Fn(&str) -> Option<String>) -> String {
    let mut kept = String::new();
    for line in text.lines().filter_map(keep) {
        kept.push_str(&line);
        kept.push('\n');
    }
    kept
}

/// The first block and, of the others, what counts cores.
pub(super) fn cpuinfo(text: &str) -> String {
    const OF_EACH: &[&str] = &["processor", "physical id", "core id", "CPU part"];
    let first = text.find("\n\n").unwrap_or(text.len());
    let (first, rest) = text.split_at(first);
    let rest = lines(rest, |line| {
        let name = line.split(':').next().unwrap_or(line).trim();
        OF_EACH.contains(&name)
    });
    let first = lines(first, |line| !line.starts_with("Serial"));
    format!("{first}\n{rest}")
}

pub(super) fn size_of_cache(text: &str) -> String {
    lines(text, |line| line.starts_with("size "))
}

pub(super) fn ids(text: &str) -> String {
    let begins = ["Uid:", "Gid:", "Groups:"];
    lines(text, |line| {
        begins.iter().any(|begin| line.starts_with(begin))
    })
}

pub(super) fn limits(text: &str) -> String {
    let begins = ["Max open files", "Max locked memory"];
    lines(text, |line| {
        begins.iter().any(|begin| line.starts_with(begin))
    })
}

pub(super) fn mes(text: &str) -> String {
    lines(text, |line| line.starts_with("MES feature"))
}

pub(super) fn driver(text: &str) -> String {
    lines(text, |line| line.starts_with("DRIVER="))
}

/// The KFD calls the serial number of a GPU so.
pub(super) fn without_unique_id(text: &str) -> String {
    lines(text, |line| !line.starts_with("unique_id"))
}

pub(super) fn fdinfo(text: &str) -> String {
    lines(text, |line| line.starts_with("drm-"))
}

pub(super) fn release(text: &str) -> String {
    let names = [
        "NAME",
        "ID",
        "ID_LIKE",
        "VERSION_ID",
        "VARIANT_ID",
        "PRETTY_NAME",
        "OSTREE_VERSION",
    ];
    lines(text, |line| {
        let name = line.split('=').next().unwrap_or(line);
        names.contains(&name)
    })
}

/// Kernel arguments whose value says how the machine is set up, and not whose it is.
const TOLD_ARGUMENTS: &[&str] = &[
    "amdgpu.",
    "amdttm.",
    "amdxdna.",
    "ttm.",
    "amd_iommu",
    "intel_iommu",
    "iommu",
    "amd_pstate",
    "pcie_aspm",
    "pci",
    "transparent_hugepage",
    "numa_balancing",
    "mitigations",
    "psi",
    "zswap.",
    "hugepages",
    "hugepagesz",
    "default_hugepagesz",
    "init_on_alloc",
    "init_on_free",
    "mem",
    "memmap",
    "modprobe.blacklist",
    "module_blacklist",
    "rd.driver.blacklist",
    "preempt",
    "processor.",
    "cpuidle.",
    "zfs.",
    "nomodeset",
    "iomem",
    "swiotlb",
    "video",
    "console",
    "loglevel",
    "panic",
    "isolcpus",
    "nohz_full",
    "cgroup_disable",
    "systemd.unified",
];

/// Arguments as they are, but of those that may name disks, hosts or people only the name.
pub(super) fn arguments(text: &str) -> String {
    let words = parted(text).into_iter().take_while(|word| word != "--");
    let words: Vec<String> = words.map(|word| argument(&word)).collect();
    words.join(" ") + "\n"
}

fn argument(word: &str) -> String {
    let Some((name, value)) = word.split_once('=') else {
        let plain = word.len() <= 32
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        return if plain { word } else { "hidden" }.to_owned();
    };
    let told = TOLD_ARGUMENTS.iter().any(|told| {
        name.strip_prefix(told)
            .is_some_and(|rest| rest.is_empty() || told.ends_with('.'))
    });
    match (told, value.contains(' ')) {
        (true, false) => format!("{name}={value}"),
        (true, true) => format!("{name}=\"{value}\""),
        (false, _) => format!("{name}=hidden"),
    }
}

/// What comes after the first `=` of a line is arguments.
fn assigned_arguments(line: &str) -> Option<String> {
    let (name, value) = line.split_once('=')?;
    let value = value.trim().trim_matches(['"', '\'']);
    Some(format!("{name}=\"{}\"", spread(value)))
}

/// Arguments with the space before them, which `+=` needs.
fn spread(value: &str) -> String {
    let begin = if value.starts_with(' ') { " " } else { "" };
    let kept: Vec<String> = value
        .split_ascii_whitespace()
        .map(|word| {
            if word.starts_with('$') {
                word.to_owned()
            } else {
                argument(word)
            }
        })
        .collect();
    format!("{begin}{}", kept.join(" "))
}

pub(super) fn grub(text: &str) -> String {
    mapped(text, |line| {
        let line = line.trim();
        line.starts_with("GRUB_CMDLINE_LINUX")
            .then(|| assigned_arguments(line))?
    })
}

pub(super) fn limine(text: &str) -> String {
    mapped(text, |line| {
        let line = line.trim();
        line.starts_with("KERNEL_CMDLINE[")
            .then(|| assigned_arguments(line))?
    })
}

pub(super) fn entry(text: &str) -> String {
    mapped(text, |line| {
        let options = line.strip_prefix("options")?;
        options
            .starts_with([' ', '\t'])
            .then(|| format!("options {}", spread(options.trim())))
    })
}

/// Lines of modprobe's about the modules that matter.
pub(super) fn module_lines(text: &str) -> String {
    lines(&text.replace("\\\n", " "), |line| {
        let mut words = line.split_ascii_whitespace();
        let command = matches!(words.next(), Some("options" | "blacklist"));
        command && words.next().is_some_and(|module| MODULES.contains(&module))
    })
}

/// `NAME=value` and `export NAME=value` of the variables that matter.
pub(super) fn assignments(text: &str) -> String {
    lines(text, |line| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        line.split_once('=').is_some_and(|(name, _)| matters(name))
    })
}

pub(super) fn unit(text: &str) -> String {
    mapped(text, |line| {
        let words = parted(line.trim().strip_prefix("Environment=")?);
        let words = words
            .iter()
            .filter(|word| word.split_once('=').is_some_and(|(name, _)| matters(name)));
        let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
        (!words.is_empty()).then(|| format!("Environment={}", words.join(" ")))
    })
}

/// The variables that matter, and whether a container says that it is one.
pub(super) fn environ(text: &str) -> String {
    let words = text.split('\0').filter(|word| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| matters(name) || name == "container")
    });
    ended(words)
}

/// Words that each end in a zero byte.
fn ended<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.flat_map(|word| [word, "\0"]).collect()
}

/// The program and its flags that matter.
pub(super) fn command_line(text: &str) -> String {
    let words: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let mut kept = program(&words);
    for flag in flags(&words) {
        kept.extend(flag.split(' ').map(str::to_owned));
    }
    ended(kept.iter().map(String::as_str))
}

/// Mounts of the system's own folders and of models. Of network file systems, only the kind.
pub(super) fn mounts(text: &str) -> String {
    const POINTS: &[&str] = &[
        "/",
        "/home",
        "/var",
        "/var/home",
        "/var/lib",
        "/tmp",
        "/boot",
        "/opt",
    ];
    mapped(text, |line| {
        let (place, what) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        let mut what = what.split(' ');
        let (kind, device) = (what.next()?, what.next()?);
        let device = if device.starts_with("/dev/") {
            device
        } else {
            kind
        };
        POINTS
            .contains(&point)
            .then(|| format!("1 1 0:1 / {point} rw - {kind} {device} rw"))
    })
}

/// Groups whose name is the same on every machine. Nobody is told to be in them.
const GROUPS: &[&str] = &[
    "root", "wheel", "sudo", "adm", "video", "render", "audio", "input", "kvm", "docker", "users",
    "nogroup", "nobody", "libvirt", "plugdev", "cdrom", "dip", "lpadmin", "ollama", "rdma", "disk",
];

pub(super) fn groups(text: &str) -> String {
    mapped(text, |line| {
        let mut parts = line.split(':');
        let name = parts.next()?;
        let number = parts.nth(1)?;
        GROUPS
            .contains(&name)
            .then(|| format!("{name}:x:{number}:"))
    })
}

pub(super) fn limit_lines(text: &str) -> String {
    mapped(text, |line| {
        let line = line.split('#').next()?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [domain, kind, item @ ("memlock" | "nofile"), value] = words[..] else {
            return None;
        };
        let name = domain.trim_start_matches('@');
        let known = domain == "*" || GROUPS.contains(&name);
        let domain = match (known, domain.starts_with('@')) {
            (true, _) => domain,
            (false, true) => "@group",
            (false, false) => "user",
        };
        Some(format!("{domain} {kind} {item} {value}"))
    })
}

/// Only what opens the nodes; such rules may name serial numbers of devices.
pub(super) fn open_rules(text: &str) -> String {
    mapped(text, |line| {
        if line.trim_start().starts_with('#') {
            return None;
        }
        let mode = ["MODE=\"0666\"", "MODE=\"666\""];
        let mode = mode.iter().find(|mode| line.contains(**mode))?;
        let nodes = ["kfd", "renderD", "\"drm\"", "accel"];
        let node = nodes.iter().find(|node| line.contains(**node))?;
        Some(format!("KERNEL==\"{}\", {mode}", node.trim_matches('"')))
            .map(|rule| rule.replace("KERNEL==\"drm\"", "SUBSYSTEM==\"drm\""))
    })
}

/// The image, unless it comes from a place of one's own.
pub(super) fn image(text: &str) -> String {
    const REGISTRIES: &[&str] = &[
        "docker.io/",
        "ghcr.io/",
        "quay.io/",
        "registry.fedoraproject.org/",
        "localhost/",
    ];
    mapped(text, |line| {
        let image = line.strip_prefix("image=")?.trim_matches('"');
        let public = REGISTRIES
            .iter()
            .any(|registry| image.starts_with(registry));
        let image = if public { image } else { "hidden" };
        Some(format!("image=\"{image}\""))
    })
}

/// The library that a Vulkan driver names.
pub(super) fn manifest(text: &str) -> String {
    let manifest: Result<serde_json::Value, _> = serde_json::from_str(text);
    let library = manifest
        .as_ref()
        .ok()
        .and_then(|manifest| manifest.get("ICD")?.get("library_path"));
    match library {
        Some(library) => serde_json::json!({"ICD": {"library_path": library}}).to_string(),
        None => "{}".to_owned(),
    }
}

pub(super) fn vulkaninfo(text: &str) -> String {
    const NAMES: &[&str] = &[
        "apiVersion",
        "vendorID",
        "deviceID",
        "deviceType",
        "deviceName",
        "driverName",
        "driverInfo",
    ];
    lines(text, |line| {
        let name = line.split('=').next().unwrap_or(line).trim();
        NAMES.contains(&name) || (line.starts_with("GPU") && line.trim_end().ends_with(':'))
    })
}

/// Of the long form, what is told of BF16, and what says that a device listed its extensions.
pub(super) fn vulkan_features(text: &str) -> String {
    lines(text, |line| {
        let line = line.trim_end();
        let name = line.trim_start().split(' ').next().unwrap_or(line);
        line == vulkan_features::DEVICES
            || (line.starts_with("GPU") && line.ends_with(':'))
            || line.starts_with("Device Extensions:")
            || [vulkan_features::EXTENSION, vulkan_features::FEATURE].contains(&name)
    })
}

/// The version, and backends without the folders that they were loaded from.
pub(super) fn llama_server(text: &str) -> String {
    const BEGINS: [&str; 4] = [
        "version: ",
        "load_backend: loaded ",
        "ggml_cuda_init: ",
        "ggml_vulkan: ",
    ];
    mapped(text, |line| {
        let told = BEGINS.iter().any(|begin| line.starts_with(begin));
        let line = line.split(" from /").next().unwrap_or(line);
        told.then(|| line.to_owned())
    })
}

pub(super) fn ollama(text: &str) -> String {
    lines(text, |line| line.contains("version is "))
}

/// Versions and devices.
pub(super) fn xrt(text: &str) -> String {
    const KEYS: [&str; 4] = [
        "Version",
        "amdxdna",
        "NPU Firmware Version",
        "Firmware Version",
    ];
    lines(text, |line| {
        let key = line.split(':').next().unwrap_or(line).trim();
        let told = KEYS.iter().any(|told| key.eq_ignore_ascii_case(told));
        // Headings and the empty lines between them hold the parts together.
        let heading = ["", "XRT", "Device(s) Present", "Devices present"].contains(&key);
        told || heading || line.starts_with(['|', '[']) || line.trim() == "0 devices found"
    })
}

/// Names that the kernel and systemd give to network devices. Others may be chosen by people.
pub(super) fn is_device_name(name: &str) -> bool {
    let begins = ["en", "eth", "wl", "ww", "ib", "thunderbolt"];
    let begins = begins.iter().any(|begin| name.starts_with(begin));
    begins && name.len() <= 15 && name.bytes().any(|byte| byte.is_ascii_digit())
}

/// Lines about the packages that matter.
pub(super) fn packages(text: &str) -> String {
    lines(text, |line| {
        line.split_ascii_whitespace()
            .any(|word| PACKAGES.contains(&word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_names_and_lose_what_tells_whose_they_are() {
        let text = "BOOT_IMAGE=/vmlinuz root=UUID=1-2 ro quiet ip=10.0.0.2 amdgpu.gttsize=1 iommu=pt systemd.hostname=owl luks.name=a ttm.x=\"a b\" iommux=1 -- --key=secret";
        assert_eq!(
            arguments(text),
            "BOOT_IMAGE=hidden root=hidden ro quiet ip=hidden amdgpu.gttsize=1 iommu=pt systemd.hostname=hidden luks.name=hidden ttm.x=\"a b\" iommux=hidden\n"
        );
    }

    #[test]
    fn mounts_of_people_and_servers_are_left_out() {
        let text = "1 1 0:1 / / rw - ext4 /dev/vda rw\n1 1 0:1 / /media/bob rw - vfat /dev/sdb rw\n1 1 0:1 / /home rw - nfs4 server:/export rw,addr=10.0.0.1\n";
        assert_eq!(
            mounts(text),
            "1 1 0:1 / / rw - ext4 /dev/vda rw\n1 1 0:1 / /home rw - nfs4 nfs4 rw\n"
        );
    }

    #[test]
    fn limits_of_people_are_those_of_a_user() {
        assert_eq!(
            limit_lines(
                "bob soft memlock 1 # x\n@bobs - nofile 2\n@video hard memlock 3\n* soft core 0\n"
            ),
            "user soft memlock 1\n@group - nofile 2\n@video hard memlock 3\n"
        );
    }
}
