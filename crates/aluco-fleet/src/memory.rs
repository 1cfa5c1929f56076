//! The ledger of a fleet, kept under its lock: which model has reserved what, and whether another one fits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aluco_plan::{
    Bytes, Fit, Ledger, LedgerReport, OverBudget, Pressure, PressureGauge, Reading, Refusal,
    Reservation, Tight,
    pool::{Facts, GpuFacts, Held, Pool},
};
use aluco_proto::{DeviceMemory, ModelHandle, WorkerHello};

use crate::{
    FleetConfig,
    residency::{Residency, Stage},
    wanted::Wanted,
};

/// What a limit of the configuration is called in tables.
const LIMIT_SOURCE: &str = "memory_limit of the configuration";

/// Who holds how much, and how the machine is.
pub(crate) struct Memory {
    ledger: Ledger,
    gauge: PressureGauge,
    last: Reading,
    /// Since when more is held than the budget allows.
    excess_since: Option<Instant>,
    began: Instant,
    bookings: BTreeMap<ModelHandle, Booking>,
    measurements: BTreeMap<Measurement, MeasurementBooking>,
    /// GPUs of which no driver's files tell.
    told_gpus: Vec<GpuFacts>,
}

/// What one model has reserved.
#[derive(Debug, Clone, Copy)]
struct Booking {
    reservation: Reservation,
    /// Bytes of stored prompts that it was loaded with.
    store_wanted: Bytes,
    /// The same now.
    store: Bytes,
}

/// Stored prompts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreBudget {
    pub(crate) model: ModelHandle,
    /// Most bytes that it would like.
    pub(crate) wanted: Bytes,
    /// Most bytes that it may take.
    pub(crate) now: Bytes,
}

/// Names a measurement that holds memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Measurement(u64);

/// What one measurement has reserved.
#[derive(Debug, Clone, Copy)]
struct MeasurementBooking {
    reservation: Reservation,
    /// Process id of its worker, once that runs.
    worker: Option<u32>,
}

/// Whether there is room for a model.
pub(crate) enum Space {
    /// There is.
    Free(Fit),
    /// There is, once others have given so many bytes of this memory.
    Missing {
        tight: Tight,
        bytes: Bytes,
        /// If stored prompts can give them, and no model has to go.
        fit: Option<Fit>,
        refusal: Box<Refusal>,
    },
    /// There will be, when models that are in use have gone.
    Busy(Box<Refusal>),
    /// There will not be.
    Never(Box<Refusal>),
}

impl Memory {
    /// An empty ledger of this machine.
    pub(crate) fn new(config: &FleetConfig) -> Self {
        let facts = Facts::read(&config.memory_root);
        let pool = pool(&facts, Held::default(), config);
        Self {
            last: Reading::of(&facts, pool.reserve),
            ledger: Ledger::new(pool),
            gauge: PressureGauge::new(),
            excess_since: None,
            began: Instant::now(),
            bookings: BTreeMap::new(),
            measurements: BTreeMap::new(),
            told_gpus: Vec::new(),
        }
    }

    /// Takes in how the machine is. `host`: bytes that workers hold of the CPU's memory and that are no page cache.
    pub(crate) fn look(&mut self, mut facts: Facts, host: Bytes, config: &FleetConfig) {
        // What a worker told before it loaded anything does not count what is held since.
        let device = if facts.gpus.is_empty() {
            facts.gpus.clone_from(&self.told_gpus);
            Bytes::ZERO
        } else {
            self.ledger.held_on_device()
        };
        let pool = pool(&facts, Held { host, device }, config);
        self.last = Reading::of(&facts, pool.reserve);
        self.ledger.look(pool);
        self.gauge.observe(&self.last, self.began.elapsed());
        self.excess_since = if self.excess().1.is_zero() {
            None
        } else {
            self.excess_since.or_else(|| Some(Instant::now()))
        };
    }

    /// Remembers the GPUs that a worker has found when it was asked who it is.
    pub(crate) fn tell_gpus(&mut self, worker: &WorkerHello) {
        self.told_gpus = told_gpus(worker);
    }

