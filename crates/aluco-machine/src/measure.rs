//! What the machine does, measured: memory bandwidth, arithmetic of the CPU, reading of the disk where models live.
//!
//! A report says when and with what it was measured; reports are kept as lines of JSON, so that a later one can be compared with those
//! before it and the planner can use the newest.

mod arithmetic;
mod bandwidth;
mod disk;
mod records;
mod versions;

use std::{
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use arithmetic::Arithmetic;
pub use bandwidth::Bandwidth;
use bandwidth::BandwidthOptions;
pub use disk::DiskRead;
pub use records::{Records, RecordsError};
pub use versions::{Change, UNKNOWN, Versions};

/// Everything that was measured at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// When, as seconds since 1970 (UTC).
    pub at: u64,
    /// With what.
    pub versions: Versions,
    /// Memory, by the CPU.
    pub bandwidth: Bandwidth,
    /// What the memory can do at most, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Limit>,
    /// The CPU.
    pub arithmetic: Arithmetic,
    /// The disk, or why there are no figures.
    pub disk: Result<DiskRead, String>,
    /// Devices, as the workers of their backends measured them.
    #[serde(default)]
    pub devices: Vec<DeviceSpeed>,
    /// Workers that could not measure, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_failures: Vec<String>,
}

impl MachineReport {
    /// The device with which a backend computes: of a GPU's worker that is not the CPU.
    pub fn device(&self, backend: &str) -> Option<&DeviceSpeed> {
        let devices = self.devices.iter();
        devices
            .filter(|device| device.backend == backend)
            .filter(|device| backend == "cpu" || !device.device.starts_with("CPU"))
            .max_by(|one, other| one.copy.total_cmp(&other.copy))
    }
}

/// What a device does per second, as a worker tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpeed {
    /// Which worker measured, by its backend, such as `vulkan`.
    #[serde(default)]
    pub backend: String,
    /// ggml's name, such as `Vulkan0`.
    pub device: String,
    /// What the device calls itself.
    pub description: String,
    /// Bytes per second from the memory of the process into that of the device.
    pub upload: f64,
    /// Bytes per second the other way.
    pub download: f64,
    /// Bytes per second of a copy within the device, each byte counted as read and as written.
    pub copy: f64,
    /// Floating-point operations per second of an f16 by f32 matrix product.
    pub matrix: f64,
}

/// A bound that physics or a data sheet gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Where the figure comes from.
    pub source: String,
}

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Threads; physical cores are right.
    pub threads: NonZeroUsize,
    /// Bytes of each of the three arrays of the bandwidth measurement.
    pub array_bytes: usize,
    /// Rounds of each of its kernels.
    pub rounds: u32,
    /// Time of each arithmetic measurement.
    pub arithmetic_time: Duration,
    /// The folder in which models live.
    pub models: PathBuf,
    /// Most bytes and time of each way to read.
    pub disk_bytes: u64,
    /// Most time of each way to read.
    pub disk_time: Duration,
}

/// A bandwidth array that no last-level cache holds a good part of (Strix Halo has 32 MB, the largest servers about 1 GB over all sockets).
const ARRAY_BYTES: usize = 256 << 20;

/// The disk is measured with a file of a user if one is at least this large; smaller ones end before an SSD is at its speed.
const FILE_BYTES_MIN: u64 = 256 << 20;

/// Of a made-up file: it is written first.
const MADE_UP_BYTES: u64 = 512 << 20;

impl Plan {
    /// About ten seconds of measuring. `available_bytes` is what may be allocated; the arrays take a quarter of it at most.
    pub fn new(threads: NonZeroUsize, models: PathBuf, available_bytes: u64) -> Self {
        let quarter = usize::try_from(available_bytes / 4 / 3).unwrap_or(usize::MAX);
        Self {
            threads,
            array_bytes: ARRAY_BYTES.min(quarter),
            rounds: 8,
            arithmetic_time: Duration::from_millis(700),
            models,
            disk_bytes: 4 << 30,
            disk_time: Duration::from_secs(3),
        }
    }

    /// Measures, one thing after the other; `begin` hears what comes next.
    pub fn run(
        &self,
        at: u64,
        versions: Versions,
        bandwidth_limit: Option<Limit>,
        mut begin: impl FnMut(&str),
    ) -> MachineReport {
        begin("memory bandwidth");
        let bandwidth = bandwidth::measure(&BandwidthOptions {
            threads: self.threads,
            array_bytes: self.array_bytes,
            rounds: self.rounds,
        });
        begin("arithmetic of the CPU");
        let arithmetic = arithmetic::measure(self.threads, self.arithmetic_time);
        begin("reading of the disk");
        let disk = self.read_disk().map_err(|error| {
            format!(
                "the disk below {} could not be measured: {error}",
                self.models.display()
            )
        });
        MachineReport {
            at,
            versions,
            bandwidth,
            bandwidth_limit,
            arithmetic,
            disk,
            devices: Vec::new(),
            device_failures: Vec::new(),
        }
    }

