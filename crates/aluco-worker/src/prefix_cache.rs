//! Computed prompts that outlive their sequences: the RAM tier of the prefix store.
//!
//! The KV cells of a sequence are kept as blocks of [`BLOCK_TOKENS`] tokens, in a tree: a block hangs below the one that comes before it,
//! so conversations that begin alike share their beginning, whoever leads them. A block is found by its tokens and its parent, compared
//! in full, so that nothing is ever mistaken for something else. What a block holds is the engine's business.
//!
//! Pure: bytes in, bytes out, within a budget. When it is used up, the leaf that has not been used for longest goes.

use std::collections::HashMap;

use aluco_proto::Token;

/// Tokens of a block.
pub const BLOCK_TOKENS: usize = 256;

/// Names a block in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u64);

/// The blocks of one model with one set of options.
#[derive(Debug)]
pub struct PrefixCache {
    blocks: HashMap<BlockId, Block>,
    index: HashMap<Place, BlockId>,
    budget_bytes: u64,
    used_bytes: u64,
    next_id: u64,
    clock: u64,
}

/// What is unique to a block: the one before it, and its own tokens.
type Place = (Option<BlockId>, Box<[Token]>);

#[derive(Debug)]
struct Block {
    place: Place,
    bytes: Box<[u8]>,
    children: u32,
    used_at: u64,
}

impl Block {
    fn cost_bytes(&self) -> u64 {
        cost_bytes(self.bytes.len())
    }
}

/// Bytes that a block takes, its tokens (held twice) included.
fn cost_bytes(payload_bytes: usize) -> u64 {
    (payload_bytes + 2 * BLOCK_TOKENS * size_of::<Token>()) as u64
}

