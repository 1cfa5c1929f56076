//! Who holds which part of the pool: one budget, an entry in bytes for every consumer, and nobody in who does not fit.
//!
//! The life of a model in the ledger: [`Ledger::admit`] reserves what is predicted, before anything is loaded; [`Ledger::settle`] replaces that by
//! what llama.cpp measured; [`Ledger::resize_store`] follows its stored prompts down under pressure; [`Ledger::release`] gives all back. [`Ledger::look`] takes in
//! what others did to the pool meanwhile. The ledger reads nothing and knows no clock.

mod refusal;
mod report;
#[cfg(test)]
mod tests;
mod ways;

use std::collections::BTreeMap;

use aluco_proto::{DeviceMemory, LoadOptions};
use serde::{Deserialize, Serialize};

pub use refusal::{Refusal, Tight};
pub use report::{Fit, HolderReport, LedgerReport};
pub use ways::WayOut;

use crate::{
    Bytes, Consumer, Item, MemoryPlan, Place, Setting, Shape,
    pool::{Budget, Pool},
    predict,
};

/// A model that wants in.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// What its header says.
    pub shape: &'a Shape,
    /// How it is to be loaded.
    pub options: &'a LoadOptions,
    /// On what.
    pub setting: Setting,
}

impl Candidate<'_> {
    /// What it will take.
    pub fn plan(&self) -> MemoryPlan {
        predict(self.shape, self.options, &self.setting)
    }
}

/// A place in the ledger. Whoever holds it gives it back by [`Ledger::release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[must_use = "what is reserved stays reserved until it is released"]
pub struct Reservation(u64);

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// From the header, before the load.
    Predicted,
    /// From llama.cpp's own account, after it.
    Measured,
}

/// Bytes that somebody holds for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where, what for, how many.
    #[serde(flatten)]
    pub item: Item,
    /// Where the figure comes from.
    pub origin: Origin,
}

/// A model in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    name: String,
    entries: Vec<Entry>,
    is_idle: bool,
}

impl Holder {
    fn total(&self) -> Bytes {
        sum(&self.entries, |_| true)
    }
}

/// More is held than the budget allows. What was measured is true all the same and stays in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{excess} more are held than the memory budget allows")]
pub struct OverBudget {
    /// By how much.
    pub excess: Bytes,
}

