//! The entries of one folder as what they are: trees whose leaves are conversations.

use std::{collections::HashMap, time::SystemTime};

use aluco_prefix::{Key, disk::Found};

/// Number of an entry in its forest.
pub(super) type Index = usize;

/// Entries that hang below one another.
#[derive(Debug, Default)]
pub(super) struct Forest {
    entries: Vec<Found>,
    /// The entry that each hangs below. `None`: below a root, or below an entry that is gone.
    parents: Vec<Option<Index>>,
    children: Vec<Vec<Index>>,
}

impl Forest {
    pub(super) fn new(entries: Vec<Found>) -> Self {
        let by_key: HashMap<Key, Index> = entries
            .iter()
            .enumerate()
            .map(|(index, found)| (found.entry.key, index))
            .collect();
        let parents: Vec<Option<Index>> = entries
            .iter()
            .map(|found| by_key.get(&found.entry.parent).copied())
            .collect();
        let mut children = vec![Vec::new(); entries.len()];
        for (index, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(index);
            }
        }
        Self {
            entries,
            parents,
            children,
        }
    }

    pub(super) fn entries(&self) -> &[Found] {
        &self.entries
    }

    pub(super) fn get(&self, index: Index) -> &Found {
        &self.entries[index]
    }

    /// The entries below which nothing hangs.
    pub(super) fn leaves(&self) -> impl Iterator<Item = Index> {
        (0..self.entries.len()).filter(|index| self.children[*index].is_empty())
    }

    /// An entry and those above it, up to the first of its sequence.
    pub(super) fn chain(&self, index: Index) -> impl Iterator<Item = Index> {
        std::iter::successors(Some(index), |index| self.parents[*index])
    }

    /// An entry and all below it, none before what hangs below it.
    pub(super) fn below(&self, index: Index) -> Vec<Index> {
        let mut all = vec![index];
        let mut next = 0;
        while let Some(index) = all.get(next) {
            all.extend(&self.children[*index]);
            next += 1;
        }
        all.reverse();
        all
    }

    /// Bytes that are free if this leaf goes: of its chain, what no other one shares.
    pub(super) fn own_bytes(&self, leaf: Index) -> u64 {
        self.chain(leaf)
            .take_while(|index| *index == leaf || self.children[*index].len() == 1)
            .map(|index| self.get(index).file_bytes)
            .sum()
    }

    /// False if something above an entry is gone, so that it is of no use.
    pub(super) fn is_whole(&self, index: Index) -> bool {
        self.chain(index)
            .last()
            .is_some_and(|first| self.get(first).entry.begin == 0)
    }

    /// How many tokens of the sequence up to an entry are pinned, from the first on.
    pub(super) fn pinned_tokens(&self, index: Index) -> u32 {
        let chain: Vec<Index> = self.chain(index).collect();
        chain
            .into_iter()
            .rev()
            .map(|index| self.get(index))
            .take_while(|found| found.pinned)
            .last()
            .map_or(0, end)
    }

    /// What goes with these entries: all below them, which is of no use without them, and what only they needed. In an order in which nothing
    /// goes before what hangs below it. What is pinned and not asked for stays.
    pub(super) fn with_what_depends(&self, asked: &[Index]) -> Vec<Index> {
        let mut doomed = Doomed::new(self);
        for index in asked {
            for below in self.below(*index) {
                doomed.add(below);
            }
        }
        for index in asked {
            doomed.climb(*index, |found| !found.pinned);
        }
        doomed.order
    }

    /// What was last used before this, with nothing below it that was used later, and is not pinned. In the same order.
    pub(super) fn unused_since(&self, time: SystemTime) -> Vec<Index> {
        let may_go = |found: &Found| found.used_at < time && !found.pinned;
        let mut doomed = Doomed::new(self);
        for leaf in self.leaves().filter(|leaf| may_go(self.get(*leaf))) {
            doomed.add(leaf);
            doomed.climb(leaf, may_go);
        }
        doomed.order
    }

    /// What need no longer be pinned once these need not: they, all below them, and what no other pinned entry hangs below.
    pub(super) fn unpinned_with(&self, asked: &[Index]) -> Vec<Index> {
        let mut freed = Doomed::new(self);
        for index in asked {
            for below in self.below(*index) {
                freed.add(below);
            }
        }
        for index in asked {
            let mut at = *index;
            while let Some(parent) = self.parents[at] {
                let needed = |child: &Index| self.get(*child).pinned && !freed.is[*child];
                if self.children[parent].iter().any(needed) {
                    break;
                }
                freed.add(parent);
                at = parent;
            }
        }
        freed.order
    }
}

/// The position after an entry's last token.
pub(super) fn end(found: &Found) -> u32 {
    found.entry.begin + found.entry.tokens.len() as u32
}

/// A growing set of entries, in the order in which they came.
struct Doomed<'a> {
    forest: &'a Forest,
    is: Vec<bool>,
    order: Vec<Index>,
}

impl<'a> Doomed<'a> {
    fn new(forest: &'a Forest) -> Self {
        Self {
            forest,
            is: vec![false; forest.entries.len()],
            order: Vec::new(),
        }
    }

    fn add(&mut self, index: Index) {
        if !self.is[index] {
            self.is[index] = true;
            self.order.push(index);
        }
    }

