//! How many KV cells sequences hold, when they share some.
//!
//! A copy of a sequence's beginning takes no new cells: the copied ones belong to both, and are free when the last of them lets go. What is
//! used, and what would become free, is therefore no sum over sequences. [`CellLedger`] follows the engine's sequences operation by operation.

use std::collections::BTreeMap;

/// Names a sequence, as the engine does.
pub type SequenceId = i32;

/// Cells one after the other that the same sequences hold.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// At least 1, but for the moment in which it is joined to another.
    cells: u32,
    /// How many sequences hold it.
    holders: u32,
}

/// Which sequences hold which cells.
///
/// A sequence is a list of runs. Since only beginnings are shared, and only ends are cut off, whoever holds a run also holds all runs that lie before
/// it in any of its holders. So two runs that follow each other and have equally many holders have the same ones, and are kept as one: there
/// are never more runs than twice the sequences, and every operation takes time in proportion to them.
#[derive(Debug, Clone, Default)]
pub struct CellLedger {
    runs: Vec<Run>,
    free_runs: Vec<usize>,
    /// The runs of each sequence that holds any, in the order of its tokens.
    sequences: BTreeMap<SequenceId, Vec<usize>>,
    used: u32,
}

impl CellLedger {
    /// Cells that are held by any sequence, each counted once.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Cells that a sequence holds, alone or with others: its length in tokens.
    pub fn length(&self, sequence: SequenceId) -> u32 {
        self.runs_of(sequence).map(|run| run.cells).sum()
    }

    /// Cells that only this sequence holds: those that become free when it is removed.
    pub fn own(&self, sequence: SequenceId) -> u32 {
        self.runs_of(sequence)
            .filter(|run| run.holders == 1)
            .map(|run| run.cells)
            .sum()
    }

    /// Cells that become free when all these sequences are removed, each of them named once.
    pub fn freed_by(&self, sequences: &[SequenceId]) -> u32 {
        let mut holders: BTreeMap<usize, u32> = BTreeMap::new();
        for sequence in sequences {
            for run in self.sequences.get(sequence).into_iter().flatten() {
                *holders.entry(*run).or_default() += 1;
            }
        }
        holders
            .into_iter()
            .map(|(run, among)| {
                let Run { cells, holders } = self.runs[run];
                if among == holders { cells } else { 0 }
            })
            .sum()
    }

    /// Adds so many new cells to the end of a sequence.
    pub fn grow(&mut self, sequence: SequenceId, cells: u32) {
        if cells == 0 {
            return;
        }
        self.used += cells;
        let last = self
            .sequences
            .get(&sequence)
            .and_then(|runs| runs.last().copied());
        match last {
            Some(last) if self.runs[last].holders == 1 => self.runs[last].cells += cells,
            _ => {
                let run = self.new_run(Run { cells, holders: 1 });
                self.sequences.entry(sequence).or_default().push(run);
            }
        }
    }

    /// Makes the first `length` cells of `from` those of `to` as well.
    ///
    /// # Panics
    /// If `to` holds cells, or `from` fewer than `length`.
    pub fn share(&mut self, from: SequenceId, to: SequenceId, length: u32) {
        assert!(
            !self.sequences.contains_key(&to),
            "sequence {to} is to share cells and has some already"
        );
        if length == 0 {
            return;
        }
        let count = self.cut(from, length);
        let shared = self.sequences[&from][..count].to_vec();
        for run in &shared {
            self.runs[*run].holders += 1;
        }
        self.sequences.insert(to, shared);
        self.join();
    }

    /// Takes all cells but the first `length` from a sequence; those that no other holds are free.
    ///
    /// # Panics
    /// If it holds fewer.
    pub fn truncate(&mut self, sequence: SequenceId, length: u32) {
        if length == 0 {
            self.remove(sequence);
            return;
        }
        let count = self.cut(sequence, length);
        let runs = self
            .sequences
            .get_mut(&sequence)
            .expect("a sequence that was cut holds cells");
        let dropped = runs.split_off(count);
        self.release(dropped);
    }

    /// Takes all cells from a sequence; those that no other holds are free.
    pub fn remove(&mut self, sequence: SequenceId) {
        if let Some(runs) = self.sequences.remove(&sequence) {
            self.release(runs);
        }
    }

    fn runs_of(&self, sequence: SequenceId) -> impl Iterator<Item = Run> {
        self.sequences
            .get(&sequence)
            .into_iter()
            .flatten()
            .map(|run| self.runs[*run])
    }

    fn new_run(&mut self, run: Run) -> usize {
        if let Some(index) = self.free_runs.pop() {
            self.runs[index] = run;
            index
        } else {
            self.runs.push(run);
            self.runs.len() - 1
        }
    }

    /// Makes a run end after the first `length` cells of a sequence, in all that hold it; returns how many runs lie before that.
    fn cut(&mut self, sequence: SequenceId, length: u32) -> usize {
        let mut end = 0;
        let runs = self.sequences.get(&sequence).map_or(&[][..], Vec::as_slice);
        let found = runs.iter().position(|run| {
            end += self.runs[*run].cells;
            end >= length
        });
        let Some(at) = found else {
            panic!("sequence {sequence} holds {end} cells, not {length}");
        };
        let (whole, beyond) = (runs[at], end - length);
        if beyond > 0 {
            self.runs[whole].cells -= beyond;
            let rest = self.new_run(Run {
                cells: beyond,
                holders: self.runs[whole].holders,
            });
            for runs in self.sequences.values_mut() {
                if let Some(at) = runs.iter().position(|run| *run == whole) {
                    runs.insert(at + 1, rest);
                }
            }
        }
        at + 1
    }

    fn release(&mut self, runs: Vec<usize>) {
        for index in runs {
            let run = &mut self.runs[index];
            run.holders -= 1;
            if run.holders == 0 {
                self.used -= run.cells;
                self.free_runs.push(index);
            }
        }
        self.join();
    }

    /// Joins neighbours that have the same holders.
    fn join(&mut self) {
        let Self {
            runs,
            free_runs,
            sequences,
            ..
        } = self;
        for list in sequences.values_mut() {
            let mut before: Option<usize> = None;
            list.retain(|&index| {
                let Run { cells, holders } = runs[index];
                if cells == 0 {
                    // Joined to the one before it when another of its holders was looked at.
                    return false;
                }
                if let Some(before) = before
                    && runs[before].holders == holders
                {
                    runs[before].cells += cells;
                    runs[index].cells = 0;
                    free_runs.push(index);
                    return false;
                }
                before = Some(index);
                true
            });
        }
    }
}

#[cfg(test)]
mod tests;
