//! GPUs, as the kernel shows them below `/sys/class/drm`.

mod metrics;

use std::{collections::BTreeMap, sync::mpsc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Because, Known, read};
use crate::root::{ReadError, Root};

/// A GPU.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Gpu {
    /// The kernel's name of it, such as `card1`.
    pub card: String,
    /// Where it is on the PCI bus, such as `0000:c6:00.0`.
    pub slot: Known<String>,
    /// PCI vendor, four hexadecimal digits: `1002` is AMD, `10de` NVIDIA, `8086` Intel.
    pub vendor: Known<String>,
    /// PCI device, four hexadecimal digits: `1586` is Strix Halo.
    pub device: Known<String>,
    /// PCI revision, two hexadecimal digits: `c1` or `d1` on Strix Halo.
    pub revision: Known<String>,
    /// PCI subsystem as `vendor:device`.
    pub subsystem: Known<String>,
    /// The driver, such as `amdgpu`.
    pub driver: Known<String>,
    /// Version of its video BIOS.
    pub vbios: Known<String>,
    /// Memory that it can use.
    pub memory: GpuMemory,
    /// How busy it is, in percent.
    pub busy_percent: Known<u32>,
    /// How busy its video engines are, in percent.
    pub video_busy_percent: Known<u32>,
    /// Clocks that the driver can choose, by domain: `sclk` (shaders), `mclk` (memory), `fclk` (fabric), `socclk`. Which one is marked says nothing
    /// when the GPU is idle.
    pub clocks: BTreeMap<String, Known<Vec<ClockStep>>>,
    /// What the driver was told about clocks: `auto`, `low`, `high`, `manual`…
    pub performance_level: Known<String>,
    /// Power, temperature and clock at this moment.
    pub sensors: Sensors,
    /// What the firmware measures.
    pub metrics: Known<GpuMetrics>,
    /// Versions of the firmware that is loaded, by part: `mes` → `0x00000080`.
    pub firmware: Known<BTreeMap<String, String>>,
    /// Whether a built-in screen is attached.
    pub built_in_screen: Known<bool>,
}

/// Memory that a GPU can use, in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuMemory {
    /// Its own; where memory is shared, what the BIOS carved out for it.
    pub vram_total_bytes: Known<u64>,
    /// Used of its own.
    pub vram_used_bytes: Known<u64>,
    /// Main memory that it may use.
    pub gtt_total_bytes: Known<u64>,
    /// Used of that.
    pub gtt_used_bytes: Known<u64>,
}

/// A clock that a driver can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// MHz.
    pub mhz: u32,
    /// Whether it is marked as chosen.
    pub chosen: bool,
}

/// Sensors of the driver.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sensors {
    /// Power of the whole package, in mW.
    pub power_mw: Known<u64>,
    /// Temperature, in thousandths of a degree Celsius.
    pub temperature_mc: Known<i64>,
    /// Shader clock, in Hz.
    pub clock_hz: Known<u64>,
}

