//! What the others give for a model that needs their room. Pure.
//!
//! A stored prompt that was dropped is read from disk or computed again; a model that was unloaded has to be loaded again. So promises of memory
//! for prompts that nobody has taken go first, then stored prompts of idle models, then those of running ones; and idle models go only for what
//! all of that does not give.

use aluco_proto::ModelHandle;

use crate::eviction::{Candidate, Need, victims};

/// Memory for prompts is taken in steps of so many bytes.
const STEP_BYTES: u64 = 1 << 20;

/// Memory for the stored prompts of one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) model: ModelHandle,
    /// Bytes that they may take; those count as in use.
    pub(crate) promised: u64,
    /// Bytes that they take.
    pub(crate) held: u64,
    /// The model has nothing to do.
    pub(crate) is_idle: bool,
}

/// What is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sacrifice {
    /// Models that go.
    pub(crate) evict: Vec<ModelHandle>,
    /// Bytes that the stored prompts of models may take from now on.
    pub(crate) shrink: Vec<(ModelHandle, u64)>,
}

/// The least that meets the need. `candidates` hold their stored prompts among their bytes. `None` if it cannot be met.
pub(crate) fn sacrifice(
    candidates: &[Candidate],
    stores: &[Stored],
    need: Need,
) -> Option<Sacrifice> {
    let promised_of = |model| {
        let store = stores.iter().find(|store| store.model == model);
        store.map_or(0, |store| store.promised)
    };
    let promised = stores
        .iter()
        .fold(0_u64, |sum, store| sum.saturating_add(store.promised));
    let without_stores: Vec<Candidate> = candidates
        .iter()
        .map(|candidate| Candidate {
            bytes: candidate.bytes.saturating_sub(promised_of(candidate.model)),
            ..*candidate
        })
        .collect();
    let beyond_stores = Need {
        bytes: need.bytes.saturating_sub(promised),
        ..need
    };
    let evict = victims(&without_stores, beyond_stores)?;
    let goes = |model| evict.contains(&model);
    let leaving = candidates.iter().filter(|candidate| goes(candidate.model));
    let freed = leaving.fold(0_u64, |sum, candidate| sum.saturating_add(candidate.bytes));
    let staying: Vec<Stored> = stores
        .iter()
        .copied()
        .filter(|store| !goes(store.model))
        .collect();
    Some(Sacrifice {
        shrink: shrink(&staying, need.bytes.saturating_sub(freed)),
        evict,
    })
}

