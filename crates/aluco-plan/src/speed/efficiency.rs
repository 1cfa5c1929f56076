//! How much of what a machine does llama.cpp makes use of: the least and the most that was seen.
//!
//! Sources. Bandwidth of the Radeon 8060S: 212.6 GB/s by rocm-bandwidth-test (lhl/strix-halo-testing, 2025). Speeds: that project's
//! `llama-bench` runs of August 2025 (nine models, Vulkan and ROCm), and those of kyuz0/amd-strix-halo-toolboxes of May and August 2026
//! (`docs/results.json`, thirteen models, also at depth). Bytes for each token were computed from the models' tensors. Shares for the
//! CPU are wide: they rest on one small model, `SmolLM2` 135M at Q4_1, on two cores of servers.

use aluco_proto::Backend;

use super::Seconds;

/// A share of a rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) least: f64,
    pub(super) most: f64,
}

/// What a backend makes of the rates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Efficiency {
    /// Of the bandwidth, by weights that every token needs.
    pub(super) dense: Share,
    /// By those of experts: their matrices are small, and other ones for each token.
    pub(super) experts: Share,
    /// By keys, values and states.
    pub(super) cells: Share,
    /// By compressed keys and values (MLA), which are multiplied a lot for each byte.
    pub(super) compressed_cells: Share,
    /// Of the matrix rate, by decoding, where that counts.
    pub(super) decode_matrix: Share,
    /// Of the matrix rate, by prefill.
    pub(super) prefill: Share,
    /// The same by experts: each sees few tokens of a step, so its products are small ones.
    pub(super) prefill_experts: Share,
    /// Most time between the kernels of a layer.
    pub(super) layer_overhead: Seconds,
}

impl Efficiency {
    pub(super) fn of(backend: Backend) -> Self {
        match backend {
            Backend::Vulkan => VULKAN,
            Backend::Rocm => ROCM,
            Backend::Cpu => CPU,
        }
    }
}

/// Dense models read 175 to 217 GB/s. Experts: Qwen3-30B-A3B the least, GLM-4.5-Air and gpt-oss-20b the most. Cells: 99 GB/s (Llama-2-7B on a
/// slow build) to 232 GB/s (MiniMax-M2.7), both at 32,768 tokens. Prefill: 6 to 18 of about 30 TFLOP/s; Qwen3-235B-A22B and GLM-4.5-Air with 4.
const VULKAN: Efficiency = Efficiency {
    dense: Share {
        least: 0.82,
        most: 1.03,
    },
    experts: Share {
        least: 0.45,
        most: 1.03,
    },
    cells: Share {
        least: 0.45,
        most: 1.1,
    },
    compressed_cells: Share {
        least: 0.25,
        most: 1.0,
    },
    decode_matrix: Share {
        least: 1.0,
        most: 1.0,
    },
    prefill: Share {
        least: 0.25,
        most: 0.9,
    },
    prefill_experts: Share {
        least: 0.1,
        most: 0.6,
    },
    layer_overhead: Seconds(40e-6),
};

/// Dense models read 149 (Q4_K) to 217 GB/s (Q8_0). Experts: Qwen3-30B-A3B the least, gpt-oss-20b the most. Cells: 77 GB/s (MiniMax-M2.7) to
/// 219 GB/s (Qwen3.6-35B-A3B). Prefill: 20 to 26 of 25 to 31 TFLOP/s where kernels fit the chip, 6 where they did not.
const ROCM: Efficiency = Efficiency {
    dense: Share {
        least: 0.7,
        most: 1.03,
    },
    experts: Share {
        least: 0.3,
        most: 1.03,
    },
    cells: Share {
        least: 0.35,
        most: 1.1,
    },
    prefill: Share {
        least: 0.2,
        most: 0.95,
    },
    ..VULKAN
};

/// What is multiplied with integers can go faster than the measured product of floats. Measured: prefill with 0.35 (Q4_1) to 0.65 (Q8_0) of it.
/// Two cores attend more slowly than they read: 4.3 GB/s of 57.6 at a depth of 4,096.
const CPU: Efficiency = Efficiency {
    dense: Share {
        least: 0.5,
        most: 1.0,
    },
    experts: Share {
        least: 0.35,
        most: 1.0,
    },
    cells: Share {
        least: 0.05,
        most: 0.6,
    },
    compressed_cells: Share {
        least: 0.03,
        most: 0.6,
    },
    decode_matrix: Share {
        least: 0.3,
        most: 2.0,
    },
    prefill: Share {
        least: 0.3,
        most: 1.5,
    },
    prefill_experts: Share {
        least: 0.15,
        most: 1.5,
    },
    layer_overhead: Seconds(20e-6),
};

/// A load reads the file, and allocates, copies and repacks beside that.
pub(super) const LOAD: Share = Share {
    least: 0.6,
    most: 1.1,
};

/// Most time of a load that does not depend on its bytes: the start of a worker, the context, a first step.
pub(super) const LOAD_OVERHEAD: Seconds = Seconds(2.0);
