//! Takes samples, at a few file reads each.
//!
//! The files of a GPU that hangs may not answer for minutes. They are read on a thread of their own, so that whoever takes a sample
//! waits for a part of a second at most, and hears that the driver is silent.

use std::{
    str::FromStr,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, SystemTime},
};

use super::sample::{GpuSample, NpuSample, Sample};
use crate::{
    facts::{Because, Facts, GpuMemory, GpuMetrics, Known},
    root::Root,
};

/// How long a driver may take to answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// No table of metrics is larger.
const METRICS_BYTES_MAX: usize = 4096;

/// Takes samples of a machine.
#[derive(Debug)]
pub struct Sampler {
    root: Root,
    gpu: Option<GpuReader>,
    /// Folder of the NPU's device.
    npu: Option<String>,
    /// Time of all cores as of the last sample.
    cpu: Option<CpuTime>,
}

/// Time of all cores since boot, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTime {
    idle: u64,
    total: u64,
}

/// The thread that reads the GPU's files.
#[derive(Debug)]
struct GpuReader {
    card: String,
    ask: Sender<()>,
    answers: Receiver<GpuSample>,
    /// How long an answer is waited for. The files of a machine that is replayed always answer.
    patience: Option<Duration>,
    /// A question is not answered yet.
    asked: bool,
}

impl Sampler {
    /// Will take samples of the machine that these facts are of.
    pub fn new(root: &Root, facts: &Facts) -> Self {
        let npu = facts.npu.device.get().and_then(|device| {
            let name = device.rsplit('/').next()?;
            Some(format!("/sys/class/accel/{name}/device"))
        });
        Self {
            root: root.clone(),
            gpu: facts
                .primary_gpu()
                .map(|gpu| GpuReader::start(root, &gpu.card)),
            npu,
            cpu: None,
        }
    }

    /// Takes a sample.
    pub fn sample(&mut self) -> Sample {
        let meminfo = self.root.text("/proc/meminfo");
        let memory = |name: &str| match &meminfo {
            Ok(text) => kib(text, name).map_or_else(
                || {
                    let why = format!("/proc/meminfo: no {name}");
                    Known::unknown(Because::Malformed, why)
                },
                |kib| Known::value(kib << 10, "/proc/meminfo"),
            ),
            Err(error) => error.clone().into(),
        };
        let gpu = self.gpu.as_mut().map(GpuReader::sample);
        let metrics = gpu.as_ref().map(|gpu| &gpu.metrics);
        let npu = self
            .npu
            .as_ref()
            .map(|folder| npu(&self.root, folder, metrics));
        Sample {
            at: SystemTime::now(),
            npu,
            cpu_busy_percent: self.cpu_busy_percent(),
            memory_total_bytes: memory("MemTotal"),
            memory_available_bytes: memory("MemAvailable"),
            gpu,
        }
    }

    fn cpu_busy_percent(&mut self) -> Known<f64> {
        const PATH: &str = "/proc/stat";
        let text = match self.root.text(PATH) {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        let Some(now) = CpuTime::parse(&text) else {
            return Known::unknown(Because::Malformed, format!("{PATH}: no line of all cores"));
        };
        let Some(before) = self.cpu.replace(now) else {
            let why = "the first sample has none before it to compare with";
            return Known::unknown(Because::NotCollected, why);
        };
        now.busy_percent_since(before).map_or_else(
            || Known::unknown(Because::NotCollected, "no time has passed"),
            |percent| Known::value(percent, PATH),
        )
    }
}

impl CpuTime {
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            // Time of guests is a part of the time of users.
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            idle: ticks.get(3)?.saturating_add(ticks.get(4).copied()?),
            total: ticks.iter().fold(0, |sum, each| sum.saturating_add(*each)),
        })
    }

    /// `None` if no time has passed. The kernel's count of waiting may go back a little.
    fn busy_percent_since(self, before: Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total)?;
        let idle = self.idle.saturating_sub(before.idle).min(total);
        (total > 0).then(|| (total - idle) as f64 * 100.0 / total as f64)
    }
}

impl GpuReader {
    fn start(root: &Root, card: &str) -> Self {
        let (ask, questions) = channel();
        let (answer, answers) = channel();
        let patience = root.is_live().then_some(PATIENCE);
        let root = root.clone();
        let name = card.to_owned();
        let folder = format!("/sys/class/drm/{card}/device");
        let sensors = sensors(&root, &folder);
        // It ends when the sampler is dropped; or, in a driver that never answers, with the process.
        std::thread::spawn(move || {
            while questions.recv().is_ok() {
                let sample = read_gpu(&root, &name, &folder, sensors.as_deref());
                if answer.send(sample).is_err() {
                    return;
                }
            }
        });
        Self {
            card: card.to_owned(),
            ask,
            answers,
            patience,
            asked: false,
        }
    }