/// New budgets for the stores that have to give something for so many bytes, as far as there are.
fn shrink(stores: &[Stored], bytes: u64) -> Vec<(ModelHandle, u64)> {
    let mut budgets: Vec<u64> = stores.iter().map(|store| store.promised).collect();
    let mut left = bytes;
    for (takes_held, is_idle) in [(false, true), (false, false), (true, true), (true, false)] {
        for (store, budget) in stores.iter().zip(&mut budgets) {
            if store.is_idle != is_idle {
                continue;
            }
            let keeps = if takes_held { 0 } else { store.held };
            let taken = left
                .checked_next_multiple_of(STEP_BYTES)
                .unwrap_or(left)
                .min(budget.saturating_sub(keeps));
            *budget -= taken;
            left = left.saturating_sub(taken);
        }
    }
    let models = stores.iter().zip(budgets);
    models
        .filter(|(store, budget)| *budget < store.promised)
        .map(|(store, budget)| (store.model, budget))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn model(number: u32, mib: u64, must_stay: bool) -> Candidate {
        Candidate {
            model: ModelHandle(number),
            bytes: mib * MIB,
            load_ms: Some(f64::from(number)),
            uses: 1.0,
            idle: Duration::ZERO,
            must_stay,
        }
    }

    fn stored(number: u32, promised_mib: u64, held_mib: u64, is_idle: bool) -> Stored {
        Stored {
            model: ModelHandle(number),
            promised: promised_mib * MIB,
            held: held_mib * MIB,
            is_idle,
        }
    }

    fn need(mib: u64) -> Need {
        Need {
            places: 0,
            bytes: mib * MIB,
        }
    }

    /// What goes, and what the others may keep, in MiB.
    fn given(
        candidates: &[Candidate],
        stores: &[Stored],
        need: Need,
    ) -> (Vec<u32>, Vec<(u32, u64)>) {
        let given = sacrifice(candidates, stores, need).expect("there is enough");
        let evict = given.evict.iter().map(|model| model.0).collect();
        let shrink = given.shrink.iter();
        (evict, shrink.map(|it| (it.0.0, it.1 / MIB)).collect())
    }

    #[test]
    fn promises_go_first_then_prompts_of_idle_models_then_of_running_ones_then_models() {
        let models = [model(1, 500, false), model(2, 500, true)];
        let stores = [stored(1, 100, 40, true), stored(2, 100, 70, false)];
        let given = |mib| given(&models, &stores, need(mib));
        assert_eq!(given(50), (vec![], vec![(1, 50)]));
        assert_eq!(given(80), (vec![], vec![(1, 40), (2, 80)]));
        assert_eq!(given(110), (vec![], vec![(1, 20), (2, 70)]));
        assert_eq!(given(200), (vec![], vec![(1, 0), (2, 0)]));
        // With the model its prompts go, and what they were to give is not taken from others.
        assert_eq!(given(201), (vec![1], vec![]));
        assert_eq!(given(530), (vec![1], vec![(2, 70)]));
        assert_eq!(sacrifice(&models, &stores, need(601)), None);
    }

    #[test]
    fn a_place_is_only_given_by_a_model() {
        let need = Need {
            places: 1,
            ..need(450)
        };
        let models = [model(1, 400, false), model(2, 900, true)];
        let stores = [stored(2, 100, 0, false)];
        assert_eq!(given(&models, &stores, need), (vec![1], vec![(2, 50)]));
    }

    fn some_models() -> impl Strategy<Value = (Vec<Candidate>, Vec<Stored>)> {
        let one = (
            0_u64..64 * MIB,
            0_u64..64 * MIB,
            0.0..=1.0_f64,
            any::<bool>(),
            any::<bool>(),
        );
        prop::collection::vec(one, 0..8).prop_map(|models| {
            let numbered = || (1..).map(ModelHandle).zip(&models);
            let candidates = numbered().map(
                |(handle, &(rest, promised, _, is_idle, is_pinned))| Candidate {
                    model: handle,
                    bytes: rest + promised,
                    must_stay: !is_idle || is_pinned,
                    ..model(handle.0, 0, false)
                },
            );
            let stores = numbered().map(|(handle, &(_, promised, share, is_idle, _))| Stored {
                model: handle,
                promised,
                held: (promised as f64 * share) as u64,
                is_idle,
            });
            (candidates.collect(), stores.collect())
        })
    }

    proptest! {
        #[test]
        fn enough_is_given_nothing_for_nothing_and_no_running_model(
            (candidates, stores) in some_models(),
            bytes in 0_u64..400 * MIB,
        ) {
            let need = Need { places: 0, bytes };
            let promised: u64 = stores.iter().map(|store| store.promised).sum();
            let Some(given) = sacrifice(&candidates, &stores, need) else {
                let free = candidates.iter().filter(|one| !one.must_stay);
                let rest = |one: &Candidate| one.bytes - stores[one.model.0 as usize - 1].promised;
                prop_assert!(free.map(rest).sum::<u64>() + promised < bytes);
                return Ok(());
            };
            if promised >= bytes {
                prop_assert_eq!(&given.evict, &[]);
            }
            let find = |model: &ModelHandle| candidates[model.0 as usize - 1];
            prop_assert!(given.evict.iter().all(|model| !find(model).must_stay));
            let evicted: u64 = given.evict.iter().map(|model| find(model).bytes).sum();
            let shrunk: u64 = given.shrink.iter().map(|(model, budget)| {
                assert!(!given.evict.contains(model));
                stores[model.0 as usize - 1].promised - budget
            }).sum();
            prop_assert!(evicted + shrunk >= bytes);
            if shrunk > 0 {
                prop_assert!(evicted + shrunk < bytes + STEP_BYTES, "more than a step too much");
            }
            // Prompts that are there are only dropped where no promise is left, those of running models only where no idle one has any.
            let budget_of = |store: &Stored| {
                let new = given.shrink.iter().find(|(model, _)| *model == store.model);
                new.map_or(store.promised, |(_, budget)| *budget)
            };
            let stays = |store: &&Stored| !given.evict.contains(&store.model);
            let drops = |is_idle: bool| stores.iter().filter(stays)
                .any(|store| store.is_idle == is_idle && budget_of(store) < store.held);
            if drops(true) || drops(false) {
                prop_assert!(stores.iter().filter(stays).all(|store| budget_of(store) <= store.held));
            }
            if drops(false) {
                prop_assert!(stores.iter().filter(stays).all(|store| !store.is_idle || budget_of(store) == 0));
            }
        }
    }
}
