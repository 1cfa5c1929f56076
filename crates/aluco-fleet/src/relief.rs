//! Keeps what models hold within what the machine has: looks every second, shrinks stored prompts first, then unloads idle models.

use std::{collections::HashMap, sync::Arc, time::Instant};

use aluco_plan::{
    Bytes, Pressure, Tight,
    pool::{Facts, anonymous_bytes},
};
use aluco_proto::{Command, Event, ModelHandle};
use tokio::time::sleep;

use crate::{
    loading,
    memory::StoreBudget,
    residency::Stage,
    shared::{Shared, State},
    status::activities,
};

/// After so many looks at an excess models go for it. What others take for a moment is no reason to load a model again.
const EXCESS_LOOKS: u32 = 10;

/// When idle models go for what is held beyond the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hurry {
    /// If it lasts.
    Patient,
    /// At once.
    Now,
}

/// What has to be freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Demand {
    /// Bytes that are promised beyond the budget.
    excess: Bytes,
    /// Bytes that have to become available.
    shortage: Bytes,
}

impl Shared {
    /// Takes in how the machine's memory is.
    pub(crate) async fn look_at_memory(self: &Arc<Self>) {
        let shared = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let settings = shared.settings();
            let root = &settings.memory_root;
            let facts = Facts::read(root);
            let worker = shared.slot.running().map(|worker| worker.hello.pid);
            let measuring = shared.state().memory.measuring();
            let workers = worker.into_iter().chain(measuring);
            let host = workers.filter_map(|pid| anonymous_bytes(root, pid)).sum();
            shared.state().memory.look(facts, host, &settings);
        });
        if let Err(error) = looking.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Looks while models are loaded, and acts on what it sees. Ends with the fleet.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut changed = shared.changed().subscribe();
    loop {
        let is_empty = shared.state().residency.iter().next().is_none();
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = changed.changed(), if is_empty => {}
            () = sleep(shared.settings().memory_interval), if !is_empty => {
                relieve(&shared, Hurry::Patient).await;
                // Others may have given back what somebody waits for.
                shared.notify();
            }
        }
    }
}

/// Brings what is held below what the machine has, as far as that can be without harm to requests.
pub(crate) async fn relieve(shared: &Arc<Shared>, hurry: Hurry) {
    let _turn = shared.relief.lock().await;
    shared.look_at_memory().await;
    let (pressure, demand) = {
        let state = shared.state();
        let pressure = state.memory.pressure();
        let demand = Demand {
            excess: state.memory.excess().1,
            shortage: match pressure {
                Pressure::Calm => Bytes::ZERO,
                Pressure::ShrinkCache | Pressure::EvictIdle => state.memory.shortage(),
            },
        };
        (pressure, demand)
    };
    if pressure == Pressure::Calm && demand.excess.is_zero() {
        restore(shared).await;
        return;
    }
    let freed = shrink(shared, pressure, demand).await;
    let leaving: Vec<_> = {
        let mut state = shared.state();
        let is_leaving = |state: &State| {
            let mut residents = state.residency.iter();
            residents.any(|(_, resident)| resident.stage == Stage::Unloading)
        };
        let (tight, excess) = state.memory.excess();
        let patience = shared.settings().memory_interval * EXCESS_LOOKS;
        let is_lasting = hurry == Hurry::Now || state.memory.excess_for() >= patience;
        let needed = match pressure {
            Pressure::EvictIdle => Some((Tight::Together, demand.shortage.less(freed))),
            Pressure::Calm | Pressure::ShrinkCache => {
                (is_lasting && !excess.is_zero()).then_some((tight, excess))
            }
        };
        match needed {
            // What leaves already may be enough.
            Some((tight, bytes)) if !is_leaving(&state) => {
                state.price(tight);
                let victims = state.residency.dispensable(bytes.0.max(1), Instant::now());
                let leave =
                    |victim| loading::take_out_of_service(&mut state, victim, "memory is short");
                victims.into_iter().filter_map(leave).collect()
            }
            _ => Vec::new(),
        }
    };
    if !leaving.is_empty() {
        shared.notify();
    }
    for leaving in leaving {
        // It can only fail with the runtime.
        let _ = leaving.unload(shared).await;
    }
}

/// Takes bytes from stored prompts; gives those that were really freed.
async fn shrink(shared: &Arc<Shared>, pressure: Pressure, mut demand: Demand) -> Bytes {
    let stores = ready_stores(shared);
    if stores.is_empty() {
        return Bytes::ZERO;
    }
    let held = held(shared).await;
    let held = |store: &StoreBudget| {
        let known = held.get(&store.model).copied();
        known.unwrap_or(store.now).min(store.now)
    };
    if pressure > Pressure::Calm && demand.shortage.is_zero() {
        // Tasks wait for memory though some is available: half of what there is, each time.
        let all: Bytes = stores.iter().map(held).sum();
        demand.shortage = Bytes(all.0.div_ceil(2));
    }
    let amounts: Vec<(Bytes, Bytes)> = stores.iter().map(|it| (it.now, held(it))).collect();
    let mut freed = Bytes::ZERO;
    for (store, bytes) in stores.iter().zip(shrunk(&amounts, demand)) {
        if bytes < store.now && set_budget(shared, store.model, bytes).await.is_some() {
            freed += held(store).less(bytes);
            tracing::info!(
                model = %store.model,
                from = %store.now,
                to = %bytes,
                ?pressure,
                "memory is short: stored prompts get less of it"
            );
        }
    }
    freed
}

