//! Who this worker is.

use aluco_proto::{Backend, DeviceMemory, PROTOCOL_VERSION, WorkerHello};

use crate::{
    cpu,
    ffi::{CpuBuild, Engine},
};

/// The backend that this worker was built for.
pub const BACKEND: Backend = if cfg!(feature = "rocm") {
    Backend::Rocm
} else if cfg!(feature = "vulkan") {
    Backend::Vulkan
} else {
    Backend::Cpu
};

/// What this worker says of itself, in its first frame and in answer to `probe`.
pub fn worker_hello(engine: Engine) -> WorkerHello {
    let cpu_build = CpuBuild::compiled();
    WorkerHello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: BACKEND,
        engine_build: engine_build(engine),
        cpu_level: cpu::level(&cpu_build).to_owned(),
        cpu_features: cpu_build.features.iter().map(ToString::to_string).collect(),
        pid: std::process::id(),
        devices: engine
            .devices()
            .into_iter()
            .map(|device| DeviceMemory {
                device: device.name,
                description: device.description,
                free_bytes: Some(device.free_bytes),
                total_bytes: Some(device.total_bytes),
                ..DeviceMemory::default()
            })
            .collect(),
    }
}

fn engine_build(engine: Engine) -> String {
    let build = engine.build();
    if build.number > 0 {
        format!("llama.cpp b{} ({})", build.number, build.commit)
    } else {
        // Sources from a package carry no commit count; the version and the package that pins them do.
        format!("llama.cpp {}", build.version)
    }
}
