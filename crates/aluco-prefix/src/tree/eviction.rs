//! What goes when there is no room: by value, the rest of a node as a ghost, ghosts by age.

use std::{cmp::Ordering, collections::HashSet};

use super::{Node, Origin, Tree};
use crate::Key;

/// Ghosts kept at most. Each holds no more than its tokens.
const GHOSTS_MAX: usize = 4096;

/// Value of an entry that was used again, relative to a new one: it was no one-off. Further uses add one each, up to so many.
const USED_AGAIN_WEIGHT: f64 = 4.0;
const HITS_MAX: u32 = 7;

/// Value of a side request's entry, relative to that of a conversation.
const SIDE_WEIGHT: f64 = 0.05;

impl Tree {
    /// Drops the payload of least value from memory, if it is worth no more than `priority`.
    pub(super) fn evict_one(&mut self, keep: &HashSet<Key>, priority: f64) -> bool {
        let least = self
            .droppable()
            .filter(|node| !node.pinned && !keep.contains(&node.entry.key))
            .min_by(|a, b| by_value(a, b));
        let Some(key) = least
            .filter(|node| node.priority <= priority)
            .map(|node| node.entry.key)
        else {
            return false;
        };
        self.drop_payload(&key);
        true
    }

    /// Allows other bytes in memory than before. [`Self::shed`] has to bring about that they are kept to.
    pub fn resize(&mut self, ram_bytes_max: u64) {
        self.ram_bytes_max = ram_bytes_max;
    }

    /// Drops one payload if more lies in memory than is allowed: first of all of those that lie on disk too, since they cost a read. False if
    /// nothing has to go any more.
    pub fn shed(&mut self) -> bool {
        if self.ram_bytes <= self.ram_bytes_max {
            return false;
        }
        let least = self.droppable().min_by(|a, b| {
            let order = b.on_disk.cmp(&a.on_disk).then(a.pinned.cmp(&b.pinned));
            order.then(by_value(a, b))
        });
        let Some(key) = least.map(|node| node.entry.key) else {
            return false;
        };
        self.drop_payload(&key);
        true
    }

    /// Nodes in memory without children there: a child is of no use without its parent.
    fn droppable(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| {
            let mut children = node.children.iter().filter_map(|key| self.nodes.get(key));
            node.payload.is_some() && !children.any(|child| child.payload.is_some())
        })
    }

    fn drop_payload(&mut self, key: &Key) {
        if let Some(node) = self.nodes.get_mut(key) {
            // Side requests that push each other out do not age the conversations.
            if node.origin != Origin::Side {
                self.inflation = self.inflation.max(node.priority);
            }
            self.ram_bytes -= node.ram_bytes();
            node.payload = None;
            if node.is_ghost() {
                self.ghosts += 1;
            }
        }
        self.prune_ghosts();
    }

    pub(super) fn prune_ghosts(&mut self) {
        while self.ghosts > GHOSTS_MAX {
            let oldest = self
                .nodes
                .values()
                .filter(|node| node.is_ghost() && node.children.is_empty())
                .min_by_key(|node| (node.used_at, node.entry.key))
                .map(|node| node.entry.key);
            let Some(key) = oldest else { return };
            self.forget(&key);
        }
    }

    /// Takes a leaf out.
    pub(super) fn forget(&mut self, key: &Key) {
        let Some(node) = self.nodes.remove(key) else {
            return;
        };
        self.ram_bytes -= node.ram_bytes();
        if node.is_ghost() {
            self.ghosts -= 1;
        }
        let siblings = if node.entry.begin == 0 {
            self.roots.get_mut(&node.entry.parent)
        } else {
            self.nodes
                .get_mut(&node.entry.parent)
                .map(|parent| &mut parent.children)
        };
        if let Some(siblings) = siblings {
            siblings.retain(|sibling| sibling != key);
        }
    }
}

/// Greedy-dual-size with frequency: what it saves per byte, weighted by how likely it is wanted again, on top of what the last evicted
/// entry was worth, so that what is never used again loses to what is new.
pub(super) fn priority(inflation: f64, node: &Node) -> f64 {
    let weight = match node.origin {
        Origin::Side => SIDE_WEIGHT,
        Origin::New | Origin::Returning if node.hits == 0 => 1.0,
        Origin::New | Origin::Returning => {
            USED_AGAIN_WEIGHT + f64::from(node.hits.min(HITS_MAX) - 1)
        }
    };
    let tokens = node.entry.tokens.len() as f64;
    inflation + weight * tokens / (node.ram_bytes().max(1) as f64)
}

/// What is worth least first; of equals what was used least lately, then the ends.
fn by_value(a: &Node, b: &Node) -> Ordering {
    let order = a.priority.total_cmp(&b.priority);
    order
        .then(a.used_at.cmp(&b.used_at))
        .then(b.entry.begin.cmp(&a.entry.begin))
}