    fn sample(&mut self) -> GpuSample {
        if self.asked {
            // An answer to an earlier question is as old as that.
            match self.answers.try_recv() {
                Ok(_) => self.asked = false,
                Err(_) => return silent(&self.card),
            }
        }
        if self.ask.send(()).is_err() {
            return silent(&self.card);
        }
        let answer = match self.patience {
            Some(patience) => self.answers.recv_timeout(patience).ok(),
            None => self.answers.recv().ok(),
        };
        answer.unwrap_or_else(|| {
            self.asked = true;
            silent(&self.card)
        })
    }
}

fn read_gpu(root: &Root, card: &str, folder: &str, sensors: Option<&str>) -> GpuSample {
    let bytes = |name: &str| number(root, &format!("{folder}/{name}"));
    let percent = |name: &str| number(root, &format!("{folder}/{name}"));
    GpuSample {
        card: card.to_owned(),
        busy_percent: percent("gpu_busy_percent"),
        video_busy_percent: percent("vcn_busy_percent"),
        clock_hz: sensor(root, folder, sensors, &["freq1_input"]),
        power_mw: sensor::<u64>(root, folder, sensors, &["power1_average", "power1_input"])
            .map(|microwatts| microwatts / 1000),
        temperature_mc: sensor(root, folder, sensors, &["temp1_input"]),
        memory: GpuMemory {
            vram_total_bytes: bytes("mem_info_vram_total"),
            vram_used_bytes: bytes("mem_info_vram_used"),
            gtt_total_bytes: bytes("mem_info_gtt_total"),
            gtt_used_bytes: bytes("mem_info_gtt_used"),
        },
        metrics: metrics(root, &format!("{folder}/gpu_metrics")),
    }
}

/// The folder of the driver's sensors.
fn sensors(root: &Root, folder: &str) -> Option<String> {
    let hwmon = format!("{folder}/hwmon");
    let names = root.names(&hwmon).ok()?;
    names
        .iter()
        .map(|name| format!("{hwmon}/{name}"))
        .find(|folder| {
            root.text(&format!("{folder}/name"))
                .is_ok_and(|name| name.trim() == "amdgpu")
        })
}

/// The first of these sensors that is there.
fn sensor<T: FromStr>(
    root: &Root,
    folder: &str,
    sensors: Option<&str>,
    names: &[&str],
) -> Known<T> {
    let Some(sensors) = sensors else {
        return Known::unknown(Because::Absent, format!("no sensors in {folder}/hwmon"));
    };
    let mut values = names
        .iter()
        .map(|name| number(root, &format!("{sensors}/{name}")));
    let first = values
        .next()
        .unwrap_or_else(|| Known::unknown(Because::Absent, format!("no sensor in {sensors}")));
    values.fold(first, |known, next| known.or_else(|| next))
}

fn metrics(root: &Root, path: &str) -> Known<GpuMetrics> {
    match root.read_up_to(path, METRICS_BYTES_MAX) {
        Ok(table) => GpuMetrics::parse(&table).map_or_else(
            || Known::unknown(Because::Malformed, format!("{path}: no table of metrics")),
            |metrics| Known::value(metrics, path),
        ),
        Err(error) => error.into(),
    }
}

fn npu(root: &Root, folder: &str, metrics: Option<&Known<GpuMetrics>>) -> NpuSample {
    let path = format!("{folder}/power/runtime_status");
    let awake = Known::of(root.text(&path), path).map(|text| text.trim() == "active");
    let measured = |part: fn(&GpuMetrics) -> Option<u16>| match metrics {
        Some(Known::Value { value, source }) => part(value).map_or_else(
            || Known::unknown(Because::NotApplicable, "the firmware does not measure it"),
            |value| Known::value(u32::from(value), source.clone()),
        ),
        Some(Known::Unknown { unknown, because }) => Known::unknown(*because, unknown.clone()),
        None => Known::unknown(Because::Absent, "no GPU whose firmware would measure it"),
    };
    NpuSample {
        awake,
        power_mw: measured(|metrics| metrics.npu_power_mw),
        clock_mhz: measured(|metrics| metrics.npu_clock_mhz),
    }
}

/// Nothing but the name: the driver does not answer.
fn silent(card: &str) -> GpuSample {
    fn silence<T>() -> Known<T> {
        Known::unknown(
            Because::TimedOut,
            format!(
                "the driver did not answer within {} ms",
                PATIENCE.as_millis()
            ),
        )
    }
    GpuSample {
        card: card.to_owned(),
        busy_percent: silence(),
        video_busy_percent: silence(),
        clock_hz: silence(),
        power_mw: silence(),
        temperature_mc: silence(),
        memory: GpuMemory {
            vram_total_bytes: silence(),
            vram_used_bytes: silence(),
            gtt_total_bytes: silence(),
            gtt_used_bytes: silence(),
        },
        metrics: silence(),
    }
}

