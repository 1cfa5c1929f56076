//! What is known of past sequences, and where it lies: a tree of entries, pure bookkeeping.
//!
//! A node that has lost its payload stays for a while as a ghost, so that a later prompt can be told why it has to be computed again.

mod eviction;
mod following;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use aluco_proto::Token;

use self::eviction::priority;
pub(crate) use self::following::follow;
pub use self::following::{Followed, Place};
use crate::{Entry, Key, Kind};

/// The bytes of an entry, shared by whoever reads them.
pub type Payload = Arc<Vec<u8>>;

/// Where a stored sequence can be gone on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// From any token: what is too much is removed again.
    Anywhere,
    /// From the ends of tails only.
    Tails,
}

/// Whose entry it is, which decides how much it is worth until it is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A conversation that has come back before: it will again.
    Returning,
    /// A conversation's first turn, as far as is known.
    New,
    /// A short request on the side, such as one for a title.
    Side,
}

/// A part of a stored beginning.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is.
    pub entry: Entry,
    /// Its payload, if it lies in memory.
    pub payload: Option<Payload>,
}

/// The stored beginning of a prompt.
#[derive(Debug, Clone, Default)]
pub struct Path {
    /// Its parts in order, from position 0 on, without gaps.
    pub parts: Vec<Part>,
    /// How many tokens of the prompt it serves; the last part may go further.
    pub tokens: u32,
}

/// How far a prompt goes along with what is known, stored or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Common {
    /// Tokens in common.
    pub tokens: u32,
    /// How many of them lie in entries that are stored.
    pub stored_tokens: u32,
    /// Where the last tail of them ends that is not stored any more; 0 if there was none.
    pub dropped_tokens: u32,
    /// How the most similar sequence goes on where this one differs; empty if what is known just ends there.
    pub other: Vec<Token>,
}

#[derive(Debug)]
struct Node {
    entry: Entry,
    payload: Option<Payload>,
    on_disk: bool,
    /// It had to leave the disk: it goes back only if it is used again.
    left_disk: bool,
    children: Vec<Key>,
    origin: Origin,
    hits: u32,
    pinned: bool,
    used_at: u64,
    /// Greedy-dual priority: the lowest goes first.
    priority: f64,
}

impl Node {
    fn is_ghost(&self) -> bool {
        self.payload.is_none() && !self.on_disk
    }

    fn ram_bytes(&self) -> u64 {
        self.payload
            .as_ref()
            .map_or(0, |payload| payload.len() as u64)
    }
}

/// The tree. Bytes in memory stay within its budget.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<Key, Node>,
    /// Children of each namespace's root.
    roots: HashMap<Key, Vec<Key>>,
    cut: Cut,
    block_tokens: usize,
    ram_bytes_max: u64,
    ram_bytes: u64,
    ghosts: usize,
    clock: u64,
    /// What the last evicted entry was worth: everything gains by it when it is used.
    inflation: f64,
}

impl Tree {
    /// An empty tree of blocks of so many tokens.
    pub fn new(block_tokens: usize, cut: Cut, ram_bytes_max: u64) -> Self {
        Self {
            nodes: HashMap::new(),
            roots: HashMap::new(),
            cut,
            block_tokens: block_tokens.max(1),
            ram_bytes_max,
            ram_bytes: 0,
            ghosts: 0,
            clock: 0,
            inflation: 0.0,
        }
    }

    /// Tokens of a block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Bytes in memory.
    pub fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Most bytes in memory.
    pub fn ram_bytes_max(&self) -> u64 {
        self.ram_bytes_max
    }

    /// The stored beginning of `tokens` that serves most of them. Entries that lie on disk alone count if `with` says so.
    pub fn find(&self, root: &Key, tokens: &[Token], with: impl Fn(&Key) -> bool) -> Path {
        let within_reach =
            |node: &Node| node.payload.is_some() || (node.on_disk && with(&node.entry.key));
        let blocks = self.blocks(root, tokens, within_reach);
        match self.cut {
            Cut::Anywhere => {
                let begin = blocks.len() * self.block_tokens;
                let last = blocks.last().unwrap_or(root);
                let rest = &tokens[begin..];
                let longest = self
                    .children(last)
                    .filter(|node| within_reach(node))
                    .map(|node| (common_length(&node.entry.tokens, rest), node))
                    .max_by_key(|(length, node)| {
                        (*length, std::cmp::Reverse(node.entry.tokens.len()))
                    });
                let mut path = self.path(&blocks, None);
                if let Some((length, node)) = longest.filter(|(length, _)| *length > 0) {
                    path.parts.push(part(node));
                    path.tokens += length as u32;
                }
                path
            }
            Cut::Tails => {
                for depth in (0..=blocks.len()).rev() {
                    let last = depth.checked_sub(1).map_or(root, |index| &blocks[index]);
                    let rest = &tokens[depth * self.block_tokens..];
                    let longest = self
                        .children(last)
                        .filter(|node| node.entry.kind == Kind::Tail && within_reach(node))
                        .filter(|node| rest.starts_with(&node.entry.tokens))
                        .max_by_key(|node| node.entry.tokens.len());
                    if let Some(tail) = longest {
                        return self.path(&blocks[..depth], Some(tail));
                    }
                }
                Path::default()
            }
        }
    }

