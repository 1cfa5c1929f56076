//! Which models are loaded, which wait for a place, and which must go. Decides; `loading` carries it out.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use aluco_plan::speed::BytesPerSecond;
use aluco_proto::{LoadedModel, ModelHandle};
use tokio::sync::watch;

use crate::{
    KeepAlive,
    connection::Connection,
    error::Fault,
    eviction::{Candidate, Habit, Need, load_ms, victims},
    room::{Sacrifice, Stored, sacrifice},
};

/// Names that are remembered for one model. There are endless ways to write a path.
const NAMES_MAX: usize = 16;

/// Models that are remembered after they have gone. There are endless ways to write a path, too.
const REMEMBERED_MAX: usize = 1024;

/// All models that are loaded, on their way in, or on their way out.
#[derive(Default)]
pub(crate) struct Residency {
    residents: BTreeMap<ModelHandle, Resident>,
    next_handle: u32,
    /// What is remembered of models by their canonical names, whether they are loaded or not: it outlives unloads and workers.
    remembered: HashMap<String, Remembered>,
    /// How fast files are read, if that was measured.
    disk_rate: Option<BytesPerSecond>,
}

/// What the configuration says about one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Terms {
    pub(crate) keep_alive: KeepAlive,
    pub(crate) is_pinned: bool,
}

/// What requests have said and shown about one model.
struct Remembered {
    habit: Habit,
    /// What the last request that said so wants, until the model is unloaded.
    keep_alive: Option<KeepAlive>,
    /// A request has pinned it.
    is_pinned: bool,
}

/// How much may be loaded at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room<'a> {
    /// Models; at least one is let in.
    pub(crate) models_max: usize,
    /// Bytes that the others have to leave for the model that wants in.
    pub(crate) bytes_needed: u64,
    /// Memory for the prompts of the others, which can become less.
    pub(crate) stores: &'a [Stored],
}

/// One of them.
pub(crate) struct Resident {
    /// Its canonical name.
    pub(crate) name: String,
    /// Its file; the first one if it is split.
    pub(crate) path: PathBuf,
    pub(crate) stage: Stage,
    pub(crate) terms: Terms,
    /// Requests in flight, those that wait for the load included.
    pub(crate) requests: usize,
    /// How many of them each client has.
    clients: HashMap<Arc<str>, usize>,
    /// End of the last request, or of the load.
    pub(crate) idle_since: Instant,
    /// Bytes that its leaving gives of the memory that is short. `None`: all that it holds.
    pub(crate) room_bytes: Option<u64>,
    /// The worker that has it, from the begin of the load.
    pub(crate) connection: Option<Arc<Connection>>,
    /// What came of the load, for all who wait for it.
    pub(crate) outcome: watch::Sender<Option<Result<Ready, Fault>>>,
    /// Names under which it was asked for, the canonical one included.
    names: Vec<String>,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    /// It waits for a place.
    Queued,
    /// It has a place, and its weights are being read.
    Loading { progress: f32 },
    /// It takes requests.
    Ready,
    /// It is going; its place is not free yet.
    Unloading,
}

/// A model that takes requests.
#[derive(Clone)]
pub(crate) struct Ready {
    /// Its canonical name.
    pub(crate) name: Arc<str>,
    pub(crate) loaded: Arc<LoadedModel>,
    pub(crate) connection: Arc<Connection>,
}

/// What a model that wants a place should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load: a place is free.
    Load,
    /// Have the others give this, then ask again.
    MakeRoom(Sacrifice),
    /// Give up: all places are taken by these models, which are pinned.
    Full(Vec<String>),
    /// Ask again when something has changed.
    Wait,
    /// Nobody wants it any more.
    Gone,
}

impl Residency {
    /// No models, on a disk that is read so fast.
    pub(crate) fn on_disk(disk_rate: Option<BytesPerSecond>) -> Self {
        Self {
            disk_rate,
            ..Self::default()
        }
    }

    /// The model of that name that is loaded or on its way in.
    pub(crate) fn find(&self, name: &str) -> Option<ModelHandle> {
        self.residents
            .iter()
            .find(|(_, resident)| {
                resident.stage != Stage::Unloading
                    && resident.names.iter().any(|known| known == name)
            })
            .map(|(&handle, _)| handle)
    }

