//! Makes place and room for a model that is to be loaded, at the cost of others that have no use for it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use aluco_plan::{Bytes, Place, Tight};
use aluco_proto::ModelHandle;
use tokio::time::timeout_at;

use crate::{
    error::{Fault, all_pinned, no_place},
    loading::{Leaving, take_out_of_service, unloaded},
    memory::Space,
    relief,
    residency::{Room, Stage, Step},
    room::{Sacrifice, Stored},
    shared::{Shared, State},
    wanted::Wanted,
};

/// What to do until the next look.
enum Next {
    Unload(Vec<Leaving>),
    Shrink(Vec<(ModelHandle, u64)>),
    Wait,
}

/// Waits for a place and for memory, and brings them about by what others can give. What the model will take is reserved afterwards.
pub(crate) async fn wait_for_place(
    shared: &Arc<Shared>,
    handle: ModelHandle,
    wanted: &Wanted,
) -> Result<(), Fault> {
    let deadline = tokio::time::Instant::now() + shared.settings().place_timeout;
    let mut changed = shared.changed().subscribe();
    // While stored prompts have less for this model, nobody gives it back to them.
    let mut turn = None;
    let mut held = HashMap::new();
    let mut stubborn = HashSet::new();
    loop {
        let mut refusal = None;
        // Victims are chosen and taken out of service under one lock, so that no request slips in between.
        let next = {
            let mut guard = shared.state();
            let state = &mut *guard;
            let mut stores = Vec::new();
            let bytes_needed = match state.memory.space(handle, wanted, &state.residency) {
                Space::Free(_) => 0,
                Space::Missing { tight, bytes, .. } => {
                    state.price(tight);
                    stores = state.stores(handle, tight, &held);
                    stores.retain(|store| !stubborn.contains(&store.model));
                    bytes.0
                }
                Space::Busy(table) => {
                    refusal = Some(table);
                    0
                }
                Space::Never(table) => return Err(Fault::DoesNotFit(table)),
            };
            // After the death of its worker it has its place already.
            let has_place = state
                .residency
                .get_mut(handle)
                .is_some_and(|it| it.stage != Stage::Queued);
            let room = Room {
                models_max: if has_place {
                    usize::MAX
                } else {
                    shared.settings().models_max
                },
                bytes_needed,
                stores: &stores,
            };
            match state.residency.next_step(handle, room, Instant::now()) {
                Step::Gone => return Err(unloaded()),
                // No model goes for a place that would be of no use without memory.
                _ if refusal.is_some() => Next::Wait,
                Step::Load => {
                    state.memory.book(handle, wanted).map_err(Fault::NoRoom)?;
                    if let Some(resident) = state.residency.get_mut(handle) {
                        resident.stage = Stage::Loading { progress: 0.0 };
                    }
                    return Ok(());
                }
                Step::Full(pinned) => return Err(all_pinned(&pinned)),
                Step::MakeRoom(Sacrifice { evict, shrink }) if evict.is_empty() => {
                    Next::Shrink(shrink)
                }
                // What stored prompts have to give beside it is seen when they have gone.
                Step::MakeRoom(Sacrifice { evict, .. }) => {
                    let leaving = evict.into_iter().filter_map(|victim| {
                        take_out_of_service(state, victim, "another model needs its place")
                    });
                    Next::Unload(leaving.collect())
                }
                Step::Wait => Next::Wait,
            }
        };
        match next {
            Next::Shrink(_) if turn.is_none() => {
                turn = Some(shared.relief.lock().await);
                held = relief::held(shared).await;
            }
            Next::Shrink(budgets) => {
                for (model, bytes) in budgets {
                    tracing::info!(%model, to = %Bytes(bytes), "another model needs room: stored prompts get less of it");
                    if relief::set_budget(shared, model, Bytes(bytes)).await != Some(Bytes(bytes)) {
                        stubborn.insert(model);
                    }
                }
            }
            Next::Unload(leaving) if !leaving.is_empty() => {
                turn = None;
                for leaving in leaving {
                    leaving.unload(shared);
                }
            }
            Next::Unload(_) | Next::Wait => {
                turn = None;
                if timeout_at(deadline, changed.changed()).await.is_err() {
                    return Err(match refusal {
                        Some(refusal) => Fault::NoRoom(refusal),
                        None => no_place(shared.settings().models_max),
                    });
                }
            }
        }
    }
}

impl State {
    /// Memory for prompts of models that take requests, but for this one, as far as it is part of the memory that is short. `held`: what of it
    /// is known to be in use.
    pub(crate) fn stores(
        &self,
        but: ModelHandle,
        tight: Tight,
        held: &HashMap<ModelHandle, Bytes>,
    ) -> Vec<Stored> {
        if !tight.counts(Place::Host) {
            return Vec::new();
        }
        let stores = self.memory.stores().into_iter();
        stores
            .filter(|store| store.model != but && self.residency.is_ready(store.model))
            .map(|store| Stored {
                model: store.model,
                promised: store.now.0,
                held: held
                    .get(&store.model)
                    .map_or(store.now.0, |held| held.0.min(store.now.0)),
                is_idle: self.residency.is_idle(store.model),
            })
            .collect()
    }
}
