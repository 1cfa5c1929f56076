//! What machine this is, told from the other facts.

use serde::{Deserialize, Serialize};

use super::{Because, Facts, Gpu, Known, Memory};

/// What machine this is, told from the other facts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Whether its GPU is that of Strix Halo: gfx1151 in the KFD topology, or the PCI id `1002:1586`.
    pub strix_halo: Known<bool>,
    /// The GPU by its usual name, such as `Radeon 8060S`, told from its compute units.
    pub gpu_name: Known<String>,
    /// Whether CPU and GPU share one memory.
    pub unified_memory: Known<bool>,
    /// What the memory can deliver at best, in bytes per second, told from its clock and width.
    pub memory_bandwidth: Known<u64>,
}

/// Bits between the memory and the chip, which every Strix Halo has.
const STRIX_HALO_WIDTH_BITS: u32 = 256;

/// `gfx_target_version` of Strix Halo.
const STRIX_HALO_TARGET: u32 = 110_501;

impl Identity {
    pub(super) fn tell(facts: &Facts) -> Self {
        let strix_halo = strix_halo(facts);
        Self {
            gpu_name: gpu_name(facts, strix_halo.copied()),
            unified_memory: unified_memory(facts, strix_halo.copied()),
            memory_bandwidth: memory_bandwidth(&facts.memory),
            strix_halo,
        }
    }
}

fn strix_halo(facts: &Facts) -> Known<bool> {
    if let Some(node) = facts.kfd.gpu()
        && node.target_version == STRIX_HALO_TARGET
    {
        return Known::value(true, "/sys/class/kfd");
    }
    if facts.gpus.iter().any(Gpu::is_strix_halo) {
        return Known::value(true, "/sys/class/drm");
    }
    if facts.gpus.iter().all(|gpu| gpu.device.get().is_some()) && facts.cpu.model.get().is_some() {
        return Known::value(false, "/sys/class/drm");
    }
    Known::unknown(Because::Malformed, "a GPU does not tell what it is")
}

/// One PCI id stands for all chips of the family, so the compute units tell them apart.
fn gpu_name(facts: &Facts, strix_halo: Option<bool>) -> Known<String> {
    if strix_halo != Some(true) {
        let named = facts.vulkan.devices.get().and_then(|devices| {
            let hardware = devices.iter().find(|device| !device.software)?;
            Some(Known::value(hardware.name.clone(), "vulkaninfo --summary"))
        });
        return named.unwrap_or_else(|| {
            Known::unknown(
                Because::Absent,
                "neither the KFD topology nor Vulkan names a GPU",
            )
        });
    }
    let model = facts.cpu.model.get();
    let told = model.and_then(|model| Some(model.split_once("w/ ")?.1.trim().to_owned()));
    if let Some(name) = told.filter(|name| name.starts_with("Radeon")) {
        return Known::value(name, "/proc/cpuinfo");
    }
    match facts.kfd.gpu().map(|node| node.compute_units) {
        Some(40) => Known::value("Radeon 8060S".to_owned(), "/sys/class/kfd"),
        Some(32) => Known::value("Radeon 8050S".to_owned(), "/sys/class/kfd"),
        Some(16) => Known::value("Radeon 8040S".to_owned(), "/sys/class/kfd"),
        Some(units) => Known::unknown(
            Because::Malformed,
            format!("no chip of the family has {units} compute units"),
        ),
        None => Known::unknown(Because::Absent, "no GPU was found below /sys/class/kfd"),
    }
}

fn unified_memory(facts: &Facts, strix_halo: Option<bool>) -> Known<bool> {
    if strix_halo == Some(true) {
        return Known::value(true, "the chip");
    }
    let Some(gpu) = facts.primary_gpu() else {
        return Known::unknown(
            Because::NotApplicable,
            "no GPU was found below /sys/class/drm",
        );
    };
    let driver = gpu.driver.get().map(String::as_str);
    let board = facts.board.product.get().map_or("", String::as_str);
    match driver {
        Some("nvidia") if board.contains("DGX") && board.contains("Spark") => {
            Known::value(true, "/sys/class/dmi/id/product_name")
        }
        _ => Known::unknown(
            Because::Absent,
            "nothing tells whether the GPU has its own memory",
        ),
    }
}

/// Where the DMI table is closed to us, the GPU's driver tells the clock of the memory, an eighth of its transfers, and the chip its width.
pub(super) fn complete_memory(facts: &mut Facts) {
    let Some(gpu) = facts.primary_gpu().filter(|gpu| gpu.is_strix_halo()) else {
        return;
    };
    let speed = gpu.clock_max_mhz("mclk").and_then(|mhz| mhz.checked_mul(8));
    let source = format!("/sys/class/drm/{}/device/pp_dpm_mclk", gpu.card);
    let memory = &mut facts.memory;
    if let (None, Some(speed)) = (memory.speed_mt_s.get(), speed) {
        memory.speed_mt_s = Known::value(speed, source);
    }
    if memory.width_bits.get().is_none() {
        memory.width_bits = Known::value(STRIX_HALO_WIDTH_BITS, "the chip");
    }
}

fn memory_bandwidth(memory: &Memory) -> Known<u64> {
    match (&memory.speed_mt_s, &memory.width_bits) {
        (
            Known::Value {
                value: speed,
                source,
            },
            Known::Value { value: bits, .. },
        ) => {
            let bytes = u64::from(*speed) * 1_000_000 * u64::from(*bits) / 8;
            Known::value(bytes, source)
        }
        (Known::Unknown { unknown, because }, _) | (_, Known::Unknown { unknown, because }) => {
            Known::unknown(*because, unknown)
        }
    }
}
