//! Facts: one typed snapshot of a machine. What could not be read is [`Known::Unknown`] with its reason, never a guess.
//!
//! A snapshot is read below a [`Root`], so a machine can be replayed from a fixture or from the bundle of a bug report. Rules ask a [`FactTree`] by
//! name; programs use the fields, or the JSON that `aluco machine --json` writes.

mod access;
mod boot;
mod container;
mod cpu;
mod disk;
mod engines;
pub(crate) mod environment;
mod firmware;
mod gpu;
mod identity;
mod iommu;
pub(crate) mod kernel;
mod kfd;
mod known;
mod limits;
pub(crate) mod memory;
pub(crate) mod modules;
mod network;
mod npu;
mod power;
pub(crate) mod process;
mod read;
mod software;
mod system;
mod tree;
pub(crate) mod vulkan_features;
mod xrt;

use std::thread::{self, ScopedJoinHandle};

pub use access::{Access, DeviceNode};
pub use boot::{Boot, BootLoader};
pub use container::{Container, ContainerKind};
pub use cpu::{Cpu, CpuMaker};
pub use disk::{Disk, DiskKind, Folder};
pub use engines::{Engines, LlamaServer};
pub use environment::{Environment, Setting};
pub use firmware::Firmware;
pub use gpu::{ClockStep, Gpu, GpuMemory, GpuMetrics, Sensors, Throttle};
pub use identity::Identity;
pub use iommu::{Iommu, IommuMode};
pub use kernel::{Kernel, KernelVersion};
pub use kfd::{Kfd, KfdBank, KfdNode};
pub use known::{Because, Known};
pub use limits::{LimitLine, Limits};
pub use memory::{Memory, MemoryDevice, Pressure, Swap};
pub use modules::{ModuleOption, Modules};
pub use network::{Link, LinkKind};
pub use npu::Npu;
pub use power::Power;
pub use process::{Process, Processes, Role};
use serde::{Deserialize, Serialize};
pub use software::{Rocm, Software, Vulkan, VulkanDevice, VulkanIcd};
pub use system::{Board, Distribution};
pub use tree::{Fact, FactTree};
pub use xrt::{Xrt, XrtDevice};

use crate::root::{Command, Root};

/// Everything that is known of a machine at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// What machine this is.
    pub identity: Identity,
    /// The processor.
    pub cpu: Cpu,
    /// Main memory, swap and what the kernel does with them.
    pub memory: Memory,
    /// The board and its BIOS.
    pub board: Board,
    /// The distribution.
    pub distribution: Distribution,
    /// The kernel that runs.
    pub kernel: Kernel,
    /// What starts it, and where its arguments are kept.
    pub boot: Boot,
    /// Parameters of the modules that matter, as they are and as they are configured.
    pub modules: Modules,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// What ROCm's kernel driver says of CPU and GPU.
    pub kfd: Kfd,
    /// Whether device addresses are translated.
    pub iommu: Iommu,
    /// Firmware packages and what lies around.
    pub firmware: Firmware,
    /// The Vulkan loader's drivers and devices.
    pub vulkan: Vulkan,
    /// ROCm and HIP.
    pub rocm: Rocm,
    /// Installed packages that matter.
    pub software: Software,
    /// Engines of others that are installed.
    pub engines: Engines,
    /// Settings for AI programs that lie in the environment.
    pub environment: Environment,
    /// The NPU.
    pub npu: Npu,
    /// Power profiles and governors.
    pub power: Power,
    /// Resource limits.
    pub limits: Limits,
    /// Device nodes and who may use them.
    pub access: Access,
    /// Whether we are in a container, and which can be started.
    pub container: Container,
    /// Drives.
    pub disks: Known<Vec<Disk>>,
    /// Folders whose room matters: `/` and where models are.
    pub folders: Vec<Folder>,
    /// Network links.
    pub links: Known<Vec<Link>>,
    /// Programs that use the GPU or serve models.
    pub processes: Processes,
}

/// What a snapshot is asked to look at besides the machine itself.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Folders whose room matters, such as the model store.
    pub folders: Vec<String>,
}

impl Facts {
    /// The GPU that matters: Strix Halo's, else the first that `amdgpu` drives, else the first.
    pub fn primary_gpu(&self) -> Option<&Gpu> {
        self.gpus.get(self.primary_gpu_index()?)
    }

    /// Its place in [`Facts::gpus`].
    pub fn primary_gpu_index(&self) -> Option<usize> {
        let position = |wanted: fn(&Gpu) -> bool| self.gpus.iter().position(wanted);
        position(Gpu::is_strix_halo)
            .or_else(|| position(|gpu| gpu.driver.get().is_some_and(|name| name == "amdgpu")))
            .or((!self.gpus.is_empty()).then_some(0))
    }

    /// The snapshot as a tree in which facts are looked up by name.
    pub fn tree(&self) -> FactTree {
        FactTree::new(self)
    }

    /// Takes a snapshot. It takes as long as the slowest command that is asked, at most a second and a half, and a tenth of that where none is
    /// installed.
    pub fn collect(root: &Root, request: &Request) -> Self {
        let distribution = Distribution::collect(root);
        let npu = Npu::find(root);
        thread::scope(|scope| {
            let packages = scope.spawn(|| Software::collect(root, &distribution));
            let vulkaninfo = scope.spawn(|| root.command(Command::Vulkaninfo));
            let features = scope.spawn(|| root.command(Command::VulkanFeatures));
            let engines = scope.spawn(|| Engines::ask(root));
            let xrt = scope.spawn(|| Xrt::collect(root, &npu));
            let tuned = scope.spawn(|| root.command(Command::TunedActive));
            let profile = scope.spawn(|| root.command(Command::PowerProfile));

            let container = Container::collect(root);
            let kernel = Kernel::collect(root);
            let gpus = Gpu::collect_all(root);
            let kfd = Kfd::collect(root);
            let processes = Processes::collect(root);
            let folders = std::iter::once("/").chain(request.folders.iter().map(String::as_str));
            let folders = folders.map(|path| Folder::collect(root, path)).collect();
            let software = joined(packages);
            let engines = joined(engines).or_packaged(&software.packages);
            let npu = Npu::collect(root, npu.clone(), joined(xrt), &software.packages);
            let mut facts = Self {
                cpu: Cpu::collect(root),
                memory: Memory::collect(root),
                board: Board::collect(root),
                boot: Boot::collect(root, &kernel, &container),
                modules: Modules::collect(root),
                access: Access::collect(root, kfd.gpu().map(|node| node.render_minor)),
                limits: Limits::collect(root),
                environment: Environment::collect(root, &processes),
                disks: Disk::collect(root),
                links: Link::collect_all(root),
                rocm: Rocm::collect(root, &software.packages),
                vulkan: Vulkan::collect(
                    root,
                    joined(vulkaninfo),
                    joined(features),
                    &software.packages,
                ),
                power: Power::collect(root, joined(tuned), joined(profile)),
                folders,
                gpus,
                kfd,
                kernel,
                npu,
                container,
                processes,
                software,
                engines,
                ..Self::default()
            };
            let gpu = facts.primary_gpu();
            let slot = gpu.and_then(|gpu| gpu.slot.get()).map(String::as_str);
            let npu = facts.npu.slot.get().map(String::as_str);
            let iommu = Iommu::collect(root, slot, npu);
            let firmware = Firmware::collect(root, &facts.software.packages, gpu, &facts.container);
            facts.iommu = iommu;
            facts.firmware = firmware;
            identity::complete_memory(&mut facts);
            facts.identity = Identity::tell(&facts);
            facts.distribution = distribution.clone();
            facts
        })
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
