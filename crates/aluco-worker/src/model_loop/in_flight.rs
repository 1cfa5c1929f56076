//! Streams that run: stored between their steps, so that a process that is killed with a reply has its prompt on disk.
//!
//! A conversation that has come back before is written to disk as it is stored. So is whatever took long to compute: if the worker dies, its stream would
//! wait as long again in the next one.

use std::time::Duration;

use aluco_prefix::{Kind, Origin, Store};

use super::ModelLoop;
use crate::{memory::MemoryClass, stream::Stream};

/// What took longer to compute is worth writing to disk before anybody is known to ask for it again.
const DEAR: Duration = Duration::from_secs(2);

/// The end of a prompt is worth storing before its reply is complete if it has so many tokens behind the last block.
const PROMPT_END_TOKENS_MIN: u32 = 64;

/// Tokens of a reply after which there is no hurry any more to store the end of its prompt: the end of the reply comes soon enough.
const REPLY_BEGIN_TOKENS: u32 = 64;

/// True if much would be lost with what was computed of a stream.
fn is_dear(stream: &Stream) -> bool {
    stream.origin != Origin::Side && stream.spent >= DEAR
}

/// True if a stream is to be on disk while it runs.
fn is_for_disk(stream: &Stream) -> bool {
    stream.origin == Origin::Returning || is_dear(stream)
}

impl ModelLoop {
    /// True if a stream runs of which much would be lost.
    pub(super) fn has_dear(&self) -> bool {
        self.running.iter().any(is_dear)
    }

    /// Stores a piece of a stream that runs. False if there is none.
    pub(super) fn store_running(&mut self) -> bool {
        let Some(store) = self.store.clone() else {
            return false;
        };
        match self.archive.class() {
            MemoryClass::Blocks => {
                self.store_running_block(&store) || self.store_prompt_end(&store)
            }
            MemoryClass::Checkpoints => {
                self.store_running_block(&store) || self.store_running_checkpoint(&store)
            }
            MemoryClass::Whole | MemoryClass::Off => false,
        }
    }

    fn store_running_block(&mut self, store: &Store) -> bool {
        let block = store.block_tokens() as u32;
        let due = |stream: &Stream| {
            stream.origin != Origin::Side
                && stream.kept.blocks_end + block <= stream.computed_tokens
        };
        while let Some(index) = self.running.iter().position(due) {
            let stream = &mut self.running[index];
            let namespace = self.generations[&stream.request].namespace.clone();
            let computed = &stream.tokens[..stream.computed_tokens as usize];
            let stored = store.stored_blocks(&namespace, computed) as u32 * block;
            let begin = stored.max(stream.kept.blocks_end);
            let end = begin + block;
            if end > stream.computed_tokens {
                // All is stored so far.
                stream.kept.blocks_end = stored;
                continue;
            }
            stream.kept.blocks_end = end;
            // What there was no room for is not tried again; nor is what would hang below it.
            if begin == stored && self.store_piece_of(store, index, end, Kind::Block, None) {
                return true;
            }
        }
        false
    }

    /// Stores what a prompt has behind its last block while the reply to it begins.
    fn store_prompt_end(&mut self, store: &Store) -> bool {
        let block = store.block_tokens() as u32;
        let due = |stream: &Stream| {
            is_for_disk(stream)
                && !stream.kept.prompt_end
                && (1..=REPLY_BEGIN_TOKENS).contains(&stream.generated_tokens())
                && stream.prompt_tokens <= stream.computed_tokens
                && stream.prompt_tokens % block >= PROMPT_END_TOKENS_MIN
                // It hangs below the blocks before it.
                && stream.kept.blocks_end + block > stream.prompt_tokens
        };
        let Some(index) = self.running.iter().position(due) else {
            return false;
        };
        // What there is no room for is not tried again.
        self.running[index].kept.prompt_end = true;
        let end = self.running[index].prompt_tokens;
        self.store_piece_of(store, index, end, Kind::Tail, None)
    }

    /// Stores the last checkpoint below which all blocks are stored: a prompt goes on from there.
    fn store_running_checkpoint(&mut self, store: &Store) -> bool {
        let block = store.block_tokens() as u32;
        for index in 0..self.running.len() {
            let stream = &mut self.running[index];
            let mut checkpoints = stream.checkpoints.iter().rev();
            let last = checkpoints
                .find(|it| it.tokens < stream.kept.blocks_end + block)
                .cloned();
            let Some(last) = last.filter(|it| it.tokens > stream.kept.checkpoint) else {
                continue;
            };
            if !is_for_disk(stream) {
                continue;
            }
            stream.kept.checkpoint = last.tokens;
            if self.store_piece_of(store, index, last.tokens, Kind::Tail, Some(&last.state)) {
                return true;
            }
        }
        false
    }

    /// Stores the last piece of a running stream's first `end` tokens, on disk too if it is to be there. False if it is stored, or cannot be.
    fn store_piece_of(
        &mut self,
        store: &Store,
        index: usize,
        end: u32,
        kind: Kind,
        checkpoint: Option<&[u8]>,
    ) -> bool {
        let stream = &self.running[index];
        let namespace = &self.generations[&stream.request].namespace;
        let missing = store.missing(namespace, &stream.tokens[..end as usize], kind);
        let (Some(sequence), Some(entry)) = (stream.sequence, missing) else {
            return false;
        };
        let (key, origin, is_dear) = (entry.key, stream.origin, is_dear(stream));
        let is_stored = self.store_cells(store, sequence, entry, checkpoint, origin);
        // The store writes those that come back by itself.
        if is_stored && is_dear && origin != Origin::Returning {
            store.write(&key);
        }
        is_stored
    }
}
