//! Which models are loaded, which wait for a place, and which must go. Decides; `loading` carries it out.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aluco_proto::{LoadedModel, ModelHandle};
use tokio::sync::watch;

use crate::{connection::Connection, error::Fault};

/// Names that are remembered for one model. There are endless ways to write a path.
const NAMES_MAX: usize = 16;

/// All models that are loaded, on their way in, or on their way out.
#[derive(Default)]
pub(crate) struct Residency {
    residents: BTreeMap<ModelHandle, Resident>,
    next_handle: u32,
}

/// One of them.
pub(crate) struct Resident {
    /// Its canonical name.
    pub(crate) name: String,
    /// Its file; the first one if it is split.
    pub(crate) path: PathBuf,
    pub(crate) stage: Stage,
    /// Requests in flight, those that wait for the load included.
    pub(crate) requests: usize,
    /// How many of them each client has.
    clients: HashMap<Arc<str>, usize>,
    /// End of the last request, or of the load.
    pub(crate) idle_since: Instant,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Load: a place is free.
    Load,
    /// Unload that model, then ask again.
    Evict(ModelHandle),
    /// Ask again when something has changed.
    Wait,
    /// Nobody wants it any more.
    Gone,
}

impl Residency {
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
    pub(crate) fn insert(&mut self, name: String, path: PathBuf, now: Instant) -> ModelHandle {
        self.next_handle += 1;
        let handle = ModelHandle(self.next_handle);
        let resident = Resident {
            names: vec![name.clone()],
            name,
            path,
            stage: Stage::Queued,
            requests: 0,
            clients: HashMap::new(),
            idle_since: now,
            connection: None,
            outcome: watch::channel(None).0,
        };
        self.residents.insert(handle, resident);
        handle
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

    /// What a queued model should do. One model goes at a time, so that no more go than needed.
    pub(crate) fn next_step(&self, wanted: ModelHandle, models_max: usize) -> Step {
        let Some(queued) = self.residents.get(&wanted) else {
            return Step::Gone;
        };
        let has_left = |resident: &Resident| resident.stage == Stage::Unloading;
        let is_same_file = |resident: &&Resident| resident.name == queued.name;
        if self.residents.values().filter(is_same_file).any(has_left) {
            return Step::Wait;
        }
        let places = self
            .residents
            .values()
            .filter(|resident| resident.stage != Stage::Queued)
            .count();
        if places < models_max.max(1) {
            return Step::Load;
        }
        if self.residents.values().any(has_left) {
            return Step::Wait;
        }
        self.residents
            .iter()
            .filter(|(_, resident)| resident.stage == Stage::Ready && resident.requests == 0)
            .min_by_key(|(_, resident)| resident.idle_since)
            .map_or(Step::Wait, |(&handle, _)| Step::Evict(handle))
    }

    /// Models that have been idle for `keep_alive`, and when the next one will have been.
    pub(crate) fn expired(
        &self,
        keep_alive: Duration,
        now: Instant,
    ) -> (Vec<ModelHandle>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next = None;
        for (&handle, resident) in &self.residents {
            let Some(at) = resident.expires_at(keep_alive) else {
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

impl Resident {
    /// When it goes if nobody asks for it. `None`: it is in use, or not loaded.
    pub(crate) fn expires_at(&self, keep_alive: Duration) -> Option<Instant> {
        (self.stage == Stage::Ready && self.requests == 0)
            .then(|| self.idle_since.checked_add(keep_alive))
            .flatten()
    }

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
mod tests {
    use super::*;

    struct Table {
        residency: Residency,
        start: Instant,
    }

    impl Table {
        fn new() -> Self {
            Self {
                residency: Residency::default(),
                start: Instant::now(),
            }
        }

        fn add(&mut self, name: &str, stage: Stage, requests: usize, idle_s: u64) -> ModelHandle {
            let handle = self
                .residency
                .insert(name.to_owned(), PathBuf::new(), self.start);
            let resident = self.residency.get_mut(handle).expect("just inserted");
            resident.stage = stage;
            resident.requests = requests;
            resident.idle_since = self.start + Duration::from_secs(1000 - idle_s);
            handle
        }
    }

    #[test]
    fn a_free_place_is_taken() {
        let mut table = Table::new();
        table.add("a", Stage::Ready, 0, 10);
        let wanted = table.add("b", Stage::Queued, 1, 0);
        assert_eq!(table.residency.next_step(wanted, 2), Step::Load);
    }

    #[test]
    fn the_longest_idle_model_without_requests_goes() {
        let mut table = Table::new();
        table.add("busy", Stage::Ready, 1, 100);
        let idle = table.add("idle", Stage::Ready, 0, 50);
        table.add("fresh", Stage::Ready, 0, 5);
        let wanted = table.add("wanted", Stage::Queued, 1, 0);
        assert_eq!(table.residency.next_step(wanted, 3), Step::Evict(idle));
    }

    #[test]
    fn when_all_are_busy_or_one_is_already_going_the_new_one_waits() {
        let mut table = Table::new();
        table.add("busy", Stage::Ready, 1, 100);
        table.add("loading", Stage::Loading { progress: 0.5 }, 0, 100);
        let wanted = table.add("wanted", Stage::Queued, 1, 0);
        assert_eq!(table.residency.next_step(wanted, 2), Step::Wait);
        table.add("idle", Stage::Ready, 0, 50);
        table.add("going", Stage::Unloading, 0, 50);
        assert_eq!(table.residency.next_step(wanted, 4), Step::Wait);
    }

    #[test]
    fn a_model_on_its_way_out_is_not_found_and_comes_back_only_when_it_is_out() {
        let mut table = Table::new();
        let old = table.add("a", Stage::Unloading, 0, 0);
        assert_eq!(table.residency.find("a"), None);
        let new = table.add("a", Stage::Queued, 1, 0);
        assert_eq!(table.residency.find("a"), Some(new));
        assert_eq!(table.residency.next_step(new, 9), Step::Wait);
        table.residency.remove(old);
        assert_eq!(table.residency.next_step(new, 9), Step::Load);
        table.residency.remove(new);
        assert_eq!(table.residency.next_step(new, 9), Step::Gone);
    }

    #[test]
    fn a_limit_of_no_models_still_lets_one_in() {
        let mut table = Table::new();
        let wanted = table.add("a", Stage::Queued, 1, 0);
        assert_eq!(table.residency.next_step(wanted, 0), Step::Load);
    }

    #[test]
    fn idle_models_expire_and_busy_ones_do_not() {
        let mut table = Table::new();
        let old = table.add("old", Stage::Ready, 0, 300);
        table.add("busy", Stage::Ready, 1, 300);
        table.add("fresh", Stage::Ready, 0, 100);
        let now = table.start + Duration::from_secs(1000);
        let (expired, next) = table.residency.expired(Duration::from_secs(200), now);
        assert_eq!(expired, [old]);
        assert_eq!(next, Some(now + Duration::from_secs(100)));
    }

    #[test]
    fn the_queue_of_a_model_is_bounded() {
        let mut table = Table::new();
        let handle = table.add("a", Stage::Loading { progress: 0.0 }, 0, 0);
        let resident = table.residency.get_mut(handle).unwrap();
        let client = "client".into();
        for _ in 0..6 {
            resident.admit(&client, 4, 2).unwrap();
        }
        let full = Err(Fault::Overloaded { waiting: 2 });
        assert_eq!(resident.admit(&client, 4, 2), full);
        assert_eq!(resident.requests, 6);
    }

    #[test]
    fn one_client_cannot_shut_the_queue_for_others() {
        let mut table = Table::new();
        let handle = table.add("a", Stage::Ready, 0, 0);
        let start = table.start;
        let resident = table.residency.get_mut(handle).unwrap();
        let [greedy, modest, late]: [Arc<str>; 3] = ["greedy", "modest", "late"].map(Into::into);
        let mut admitted = |client: &Arc<str>| {
            let taken = (0..100).take_while(|_| resident.admit(client, 2, 8).is_ok());
            taken.count()
        };
        // Two run and eight wait; two more places are for others.
        assert_eq!(admitted(&greedy), 10);
        assert_eq!(admitted(&modest), 2);
        assert_eq!(admitted(&late), 0, "the queue is full for all");
        for client in [&greedy, &modest] {
            resident.release(client, start);
            assert!(resident.admit(&greedy, 2, 8).is_err());
            resident.admit(&late, 2, 8).unwrap();
        }
        for (client, count) in [(&greedy, 9), (&modest, 1), (&late, 2)] {
            for _ in 0..count {
                resident.release(client, start);
            }
        }
        assert_eq!(resident.requests, 0);
        assert!(resident.clients.is_empty());
    }

    #[test]
    fn a_model_is_found_under_every_name_it_was_asked_for() {
        let mut table = Table::new();
        let handle = table.add("org/model:Q4", Stage::Ready, 0, 0);
        table.residency.add_name(handle, "model");
        assert_eq!(table.residency.find("model"), Some(handle));
        assert_eq!(table.residency.find("other"), None);
    }
    #[test]
    fn endless_spellings_of_a_name_do_not_pile_up() {
        let mut table = Table::new();
        let handle = table.add("model", Stage::Ready, 0, 0);
        for spelling in 0..1000 {
            let name = format!("{}model", "./".repeat(spelling));
            table.residency.add_name(handle, &name);
            assert_eq!(table.residency.find(&name), Some(handle));
        }
        assert_eq!(table.residency.find("model"), Some(handle));
        let resident = table.residency.get_mut(handle).unwrap();
        assert_eq!(resident.names.len(), NAMES_MAX);
    }
}