    /// Adds what is above an entry as long as nothing else hangs below it and it may go.
    fn climb(&mut self, from: Index, may_go: impl Fn(&Found) -> bool) {
        let forest = self.forest;
        let mut at = from;
        while let Some(parent) = forest.parents[at] {
            let is_free = forest.children[parent].iter().all(|child| self.is[*child]);
            if !is_free || !may_go(forest.get(parent)) {
                break;
            }
            self.add(parent);
            at = parent;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use aluco_prefix::{Entry, Fingerprint, Kind};

    use super::*;

    /// An entry of a hundred bytes below `parent`, last used so many seconds after 1970.
    pub(in super::super) fn found(parent: Key, begin: u32, first: i32, used_s: u64) -> Found {
        let tokens: Box<[i32]> = (first..first + 4).collect();
        Found {
            entry: Entry {
                key: parent.child(Kind::Block, &tokens),
                parent,
                kind: Kind::Block,
                begin,
                tokens,
            },
            payload_bytes: 50,
            file_bytes: 100,
            used_at: SystemTime::UNIX_EPOCH + Duration::from_secs(used_s),
            pinned: false,
        }
    }

    /// ```text
    /// 0 ─ 1 ─ 2
    ///     └── 3 ─ 4
    /// 5            (another root)
    /// 6            (what it hung below is gone)
    /// ```
    pub(in super::super) fn entries() -> Vec<Found> {
        let root = Key::root(&Fingerprint::of([]), "");
        let first = found(root, 0, 10, 50);
        let second = found(first.entry.key, 4, 20, 50);
        let third = found(second.entry.key, 8, 30, 10);
        let fourth = found(second.entry.key, 8, 40, 20);
        let fifth = found(fourth.entry.key, 12, 50, 20);
        let other = found(Key::root(&Fingerprint::of([]), "someone"), 0, 10, 30);
        let gone = found(other.entry.key, 4, 1, 5);
        let orphan = found(gone.entry.key, 8, 2, 5);
        vec![first, second, third, fourth, fifth, other, orphan]
    }

    fn sorted(mut indices: Vec<Index>) -> Vec<Index> {
        indices.sort_unstable();
        indices
    }

    #[test]
    fn leaves_are_conversations_and_know_what_is_theirs_alone() {
        let forest = Forest::new(entries());
        assert_eq!(forest.leaves().collect::<Vec<_>>(), [2, 4, 5, 6]);
        let bytes: Vec<u64> = forest.leaves().map(|leaf| forest.own_bytes(leaf)).collect();
        assert_eq!(bytes, [100, 200, 100, 100]);
        let whole: Vec<bool> = forest.leaves().map(|leaf| forest.is_whole(leaf)).collect();
        assert_eq!(whole, [true, true, true, false]);
        assert_eq!(end(forest.get(4)), 16);
        let single = Forest::new(entries().drain(..3).collect());
        assert_eq!(single.own_bytes(2), 300);
    }

    #[test]
    fn what_others_need_stays_and_nothing_goes_before_what_hangs_below_it() {
        let mut entries = entries();
        let forest = Forest::new(entries.clone());
        assert_eq!(forest.with_what_depends(&[2]), [2]);
        assert_eq!(forest.with_what_depends(&[4]), [4, 3]);
        assert_eq!(forest.with_what_depends(&[4, 2]), [4, 2, 3, 1, 0]);
        let all = forest.with_what_depends(&[1]);
        assert_eq!(sorted(all.clone()), [0, 1, 2, 3, 4]);
        let place = |index| all.iter().position(|other| *other == index).unwrap();
        assert!(place(4) < place(3) && place(3) < place(1) && place(1) < place(0));
        assert_eq!(forest.with_what_depends(&[5, 5]), [5]);

        entries[0].pinned = true;
        entries[2].pinned = true;
        let forest = Forest::new(entries);
        assert_eq!(forest.with_what_depends(&[2, 4]), [2, 4, 3, 1]);
        assert_eq!(sorted(forest.with_what_depends(&[0])), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn only_what_is_old_and_not_pinned_goes_by_age() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut entries = entries();
        let forest = Forest::new(entries.clone());
        assert!(forest.unused_since(time(5)).is_empty());
        assert_eq!(forest.unused_since(time(11)), [2, 6]);
        assert_eq!(forest.unused_since(time(31)), [2, 4, 3, 5, 6]);
        assert_eq!(forest.unused_since(time(100)), [2, 4, 3, 1, 0, 5, 6]);
        entries[3].pinned = true;
        let forest = Forest::new(entries);
        assert_eq!(forest.unused_since(time(100)), [2, 4, 5, 6]);
    }

    #[test]
    fn a_pin_holds_as_far_as_it_goes_and_as_long_as_anyone_needs_it() {
        let mut entries = entries();
        for index in [0, 1, 3] {
            entries[index].pinned = true;
        }
        let forest = Forest::new(entries.clone());
        let tokens: Vec<u32> = (0..5).map(|index| forest.pinned_tokens(index)).collect();
        assert_eq!(tokens, [4, 8, 8, 12, 12]);
        // Entry 3 still needs the first two.
        assert_eq!(forest.unpinned_with(&[2]), [2]);
        assert_eq!(forest.unpinned_with(&[4]), [4, 3, 1, 0]);
        assert_eq!(forest.unpinned_with(&[3]), [4, 3, 1, 0]);
        entries[2].pinned = true;
        let forest = Forest::new(entries);
        assert_eq!(forest.unpinned_with(&[3]), [4, 3]);
        assert_eq!(sorted(forest.unpinned_with(&[3, 2])), [0, 1, 2, 3, 4]);
    }
}
