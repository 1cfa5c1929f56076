//! What the table of models decides.

use std::time::Duration;

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
        let terms = Terms {
            keep_alive: KeepAlive::For(Duration::from_secs(200)),
            is_pinned: false,
        };
        let handle = self
            .residency
            .insert(name.to_owned(), PathBuf::new(), terms, self.start);
        let resident = self.residency.get_mut(handle).expect("just inserted");
        resident.stage = stage;
        resident.requests = requests;
        resident.idle_since = self.start + Duration::from_secs(1000 - idle_s);
        handle
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(1000)
    }

    fn step(&self, wanted: ModelHandle, models_max: usize) -> Step {
        let room = Room {
            models_max,
            bytes_needed: 0,
            stores: &[],
        };
        self.residency.next_step(wanted, room, self.now())
    }
}

fn evict(evict: Vec<ModelHandle>) -> Step {
    Step::MakeRoom(Sacrifice {
        evict,
        ..Sacrifice::default()
    })
}

#[test]
fn a_free_place_is_taken() {
    let mut table = Table::new();
    table.add("a", Stage::Ready, 0, 10);
    let wanted = table.add("b", Stage::Queued, 1, 0);
    assert_eq!(table.step(wanted, 2), Step::Load);
}

#[test]
fn the_longest_idle_model_without_requests_goes() {
    let mut table = Table::new();
    table.add("busy", Stage::Ready, 1, 100);
    let idle = table.add("idle", Stage::Ready, 0, 50);
    table.add("fresh", Stage::Ready, 0, 5);
    let wanted = table.add("wanted", Stage::Queued, 1, 0);
    assert_eq!(table.step(wanted, 3), evict(vec![idle]));
}

#[test]
fn when_all_are_busy_or_one_is_already_going_the_new_one_waits() {
    let mut table = Table::new();
    table.add("busy", Stage::Ready, 1, 100);
    table.add("loading", Stage::Loading { progress: 0.5 }, 0, 100);
    let wanted = table.add("wanted", Stage::Queued, 1, 0);
    assert_eq!(table.step(wanted, 2), Step::Wait);
    table.add("idle", Stage::Ready, 0, 50);
    table.add("going", Stage::Unloading, 0, 50);
    assert_eq!(table.step(wanted, 4), Step::Wait);
}

#[test]
fn a_model_on_its_way_out_is_not_found_and_comes_back_only_when_it_is_out() {
    let mut table = Table::new();
    let old = table.add("a", Stage::Unloading, 0, 0);
    assert_eq!(table.residency.find("a"), None);
    let new = table.add("a", Stage::Queued, 1, 0);
    assert_eq!(table.residency.find("a"), Some(new));
    assert_eq!(table.step(new, 9), Step::Wait);
    table.residency.remove(old);
    assert_eq!(table.step(new, 9), Step::Load);
    table.residency.remove(new);
    assert_eq!(table.step(new, 9), Step::Gone);
}

#[test]
fn a_limit_of_no_models_still_lets_one_in() {
    let mut table = Table::new();
    let wanted = table.add("a", Stage::Queued, 1, 0);
    assert_eq!(table.step(wanted, 0), Step::Load);
}

#[test]
fn idle_models_expire_and_busy_ones_do_not() {
    let mut table = Table::new();
    let old = table.add("old", Stage::Ready, 0, 300);
    table.add("busy", Stage::Ready, 1, 300);
    table.add("fresh", Stage::Ready, 0, 100);
    let now = table.now();
    let (expired, next) = table.residency.expired(now);
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

#[test]
fn pinned_models_neither_expire_nor_make_place() {
    let mut table = Table::new();
    let pinned = table.add("pinned", Stage::Ready, 0, 900);
    let other = table.add("other", Stage::Ready, 0, 100);
    table.residency.wish(pinned, None, Some(true));
    let wanted = table.add("wanted", Stage::Queued, 1, 0);
    assert_eq!(table.step(wanted, 2), evict(vec![other]));
    assert_eq!(table.residency.expired(table.now()).0, []);
    table.residency.wish(other, None, Some(true));
    let names = ["pinned", "other"].map(str::to_owned).to_vec();
    assert_eq!(table.step(wanted, 2), Step::Full(names));
    table.residency.forget_wishes(pinned);
    assert_eq!(table.step(wanted, 2), evict(vec![pinned]));
    assert_eq!(table.residency.expired(table.now()).0, [pinned]);
}

#[test]
fn what_a_request_says_holds_until_the_model_goes() {
    let mut table = Table::new();
    let handle = table.add("m", Stage::Ready, 0, 100);
    let expired = |table: &Table| table.residency.expired(table.now()).0;
    assert_eq!(expired(&table), []);
    let wish = |table: &mut Table, keep_alive| {
        table.residency.wish(handle, keep_alive, None);
    };
    wish(&mut table, Some(KeepAlive::NONE));
    assert_eq!(expired(&table), [handle]);
    wish(&mut table, None);
    assert_eq!(expired(&table), [handle], "saying nothing changes nothing");
    wish(&mut table, Some(KeepAlive::Forever));
    assert_eq!(table.residency.expired(table.now()), (vec![], None));
    table.residency.forget_wishes(handle);
    let in_100_s = table.now() + Duration::from_secs(100);
    let (expired, next) = table.residency.expired(table.now());
    assert_eq!((expired, next), (vec![], Some(in_100_s)));
}

#[test]
fn models_that_are_gone_are_not_remembered_without_end() {
    let mut table = Table::new();
    let stays = table.add("stays", Stage::Ready, 0, 0);
    for number in 0..REMEMBERED_MAX * 2 {
        let handle = table.add(&format!("{number}"), Stage::Ready, 0, 0);
        if number % 100 == 0 {
            let now = table.now();
            table.residency.touch(handle, now);
        }
        table.residency.remove(handle);
    }
    assert_eq!(table.residency.remembered.len(), REMEMBERED_MAX);
    let name = &table.residency.get_mut(stays).unwrap().name.clone();
    assert!(table.residency.remembered.contains_key(name));
    for used in (0..REMEMBERED_MAX * 2).step_by(100) {
        let name = used.to_string();
        assert!(table.residency.remembered.contains_key(&name), "{name}");
    }
}