    /// How far `tokens` go along with anything known.
    pub fn common(&self, root: &Key, tokens: &[Token]) -> Common {
        let mut last = *root;
        let (mut begin, mut stored, mut dropped) = (0, 0, 0);
        loop {
            let rest = &tokens[begin..];
            for node in self.children(&last).filter(|node| node.is_ghost()) {
                if node.entry.kind == Kind::Tail && rest.starts_with(&node.entry.tokens) {
                    dropped = dropped.max(begin + node.entry.tokens.len());
                }
            }
            let longest = self
                .children(&last)
                .map(|node| (common_length(&node.entry.tokens, rest), node))
                // Of equally long ones a block that can be followed.
                .max_by_key(|(length, node)| {
                    let is_block = node.entry.kind == Kind::Block;
                    (*length, is_block, !node.is_ghost(), node.used_at)
                });
            let Some((length, node)) = longest else {
                return Common {
                    tokens: begin as u32,
                    stored_tokens: stored as u32,
                    dropped_tokens: dropped as u32,
                    other: Vec::new(),
                };
            };
            if stored == begin && !node.is_ghost() {
                stored += length;
            }
            if length == node.entry.tokens.len() && node.entry.kind == Kind::Block {
                last = node.entry.key;
                begin += length;
                continue;
            }
            let other = if begin + length < tokens.len() {
                self.continuation(node, length)
            } else {
                Vec::new()
            };
            return Common {
                tokens: (begin + length) as u32,
                stored_tokens: stored as u32,
                dropped_tokens: dropped as u32,
                other,
            };
        }
    }

    /// Tokens of a node from `skip` on, and some of what follows it.
    fn continuation(&self, node: &Node, skip: usize) -> Vec<Token> {
        let mut tokens = node.entry.tokens[skip..].to_vec();
        if tokens.len() < self.block_tokens {
            let next = node
                .children
                .iter()
                .filter_map(|key| self.nodes.get(key))
                .max_by_key(|child| child.used_at);
            if let Some(next) = next.filter(|_| !tokens.is_empty()) {
                tokens.extend_from_slice(&next.entry.tokens);
            }
        }
        tokens
    }

    /// How many leading blocks of `tokens` are stored.
    pub fn stored(&self, root: &Key, tokens: &[Token]) -> usize {
        self.blocks(root, tokens, |node| !node.is_ghost()).len()
    }

    /// The name that the block ending, or the tail reaching, at `end` has.
    pub fn entry(&self, root: &Key, tokens: &[Token], kind: Kind) -> Entry {
        // A tail at a border of blocks is a block long: it has tokens of its own.
        let begin = match kind {
            Kind::Block => tokens.len() - self.block_tokens.min(tokens.len()),
            Kind::Tail => tokens.len().saturating_sub(1) / self.block_tokens * self.block_tokens,
        };
        let parent = tokens[..begin]
            .chunks_exact(self.block_tokens)
            .fold(*root, |parent, chunk| parent.child(Kind::Block, chunk));
        Entry {
            key: parent.child(kind, &tokens[begin..]),
            parent,
            kind,
            begin: begin as u32,
            tokens: tokens[begin..].into(),
        }
    }

    /// True if this entry is stored.
    pub fn holds(&self, key: &Key) -> bool {
        self.nodes.get(key).is_some_and(|node| !node.is_ghost())
    }

    /// Marks a path as used: its entries are worth more from now on.
    pub fn touch(&mut self, path: &Path) {
        self.clock += 1;
        for part in &path.parts {
            if let Some(node) = self.nodes.get_mut(&part.entry.key) {
                node.used_at = self.clock;
                node.hits = node.hits.saturating_add(1);
                node.origin = Origin::Returning;
                node.left_disk = false;
                node.priority = priority(self.inflation, node);
            }
        }
    }

