//! Drafts by prompt lookup: what followed the last time that a sequence went on like this.
//!
//! Answers about code and documents repeat much of what they are about. [`NgramIndex`] remembers, for one sequence, where each run of a few tokens
//! occurred last, and [`NgramIndex::draft`] proposes the tokens that followed there. A draft costs microseconds; whether computing it pays is
//! decided by [`speculation`](crate::speculation).

use std::hash::{BuildHasher, RandomState};

use aluco_proto::Token;
use hashbrown::{HashTable, hash_table::Entry};

/// Lengths of the runs that are looked up, longest first, each with the most tokens that are drafted after it. The shorter a match, the more
/// likely it is chance.
const RUNS: [(usize, usize); 4] = [(8, 16), (4, 8), (3, 4), (2, 2)];

/// Tokens that are indexed at most, so that an index stays below about 12 MiB. Older ones are forgotten beyond.
const INDEXED_TOKENS_MAX: usize = 1 << 18;

/// Where each short run of a sequence's tokens occurred last.
///
/// It holds positions only: every method is given the sequence's tokens. They may be appended to between calls; an index that is given fewer
/// than before begins anew.
#[derive(Debug, Default)]
pub struct NgramIndex {
    /// For each length in [`RUNS`]: the positions behind the last occurrence of each run, found by the run.
    tables: [HashTable<u32>; RUNS.len()],
    hasher: RandomState,
    /// Where what is indexed begins.
    begin: usize,
    /// The position before which every run is indexed that has a token after it.
    end: usize,
}

impl NgramIndex {
    /// Indexes what was appended to `tokens` since the last call.
    pub fn update(&mut self, tokens: &[Token]) {
        self.update_within(tokens, INDEXED_TOKENS_MAX);
    }

    fn update_within(&mut self, tokens: &[Token], tokens_max: usize) {
        if tokens.len() < self.end {
            self.restart(0);
        }
        if tokens.len() - self.begin > tokens_max {
            // Half of it, so that this happens rarely.
            self.restart(tokens.len() - tokens_max / 2);
        }
        // A run is indexed by the token after it, so the run at the very end finds those before it and not itself.
        for next in self.end..tokens.len() {
            for ((length, _), table) in RUNS.iter().zip(&mut self.tables) {
                if next - self.begin < *length {
                    continue;
                }
                let run = &tokens[next - length..next];
                let hash = |position: &u32| {
                    let next = *position as usize;
                    self.hasher.hash_one(&tokens[next - length..next])
                };
                let same = |position: &u32| {
                    let next = *position as usize;
                    &tokens[next - length..next] == run
                };
                match table.entry(self.hasher.hash_one(run), same, hash) {
                    Entry::Occupied(mut entry) => *entry.get_mut() = next as u32,
                    Entry::Vacant(entry) => {
                        entry.insert(next as u32);
                    }
                }
            }
        }
        self.end = self.end.max(tokens.len());
    }

    fn restart(&mut self, begin: usize) {
        self.tables.iter_mut().for_each(HashTable::clear);
        self.begin = begin;
        self.end = begin;
    }

    /// Proposes what follows `tokens`, at most `most` tokens; empty if nothing like their end occurred before.
    ///
    /// The longest match wins, and of equally long ones the last. `tokens` are those of the last [`update`](Self::update).
    pub fn draft(&self, tokens: &[Token], most: usize) -> Vec<Token> {
        if tokens.len() != self.end {
            return Vec::new();
        }
        for ((length, trusted), table) in RUNS.iter().zip(&self.tables) {
            let Some(run) = tokens.len().checked_sub(*length).map(|at| &tokens[at..]) else {
                continue;
            };
            let found = table.find(self.hasher.hash_one(run), |position| {
                let next = *position as usize;
                &tokens[next - length..next] == run
            });
            if let Some(next) = found {
                return continuation(tokens, *next as usize, most.min(*trusted));
            }
        }
        Vec::new()
    }
}

