use proptest::prelude::*;

use super::*;

fn no_cells(_: ClientId) -> u32 {
    0
}

fn waiting(client: ClientId, arrival: u64) -> Waiting {
    Waiting { client, arrival }
}

#[test]
fn the_client_with_less_service_stands_first() {
    let mut fairness = Fairness::default();
    let (a, b) = (fairness.enter("a"), fairness.enter("b"));
    fairness.account([(a, 100), (b, 0)]);
    let standings = fairness.standings();
    assert!(standings[b.index()] < standings[a.index()]);
}

#[test]
fn a_client_that_wanted_nothing_is_owed_nothing() {
    let mut fairness = Fairness::default();
    let (busy, quiet) = (fairness.enter("busy"), fairness.enter("quiet"));
    for _ in 0..100 {
        fairness.account([(busy, 512)]);
    }
    // The quiet one comes back: it may go first once, not a hundred times.
    fairness.account([(quiet, 512), (busy, 0)]);
    fairness.account([(quiet, 512), (busy, 0)]);
    let standings = fairness.standings();
    assert!(standings[busy.index()] < standings[quiet.index()]);
}

#[test]
fn a_newcomer_owes_nothing_for_those_who_were_there() {
    let mut fairness = Fairness::default();
    let old = fairness.enter("old");
    for _ in 0..100 {
        fairness.account([(old, 512)]);
    }
    let new = fairness.enter("new");
    let standings = fairness.standings();
    assert!(standings[new.index()] < standings[old.index()]);
}

#[test]
fn a_name_is_one_client_until_its_last_request_leaves() {
    let mut fairness = Fairness::default();
    let first = fairness.enter("a");
    assert_eq!(fairness.enter("a"), first);
    assert_ne!(fairness.enter("b"), first);
    fairness.leave(first);
    assert_eq!((fairness.enter("a"), fairness.clients()), (first, 2));
    fairness.leave(first);
    fairness.leave(first);
    assert_eq!(fairness.clients(), 1);
    assert_eq!(fairness.enter("c"), first, "its place is used again");
}

#[test]
fn a_client_that_waited_too_long_goes_first_once() {
    let mut fairness = Fairness::default();
    let (patient, favoured) = (fairness.enter("patient"), fairness.enter("favoured"));
    fairness.account([(patient, 1_000_000)]);
    for step in 0..CLIENT_WAIT_STEPS_MAX {
        let standings = fairness.standings();
        assert!(
            standings[favoured.index()] < standings[patient.index()],
            "after {step} steps"
        );
        fairness.account([(favoured, 8), (patient, 0)]);
    }
    let mut standings = fairness.standings();
    assert!(standings[patient.index()] < standings[favoured.index()]);
    standings[patient.index()].serve(1);
    assert!(standings[favoured.index()] < standings[patient.index()]);
}

#[test]
fn who_holds_cells_is_let_in_after_who_holds_none() {
    let mut fairness = Fairness::default();
    let (a, b) = (fairness.enter("a"), fairness.enter("b"));
    let queue = [waiting(a, 1), waiting(a, 2), waiting(b, 3)];
    assert_eq!(fairness.order(&queue, no_cells), [0, 1, 2]);
    let held = |client| if client == a { 500 } else { 0 };
    assert_eq!(fairness.order(&queue, held), [2, 0, 1]);
    fairness.account([(a, 10), (b, 600)]);
    assert_eq!(fairness.order(&queue, held), [0, 1, 2]);
}

#[test]
fn a_large_request_is_overtaken_so_often_and_no_more() {
    let mut fairness = Fairness::default();
    let (large, small) = (fairness.enter("large"), fairness.enter("small"));
    for arrival in 1..=u64::from(OVERTAKEN_MAX) {
        let queue = [waiting(large, 0), waiting(small, arrival)];
        assert_eq!(fairness.order(&queue, no_cells), [0, 1]);
        fairness.admitted(&queue, 1);
    }
    let queue = [waiting(small, 98), waiting(large, 0), waiting(large, 99)];
    assert_eq!(fairness.order(&queue, no_cells), [1]);
    fairness.admitted(&queue, 1);
    let queue = [waiting(small, 98), waiting(large, 99)];
    assert_eq!(fairness.order(&queue, no_cells), [0, 1]);
}