/// What the firmware measures, as `gpu_metrics` tells it. A value that the format has not, or that the firmware does not set, is `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuMetrics {
    /// Version of the format: `3.0` of Strix Halo. Read are 1.1 to 1.3 of cards, 2.1 to 2.4 of older APUs, and 3.0; of others, the rest is `None`.
    pub format: String,
    /// Temperature of the GPU, of a card at the edge of its chip, in hundredths of a degree Celsius.
    pub gpu_temperature_cc: Option<u16>,
    /// Temperature of a card's hottest spot, in hundredths of a degree Celsius.
    pub hotspot_temperature_cc: Option<u16>,
    /// Temperature of a card's memory, in hundredths of a degree Celsius.
    pub memory_temperature_cc: Option<u16>,
    /// Temperature of the chip, of a card that of what feeds it, in hundredths of a degree Celsius.
    pub soc_temperature_cc: Option<u16>,
    /// Temperature of the case, in hundredths of a degree Celsius.
    pub skin_temperature_cc: Option<u16>,
    /// How busy the GPU is, as the firmware counts: percent or, on APUs, mostly hundredths of it.
    pub gpu_activity: Option<u16>,
    /// How busy a card's memory controller is, in percent.
    pub memory_activity: Option<u16>,
    /// How busy the video engine is, in hundredths of a percent.
    pub video_activity: Option<u16>,
    /// Memory read, in MB/s; it ends at 65535, far below what the memory can do.
    pub memory_read_mb_s: Option<u16>,
    /// Memory written, in MB/s; it ends at 65535.
    pub memory_write_mb_s: Option<u16>,
    /// Power of the socket, in mW.
    pub socket_power_mw: Option<u32>,
    /// Power of the NPU, in mW.
    pub npu_power_mw: Option<u16>,
    /// Power of the GPU, in mW.
    pub gpu_power_mw: Option<u32>,
    /// Power of all cores, in mW.
    pub cores_power_mw: Option<u32>,
    /// Power of the whole machine, in mW.
    pub system_power_mw: Option<u16>,
    /// The limit of sustained power, in mW.
    pub stapm_limit_mw: Option<u16>,
    /// GPU clock, in MHz.
    pub gpu_clock_mhz: Option<u16>,
    /// Fabric clock, in MHz.
    pub fabric_clock_mhz: Option<u16>,
    /// Memory clock, in MHz.
    pub memory_clock_mhz: Option<u16>,
    /// NPU clock, in MHz.
    pub npu_clock_mhz: Option<u16>,
    /// What the GPU was slowed by, as counters that only rise.
    pub throttle: Option<Throttle>,
}

/// Counters of time under each limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// The board asked for it.
    pub prochot: u32,
    /// Sustained power.
    pub spl: u32,
    /// Fast power limit.
    pub fppt: u32,
    /// Slow power limit.
    pub sppt: u32,
    /// Heat of the cores.
    pub heat_cores: u32,
    /// Heat of the GPU.
    pub heat_gpu: u32,
    /// Heat of the chip.
    pub heat_soc: u32,
}

impl Gpu {
    /// Whether this is the GPU of Strix Halo, by its PCI id.
    pub fn is_strix_halo(&self) -> bool {
        let is = |known: &Known<String>, id| known.get().is_some_and(|text| text == id);
        is(&self.vendor, "1002") && is(&self.device, "1586")
    }
}

pub(crate) const DRM: &str = "/sys/class/drm";

/// Clock domains that are told.
pub(crate) const CLOCKS: &[&str] = &["sclk", "mclk", "fclk", "socclk"];

/// How long a driver may take to answer. One whose GPU hangs may never.
const PATIENCE: Duration = Duration::from_millis(800);