    /// Adds an entry whose parent is known. False if its parent is not, or if there is no room that others would not need more.
    pub fn insert(&mut self, entry: Entry, payload: Payload, origin: Origin) -> bool {
        let is_linked = entry.begin == 0 || self.holds(&entry.parent);
        let bytes = payload.len() as u64;
        if !is_linked || bytes > self.ram_bytes_max {
            return false;
        }
        if self
            .nodes
            .get(&entry.key)
            .is_some_and(|node| node.payload.is_some())
        {
            return true;
        }
        self.clock += 1;
        let mut node = Node {
            payload: Some(payload),
            on_disk: false,
            left_disk: false,
            children: Vec::new(),
            origin,
            hits: 0,
            pinned: false,
            used_at: self.clock,
            priority: 0.0,
            entry,
        };
        if let Some(known) = self.nodes.get(&node.entry.key) {
            node.on_disk = known.on_disk;
            node.left_disk = known.left_disk;
            node.hits = known.hits;
            node.pinned = known.pinned;
            node.origin = if known.origin == Origin::Returning {
                known.origin
            } else {
                origin
            };
        }
        node.priority = priority(self.inflation, &node);
        let ancestors = self.ancestors(&node.entry.parent);
        while self.ram_bytes + bytes > self.ram_bytes_max {
            // A side request takes nothing from a conversation; a conversation may take whatever is worth least.
            let most = match node.origin {
                Origin::Side => node.priority,
                Origin::New | Origin::Returning => f64::INFINITY,
            };
            if !self.evict_one(&ancestors, most) {
                return false;
            }
        }
        if self.cut == Cut::Anywhere && node.entry.kind == Kind::Block {
            self.drop_covered_tails(&node.entry);
        }
        self.ram_bytes += bytes;
        self.link(node);
        true
    }