    fn read_disk(&self) -> io::Result<DiskRead> {
        if let Some(file) = largest_file(&self.models) {
            return disk::measure(&file, self.disk_bytes, self.disk_time);
        }
        let made_up = disk::made_up(&self.models, self.disk_bytes.min(MADE_UP_BYTES))?;
        disk::measure(made_up.path(), self.disk_bytes, self.disk_time)
    }
}

/// The largest file of a folder and the folders in it that is large enough to measure with.
fn largest_file(folder: &Path) -> Option<PathBuf> {
    const FOLDERS_MAX: usize = 2000;
    let mut folders = vec![folder.to_owned()];
    let mut seen = 0;
    let mut largest: Option<(u64, PathBuf)> = None;
    while let Some(folder) = folders.pop() {
        seen += 1;
        if seen > FOLDERS_MAX {
            break;
        }
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            // Links are not followed: they may lead to another disk, or in circles.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(metadata) = entry.metadata()
                && metadata.len() >= FILE_BYTES_MIN
                && largest
                    .as_ref()
                    .is_none_or(|(bytes, _)| metadata.len() > *bytes)
            {
                largest = Some((metadata.len(), entry.path()));
            }
        }
    }
    largest.map(|(_, file)| file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn versions() -> Versions {
        Versions {
            aluco: "0.1.0".to_owned(),
            kernel: "7.1.3".to_owned(),
            cpu: "a CPU".to_owned(),
            gpu: None,
            engines: BTreeMap::new(),
        }
    }

    #[test]
    fn a_plan_measures_everything_and_says_what_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            array_bytes: 1 << 20,
            rounds: 1,
            arithmetic_time: Duration::from_millis(5),
            disk_bytes: 1 << 20,
            disk_time: Duration::MAX,
            ..Plan::new(NonZeroUsize::MIN, folder.path().to_owned(), 1 << 30)
        };
        let mut steps = Vec::new();
        let report = plan.run(7, versions(), None, |step| steps.push(step.to_owned()));
        assert_eq!(
            steps,
            [
                "memory bandwidth",
                "arithmetic of the CPU",
                "reading of the disk"
            ]
        );
        assert_eq!(report.at, 7);
        assert_eq!(report.disk.unwrap().bytes, 1 << 20);
    }

    #[test]
    fn a_folder_that_is_not_there_leaves_the_other_figures() {
        let plan = Plan {
            array_bytes: 1 << 16,
            rounds: 1,
            arithmetic_time: Duration::from_millis(1),
            ..Plan::new(NonZeroUsize::MIN, PathBuf::from("/does/not/exist"), 0)
        };
        let report = plan.run(0, versions(), None, |_| {});
        assert!(report.disk.unwrap_err().contains("/does/not/exist"));
    }

    #[test]
    fn a_backend_computes_with_its_gpu_and_not_with_the_cpu_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            array_bytes: 1 << 16,
            rounds: 1,
            arithmetic_time: Duration::from_millis(1),
            disk_bytes: 1 << 12,
            ..Plan::new(NonZeroUsize::MIN, folder.path().to_owned(), 0)
        };
        let mut report = plan.run(0, versions(), None, |_| {});
        let device = |backend: &str, device: &str, copy| DeviceSpeed {
            backend: backend.to_owned(),
            device: device.to_owned(),
            description: String::new(),
            upload: 1.0,
            download: 1.0,
            copy,
            matrix: 1.0,
        };
        report.devices = vec![
            device("vulkan", "CPU", 9.0),
            device("vulkan", "Vulkan0", 5.0),
            device("vulkan", "Vulkan1", 7.0),
            device("cpu", "CPU", 3.0),
        ];
        let named = |backend| report.device(backend).map(|found| found.device.as_str());
        assert_eq!(named("vulkan"), Some("Vulkan1"));
        assert_eq!(named("cpu"), Some("CPU"));
        assert_eq!(named("rocm"), None);
    }

    #[test]
    fn arrays_leave_memory_for_others() {
        let plan = Plan::new(NonZeroUsize::MIN, PathBuf::new(), 120 << 20);
        assert_eq!(plan.array_bytes, 10 << 20);
        let plan = Plan::new(NonZeroUsize::MIN, PathBuf::new(), 128 << 30);
        assert_eq!(plan.array_bytes, ARRAY_BYTES);
    }

    #[test]
    fn small_files_and_links_are_not_measured_with() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("small"), "x").unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("circle")).unwrap();
        assert_eq!(largest_file(folder.path()), None);
        let large = folder.path().join("sub").join("large");
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let file = std::fs::File::create(&large).unwrap();
        // Sparse: it takes no room.
        file.set_len(FILE_BYTES_MIN).unwrap();
        assert_eq!(largest_file(folder.path()), Some(large));
    }
}
