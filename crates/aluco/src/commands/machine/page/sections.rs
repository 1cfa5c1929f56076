//! The rows of each section.

mod hardware;

use aluco_machine::facts::{
    Access, DeviceNode, Facts, IommuMode, Link, LinkKind, Process, Role, Setting,
};

use super::Page;
use crate::config::show_size;

pub(super) fn write(page: &mut Page, facts: &Facts) {
    system(page, facts);
    hardware::cpu(page, &facts.cpu);
    hardware::memory(page, facts);
    for gpu in &facts.gpus {
        hardware::gpu(page, gpu);
    }
    driver(page, facts);
    npu(page, facts);
    software(page, facts);
    power(page, facts);
    access(page, facts);
    hardware::disks(page, facts);
    network(page, facts);
    processes(page, facts);
}

fn words(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(" ")
    }
}

fn text(value: &impl ToString) -> String {
    value.to_string()
}

fn size<T: Copy + Into<u64>>(bytes: &T) -> String {
    show_size((*bytes).into())
}

/// A name of a kind of thing, as it stands in the JSON.
fn name_of(kind: &impl serde::Serialize) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(name)) => name.replace('_', "-"),
        _ => String::new(),
    }
}

/// A row of the parts that are known; none if none is.
fn row_of<const N: usize>(page: &mut Page, label: &str, parts: [Option<String>; N], between: &str) {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if !parts.is_empty() {
        page.row(label, &parts.join(between));
    }
}

fn system(page: &mut Page, facts: &Facts) {
    page.section("Machine");
    let board = &facts.board;
    let machine = [
        page.part("vendor", &board.vendor, text),
        page.part("product", &board.product, text),
    ];
    row_of(page, "machine", machine, " ");
    page.fact("board", &board.board, text);
    let bios = [
        page.part("BIOS", &board.bios_version, text),
        page.part("BIOS date", &board.bios_date, |date| format!("of {date}")),
    ];
    row_of(page, "BIOS", bios, " ");
    page.fact("distribution", &facts.distribution.name, text);
    let kernel = &facts.kernel;
    let release = [
        page.part("kernel", &kernel.release, text),
        page.part("architecture", &kernel.architecture, text),
    ];
    row_of(page, "kernel", release, " ");
    page.fact("arguments", &kernel.arguments, |arguments| words(arguments));
    page.fact("boot loader", &facts.boot.loader, name_of);
    let container = &facts.container;
    page.fact("container", &container.inside, name_of);
    if container.is_inside() {
        page.fact("image", &container.image, text);
    }
    page.fact("runtimes", &container.runtimes, |names| words(names));
}

fn driver(page: &mut Page, facts: &Facts) {
    page.section("Driver");
    let _ = page.known("KFD topology", &facts.kfd.nodes);
    if let Some(node) = facts.kfd.gpu() {
        let saves = match node.cwsr_size {
            Some(_) => "tells the size of its waves",
            None => "does not tell the size of its waves",
        };
        let (target, units) = (&node.target, node.compute_units);
        let memory = show_size(node.memory_bytes);
        page.row(
            "KFD",
            &format!("{target}, {units} compute units, {memory}, {saves}"),
        );
    }
    // AMD's driver from outside the kernel has a ttm of its own; the kernel's then lies idle.
    let (ttm, label) = if facts.modules.amdttm.get().is_some() {
        (&facts.modules.amdttm, "amdttm limit")
    } else {
        (&facts.modules.ttm, "ttm limit")
    };
    if let Some(parameters) = page.known("ttm", ttm)
        && let Some(pages) = parameters.get("pages_limit")
    {
        let bytes = pages
            .parse()
            .ok()
            .and_then(|pages: u64| pages.checked_mul(4096));
        let shown = bytes.map_or_else(String::new, |bytes| format!(" = {}", show_size(bytes)));
        page.row(label, &format!("{pages} pages{shown}"));
    }
    if let Some(parameters) = page.known("amdgpu", &facts.modules.amdgpu) {
        let shown = ["gttsize", "cwsr_enable", "noretry", "ppfeaturemask"];
        let shown = shown.iter().filter_map(|name| {
            let value = parameters.get(*name)?;
            Some(format!("{name}={value}"))
        });
        page.row("amdgpu", &words(&shown.collect::<Vec<_>>()));
    }
    if let Some(version) = facts.modules.amdgpu_version.get() {
        page.row(
            "amdgpu version",
            &format!("{version}, from outside the kernel"),
        );
    }
    page.fact("modprobe.d", &facts.modules.options, |options| {
        let options = options
            .iter()
            .map(|option| format!("{}.{}={}", option.module, option.name, option.value));
        words(&options.collect::<Vec<_>>())
    });
    page.fact("IOMMU", &facts.iommu.mode, |mode| {
        let told = match mode {
            IommuMode::Off => "off",
            IommuMode::Passthrough => "lets addresses through",
            IommuMode::Translated => "translates every address",
        };
        told.to_owned()
    });
    let package = [
        page.part("firmware package", &facts.firmware.package, text),
        page.part("firmware version", &facts.firmware.package_version, text),
    ];
    row_of(page, "firmware", package, " ");
}

fn npu(page: &mut Page, facts: &Facts) {
    page.section("NPU");
    let npu = &facts.npu;
    page.fact("present", &npu.present, |present| yes(*present));
    if npu.present.copied() != Some(true) {
        return;
    }
    page.fact("driver", &npu.driver, text);
    page.fact("device", &npu.device, text);
    page.fact("firmware", &npu.firmware, text);
    page.fact("XRT", &npu.xrt, text);
    if let Some(devices) = npu.seen_by_xrt.devices.get() {
        let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
        let names = names.join(", ");
        let sees = if names.is_empty() { "nothing" } else { &names };
        page.row("XRT sees", sees);
    }
    page.fact("FastFlowLM", &npu.fastflowlm, text);
}