/// The `count` tokens from `next` on; what repeats goes on repeating beyond the end.
fn continuation(tokens: &[Token], next: usize, count: usize) -> Vec<Token> {
    tokens[next..].iter().copied().cycle().take(count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(tokens: &[Token], most: usize) -> Vec<Token> {
        let mut index = NgramIndex::default();
        index.update(tokens);
        index.draft(tokens, most)
    }

    #[test]
    fn what_followed_last_time_is_drafted() {
        let tokens = [1, 2, 3, 4, 50, 51, 52, 1, 2, 3, 4];
        assert_eq!(draft(&tokens, 3), [50, 51, 52]);
        assert!(draft(&tokens, 0).is_empty());
    }

    #[test]
    fn nothing_is_drafted_after_what_is_new() {
        assert!(draft(&[1, 2, 3, 4, 5], 4).is_empty());
        assert!(draft(&[], 4).is_empty());
        assert!(draft(&[7], 4).is_empty());
    }

    #[test]
    fn a_longer_match_wins_over_a_later_one() {
        // "3 4" is followed by 60 last, but "1 2 3 4" by 50.
        let tokens = [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 1, 2, 3, 4];
        assert_eq!(draft(&tokens, 2), [50, 51]);
    }

    #[test]
    fn of_equal_matches_the_last_one_wins() {
        let tokens = [1, 2, 50, 9, 8, 1, 2, 60, 61, 7, 1, 2];
        assert_eq!(draft(&tokens, 2), [60, 61]);
    }

    #[test]
    fn short_matches_are_trusted_for_few_tokens() {
        let tokens = [1, 2, 50, 51, 52, 53, 54, 1, 2];
        assert_eq!(draft(&tokens, 8), [50, 51]);
    }

    #[test]
    fn a_repetition_is_drafted_beyond_its_end() {
        assert_eq!(draft(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(draft(&[5, 5, 5, 5, 5], 6), [5; 6]);
    }

    #[test]
    fn an_index_that_is_not_up_to_date_drafts_nothing() {
        let mut index = NgramIndex::default();
        index.update(&[1, 2, 1, 2]);
        assert!(index.draft(&[1, 2, 1, 2, 1], 2).is_empty());
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut tokens: Vec<Token> = (0..100).collect();
        tokens.extend([3, 4, 5]);
        let mut index = NgramIndex::default();
        index.update_within(&tokens, 103);
        assert_eq!(index.draft(&tokens, 1), [6]);
        tokens.extend([90, 91]);
        index.update_within(&tokens, 103);
        assert_eq!(index.draft(&tokens, 1), [92], "the newer half is kept");
        tokens.extend([3, 4]);
        index.update_within(&tokens, 103);
        assert_eq!(
            index.draft(&tokens, 1),
            [5],
            "the latest occurrence is kept"
        );
        tokens.extend([20, 21]);
        index.update_within(&tokens, 103);
        assert!(index.draft(&tokens, 1).is_empty());
        assert!(index.tables.iter().all(|table| table.len() <= 103));
    }

    fn naive(tokens: &[Token], most: usize) -> Vec<Token> {
        for (length, trusted) in RUNS {
            let Some(at) = tokens.len().checked_sub(length) else {
                continue;
            };
            for next in (length..tokens.len()).rev() {
                if tokens[next - length..next] == tokens[at..] {
                    let mut all = tokens.to_vec();
                    for offset in 0..most.min(trusted) {
                        all.push(all[next + offset]);
                    }
                    return all.split_off(tokens.len());
                }
            }
        }
        Vec::new()
    }

    proptest! {
        #[test]
        fn drafts_are_those_of_a_search_through_everything(
            parts in prop::collection::vec(prop::collection::vec(0_i32..5, 1..30), 1..20), most in 0_usize..20,
        ) {
            let mut index = NgramIndex::default();
            let mut tokens = Vec::new();
            for part in parts {
                tokens.extend(part);
                index.update(&tokens);
                prop_assert_eq!(index.draft(&tokens, most), naive(&tokens, most));
            }
        }
    }
}