    /// A model that waits for a place.
    pub(crate) fn insert(
        &mut self,
        name: String,
        path: PathBuf,
        terms: Terms,
        now: Instant,
    ) -> ModelHandle {
        self.next_handle += 1;
        let handle = ModelHandle(self.next_handle);
        self.bound_memory(now);
        self.remembered
            .entry(name.clone())
            .or_insert_with(|| Remembered {
                habit: Habit::new(now),
                keep_alive: None,
                is_pinned: false,
            });
        let resident = Resident {
            names: vec![name.clone()],
            name,
            path,
            stage: Stage::Queued,
            terms,
            requests: 0,
            clients: HashMap::new(),
            idle_since: now,
            room_bytes: None,
            connection: None,
            outcome: watch::channel(None).0,
        };
        self.residents.insert(handle, resident);
        handle
    }

    /// Makes place to remember one more model, by forgetting the least used one of those that are gone.
    fn bound_memory(&mut self, now: Instant) {
        if self.remembered.len() < REMEMBERED_MAX {
            return;
        }
        let is_here = |name: &str| self.residents.values().any(|it| it.name == name);
        let least = self
            .remembered
            .iter()
            .filter(|(name, _)| !is_here(name))
            .min_by(|(_, one), (_, other)| one.habit.uses(now).total_cmp(&other.habit.uses(now)))
            .map(|(name, _)| name.clone());
        if let Some(least) = least {
            self.remembered.remove(&least);
        }
    }

    /// Remembers another name of a model, so that it is found without a look into the store. The oldest but the canonical one is
    /// forgotten when there are too many.
    pub(crate) fn add_name(&mut self, handle: ModelHandle, name: &str) {
        if let Some(resident) = self.residents.get_mut(&handle)
            && !resident.names.iter().any(|known| known == name)
        {
            if resident.names.len() == NAMES_MAX {
                resident.names.remove(1);
            }
            resident.names.push(name.to_owned());
        }
    }

    pub(crate) fn get_mut(&mut self, handle: ModelHandle) -> Option<&mut Resident> {
        self.residents.get_mut(&handle)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ModelHandle, &mut Resident)> {
        self.residents
            .iter_mut()
            .map(|(&handle, resident)| (handle, resident))
    }

    pub(crate) fn contains(&self, handle: ModelHandle) -> bool {
        self.residents.contains_key(&handle)
    }

    /// It takes requests.
    pub(crate) fn is_ready(&self, handle: ModelHandle) -> bool {
        let resident = self.residents.get(&handle);
        resident.is_some_and(|resident| resident.stage == Stage::Ready)
    }

    /// It takes requests, and has none.
    pub(crate) fn is_idle(&self, handle: ModelHandle) -> bool {
        let resident = self.residents.get(&handle);
        resident.is_some_and(|resident| resident.stage == Stage::Ready && resident.requests == 0)
    }

    /// It can be unloaded for another model now, or is on its way out.
    pub(crate) fn may_go(&self, handle: ModelHandle) -> bool {
        self.residents
            .get(&handle)
            .is_some_and(|resident| match resident.stage {
                Stage::Unloading => true,
                Stage::Ready => resident.requests == 0 && !self.is_pinned(resident),
                Stage::Queued | Stage::Loading { .. } => false,
            })
    }

    /// No other model makes it go, whenever it is idle.
    pub(crate) fn is_kept(&self, handle: ModelHandle) -> bool {
        self.residents
            .get(&handle)
            .is_some_and(|resident| resident.stage != Stage::Unloading && self.is_pinned(resident))
    }

    /// The models of least value that hold so many bytes together; all that may go if those hold less.
    pub(crate) fn dispensable(&self, bytes: u64, now: Instant) -> Vec<ModelHandle> {
        let candidates = self.candidates(now);
        let all = || {
            let free = candidates.iter().filter(|candidate| !candidate.must_stay);
            free.map(|candidate| candidate.model).collect()
        };
        victims(&candidates, Need { places: 0, bytes }).unwrap_or_else(all)
    }