fn number<T: FromStr>(root: &Root, path: &str) -> Known<T> {
    match root.text(path) {
        Ok(text) => text.trim().parse().map_or_else(
            |_| Known::unknown(Because::Malformed, format!("{path}: no number")),
            |value| Known::value(value, path),
        ),
        Err(error) => error.into(),
    }
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    (kib < u64::MAX >> 10).then_some(kib)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{facts::Request, fixture};

    fn sampler(machine: &str) -> Sampler {
        let root = fixture::root(machine);
        let facts = Facts::collect(&root, &Request::default());
        Sampler::new(&root, &facts)
    }

    #[test]
    fn a_sample_tells_what_the_facts_tell() {
        let root = fixture::root("strix-halo-fedora-healthy-128g");
        let facts = Facts::collect(&root, &Request::default());
        let sample = Sampler::new(&root, &facts).sample();
        let gpu = sample.gpu.expect("a GPU");
        let known = facts.primary_gpu().expect("a GPU");
        assert_eq!(gpu.card, known.card);
        assert_eq!(gpu.memory, known.memory);
        assert_eq!(gpu.busy_percent, known.busy_percent);
        assert_eq!(gpu.power_mw.copied(), known.sensors.power_mw.copied());
        assert_eq!(
            gpu.temperature_mc.copied(),
            known.sensors.temperature_mc.copied()
        );
        assert_eq!(gpu.clock_hz.copied(), known.sensors.clock_hz.copied());
        assert_eq!(gpu.metrics, known.metrics);
        assert!(gpu.memory.gtt_used_bytes.get().is_some());
        assert_eq!(sample.memory_total_bytes, facts.memory.total_bytes);
        assert_eq!(sample.memory_available_bytes, facts.memory.available_bytes);
        assert!(sample.cpu_busy_percent.get().is_none(), "the first sample");
    }

    #[test]
    fn a_driver_that_does_not_answer_is_told_of_and_not_asked_again_before_it_has() {
        let (ask, questions) = channel();
        let (answer, answers) = channel();
        let mut reader = GpuReader {
            card: "card1".to_owned(),
            ask,
            answers,
            patience: Some(Duration::ZERO),
            asked: false,
        };
        let is_silent = |sample: &GpuSample| *sample == silent("card1");
        let fresh = || GpuSample {
            busy_percent: Known::value(7, "a test"),
            ..silent("card1")
        };
        assert!(is_silent(&reader.sample()) && is_silent(&reader.sample()));
        assert_eq!(questions.try_iter().count(), 1);
        // The late answer is as old as its question.
        answer.send(fresh()).expect("somebody waits");
        assert!(is_silent(&reader.sample()));
        assert_eq!(questions.try_iter().count(), 1);
        reader.patience = None;
        for _ in 0..2 {
            answer.send(fresh()).expect("somebody waits");
        }
        assert_eq!(reader.sample(), fresh());
    }

    #[test]
    fn a_machine_without_a_gpu_has_no_sample_of_one() {
        let sample = sampler("server-x86-no-gpu").sample();
        assert_eq!(sample.gpu, None);
        assert_eq!(sample.npu, None);
        assert!(sample.memory_total_bytes.get().is_some());
    }

    #[test]
    fn a_hostile_machine_is_sampled_without_harm() {
        let mut sampler = sampler("hostile");
        let text = serde_json::to_string(&[sampler.sample(), sampler.sample()]).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Vec<Sample>>(&text)
                .expect("samples")
                .len(),
            2
        );
    }

    #[test]
    fn this_machine_tells_how_busy_it_is() {
        let root = Root::live().expect("this machine");
        let facts = Facts::default();
        let mut sampler = Sampler::new(&root, &facts);
        sampler.sample();
        // Until the kernel has counted at least one tick.
        let busy = std::iter::repeat_with(|| sampler.sample().cpu_busy_percent)
            .take(1_000_000)
            .find_map(|busy| busy.copied())
            .expect("ticks pass");
        assert!((0.0..=100.0).contains(&busy), "{busy}");
    }

    #[test]
    fn the_share_of_busy_time_is_between_two_samples() {
        let time = |line: &str| CpuTime::parse(line).expect("a line");
        let before = time("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
        let now = time("cpu  150 0 125 820 5 0 0 0 50 0\n");
        assert_eq!(now.busy_percent_since(before), Some(75.0));
        assert_eq!(now.busy_percent_since(now), None);
        assert_eq!(CpuTime::parse("cpu  1 2 x 4 5\n"), None);
        assert_eq!(CpuTime::parse("intr 1\n"), None);
    }

    proptest! {
        #[test]
        fn no_file_of_the_kernel_breaks_a_sample(stat in "cpu [ 0-9]{0,60}", meminfo: String) {
            let _ = kib(&meminfo, "MemTotal");
            if let Some(time) = CpuTime::parse(&stat) {
                let since_boot = time.busy_percent_since(CpuTime { idle: 0, total: 0 });
                prop_assert!(since_boot.is_none_or(|percent| (0.0..=100.0).contains(&percent)));
            }
        }
    }
}