/// The budgets of stores after a demand, given what each may take and takes. What is promised and not taken goes first.
fn shrunk(stores: &[(Bytes, Bytes)], demand: Demand) -> Vec<Bytes> {
    let unused: Bytes = stores.iter().map(|(now, held)| now.less(*held)).sum();
    let held: Bytes = stores.iter().map(|(_, held)| *held).sum();
    let part = |whole: Bytes, bytes: Bytes, of: Bytes| {
        let share = u128::from(whole.0) * u128::from(bytes.0.min(of.0));
        Bytes(share.div_ceil(u128::from(of.0.max(1))) as u64)
    };
    let taken = demand.shortage.max(demand.excess.less(unused));
    stores
        .iter()
        .map(|&(now, used)| {
            if taken.is_zero() {
                now.less(part(now.less(used), demand.excess, unused))
            } else {
                used.less(part(used, taken, held))
            }
        })
        .collect()
}

/// Gives stored prompts back what was taken from them, as far as there is room.
async fn restore(shared: &Arc<Shared>) {
    for store in ready_stores(shared) {
        let missing = store.wanted.less(store.now);
        if missing.is_zero() || shared.state().memory.free() < missing {
            continue;
        }
        // Before it is so, that nobody else is promised the same.
        shared
            .state()
            .memory
            .resize_store(store.model, store.wanted);
        let answered = set_budget(shared, store.model, store.wanted).await;
        if answered.is_none() {
            shared.state().memory.resize_store(store.model, store.now);
        }
    }
}

/// Stores of models that take requests.
fn ready_stores(shared: &Shared) -> Vec<StoreBudget> {
    let state = shared.state();
    let mut stores = state.memory.stores();
    stores.retain(|store| state.residency.is_ready(store.model));
    stores
}

/// Bytes that the prompts of each model take, as far as the worker says.
pub(crate) async fn held(shared: &Shared) -> HashMap<ModelHandle, Bytes> {
    let Some(worker) = shared.slot.running() else {
        return HashMap::new();
    };
    let activities = activities(&worker.connection).await;
    let activities = activities.into_iter();
    activities
        .map(|it| (it.model, Bytes(it.cache.ram_bytes)))
        .collect()
}

/// Has a worker keep the prompts of a model within so many bytes; gives what it answers. `None` if it could not be told.
pub(crate) async fn set_budget(shared: &Shared, model: ModelHandle, bytes: Bytes) -> Option<Bytes> {
    let connection = {
        let mut state = shared.state();
        let resident = state.residency.get_mut(model);
        resident.and_then(|resident| resident.connection.clone())
    }?;
    let called = connection.call(|request| Command::SetCacheBudget {
        request,
        model,
        ram_bytes: bytes.0,
    });
    match called.ok()?.next().await {
        Ok(Event::CacheBudget { ram_bytes_max, .. }) => {
            let answered = Bytes(ram_bytes_max);
            shared.state().memory.store_resized(model, bytes, answered);
            Some(answered)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(excess: u64, shortage: u64) -> Demand {
        Demand {
            excess: Bytes(excess),
            shortage: Bytes(shortage),
        }
    }

    fn budgets(stores: &[(u64, u64)], demand: Demand) -> Vec<u64> {
        let stores: Vec<_> = stores
            .iter()
            .map(|&(now, held)| (Bytes(now), Bytes(held)))
            .collect();
        shrunk(&stores, demand).iter().map(|it| it.0).collect()
    }

    #[test]
    fn what_is_promised_and_not_taken_goes_first() {
        let stores = [(1000, 200), (500, 500)];
        assert_eq!(budgets(&stores, demand(400, 0)), [600, 500]);
        assert_eq!(budgets(&stores, demand(800, 0)), [200, 500]);
        assert_eq!(budgets(&stores, demand(1150, 0)), [100, 250]);
        assert_eq!(budgets(&stores, demand(9000, 0)), [0, 0]);
    }

    #[test]
    fn what_has_to_become_available_is_taken_from_what_is_there() {
        let stores = [(1000, 200), (500, 0)];
        assert_eq!(budgets(&stores, demand(0, 50)), [150, 0]);
        assert_eq!(budgets(&stores, demand(0, 500)), [0, 0]);
    }

    proptest! {
        #[test]
        fn enough_is_taken_where_there_is_enough(
            stores in prop::collection::vec((0_u64..1 << 40, 0_u64..1 << 40), 0..6),
            excess in 0_u64..1 << 42,
            shortage in 0_u64..1 << 42,
        ) {
            let stores: Vec<_> = stores
                .into_iter()
                .map(|(one, other)| (one.max(other), one.min(other)))
                .collect();
            let after = budgets(&stores, demand(excess, shortage));
            let now: u64 = stores.iter().map(|(now, _)| now).sum();
            let held: u64 = stores.iter().map(|(_, held)| held).sum();
            prop_assert!(after.iter().zip(&stores).all(|(after, (now, _))| after <= now));
            prop_assert!(now - after.iter().sum::<u64>() >= excess.min(now));
            let left: u64 = after.iter().zip(&stores).map(|(after, (_, held))| after.min(held)).sum();
            prop_assert!(held - left >= shortage.min(held));
        }
    }
}