    pub(crate) fn remove(&mut self, handle: ModelHandle) -> Option<Resident> {
        self.residents.remove(&handle)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ModelHandle, &Resident)> {
        self.residents
            .iter()
            .map(|(&handle, resident)| (handle, resident))
    }

    /// Forgets the models of workers that take no more requests. Loads under way find out by themselves, and tell those who wait.
    pub(crate) fn remove_dead(&mut self) {
        self.residents.retain(|_, resident| {
            matches!(resident.stage, Stage::Queued | Stage::Loading { .. })
                || resident
                    .connection
                    .as_ref()
                    .is_none_or(|connection| connection.is_open())
        });
    }

    /// Requests in flight, of all models.
    pub(crate) fn requests(&self) -> usize {
        self.residents
            .values()
            .map(|resident| resident.requests)
            .sum()
    }

    /// A model is used once more.
    pub(crate) fn touch(&mut self, handle: ModelHandle, now: Instant) {
        if let Some(remembered) = self.remembered_mut(handle) {
            remembered.habit.touch(now);
        }
    }

    /// A request says how long a model stays after it, and whether it is pinned; what it does not say stays as it was.
    pub(crate) fn wish(
        &mut self,
        handle: ModelHandle,
        keep_alive: Option<KeepAlive>,
        is_pinned: Option<bool>,
    ) {
        if let Some(remembered) = self.remembered_mut(handle) {
            remembered.keep_alive = keep_alive.or(remembered.keep_alive);
            remembered.is_pinned = is_pinned.unwrap_or(remembered.is_pinned);
        }
    }

    /// A model goes, so that the configuration holds again when it comes back.
    pub(crate) fn forget_wishes(&mut self, handle: ModelHandle) {
        if let Some(remembered) = self.remembered_mut(handle) {
            remembered.keep_alive = None;
            remembered.is_pinned = false;
        }
    }

    fn remembered_mut(&mut self, handle: ModelHandle) -> Option<&mut Remembered> {
        let resident = self.residents.get(&handle)?;
        self.remembered.get_mut(&resident.name)
    }

    /// Neither time nor another model makes it go.
    pub(crate) fn is_pinned(&self, resident: &Resident) -> bool {
        let remembered = self.remembered.get(&resident.name);
        resident.terms.is_pinned || remembered.is_some_and(|it| it.is_pinned)
    }

    /// How long it stays after its last request, if it is not pinned.
    pub(crate) fn keep_alive(&self, resident: &Resident) -> KeepAlive {
        self.remembered
            .get(&resident.name)
            .and_then(|it| it.keep_alive)
            .unwrap_or(resident.terms.keep_alive)
    }

    /// When it goes if nobody asks for it. `None`: it is in use, not loaded, or stays for ever.
    pub(crate) fn expires_at(&self, resident: &Resident) -> Option<Instant> {
        if resident.stage != Stage::Ready || resident.requests > 0 || self.is_pinned(resident) {
            return None;
        }
        let keep_alive = self.keep_alive(resident).duration()?;
        resident.idle_since.checked_add(keep_alive)
    }

    /// What a queued model should do.
    pub(crate) fn next_step(&self, wanted: ModelHandle, room: Room<'_>, now: Instant) -> Step {
        let Some(queued) = self.residents.get(&wanted) else {
            return Step::Gone;
        };
        let has_left = |resident: &Resident| resident.stage == Stage::Unloading;
        let is_same_file = |resident: &&Resident| resident.name == queued.name;
        if self.residents.values().filter(is_same_file).any(has_left) {
            return Step::Wait;
        }
        let need = self.need(room);
        if need == Need::default() {
            return Step::Load;
        }
        // What leaves already may be enough.
        if self.placed().any(has_left) {
            return Step::Wait;
        }
        match sacrifice(&self.candidates(now), room.stores, need) {
            Some(given) => Step::MakeRoom(given),
            None if self.placed().all(|resident| self.is_pinned(resident)) => {
                Step::Full(self.placed().map(|it| it.name.clone()).collect())
            }
            None => Step::Wait,
        }
    }

