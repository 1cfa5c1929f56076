//! Plans for models whose header says too little: from a worker's own estimate, or from no more than the size of the files.

use aluco_proto::{Backend, DeviceMemory};

use super::{Consumer, MemoryPlan, Place, WORKER_BYTES};
use crate::{Bytes, ledger::place_of};

/// Cells and compute buffers of a model of which nothing is known are taken for one part of so many of its weights.
const UNKNOWN_CONTEXT_SHARE: u64 = 8;

/// How far off such a guess may be.
const GUESS_ERROR_SHARE: f64 = 0.5;

/// How far off llama.cpp's own figures may be: the rest is the worker's.
const ESTIMATE_ERROR_SHARE: f64 = 0.03;

impl MemoryPlan {
    /// From what a worker answered to `Estimate`, with so many bytes of stored prompts.
    pub fn estimated(memory: &[DeviceMemory], context_tokens: u64, store: Bytes) -> Self {
        let mut plan = Self::empty(context_tokens, ESTIMATE_ERROR_SHARE);
        for device in memory {
            let place = place_of(&device.device);
            plan.add(place, Consumer::Weights, Bytes(device.weights_bytes));
            plan.add(place, Consumer::KvCache, Bytes(device.context_bytes));
            plan.add(place, Consumer::Compute, Bytes(device.compute_bytes));
        }
        plan.finished(store)
    }

    /// From the size of a model's files alone: what they hold is taken for weights, all in one place.
    pub fn guessed(file: Bytes, context_tokens: u64, backend: Backend, store: Bytes) -> Self {
        let mut plan = Self::empty(context_tokens, GUESS_ERROR_SHARE);
        let place = match backend {
            Backend::Cpu => Place::Host,
            Backend::Vulkan | Backend::Rocm => Place::Device,
        };
        plan.add(place, Consumer::Weights, file);
        plan.add(
            place,
            Consumer::KvCache,
            Bytes(file.0 / UNKNOWN_CONTEXT_SHARE),
        );
        plan.finished(store)
    }

    fn empty(context_tokens: u64, error_share: f64) -> Self {
        Self {
            items: Vec::new(),
            context_tokens,
            error_share,
        }
    }

    fn finished(mut self, store: Bytes) -> Self {
        self.add(Place::Host, Consumer::PrefixStore, store);
        self.add(Place::Host, Consumer::Worker, WORKER_BYTES);
        self.items.sort_by_key(|item| std::cmp::Reverse(item.bytes));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_taken_at_its_word() {
        let device = |device: &str, weights_bytes, compute_bytes| DeviceMemory {
            device: device.to_owned(),
            weights_bytes,
            context_bytes: 20,
            compute_bytes,
            ..DeviceMemory::default()
        };
        let memory = [device("Vulkan0", 1000, 7), device("CPU", 100, 0)];
        let plan = MemoryPlan::estimated(&memory, 4096, Bytes(5));
        assert_eq!(plan.at(Place::Device), Bytes(1027));
        assert_eq!(plan.at(Place::Host), Bytes(125) + WORKER_BYTES);
        assert_eq!(plan.of(Consumer::Weights), Bytes(1100));
        assert_eq!(plan.engine(), Bytes(1147));
    }

    #[test]
    fn of_an_unknown_file_more_is_expected_than_it_holds() {
        let plan = MemoryPlan::guessed(Bytes::GIB, 4096, Backend::Vulkan, Bytes::MIB);
        assert_eq!(plan.at(Place::Device), Bytes::MIB.times(1024 + 128));
        assert_eq!(plan.at(Place::Host), Bytes::MIB + WORKER_BYTES);
    }
}