/// The ledger of one pool.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: Pool,
    holders: BTreeMap<Reservation, Holder>,
    next: u64,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            holders: BTreeMap::new(),
            next: 1,
        }
    }

    /// The pool as it was last looked at.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes in how the pool is now: others may have taken some of it, or given some back.
    pub fn look(&mut self, pool: Pool) {
        self.pool = pool;
    }

    /// Reserves what a model is predicted to take, or says why it cannot be and what could be done.
    pub fn admit(&mut self, candidate: &Candidate<'_>) -> Result<Reservation, Box<Refusal>> {
        let fit = self.check(candidate)?;
        Ok(self.enter(candidate.name, &fit.plan.items))
    }

    /// The same without reserving: what a model would take, if it fits.
    pub fn check(&self, candidate: &Candidate<'_>) -> Result<Fit, Box<Refusal>> {
        let plan = candidate.plan();
        self.check_with(candidate.name, &plan, || ways::ways(self, candidate, &plan))
    }

    /// [`Self::admit`] for a model of which no more is known than what it will take.
    pub fn admit_plan(
        &mut self,
        name: &str,
        plan: &MemoryPlan,
    ) -> Result<Reservation, Box<Refusal>> {
        self.check_plan(name, plan)?;
        Ok(self.enter(name, &plan.items))
    }

    /// The same without reserving.
    pub fn check_plan(&self, name: &str, plan: &MemoryPlan) -> Result<Fit, Box<Refusal>> {
        self.check_with(name, plan, || ways::evict(self, plan).into_iter().collect())
    }

    fn check_with(
        &self,
        name: &str,
        plan: &MemoryPlan,
        ways_out: impl FnOnce() -> Vec<WayOut>,
    ) -> Result<Fit, Box<Refusal>> {
        if self.fits(&plan.items, None) {
            Ok(Fit {
                model: name.to_owned(),
                free_bytes: self.pool.budget.together.less(self.held()),
                plan: plan.clone(),
            })
        } else {
            Err(Box::new(Refusal::of(self, name, plan, ways_out())))
        }
    }

    /// Bytes of one memory that a reservation holds; nothing if it was released.
    pub fn held_by(&self, reservation: Reservation, tight: Tight) -> Bytes {
        self.holders.get(&reservation).map_or(Bytes::ZERO, |it| {
            sum(&it.entries, |item| tight.counts(item.place))
        })
    }

    /// The reservations of a model, by its name: none if it is not in.
    pub fn find(&self, name: &str) -> Vec<Reservation> {
        let holders = self.holders.iter();
        holders
            .filter(|(_, holder)| holder.name == name)
            .map(|(reservation, _)| *reservation)
            .collect()
    }

    /// Replaces weights, context and compute buffers by what llama.cpp measured (`LoadedModel::memory`); stored prompts and the worker's own
    /// stay as predicted. An error says that the sum is now above the budget: the model is to be unloaded, or another.
    ///
    /// # Panics
    /// If the reservation was released.
    pub fn settle(
        &mut self,
        reservation: Reservation,
        memory: &[DeviceMemory],
    ) -> Result<(), OverBudget> {
        let holder = self.holder(reservation);
        holder.entries.retain(|entry| {
            matches!(
                entry.item.consumer,
                Consumer::PrefixStore | Consumer::Worker
            )
        });
        for device in memory {
            let place = place_of(&device.device);
            for (consumer, bytes) in [
                (Consumer::Weights, device.weights_bytes),
                (Consumer::KvCache, device.context_bytes),
                (Consumer::Compute, device.compute_bytes),
            ] {
                let item = Item {
                    place,
                    consumer,
                    bytes: Bytes(bytes),
                };
                add(&mut holder.entries, item, Origin::Measured);
            }
        }
        self.within_budget()
    }

    /// Says how many bytes a model's stored prompts may take from now on.
    ///
    /// # Panics
    /// If the reservation was released.
    pub fn resize_store(
        &mut self,
        reservation: Reservation,
        bytes: Bytes,
    ) -> Result<(), OverBudget> {
        let holder = self.holder(reservation);
        holder
            .entries
            .retain(|entry| entry.item.consumer != Consumer::PrefixStore);
        let item = Item {
            place: Place::Host,
            consumer: Consumer::PrefixStore,
            bytes,
        };
        add(&mut holder.entries, item, Origin::Measured);
        self.within_budget()
    }

    /// Says whether a model has nothing to do: idle ones are offered as room.
    ///
    /// # Panics
    /// If the reservation was released.
    pub fn set_idle(&mut self, reservation: Reservation, is_idle: bool) {
        self.holder(reservation).is_idle = is_idle;
    }

    /// Gives everything back that a reservation holds. Doing it twice does nothing.
    pub fn release(&mut self, reservation: Reservation) {
        self.holders.remove(&reservation);
    }

    /// Bytes that models hold.
    pub fn held(&self) -> Bytes {
        self.holders.values().map(Holder::total).sum()
    }

    /// Bytes of the GPU's memory that models hold, for [`crate::pool::Held`].
    pub fn held_on_device(&self) -> Bytes {
        self.sums(&[]).1
    }

    /// Bytes of the CPU's memory that models hold.
    pub fn held_on_host(&self) -> Bytes {
        self.sums(&[]).0
    }

    /// Bytes that are held beyond the budget: others took memory, or more was measured than predicted.
    pub fn excess(&self) -> Bytes {
        self.excess_in().1
    }

    /// The same, and of which memory.
    pub fn excess_in(&self) -> (Tight, Bytes) {
        let (host, device) = self.sums(&[]);
        let budget = self.pool.budget;
        let sums = [
            (Tight::Host, host.less(budget.host)),
            (Tight::Device, device.less(budget.device)),
            (Tight::Together, (host + device).less(budget.together)),
        ];
        let most = sums.into_iter().max_by_key(|(_, excess)| *excess);
        most.expect("there are three")
    }

    fn within_budget(&self) -> Result<(), OverBudget> {
        match self.excess() {
            Bytes::ZERO => Ok(()),
            excess => Err(OverBudget { excess }),
        }
    }

    fn enter(&mut self, name: &str, items: &[Item]) -> Reservation {
        let reservation = Reservation(self.next);
        self.next += 1;
        let entry = |item: &Item| Entry {
            item: *item,
            origin: Origin::Predicted,
        };
        self.holders.insert(
            reservation,
            Holder {
                name: name.to_owned(),
                entries: items.iter().map(entry).collect(),
                is_idle: false,
            },
        );
        reservation
    }

    /// Whether these items fit beside all holders, or beside those of whom `without` says false.
    fn fits(&self, items: &[Item], without: Option<&dyn Fn(&Holder) -> bool>) -> bool {
        let gone: Vec<Reservation> = without.map_or_else(Vec::new, |without| {
            let holders = self.holders.iter();
            holders
                .filter(|(_, holder)| without(holder))
                .map(|(reservation, _)| *reservation)
                .collect()
        });
        let (host, device) = self.sums(&gone);
        let (more_host, more_device) = by_place(items.iter());
        within(self.pool.budget, host + more_host, device + more_device)
    }

    /// What is held in both places, without some holders.
    fn sums(&self, gone: &[Reservation]) -> (Bytes, Bytes) {
        let holders = self.holders.iter();
        let entries = holders
            .filter(|(reservation, _)| !gone.contains(reservation))
            .flat_map(|(_, holder)| &holder.entries);
        by_place(entries.map(|entry| &entry.item))
    }

    fn holder(&mut self, reservation: Reservation) -> &mut Holder {
        self.holders
            .get_mut(&reservation)
            .expect("a reservation that was not released")
    }
}