impl Gpu {
    pub(super) fn collect_all(root: &Root) -> Vec<Self> {
        let cards = read::files(root, DRM, |name| {
            let number = name.strip_prefix("card");
            number.is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
        let gpus = cards.iter().filter_map(|card| Self::identify(root, card));
        gpus.take(16).map(|gpu| gpu.complete(root)).collect()
    }

    /// What the PCI bus tells, which works also when the GPU hangs. `None` if there is no device behind the card.
    fn identify(root: &Root, card: &str) -> Option<Self> {
        let device = format!("{DRM}/{card}/device");
        let digits = |name: &str, count: usize| {
            read::parsed(root, &format!("{device}/{name}"), "a PCI number", |text| {
                read::pci_digits(text, count)
            })
        };
        let vendor = digits("vendor", 4);
        if vendor
            .why()
            .is_some_and(|(because, _)| matches!(because, Because::Absent | Because::Loop))
        {
            return None;
        }
        let path = format!("{device}/uevent");
        let uevent = root.text(&path);
        let word = |name: &str| {
            read::told(&uevent, &path, name, |text| {
                read::assignment(text, name).map(str::to_owned)
            })
        };
        let subsystem = match (digits("subsystem_vendor", 4), digits("subsystem_device", 4)) {
            (Known::Value { value, source }, Known::Value { value: device, .. }) => {
                Known::value(format!("{value}:{device}"), source)
            }
            (unknown @ Known::Unknown { .. }, _) | (_, unknown) => unknown,
        };
        Some(Self {
            card: card.to_owned(),
            slot: word("PCI_SLOT_NAME"),
            vendor,
            device: digits("device", 4),
            revision: digits("revision", 2),
            subsystem,
            driver: word("DRIVER"),
            ..Self::default()
        })
    }

    /// Asks the driver, and does not wait for one that does not answer. The files of a machine that is replayed always do.
    fn complete(self, root: &Root) -> Self {
        if !root.is_live() {
            return self.ask(root);
        }
        let (asked, root) = (self.clone(), root.clone());
        let (send, answer) = mpsc::channel();
        // If nobody waits any more, nobody wants the answer.
        std::thread::spawn(move || drop(send.send(asked.ask(&root))));
        answer
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| self.silent())
    }

    fn ask(mut self, root: &Root) -> Self {
        let device = format!("{DRM}/{}/device", self.card);
        let path = |name: &str| format!("{device}/{name}");
        let bytes = |name: &str| read::number(root, &path(name));
        self.vbios = read::line(root, &path("vbios_version"));
        self.memory = GpuMemory {
            vram_total_bytes: bytes("mem_info_vram_total"),
            vram_used_bytes: bytes("mem_info_vram_used"),
            gtt_total_bytes: bytes("mem_info_gtt_total"),
            gtt_used_bytes: bytes("mem_info_gtt_used"),
        };
        let percent = |name: &str| {
            read::parsed(root, &path(name), "a share in percent", |text| {
                text.parse().ok().filter(|percent| *percent <= 100)
            })
        };
        self.busy_percent = percent("gpu_busy_percent");
        self.video_busy_percent = percent("vcn_busy_percent");
        let clocks = CLOCKS.iter().map(|name| {
            let path = path(&format!("pp_dpm_{name}"));
            let steps = read::parsed(root, &path, "a list of clocks", clock_steps);
            ((*name).to_owned(), steps)
        });
        self.clocks = clocks.collect();
        self.performance_level = read::line(root, &path("power_dpm_force_performance_level"));
        self.sensors = Sensors::collect(root, &path("hwmon"));
        self.metrics = metrics(root, &path("gpu_metrics"));
        self.firmware = firmware(root, &path("fw_version"));
        self.built_in_screen = self.built_in_screen(root);
        self
    }

    fn built_in_screen(&self, root: &Root) -> Known<bool> {
        match root.names(DRM) {
            Ok(names) => {
                let begin = format!("{}-eDP-", self.card);
                Known::value(names.iter().any(|name| name.starts_with(&begin)), DRM)
            }
            Err(error) => error.into(),
        }
    }

    /// Nothing but what the bus tells.
    fn silent(self) -> Self {
        fn silence<T>() -> Known<T> {
            Known::unknown(
                Because::TimedOut,
                format!(
                    "the driver did not answer within {} ms",
                    PATIENCE.as_millis()
                ),
            )
        }
        Self {
            vbios: silence(),
            memory: GpuMemory {
                vram_total_bytes: silence(),
                vram_used_bytes: silence(),
                gtt_total_bytes: silence(),
                gtt_used_bytes: silence(),
            },
            busy_percent: silence(),
            video_busy_percent: silence(),
            clocks: CLOCKS
                .iter()
                .map(|name| ((*name).to_owned(), silence()))
                .collect(),
            performance_level: silence(),
            sensors: Sensors {
                power_mw: silence(),
                temperature_mc: silence(),
                clock_hz: silence(),
            },
            metrics: silence(),
            firmware: silence(),
            built_in_screen: silence(),
            ..self
        }
    }

    /// The highest clock of a domain, in MHz.
    pub fn clock_max_mhz(&self, domain: &str) -> Option<u32> {
        let steps = self.clocks.get(domain)?.get()?;
        steps.iter().map(|step| step.mhz).max()
    }
}

impl Sensors {
    fn collect(root: &Root, folder: &str) -> Self {
        let names = root.names(folder);
        let amdgpu = names.as_ref().ok().and_then(|names| {
            let is_amdgpu = |name: &&String| {
                let path = format!("{folder}/{name}/name");
                read::line(root, &path)
                    .get()
                    .is_some_and(|name| name == "amdgpu")
            };
            names.iter().find(is_amdgpu)
        });
        let Some(name) = amdgpu else {
            fn none<T>(folder: &str, error: Option<ReadError>) -> Known<T> {
                match error {
                    Some(error) => error.into(),
                    None => Known::unknown(Because::Absent, format!("no sensors in {folder}")),
                }
            }
            let error = || names.as_ref().err().cloned();
            return Self {
                power_mw: none(folder, error()),
                temperature_mc: none(folder, error()),
                clock_hz: none(folder, error()),
            };
        };
        let path = |file: &str| format!("{folder}/{name}/{file}");
        let power = |file: &str| read::number::<u64>(root, &path(file)).map(|uw| uw / 1000);
        Self {
            power_mw: power("power1_average").or_else(|| power("power1_input")),
            temperature_mc: read::number(root, &path("temp1_input")),
            clock_hz: read::number(root, &path("freq1_input")),
        }
    }
}

fn metrics(root: &Root, path: &str) -> Known<GpuMetrics> {
    match root.read_up_to(path, metrics::BYTES_MAX) {
        Ok(table) => match GpuMetrics::parse(&table) {
            Some(metrics) => Known::value(metrics, path),
            None => Known::unknown(
                Because::Malformed,
                format!("{path}: {} bytes do not fit their header", table.len()),
            ),
        },
        Err(error) => error.into(),
    }
}

/// Versions by part: `mes_fw_version` is that of `mes`.
fn firmware(root: &Root, folder: &str) -> Known<BTreeMap<String, String>> {
    let names = match root.names(folder) {
        Ok(names) => names,
        Err(error) => return error.into(),
    };
    let versions = names.iter().take(64).filter_map(|name| {
        let part = name.strip_suffix("_fw_version")?;
        let version = read::line(root, &format!("{folder}/{name}"));
        let version = version
            .get()
            .filter(|version| read::hexadecimal(version).is_some())?;
        Some((part.to_owned(), version.clone()))
    });
    Known::value(versions.collect(), folder)
}

/// `1: 2787Mhz *`, one a line.
fn clock_steps(text: &str) -> Option<Vec<ClockStep>> {
    let steps: Option<Vec<ClockStep>> = text.lines().take(64).map(clock_step).collect();
    steps.filter(|steps| !steps.is_empty())
}

fn clock_step(line: &str) -> Option<ClockStep> {
    let (_, clock) = line.split_once(':')?;
    let mut words = clock.split_ascii_whitespace();
    let clock = words.next()?;
    let digits = clock.len()
        - clock
            .trim_start_matches(|letter: char| letter.is_ascii_digit())
            .len();
    if !clock[digits..].eq_ignore_ascii_case("mhz") {
        return None;
    }
    Some(ClockStep {
        mhz: clock[..digits].parse().ok()?,
        chosen: words.next() == Some("*"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_does_not_answer_leaves_its_clocks_unknown_and_not_absent() {
        let silent = Gpu::default().silent();
        for name in CLOCKS {
            let why = silent.clocks[*name].why();
            assert_eq!(why.map(|(because, _)| because), Some(Because::TimedOut));
        }
    }

    #[test]
    fn clocks_may_have_two_stars_and_trailing_spaces() {
        let steps = clock_steps("0: 600Mhz \n1: 1472Mhz *\n2: 1472Mhz *").unwrap();
        let told: Vec<_> = steps.iter().map(|step| (step.mhz, step.chosen)).collect();
        assert_eq!(told, [(600, false), (1472, true), (1472, true)]);
        for rubbish in ["", "::\n*", "0: 99999999999Mhz", "0: 600", "0: Mhz"] {
            assert_eq!(clock_steps(rubbish), None, "{rubbish}");
        }
    }
}