impl PrefixCache {
    /// An empty cache of at most so many bytes.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            blocks: HashMap::new(),
            index: HashMap::new(),
            budget_bytes,
            used_bytes: 0,
            next_id: 0,
            clock: 0,
        }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The blocks that `tokens` begin with, in order; they count as used now.
    pub fn longest(&mut self, tokens: &[Token]) -> Vec<BlockId> {
        let path = self.path(tokens);
        self.clock += 1;
        for block in &path {
            if let Some(block) = self.blocks.get_mut(block) {
                block.used_at = self.clock;
            }
        }
        path
    }

    /// How many blocks of `tokens` are there.
    pub fn present(&self, tokens: &[Token]) -> usize {
        self.path(tokens).len()
    }

    /// The contents of a block.
    pub fn bytes(&self, block: BlockId) -> Option<&[u8]> {
        self.blocks.get(&block).map(|block| &*block.bytes)
    }

    /// Adds the last block of `tokens`, whole blocks all of which but the last are there. False if that cannot be: one before it is
    /// missing, or there is no room that others would not need more.
    pub fn insert(&mut self, tokens: &[Token], bytes: Vec<u8>) -> bool {
        let count = tokens.len() / BLOCK_TOKENS;
        if count == 0 || !tokens.len().is_multiple_of(BLOCK_TOKENS) {
            return false;
        }
        let path = self.longest(tokens);
        if path.len() == count {
            return true;
        }
        let cost = cost_bytes(bytes.len());
        if path.len() + 1 < count || cost > self.budget_bytes {
            return false;
        }
        let parent = path.last().copied();
        while self.used_bytes + cost > self.budget_bytes {
            if !self.evict_one(parent) {
                return false;
            }
        }
        let id = BlockId(self.next_id);
        self.next_id += 1;
        let place = (parent, tokens[tokens.len() - BLOCK_TOKENS..].into());
        if let Some(parent) = parent.and_then(|parent| self.blocks.get_mut(&parent)) {
            parent.children += 1;
        }
        self.index.insert(place.clone(), id);
        let block = Block {
            place,
            bytes: bytes.into_boxed_slice(),
            children: 0,
            used_at: self.clock,
        };
        self.used_bytes += block.cost_bytes();
        self.blocks.insert(id, block);
        true
    }

    fn path(&self, tokens: &[Token]) -> Vec<BlockId> {
        let mut path = Vec::new();
        let mut parent = None;
        for chunk in tokens.chunks_exact(BLOCK_TOKENS) {
            let Some(id) = self.index.get(&(parent, Box::from(chunk))) else {
                break;
            };
            path.push(*id);
            parent = Some(*id);
        }
        path
    }

    /// Drops the leaf that was not used for longest, but for `keep`. Its ancestors were used whenever it was, so they go after it.
    fn evict_one(&mut self, keep: Option<BlockId>) -> bool {
        let leaves = self
            .blocks
            .iter()
            .filter(|(id, block)| block.children == 0 && Some(**id) != keep);
        // Of leaves used at the same moment the youngest goes, so that it does not depend on the order of a hash map.
        let oldest = leaves.min_by_key(|(id, block)| (block.used_at, std::cmp::Reverse(**id)));
        let Some((&id, _)) = oldest else {
            return false;
        };
        let Some(block) = self.blocks.remove(&id) else {
            return false;
        };
        self.used_bytes -= block.cost_bytes();
        if let Some(parent) = block
            .place
            .0
            .and_then(|parent| self.blocks.get_mut(&parent))
        {
            parent.children -= 1;
        }
        self.index.remove(&block.place);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Blocks of one repeated token each.
    fn tokens(blocks: &[Token]) -> Vec<Token> {
        let repeat = |token: &Token| std::iter::repeat_n(*token, BLOCK_TOKENS);
        blocks.iter().flat_map(repeat).collect()
    }

    /// Inserts every prefix, as a sequence is stored.
    fn store(cache: &mut PrefixCache, blocks: &[Token], bytes: usize) -> bool {
        (1..=blocks.len()).all(|count| {
            let payload = vec![blocks[count - 1] as u8; bytes];
            cache.insert(&tokens(&blocks[..count]), payload)
        })
    }

    #[test]
    fn a_beginning_is_shared_and_the_rest_is_not() {
        let mut cache = PrefixCache::new(1 << 20);
        assert!(store(&mut cache, &[1, 2, 3], 10));
        let before = cache.used_bytes();
        assert!(store(&mut cache, &[1, 2, 4], 10));
        assert_eq!(cache.used_bytes() - before, cost_bytes(10));
        let path = cache.longest(&tokens(&[1, 2, 4, 5]));
        assert_eq!(path.len(), 3);
        assert_eq!(cache.bytes(path[2]), Some([4; 10].as_slice()));
        // A block counts only behind the same blocks, and only whole.
        assert_eq!(cache.present(&tokens(&[2])), 0);
        assert_eq!(cache.present(&tokens(&[1, 2])[..BLOCK_TOKENS + 5]), 1);
    }

    #[test]
    fn a_block_without_the_ones_before_it_is_not_taken() {
        let mut cache = PrefixCache::new(1 << 20);
        assert!(!cache.insert(&tokens(&[1, 2]), vec![0; 10]));
        assert!(!cache.insert(&tokens(&[1])[1..], vec![0; 10]));
        assert_eq!(cache.used_bytes(), 0);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_leaves_first() {
        let mut cache = PrefixCache::new(4 * cost_bytes(10));
        assert!(store(&mut cache, &[1, 2], 10));
        assert!(store(&mut cache, &[3, 4], 10));
        cache.longest(&tokens(&[1, 2]));
        assert!(store(&mut cache, &[5], 10));
        assert_eq!(cache.present(&tokens(&[1, 2])), 2);
        assert_eq!(cache.present(&tokens(&[3, 4])), 1);
        assert!(store(&mut cache, &[5, 6], 10));
        assert_eq!(cache.present(&tokens(&[3])), 0);
    }

    #[test]
    fn a_conversation_over_the_budget_keeps_its_beginning() {
        let mut cache = PrefixCache::new(3 * cost_bytes(10));
        assert!(!store(&mut cache, &[1, 2, 3, 4, 5], 10));
        assert_eq!(cache.present(&tokens(&[1, 2, 3, 4, 5])), 3);
        let mut none = PrefixCache::new(0);
        assert!(!store(&mut none, &[1], 10));
    }

    proptest! {
        #[test]
        fn the_books_are_right_whatever_happens(
            conversations in prop::collection::vec(prop::collection::vec(0_i32..3, 1..6), 1..30),
            budget in 0_u64..12,
        ) {
            let mut cache = PrefixCache::new(budget * cost_bytes(4));
            for blocks in &conversations {
                let stored = store(&mut cache, blocks, 4);
                prop_assert!(!stored || cache.present(&tokens(blocks)) == blocks.len());
                let used: u64 = cache.blocks.values().map(Block::cost_bytes).sum();
                prop_assert_eq!(used, cache.used_bytes());
                prop_assert!(used <= cache.budget_bytes);
                prop_assert_eq!(cache.blocks.len(), cache.index.len());
                for (id, block) in &cache.blocks {
                    prop_assert_eq!(cache.index.get(&block.place), Some(id));
                    let parent = block.place.0;
                    prop_assert!(parent.is_none_or(|parent| cache.blocks.contains_key(&parent)));
                    let children = cache.blocks.values().filter(|it| it.place.0 == Some(*id));
                    prop_assert_eq!(children.count() as u32, block.children);
                }
                // What is found is a true prefix, byte for byte.
                let path = cache.longest(&tokens(blocks));
                for (block, token) in path.iter().zip(blocks) {
                    prop_assert_eq!(cache.bytes(*block).unwrap(), &[*token as u8; 4]);
                }
            }
        }
    }
}