fn within(budget: Budget, host: Bytes, device: Bytes) -> bool {
    host <= budget.host && device <= budget.device && host + device <= budget.together
}

fn by_place<'a>(items: impl Iterator<Item = &'a Item>) -> (Bytes, Bytes) {
    items.fold(
        (Bytes::ZERO, Bytes::ZERO),
        |(host, device), item| match item.place {
            Place::Host => (host + item.bytes, device),
            Place::Device => (host, device + item.bytes),
        },
    )
}

fn sum(entries: &[Entry], takes: impl Fn(&Item) -> bool) -> Bytes {
    let items = entries.iter().map(|entry| entry.item);
    items
        .filter(|item| takes(item))
        .map(|item| item.bytes)
        .sum()
}

/// Adds an item, to one of its kind if there is one.
fn add(entries: &mut Vec<Entry>, item: Item, origin: Origin) {
    if item.bytes.is_zero() {
        return;
    }
    let same =
        |entry: &&mut Entry| (entry.item.place, entry.item.consumer) == (item.place, item.consumer);
    match entries.iter_mut().find(same) {
        Some(entry) => entry.item.bytes += item.bytes,
        None => entries.push(Entry { item, origin }),
    }
}

/// Where the buffers of a ggml buffer type lie. The CPU's are named after it, and those that a GPU backend keeps in the CPU's memory end
/// in `_Host`.
pub(crate) fn place_of(buffer_type: &str) -> Place {
    if buffer_type.starts_with("CPU") || buffer_type.ends_with("_Host") {
        Place::Host
    } else {
        Place::Device
    }
}