fn yes(flag: bool) -> String {
    if flag { "yes" } else { "no" }.to_owned()
}

fn software(page: &mut Page, facts: &Facts) {
    page.section("Software");
    page.fact("Vulkan devices", &facts.vulkan.devices, |devices| {
        let names: Vec<&str> = devices.iter().map(|device| &*device.name).collect();
        names.join(", ")
    });
    page.fact("Mesa", &facts.vulkan.mesa, text);
    page.fact("Vulkan drivers", &facts.vulkan.icds, |icds| {
        let names = icds.iter().map(|icd| {
            let name = icd.path.rsplit('/').next().unwrap_or(&icd.path);
            name.to_owned()
        });
        words(&names.collect::<Vec<_>>())
    });
    if facts.vulkan.amdvlk.copied() == Some(true) {
        page.row("AMDVLK", "installed");
    }
    page.fact("ROCm", &facts.rocm.version, text);
    // Most machines have neither, which is nothing to tell.
    if let Some(build) = facts.engines.llama_server.build.get() {
        page.row("llama-server", &format!("build {build}"));
    }
    if let Some(version) = facts.engines.ollama.get() {
        page.row("Ollama", version);
    }
    let environment = &facts.environment;
    let found = [
        page.known("in files", &environment.configured),
        page.known("environment", &environment.own),
        page.known("environment of rivals", &environment.running),
    ];
    let found = found.into_iter().flatten().flatten().map(assignment);
    let mut found: Vec<String> = found.collect();
    found.sort_unstable();
    found.dedup();
    page.row("environment", &words(&found));
}

fn assignment(setting: &Setting) -> String {
    format!("{}={}", setting.name, setting.value)
}

fn power(page: &mut Page, facts: &Facts) {
    page.section("Power");
    let power = &facts.power;
    page.fact("firmware", &power.platform_profile, text);
    page.fact("TuneD", &power.tuned_profile, text);
    page.fact("profile", &power.power_profile, text);
    let processor = [
        page.part("governor", &power.governor, text),
        page.part("preference", &power.energy_preference, text),
    ];
    row_of(page, "processor", processor, ", ");
    if power.battery.copied() == Some(true) {
        page.fact("discharging", &power.discharging, |flag| yes(*flag));
    }
}

fn access(page: &mut Page, facts: &Facts) {
    page.section("Access");
    let access: &Access = &facts.access;
    page.fact("/dev/kfd", &access.kfd, node);
    page.fact("/dev/dri", &access.render, |nodes| {
        nodes.first().map(node).unwrap_or_default()
    });
    if facts.npu.present.copied() == Some(true) {
        page.fact("/dev/accel", &access.accel, node);
    }
    page.fact("groups", &access.groups, |groups| words(groups));
    page.fact(
        "locked memory",
        &facts.limits.memlock_soft_bytes,
        |bytes| match *bytes {
            u64::MAX => "unlimited".to_owned(),
            bytes => show_size(bytes),
        },
    );
}

fn node(node: &DeviceNode) -> String {
    let usable = match node.usable {
        Some(true) => "usable",
        Some(false) => "not usable by this user",
        None => "may or may not be usable",
    };
    format!("{usable} ({} {})", node.mode, node.group)
}

fn network(page: &mut Page, facts: &Facts) {
    page.section("Network");
    let Some(links) = page.known("links", &facts.links) else {
        return;
    };
    for each in links.iter().filter(|link| link.kind != LinkKind::Virtual) {
        page.row(&each.name, &link(each));
    }
}

fn link(link: &Link) -> String {
    let mut parts = vec![name_of(&link.kind)];
    parts.push(if link.up { "up" } else { "down" }.to_owned());
    match link.speed_mbit_s {
        Some(speed) if speed >= 1000 => parts.push(format!("{} Gbit/s", f64::from(speed) / 1e3)),
        Some(speed) => parts.push(format!("{speed} Mbit/s")),
        None => {}
    }
    if link.rdma {
        parts.push("RDMA".to_owned());
    }
    parts.join(", ")
}

fn processes(page: &mut Page, facts: &Facts) {
    page.section("Rivals");
    if let Some(rivals) = page.known("processes", &facts.processes.rivals) {
        for each in rivals {
            page.row(&each.name, &rival(each));
        }
        if rivals.is_empty() {
            page.row("none", "");
        }
    }
    if let Some(hidden) = page.known("hidden processes", &facts.processes.hidden)
        && *hidden > 0
    {
        page.row(
            "hidden",
            &format!("{hidden} processes that only root may look at"),
        );
    }
}

fn rival(rival: &Process) -> String {
    let role = match rival.role {
        Role::Models => "runs models",
        Role::Aluco => "part of Aluco",
        Role::Display => "shows the screen",
        Role::Video => "records video",
        Role::Other => "uses the GPU",
    };
    let mut parts = vec![format!("{role} ({})", rival.pid)];
    match (rival.uses_kfd, rival.uses_render) {
        (Some(true), _) => parts.push("by ROCm".to_owned()),
        (_, Some(true)) => parts.push("by Vulkan or OpenGL".to_owned()),
        _ => {}
    }
    if let Some(bytes) = rival.gtt_bytes {
        parts.push(format!("{} of GTT", show_size(bytes)));
    }
    if rival.encodes_video == Some(true) {
        parts.push("encodes".to_owned());
    }
    if !rival.flags.is_empty() {
        parts.push(rival.flags.join(" "));
    }
    parts.join(", ")
}