    /// What others do to the pool.
    pub(crate) fn pressure(&self) -> Pressure {
        self.gauge.level()
    }

    /// Bytes that have to become available for the pressure to go.
    pub(crate) fn shortage(&self) -> Bytes {
        let relieved = self.last.reserve + Bytes(self.last.reserve.0 / 4);
        relieved.less(self.last.available)
    }

    /// Where most is held beyond the budget, and how much.
    pub(crate) fn excess(&self) -> (Tight, Bytes) {
        self.ledger.excess_in()
    }

    /// For how long more has been held than the budget allows.
    pub(crate) fn excess_for(&self) -> Duration {
        self.excess_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bytes that could still be given.
    pub(crate) fn free(&self) -> Bytes {
        let free = self.ledger.report(self.pressure()).free_bytes;
        let (host, limit) = (self.ledger.held_on_host(), self.ledger.pool().budget.host);
        free.min(limit.less(host))
    }

    /// Bytes of stored prompts for a model that says nothing of them.
    pub(crate) fn default_store(&self) -> Bytes {
        self.ledger.pool().default_store()
    }

    /// Gives back what models held that are gone.
    pub(crate) fn keep(&mut self, is_here: impl Fn(ModelHandle) -> bool) {
        let ledger = &mut self.ledger;
        self.bookings.retain(|&model, booking| {
            let stays = is_here(model);
            if !stays {
                ledger.release(booking.reservation);
            }
            stays
        });
    }

    /// Whether there is room for a model, and how it could come about. What it has reserved before counts as free.
    pub(crate) fn space(
        &mut self,
        model: ModelHandle,
        wanted: &Wanted,
        residency: &Residency,
    ) -> Space {
        self.note_idle(residency);
        let mut ledger = self.ledger.clone();
        if let Some(own) = self.bookings.get(&model) {
            ledger.release(own.reservation);
        }
        let refusal = match wanted.check(&ledger) {
            Ok(fit) => return Space::Free(fit),
            Err(refusal) => refusal,
        };
        let release = |ledger: &mut Ledger, goes: &dyn Fn(ModelHandle) -> bool| {
            for (&other, booking) in &self.bookings {
                if goes(other) {
                    ledger.release(booking.reservation);
                }
            }
        };
        for (&other, booking) in &self.bookings {
            if other != model && residency.is_ready(other) {
                // Whether that is enough is seen by the check.
                let _ = ledger.resize_store(booking.reservation, Bytes::ZERO);
            }
        }
        let fit = wanted.check(&ledger).ok();
        release(&mut ledger, &|other| residency.may_go(other));
        if fit.is_some() || wanted.check(&ledger).is_ok() {
            return Space::Missing {
                tight: refusal.tight,
                bytes: refusal.missing_bytes(),
                fit,
                refusal,
            };
        }
        release(&mut ledger, &|other| !residency.is_kept(other));
        for booking in self.measurements.values() {
            ledger.release(booking.reservation);
        }
        if wanted.check(&ledger).is_ok() {
            return Space::Busy(refusal);
        }
        Space::Never(refusal)
    }

    /// Reserves what a model will take, in place of what it has reserved before.
    pub(crate) fn book(&mut self, model: ModelHandle, wanted: &Wanted) -> Result<(), Box<Refusal>> {
        if let Some(own) = self.bookings.remove(&model) {
            self.ledger.release(own.reservation);
        }
        let reservation = wanted.admit(&mut self.ledger)?;
        let store = wanted.store();
        self.bookings.insert(
            model,
            Booking {
                reservation,
                store_wanted: store,
                store,
            },
        );
        Ok(())
    }

    /// Reserves what a measurement will take. Nothing makes room for it.
    pub(crate) fn book_measurement(
        &mut self,
        wanted: &Wanted,
    ) -> Result<Measurement, Box<Refusal>> {
        let reservation = wanted.admit(&mut self.ledger)?;
        let last = self.measurements.last_key_value();
        let measurement = Measurement(last.map_or(0, |(last, _)| last.0) + 1);
        let booking = MeasurementBooking {
            reservation,
            worker: None,
        };
        self.measurements.insert(measurement, booking);
        Ok(measurement)
    }

    /// The worker of a measurement runs: what it holds is no other program's.
    pub(crate) fn measure_in(&mut self, measurement: Measurement, pid: u32) {
        if let Some(booking) = self.measurements.get_mut(&measurement) {
            booking.worker = Some(pid);
        }
    }

    /// A measurement is over.
    pub(crate) fn release_measurement(&mut self, measurement: Measurement) {
        if let Some(booking) = self.measurements.remove(&measurement) {
            self.ledger.release(booking.reservation);
        }
    }

    /// Process ids of the workers that measure.
    pub(crate) fn measuring(&self) -> Vec<u32> {
        let bookings = self.measurements.values();
        bookings.filter_map(|booking| booking.worker).collect()
    }

    /// Replaces what was predicted of a model by what was measured.
    pub(crate) fn settle(
        &mut self,
        model: ModelHandle,
        memory: &[DeviceMemory],
    ) -> Result<(), OverBudget> {
        match self.bookings.get(&model) {
            Some(booking) => self.ledger.settle(booking.reservation, memory),
            None => Ok(()),
        }
    }

    /// Bytes that a model holds of one memory.
    pub(crate) fn held_by(&self, model: ModelHandle, tight: Tight) -> Bytes {
        let booking = self.bookings.get(&model);
        booking.map_or(Bytes::ZERO, |it| self.ledger.held_by(it.reservation, tight))
    }

    /// Stored prompts of all models that have some.
    pub(crate) fn stores(&self) -> Vec<StoreBudget> {
        let bookings = self.bookings.iter();
        bookings
            .filter(|(_, booking)| !booking.store_wanted.is_zero())
            .map(|(&model, booking)| StoreBudget {
                model,
                wanted: booking.store_wanted,
                now: booking.store,
            })
            .collect()
    }

    /// A model has been told that its stored prompts may take so many bytes, and has answered with what they may take now.
    pub(crate) fn store_resized(&mut self, model: ModelHandle, asked: Bytes, answered: Bytes) {
        if let Some(booking) = self.bookings.get_mut(&model)
            && answered < asked
        {
            // It has no store, and need not be asked again.
            booking.store_wanted = answered;
        }
        self.resize_store(model, answered);
    }

    /// A model's stored prompts may take so many bytes from now on.
    pub(crate) fn resize_store(&mut self, model: ModelHandle, bytes: Bytes) {
        if let Some(booking) = self.bookings.get_mut(&model) {
            booking.store = bytes;
            // What is too much is seen by the next look at the whole.
            let _ = self.ledger.resize_store(booking.reservation, bytes);
        }
    }

    /// The ledger as it is shown.
    pub(crate) fn report(&mut self, residency: &Residency) -> LedgerReport {
        self.note_idle(residency);
        self.ledger.report(self.pressure())
    }

    /// Notes which models have nothing to do: those are offered as room.
    fn note_idle(&mut self, residency: &Residency) {
        for (handle, resident) in residency.iter() {
            if let Some(booking) = self.bookings.get(&handle) {
                let is_idle = resident.stage == Stage::Ready && resident.requests == 0;
                self.ledger.set_idle(booking.reservation, is_idle);
            }
        }
    }
}

fn pool(facts: &Facts, held: Held, config: &FleetConfig) -> Pool {
    let pool = Pool::of(facts, held, config.memory_reserve.map(Bytes));
    match config.memory_limit {
        Some(limit) => pool.limited(Bytes(limit), LIMIT_SOURCE),
        None => pool,
    }
}

/// GPUs that a worker found and no driver of amdgpu's kind tells of.
pub fn told_gpus(worker: &WorkerHello) -> Vec<GpuFacts> {
    if worker.backend == aluco_proto::Backend::Cpu {
        return Vec::new();
    }
    let devices = worker.devices.iter();
    devices
        .filter(|device| !device.device.starts_with("CPU"))
        .filter_map(|device| {
            let (total, free) = (device.total_bytes?, device.free_bytes?);
            Some(GpuFacts::told(&device.device, Bytes(total), Bytes(free)))
        })
        .collect()
}
