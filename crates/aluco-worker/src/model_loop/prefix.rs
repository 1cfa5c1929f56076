//! Computed tokens that outlive their stream: stored behind the reply, put back before the next prompt is computed.
//!
//! A stream that has ended keeps its sequence until its blocks are stored, one at a time between steps, so that nobody waits for it; if
//! cells or sequences are needed before that, it is freed at once and only what was stored is kept. Where the memory of a
//! model cannot be divided ([`crate::ffi::Model::has_divisible_memory`]) nothing is stored.

use std::fs;

use aluco_proto::Token;

use super::ModelLoop;
use crate::{
    ffi::{EngineError, SequenceId},
    prefix_cache::{BLOCK_TOKENS, PrefixCache},
    stream::Stream,
};

/// Steps between two blocks that are stored while streams run.
const STEPS_PER_BLOCK: u32 = 4;

/// Most bytes of the cache unless asked otherwise, and the share of the machine's memory that it may have.
const BUDGET_BYTES_MAX: u64 = 8 << 30;
const BUDGET_SHARE: u64 = 16;

/// A sequence whose stream has ended and whose blocks are not all stored.
#[derive(Debug)]
pub(super) struct Retired {
    sequence: SequenceId,
    /// What lies in its cells, from position 0 on.
    tokens: Vec<Token>,
}

/// A sixteenth of the machine's memory, at most 8 GiB.
pub(crate) fn default_budget_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    total.map_or(0, |kib| (kib * 1024 / BUDGET_SHARE).min(BUDGET_BYTES_MAX))
}

impl ModelLoop {
    /// Puts what is stored of these tokens into an empty sequence, and says how many tokens that were. The last token is left out:
    /// it has to be computed to get the next one.
    pub(super) fn restore(&mut self, tokens: &[Token], sequence: SequenceId) -> u32 {
        let (Some(cache), Some(scratch)) = (&mut self.prefix, self.context.scratch()) else {
            return 0;
        };
        let blocks = cache.longest(&tokens[..tokens.len().saturating_sub(1)]);
        let mut restored = 0;
        let put = || -> Result<(), EngineError> {
            for block in blocks {
                let Some(bytes) = cache.bytes(block) else {
                    break;
                };
                self.context.import_sequence(scratch, bytes)?;
                let end = restored + BLOCK_TOKENS as u32;
                self.context
                    .share_positions(scratch, sequence, restored..end)?;
                self.context.remove_sequence(scratch)?;
                restored = end;
            }
            Ok(())
        };
        if let Err(error) = put() {
            tracing::warn!("a stored prompt could not be put back and is computed again: {error}");
            for sequence in [scratch, sequence] {
                if let Err(error) = self.context.remove_sequence(sequence) {
                    tracing::error!("sequence {sequence} could not be emptied: {error}");
                }
            }
            return 0;
        }
        restored
    }

    /// Takes over the sequence of a stream that has ended, or frees it if there is nothing to store.
    pub(super) fn retire(&mut self, stream: &mut Stream) {
        let is_shared = stream.share_group.is_some_and(|group| {
            let mut others = self.running.iter();
            others.any(|other| other.share_group == Some(group))
        });
        let computed = &stream.tokens[..stream.computed_tokens as usize];
        let has_news = self.prefix.as_ref().is_some_and(|cache| {
            !is_shared && cache.present(computed) < computed.len() / BLOCK_TOKENS
        });
        if !has_news {
            self.free(stream);
            return;
        }
        let tokens = computed.to_vec();
        if let Some(sequence) = stream.release() {
            self.retired.push_back(Retired { sequence, tokens });
        }
    }

    /// Stores a block if it is time: whenever nothing runs, else every few steps.
    pub(super) fn store_behind(&mut self) {
        self.steps_since_block += 1;
        if self.running.is_empty() || self.steps_since_block >= STEPS_PER_BLOCK {
            self.steps_since_block = 0;
            if let Some(retired) = self.retired.pop_front() {
                self.store_next_block(retired);
            }
        }
    }

    /// Frees the sequence that has been retired for longest, whether it is stored or not. False if there is none.
    pub(super) fn give_up_retired(&mut self) -> bool {
        let Some(retired) = self.retired.pop_front() else {
            return false;
        };
        self.free_sequence(retired.sequence);
        true
    }

    /// Cells that retired sequences hold.
    pub(super) fn retired_cells(&self) -> u32 {
        let cells = self.retired.iter().map(|retired| retired.tokens.len());
        cells.sum::<usize>() as u32
    }

    /// Stores at once what is retired and begins like these tokens: the next turn of a conversation often comes before the last one
    /// is stored.
    pub(super) fn settle(&mut self, tokens: &[Token]) {
        let begins_alike = |retired: &Retired| {
            retired.tokens.len() >= BLOCK_TOKENS
                && tokens.starts_with(&retired.tokens[..BLOCK_TOKENS])
        };
        while let Some(index) = self.retired.iter().position(begins_alike) {
            let Some(mut retired) = self.retired.remove(index) else {
                return;
            };
            while let Some(rest) = self.store_block(retired) {
                retired = rest;
            }
        }
    }

    fn store_next_block(&mut self, retired: Retired) {
        if let Some(rest) = self.store_block(retired) {
            self.retired.push_front(rest);
        }
    }

    /// Stores the first block that is missing; gives the sequence back if there may be more, else frees it.
    fn store_block(&mut self, retired: Retired) -> Option<Retired> {
        let is_stored = match (&self.prefix, self.context.scratch()) {
            (Some(cache), Some(scratch)) => {
                let present = cache.present(&retired.tokens);
                let end = (present + 1) * BLOCK_TOKENS;
                end <= retired.tokens.len()
                    && self.store(scratch, &retired, end - BLOCK_TOKENS..end)
            }
            _ => false,
        };
        if is_stored {
            return Some(retired);
        }
        self.free_sequence(retired.sequence);
        None
    }

    fn store(
        &mut self,
        scratch: SequenceId,
        retired: &Retired,
        positions: std::ops::Range<usize>,
    ) -> bool {
        let range = positions.start as u32..positions.end as u32;
        let exported = self
            .context
            .share_positions(retired.sequence, scratch, range)
            .and_then(|()| self.context.export_sequence(scratch));
        if let Err(error) = self.context.remove_sequence(scratch) {
            tracing::error!("the scratch sequence could not be emptied: {error}");
            self.prefix = None;
            return false;
        }
        match (exported, &mut self.prefix) {
            (Ok(bytes), Some(cache)) => cache.insert(&retired.tokens[..positions.end], bytes),
            (Ok(_), None) => false,
            (Err(error), _) => {
                tracing::warn!("a prompt could not be stored: {error}");
                false
            }
        }
    }
}

/// A cache for this budget, if the memory of the model can be divided.
pub(super) fn cache(scratch: Option<SequenceId>, budget_bytes: u64) -> Option<PrefixCache> {
    (scratch.is_some() && budget_bytes > 0).then(|| PrefixCache::new(budget_bytes))
}