    /// Adds what was found on disk. Those whose parents are missing are given back: nothing leads to them.
    pub fn add_from_disk(&mut self, found: impl IntoIterator<Item = (Entry, bool)>) -> Vec<Key> {
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(entry, _)| entry.begin);
        let mut orphans = Vec::new();
        for (entry, pinned) in found {
            if let Some(node) = self.nodes.get_mut(&entry.key) {
                if node.is_ghost() {
                    self.ghosts -= 1;
                }
                node.on_disk = true;
                node.pinned |= pinned;
                continue;
            }
            if entry.begin > 0 && !self.holds(&entry.parent) {
                orphans.push(entry.key);
                continue;
            }
            self.link(Node {
                entry,
                payload: None,
                on_disk: true,
                left_disk: false,
                children: Vec::new(),
                origin: Origin::Returning,
                hits: 0,
                pinned,
                used_at: 0,
                priority: 0.0,
            });
        }
        orphans
    }

    /// Gives an entry that lies on disk its payload in memory, if there is room. It stays on disk either way.
    pub fn load(&mut self, key: &Key, payload: Payload) {
        if let Some(node) = self.nodes.get(key).filter(|node| node.on_disk) {
            let (entry, origin) = (node.entry.clone(), node.origin);
            self.insert(entry, payload, origin);
        }
    }

    /// Notes that an entry is written to disk.
    pub fn written(&mut self, key: &Key) {
        if let Some(node) = self.nodes.get_mut(key) {
            if node.is_ghost() {
                self.ghosts -= 1;
            }
            node.on_disk = true;
        }
    }

    /// Notes that an entry is gone from disk.
    pub fn lost(&mut self, key: &Key) {
        if let Some(node) = self.nodes.get_mut(key).filter(|node| node.on_disk) {
            node.on_disk = false;
            node.left_disk = true;
            if node.is_ghost() {
                self.ghosts += 1;
            }
        }
        self.prune_ghosts();
    }

    /// Notes that what lies on disk of an entry cannot be used. It will be written anew when there is something to write.
    pub fn damaged(&mut self, key: &Key) {
        self.lost(key);
        if let Some(node) = self.nodes.get_mut(key) {
            node.left_disk = false;
        }
    }

    /// Notes that an entry is of no use wherever it lies. It is not found any more until it is inserted anew.
    pub fn unusable(&mut self, key: &Key) {
        let Some(node) = self.nodes.get_mut(key).filter(|node| !node.is_ghost()) else {
            return;
        };
        self.ram_bytes -= node.ram_bytes();
        node.payload = None;
        node.on_disk = false;
        node.left_disk = false;
        self.ghosts += 1;
        self.prune_ghosts();
    }

    /// Entries in memory that ought to be on disk too, parents before children: those of conversations that have come back, and if `all`
    /// those of new ones as well. Side requests never.
    pub fn due_for_disk(&self, all: bool) -> Vec<Key> {
        let mut due: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.payload.is_some() && !node.on_disk && !node.left_disk)
            .filter(|node| match node.origin {
                Origin::Returning => true,
                Origin::New => all,
                Origin::Side => false,
            })
            .map(|node| (node.entry.begin, node.entry.key))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// Entries above this one that ought to be on disk before it, from the root on, and itself.
    pub fn chain(&self, key: &Key) -> Vec<Key> {
        let mut chain: Vec<Key> = self.ancestors(key).into_iter().collect();
        chain.sort_by_key(|key| self.nodes.get(key).map_or(0, |node| node.entry.begin));
        chain
    }

    /// An entry and its payload, if it lies in memory and not yet on disk.
    pub fn unwritten(&self, key: &Key) -> Option<(Entry, Payload)> {
        let node = self.nodes.get(key).filter(|node| !node.on_disk)?;
        Some((node.entry.clone(), node.payload.clone()?))
    }

    fn blocks(&self, root: &Key, tokens: &[Token], wanted: impl Fn(&Node) -> bool) -> Vec<Key> {
        let mut blocks = Vec::new();
        let mut parent = *root;
        for chunk in tokens.chunks_exact(self.block_tokens) {
            let key = parent.child(Kind::Block, chunk);
            let is_it = |node: &Node| wanted(node) && *node.entry.tokens == *chunk;
            if !self.nodes.get(&key).is_some_and(is_it) {
                break;
            }
            blocks.push(key);
            parent = key;
        }
        blocks
    }

    fn children(&self, parent: &Key) -> impl Iterator<Item = &Node> {
        let keys = self
            .nodes
            .get(parent)
            .map(|node| &node.children)
            .or_else(|| self.roots.get(parent));
        keys.into_iter()
            .flatten()
            .filter_map(|key| self.nodes.get(key))
    }

    fn path(&self, blocks: &[Key], tail: Option<&Node>) -> Path {
        let nodes = blocks.iter().filter_map(|key| self.nodes.get(key));
        let parts: Vec<Part> = nodes.chain(tail).map(part).collect();
        let tokens = parts.iter().map(|part| part.entry.tokens.len() as u32);
        Path {
            tokens: tokens.sum(),
            parts,
        }
    }

    fn ancestors(&self, key: &Key) -> HashSet<Key> {
        let mut ancestors = HashSet::new();
        let mut next = Some(*key);
        while let Some(node) = next.and_then(|key| self.nodes.get(&key)) {
            ancestors.insert(node.entry.key);
            next = (node.entry.begin > 0).then_some(node.entry.parent);
        }
        ancestors
    }

    fn link(&mut self, node: Node) {
        let (key, parent, begin) = (node.entry.key, node.entry.parent, node.entry.begin);
        if let Some(known) = self.nodes.remove(&key) {
            // It was a ghost, or on disk alone: its place is known already.
            if known.is_ghost() {
                self.ghosts -= 1;
            }
            let node = Node {
                children: known.children,
                ..node
            };
            self.nodes.insert(key, node);
            return;
        }
        if begin == 0 {
            self.roots.entry(parent).or_default().push(key);
        } else if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children.push(key);
        }
        self.nodes.insert(key, node);
    }

    /// Tails that begin the same block are of no use beside it. Those on disk stay until the block is there, too.
    fn drop_covered_tails(&mut self, block: &Entry) {
        for key in self.covered_tails(block, false) {
            self.forget(&key);
        }
    }

    /// Tails on disk that a block covers which was written there, without those that are pinned.
    pub fn superseded(&self, block: &Entry) -> Vec<Key> {
        if self.cut == Cut::Anywhere && block.kind == Kind::Block {
            self.covered_tails(block, true)
        } else {
            Vec::new()
        }
    }

    /// Notes that an entry is gone from everywhere, and nobody will miss it.
    pub fn discarded(&mut self, key: &Key) {
        if self
            .nodes
            .get(key)
            .is_some_and(|node| node.children.is_empty())
        {
            self.forget(key);
        }
    }

    fn covered_tails(&self, block: &Entry, on_disk: bool) -> Vec<Key> {
        self.children(&block.parent)
            .filter(|node| node.entry.kind == Kind::Tail && node.on_disk == on_disk)
            .filter(|node| !node.pinned && block.tokens.starts_with(&node.entry.tokens))
            .map(|node| node.entry.key)
            .collect()
    }
}

fn part(node: &Node) -> Part {
    Part {
        entry: node.entry.clone(),
        payload: node.payload.clone(),
    }
}

fn common_length(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