#[test]
fn a_client_may_overtake_itself_no_more_than_others_may() {
    let mut fairness = Fairness::default();
    let only = fairness.enter("only");
    for arrival in 1..=u64::from(OVERTAKEN_MAX) {
        fairness.admitted(&[waiting(only, 0), waiting(only, arrival)], 1);
    }
    let queue = [waiting(only, 0), waiting(only, 99)];
    assert_eq!(fairness.order(&queue, no_cells), [0]);
}

#[test]
fn a_full_queue_of_one_client_does_not_hold_up_another() {
    let mut fairness = Fairness::default();
    let (many, one) = (fairness.enter("many"), fairness.enter("one"));
    let mut queue: Vec<Waiting> = (0..1000).map(|arrival| waiting(many, arrival)).collect();
    let mut held = [0_u32; 2];
    let mut in_first_hundred = 0;
    for step in 0..100 {
        // The other one always has a single request waiting, the youngest of all.
        queue.retain(|request| request.client == many);
        queue.push(waiting(one, 10_000 + step));
        let next = fairness.order(&queue, |client| held[client.index()])[0];
        fairness.admitted(&queue, next);
        held[queue[next].client.index()] += 100;
        in_first_hundred += u32::from(queue[next].client == one);
        queue.remove(next);
    }
    assert!(
        (45..=55).contains(&in_first_hundred),
        "{in_first_hundred} of 100"
    );
}

proptest! {
    /// A pool of cells that requests of all sizes hold for a while, with ever more of them waiting.
    #[test]
    fn the_oldest_request_of_a_client_is_never_overtaken_more_often_than_stated(
        arrivals in prop::collection::vec((0_usize..6, prop_oneof![1_u32..50, 1_u32..=1000], 1_u32..30), 20..200),
        per_step in 1_usize..4,
    ) {
        const CELLS: u32 = 1000;
        let mut fairness = Fairness::default();
        let mut queue: Vec<(Waiting, u32, u32)> = Vec::new();
        let mut running: Vec<(ClientId, u32, u32)> = Vec::new();
        let mut overtaken: HashMap<u64, u32> = HashMap::new();
        let mut incoming = arrivals.iter().enumerate();
        let mut steps = 0;
        loop {
            for (arrival, (client, cells, steps)) in incoming.by_ref().take(per_step) {
                let client = fairness.enter(&client.to_string());
                queue.push((waiting(client, arrival as u64), *cells, *steps));
            }
            if queue.is_empty() && incoming.len() == 0 {
                break;
            }
            loop {
                let free = CELLS - running.iter().map(|(_, cells, _)| cells).sum::<u32>();
                let requests: Vec<Waiting> = queue.iter().map(|(waiting, ..)| *waiting).collect();
                let held = |client| running.iter().filter(|(of, ..)| *of == client).map(|(_, cells, _)| cells).sum();
                let order = fairness.order(&requests, held);
                let Some(&next) = order.iter().find(|&&index| queue[index].1 <= free) else {
                    break;
                };
                fairness.admitted(&requests, next);
                let (admitted, cells, lasts) = queue.remove(next);
                // The queue is in order of arrival, so the first of a client is its oldest.
                let mut seen = Vec::new();
                for (request, ..) in &queue {
                    if seen.contains(&request.client) {
                        continue;
                    }
                    seen.push(request.client);
                    if request.arrival < admitted.arrival {
                        let times = overtaken.entry(request.arrival).or_default();
                        *times += 1;
                        prop_assert!(*times <= OVERTAKEN_MAX);
                    }
                }
                running.push((admitted.client, cells, lasts));
            }
            running.retain_mut(|(client, _, steps)| {
                *steps -= 1;
                if *steps == 0 {
                    fairness.leave(*client);
                }
                *steps > 0
            });
            steps += 1;
            prop_assert!(steps < 20_000, "the queue does not drain");
        }
    }
}
