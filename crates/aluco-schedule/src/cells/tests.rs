use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[test]
fn shared_cells_count_once_and_are_free_with_their_last_holder() {
    let mut ledger = CellLedger::default();
    ledger.grow(0, 100);
    ledger.share(0, 1, 60);
    ledger.grow(1, 5);
    assert_eq!(ledger.used(), 105);
    assert_eq!((ledger.length(0), ledger.own(0)), (100, 40));
    assert_eq!((ledger.length(1), ledger.own(1)), (65, 5));
    ledger.remove(0);
    assert_eq!((ledger.used(), ledger.own(1)), (65, 65));
    ledger.remove(1);
    assert_eq!((ledger.used(), ledger.length(1)), (0, 0));
}

#[test]
fn what_is_cut_off_stays_with_those_who_share_it() {
    let mut ledger = CellLedger::default();
    ledger.grow(0, 100);
    ledger.share(0, 1, 100);
    ledger.truncate(0, 30);
    assert_eq!((ledger.used(), ledger.own(0), ledger.own(1)), (100, 0, 70));
    ledger.grow(0, 10);
    assert_eq!((ledger.used(), ledger.own(0)), (110, 10));
}

#[test]
fn sequences_that_go_together_free_what_they_share() {
    let mut ledger = CellLedger::default();
    ledger.grow(0, 100);
    ledger.share(0, 1, 60);
    ledger.share(1, 2, 40);
    assert_eq!(ledger.freed_by(&[0, 1]), 60);
    assert_eq!(ledger.freed_by(&[0, 1, 2]), 100);
    assert_eq!(ledger.freed_by(&[1]), 0);
}

#[test]
#[should_panic(expected = "sequence 1 is to share cells and has some already")]
fn cells_are_shared_with_an_empty_sequence_only() {
    let mut ledger = CellLedger::default();
    ledger.grow(0, 1);
    ledger.grow(1, 1);
    ledger.share(0, 1, 1);
}

#[test]
#[should_panic(expected = "sequence 0 holds 1 cells, not 2")]
fn no_more_is_shared_than_there_is() {
    let mut ledger = CellLedger::default();
    ledger.grow(0, 1);
    ledger.share(0, 1, 2);
}

/// Cells with the sequences that hold each, by cell; and the cells of each sequence in the order of its tokens.
#[derive(Debug, Default)]
struct Naive {
    holders: Vec<BTreeSet<SequenceId>>,
    cells: BTreeMap<SequenceId, Vec<usize>>,
}

impl Naive {
    fn grow(&mut self, sequence: SequenceId, count: u32) {
        for _ in 0..count {
            self.cells
                .entry(sequence)
                .or_default()
                .push(self.holders.len());
            self.holders.push(BTreeSet::from([sequence]));
        }
    }

    fn share(&mut self, from: SequenceId, to: SequenceId, length: u32) {
        let shared = self.cells[&from][..length as usize].to_vec();
        for cell in &shared {
            self.holders[*cell].insert(to);
        }
        self.cells.insert(to, shared);
    }

    fn truncate(&mut self, sequence: SequenceId, length: u32) {
        if let Some(cells) = self.cells.get_mut(&sequence) {
            for cell in cells.split_off(length as usize) {
                self.holders[cell].remove(&sequence);
            }
        }
    }

    fn length(&self, sequence: SequenceId) -> u32 {
        self.cells
            .get(&sequence)
            .map_or(0, |cells| cells.len() as u32)
    }

    fn count(&self, condition: impl Fn(&BTreeSet<SequenceId>) -> bool) -> u32 {
        let counted = self.holders.iter().filter(|holders| condition(holders));
        counted.count() as u32
    }
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Grow(SequenceId, u32),
    /// The length is a part of what there is, in thousandths.
    Share(SequenceId, SequenceId, u32),
    Truncate(SequenceId, u32),
    Remove(SequenceId),
}

const SEQUENCES: SequenceId = 6;

fn operation() -> impl Strategy<Value = Operation> {
    let (one, two) = (0..SEQUENCES, 0..SEQUENCES);
    prop_oneof![
        3 => (one.clone(), 0_u32..20).prop_map(|(sequence, cells)| Operation::Grow(sequence, cells)),
        4 => (one.clone(), two, 0_u32..=1000).prop_map(|(from, to, part)| Operation::Share(from, to, part)),
        2 => (one.clone(), 0_u32..=1000).prop_map(|(sequence, part)| Operation::Truncate(sequence, part)),
        1 => one.prop_map(Operation::Remove),
    ]
}

proptest! {
    #[test]
    fn the_ledger_agrees_with_sets_of_holders_per_cell(
        operations in prop::collection::vec(operation(), 1..80), together in prop::collection::btree_set(0..SEQUENCES, 0..4),
    ) {
        let (mut ledger, mut naive) = (CellLedger::default(), Naive::default());
        for operation in operations {
            match operation {
                Operation::Grow(sequence, cells) => {
                    ledger.grow(sequence, cells);
                    naive.grow(sequence, cells);
                }
                Operation::Share(from, to, part) => {
                    let length = naive.length(from) * part / 1000;
                    if naive.length(to) > 0 || length == 0 {
                        continue;
                    }
                    ledger.share(from, to, length);
                    naive.share(from, to, length);
                }
                Operation::Truncate(sequence, part) => {
                    let length = naive.length(sequence) * part / 1000;
                    ledger.truncate(sequence, length);
                    naive.truncate(sequence, length);
                }
                Operation::Remove(sequence) => {
                    ledger.remove(sequence);
                    naive.truncate(sequence, 0);
                }
            }
            prop_assert_eq!(ledger.used(), naive.count(|holders| !holders.is_empty()));
            for sequence in 0..SEQUENCES {
                prop_assert_eq!(ledger.length(sequence), naive.length(sequence));
                let own = naive.count(|holders| holders.iter().eq([&sequence]));
                prop_assert_eq!(ledger.own(sequence), own);
            }
            let freed = naive.count(|holders| !holders.is_empty() && holders.is_subset(&together));
            let together: Vec<SequenceId> = together.iter().copied().collect();
            prop_assert_eq!(ledger.freed_by(&together), freed);
            let live = ledger.runs.len() - ledger.free_runs.len();
            prop_assert!(live < 2 * SEQUENCES as usize, "{live} runs");
        }
    }
}
