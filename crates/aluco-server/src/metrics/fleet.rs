//! What the fleet says at the moment of a scrape.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use aluco_fleet::{FleetStatus, Mishaps, ModelState, proto::ModelActivity};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{ModelLabels, TierLabels, label::Label};

/// What the fleet says at one moment.
#[derive(Clone, Default)]
pub(super) struct FleetGauges {
    ready: Family<ModelLabels, Gauge>,
    running: Family<ModelLabels, Gauge>,
    waiting: Family<ModelLabels, Gauge>,
    cells: Family<CellLabels, Gauge>,
    memory: Family<MemoryLabels, Gauge<u64, AtomicU64>>,
    cache: Family<TierLabels, Gauge<u64, AtomicU64>>,
    cache_max: Family<TierLabels, Gauge<u64, AtomicU64>>,
    cache_written: Family<ModelLabels, Counter>,
    restarts: Gauge<u32, AtomicU32>,
    workers: Gauge<i64, AtomicI64>,
    deaths: Family<CauseLabels, Counter>,
    resumed: Counter,
    fallback_steps: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CellLabels {
    model: Label,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemoryLabels {
    model: Label,
    device: Label,
    kind: &'static str,
}

impl FleetGauges {
    /// Makes them known under their names.
    pub(super) fn register(self, r: &mut Registry) {
        r.register("model_ready", "1 if the model takes requests", self.ready);
        r.register("sequences_running", "Sequences that run", self.running);
        r.register("requests_waiting", "Requests that wait", self.waiting);
        r.register(
            "kv_cells",
            "KV cells of the context: used, of these kept for later prompts, and all",
            self.cells,
        );
        r.register_with_unit(
            "memory",
            "Memory that the model holds",
            Unit::Bytes,
            self.memory,
        );
        r.register_with_unit(
            "prefix_cache",
            "Computed prompts that are kept for later ones",
            Unit::Bytes,
            self.cache,
        );
        r.register_with_unit(
            "prefix_cache_max",
            "Most that may be kept; on disk, by all models together",
            Unit::Bytes,
            self.cache_max,
        );
        r.register_with_unit(
            "prefix_cache_written",
            "Written to disk since the load of the model",
            Unit::Bytes,
            self.cache_written,
        );
        r.register(
            "worker_restarts",
            "Deaths of workers after which another was started",
            self.restarts,
        );
        r.register("workers", "Worker processes that run", self.workers);
        r.register(
            "worker_deaths",
            "Workers that ended while they were needed, by the kind of their end",
            self.deaths,
        );
        r.register(
            "streams_resumed",
            "How often a stream went on in another worker",
            self.resumed,
        );
        r.register(
            "fallback_steps",
            "Steps to safer ways of running a model",
            self.fallback_steps,
        );
    }

    /// Forgets the last moment and shows this one.
    pub(super) fn take_over(&self, status: &FleetStatus) {
        self.ready.clear();
        self.running.clear();
        self.waiting.clear();
        self.cells.clear();
        self.memory.clear();
        self.cache.clear();
        self.cache_max.clear();
        self.cache_written.clear();
        self.workers.set(status.workers.len() as i64);
        if let Some(worker) = status.workers.first() {
            self.restarts.set(worker.restarts);
        }
        self.take_over_mishaps(&status.mishaps);
        for model in &status.models {
            let labels = ModelLabels {
                model: model.name.as_str().into(),
            };
            let is_ready = model.state == ModelState::Ready;
            self.ready.get_or_create(&labels).set(is_ready.into());
            if let Some(activity) = &model.activity {
                self.take_over_model(&labels, activity);
            }
        }
    }

    fn take_over_mishaps(&self, mishaps: &Mishaps) {
        self.deaths.clear();
        for (&cause, &count) in &mishaps.worker_deaths {
            let labels = CauseLabels { cause };
            self.deaths.get_or_create(&labels).inc_by(count);
        }
        for (counter, count) in [
            (&self.resumed, mishaps.streams_resumed),
            (&self.fallback_steps, mishaps.fallback_steps),
        ] {
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    fn take_over_model(&self, labels: &ModelLabels, activity: &ModelActivity) {
        let (name, cache) = (&labels.model, &activity.cache);
        self.running
            .get_or_create(labels)
            .set(activity.sequences_running.into());
        self.waiting
            .get_or_create(labels)
            .set(activity.requests_waiting.into());
        for (state, count) in [
            ("used", activity.cells_used),
            ("kept", cache.device_tokens),
            ("total", activity.cells_total),
        ] {
            let model = name.clone();
            self.cells
                .get_or_create(&CellLabels { model, state })
                .set(count.into());
        }
        for (tier, bytes, bytes_max) in [
            ("ram", cache.ram_bytes, cache.ram_bytes_max),
            ("disk", cache.disk_bytes, cache.disk_bytes_max),
        ] {
            let model = name.clone();
            let labels = TierLabels { model, tier };
            self.cache.get_or_create(&labels).set(bytes);
            self.cache_max.get_or_create(&labels).set(bytes_max);
        }
        self.cache_written
            .get_or_create(labels)
            .inc_by(cache.disk_written_bytes);
        for memory in &activity.memory {
            for (kind, bytes) in [
                ("weights", memory.weights_bytes),
                ("context", memory.context_bytes),
                ("compute", memory.compute_bytes),
            ] {
                let labels = MemoryLabels {
                    model: name.clone(),
                    device: memory.device.as_str().into(),
                    kind,
                };
                self.memory.get_or_create(&labels).set(bytes);
            }
        }
    }
}