    /// The names of the models that would go now for one more. `None`: too few may go.
    pub(crate) fn would_go(&self, room: Room<'_>, now: Instant) -> Option<Vec<String>> {
        let given = sacrifice(&self.candidates(now), room.stores, self.need(room))?;
        let names = given.evict.iter().filter_map(|handle| {
            let resident = self.residents.get(handle)?;
            Some(resident.name.clone())
        });
        Some(names.collect())
    }

    /// Models that have a place, be it only until they are gone.
    fn placed(&self) -> impl Iterator<Item = &Resident> {
        self.residents
            .values()
            .filter(|resident| resident.stage != Stage::Queued)
    }

    /// What one more model needs of the others.
    fn need(&self, room: Room<'_>) -> Need {
        Need {
            places: (self.placed().count() + 1).saturating_sub(room.models_max.max(1)),
            bytes: room.bytes_needed,
        }
    }

    /// The models that take requests, with what tells which is worth most.
    fn candidates(&self, now: Instant) -> Vec<Candidate> {
        self.residents
            .iter()
            .filter(|(_, resident)| resident.stage == Stage::Ready)
            .map(|(&model, resident)| {
                let loaded = resident.loaded();
                let remembered = self.remembered.get(&resident.name);
                Candidate {
                    model,
                    bytes: resident
                        .room_bytes
                        .or_else(|| loaded.as_deref().map(bytes))
                        .unwrap_or_default(),
                    load_ms: loaded.map(|loaded| {
                        load_ms(loaded.load_ms, loaded.weights_bytes, self.disk_rate)
                    }),
                    uses: remembered.map_or(0.0, |it| it.habit.uses(now)),
                    idle: now.saturating_duration_since(resident.idle_since),
                    must_stay: resident.requests > 0 || self.is_pinned(resident),
                }
            })
            .collect()
    }

    /// Models that have been idle for as long as they are kept, and when the next one will have been.
    pub(crate) fn expired(&self, now: Instant) -> (Vec<ModelHandle>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next = None;
        for (&handle, resident) in &self.residents {
            let Some(at) = self.expires_at(resident) else {
                continue;
            };
            if at <= now {
                expired.push(handle);
            } else {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
        }
        (expired, next)
    }
}

/// All that a model holds, on all devices.
pub(crate) fn bytes(loaded: &LoadedModel) -> u64 {
    let devices = loaded.memory.iter();
    devices
        .map(|device| device.weights_bytes + device.context_bytes + device.compute_bytes)
        .sum()
}

impl Resident {
    /// What it is and takes, once it is loaded.
    pub(crate) fn loaded(&self) -> Option<Arc<LoadedModel>> {
        match &*self.outcome.borrow() {
            Some(Ok(ready)) => Some(ready.loaded.clone()),
            _ => None,
        }
    }

    /// Counts one more request of a client in, or says how many wait already. `sequences_expected` is used until the load is done.
    ///
    /// The worker takes the waiting requests of all clients by turns, but only of those that got into its queue. So a full queue
    /// still takes a quarter more, from clients that have fewer requests than could run at once: whoever sends many cannot shut it
    /// for others.
    pub(crate) fn admit(
        &mut self,
        client: &Arc<str>,
        sequences_expected: u32,
        queue_max: usize,
    ) -> Result<(), Fault> {
        let sequences = self
            .loaded()
            .map_or(sequences_expected, |loaded| loaded.sequences_max)
            .max(1) as usize;
        let places = sequences.saturating_add(queue_max);
        let mine = self.clients.get(client).copied().unwrap_or(0);
        let reserve = if mine < sequences { queue_max / 4 } else { 0 };
        let limit = places.saturating_add(reserve);
        if self.requests >= limit {
            return Err(Fault::Overloaded {
                waiting: self.requests.saturating_sub(sequences),
            });
        }
        self.requests += 1;
        *self.clients.entry(client.clone()).or_default() += 1;
        Ok(())
    }

    /// Counts a request out that was counted in.
    pub(crate) fn release(&mut self, client: &Arc<str>, now: Instant) {
        self.requests -= 1;
        if let Some(count) = self.clients.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(client);
            }
        }
        self.idle_since = now;
    }
}

#[cfg(test)]
mod tests;
