//! Sequences whose reply has ended: stored behind the replies, and kept on the device for a while.
//!
//! A stream that has ended keeps its sequence until all of it is stored, one piece at a time between steps, so that nobody waits for it. After
//! that it stays as long as its cells are few enough and nobody needs them: the next turn of its conversation then goes on
//! in it, with nothing to be put back. Whoever needs cells or sequences takes them from what is parked; what was not stored by then is
//! stored first.

use std::{sync::Arc, time::Instant};

use aluco_prefix::{Entry, Kind, Origin, Store};
use aluco_proto::Token;

use super::ModelLoop;
use crate::{
    ffi::{Context, EngineError, SequenceId},
    memory::{Archive, MemoryClass},
    stream::{Checkpoint, Stream},
};

/// Steps between two pieces that are stored while streams run.
const STEPS_PER_PIECE: u32 = 4;

/// A shorter end of a sequence is computed sooner than it is put back.
const TAIL_TOKENS_MIN: u32 = 16;

/// Part of the time of a step that may be spent behind it on storing more than that.
const STORING_SHARE: u32 = 50;

/// A sequence without a stream.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) sequence: SequenceId,
    pub(super) namespace: Arc<str>,
    /// What lies in its cells, from position 0 on.
    pub(super) tokens: Vec<Token>,
    pub(super) checkpoints: Vec<Checkpoint>,
    origin: Origin,
    progress: Progress,
    is_stored: bool,
}

/// What of a sequence was stored so far. Where there is no room for all of it, one piece may push out another: none is stored twice.
#[derive(Debug, Default)]
struct Progress {
    /// Where the last block ends.
    block_tokens: u32,
    checkpoints: usize,
    end: bool,
}

/// A piece of a sequence that is to be stored: everything up to `end`, as far as it is not stored yet.
struct Piece {
    end: u32,
    kind: Kind,
    checkpoint: Option<Arc<Vec<u8>>>,
}

impl ModelLoop {
    /// Takes over the sequence of a stream that goes no further.
    pub(super) fn park(&mut self, stream: &mut Stream) {
        let is_kept = self.archive.class() != MemoryClass::Off && stream.computed_tokens > 0;
        if !is_kept {
            self.free(stream);
            return;
        }
        let namespace = self.generations[&stream.request].namespace.clone();
        let tokens = stream.tokens[..stream.computed_tokens as usize].to_vec();
        let checkpoints = std::mem::take(&mut stream.checkpoints);
        if let Some(sequence) = stream.release() {
            self.parked.push(Parked {
                sequence,
                namespace,
                tokens,
                checkpoints,
                origin: stream.origin,
                progress: Progress::default(),
                is_stored: self.store.is_none(),
            });
        }
    }

    /// True if something waits to be stored.
    pub(super) fn has_unstored(&self) -> bool {
        self.parked.iter().any(|parked| !parked.is_stored)
    }

    /// Stores a piece if it is time: whenever nothing runs, else every few steps, and more beside long steps where much would be lost with this
    /// process. Then lets go what is over the budget of the device.
    pub(super) fn store_behind(&mut self) {
        let began = Instant::now();
        self.steps_since_piece += 1;
        if self.running.is_empty() || self.steps_since_piece >= STEPS_PER_PIECE {
            self.steps_since_piece = 0;
            if self.store_piece() {
                self.piece_time = began.elapsed();
            }
        }
        let room = self.step_time / STORING_SHARE;
        while self.has_dear() && began.elapsed() + self.piece_time <= room && self.store_piece() {}
        while self.parked_tokens() > self.device_tokens_max {
            // Oldest first.
            let Some(index) = self.parked.iter().position(|parked| parked.is_stored) else {
                return;
            };
            let parked = self.parked.remove(index);
            self.free_sequence(parked.sequence);
        }
    }

    /// Stores the next piece of what has ended, or else of what runs. False if there is none.
    fn store_piece(&mut self) -> bool {
        if let Some(index) = self.parked.iter().position(|parked| !parked.is_stored) {
            self.store_next(index);
            return true;
        }
        self.store_running()
    }

    /// Cells that nothing but parked sequences holds, all of which are stored.
    fn parked_tokens(&self) -> u32 {
        let stored = self.parked.iter().filter(|parked| parked.is_stored);
        let stored: Vec<SequenceId> = stored.map(|parked| parked.sequence).collect();
        self.cells.freed_by(&stored)
    }

    /// Cells that become free when all parked sequences but `keep` are given up.
    pub(super) fn cells_parked(&self, keep: Option<SequenceId>) -> u32 {
        let parked = self.parked.iter().map(|parked| parked.sequence);
        let others: Vec<SequenceId> = parked.filter(|it| Some(*it) != keep).collect();
        self.cells.freed_by(&others)
    }

    /// Frees a parked sequence for others, storing first what is worth it. False if there is none but `keep`.
    pub(super) fn give_up_parked(&mut self, keep: Option<SequenceId>) -> bool {
        let candidates = || {
            let parked = self.parked.iter().enumerate();
            parked.filter(|(_, parked)| Some(parked.sequence) != keep)
        };
        let stored = candidates().find(|(_, parked)| parked.is_stored);
        let Some(index) = stored
            .or_else(|| candidates().next())
            .map(|(index, _)| index)
        else {
            return false;
        };
        if self.parked[index].origin != Origin::Side {
            while !self.parked[index].is_stored {
                self.store_next(index);
            }
        }
        let parked = self.parked.remove(index);
        self.free_sequence(parked.sequence);
        true
    }

    /// Takes the state at the end of a parked sequence, which is lost as soon as it goes on.
    pub(super) fn keep_end(&mut self, parked: &mut Parked) {
        let end = parked.tokens.len() as u32;
        let is_kept = parked
            .checkpoints
            .iter()
            .any(|checkpoint| checkpoint.tokens == end);
        if self.archive.class() != MemoryClass::Checkpoints || is_kept {
            return;
        }
        let taken = checkpoint(&self.archive, &mut self.context, parked.sequence, end);
        parked.checkpoints.extend(taken);
    }

    /// Stores the next piece of a parked sequence, or notes that there is none.
    fn store_next(&mut self, index: usize) {
        let Some(store) = self.store.clone() else {
            self.parked[index].is_stored = true;
            return;
        };
        let parked = &mut self.parked[index];
        let Some(piece) = next_piece(&store, parked, self.archive.class()) else {
            self.parked[index].is_stored = true;
            return;
        };
        let tokens = &parked.tokens[..piece.end as usize];
        let Some(entry) = store.missing(&parked.namespace, tokens, piece.kind) else {
            self.parked[index].is_stored = true;
            return;
        };
        let (sequence, origin) = (parked.sequence, parked.origin);
        let checkpoint = piece.checkpoint.as_ref().map(|state| state.as_slice());
        // What there is no room for is not tried again; nor is what would hang below it.
        if !self.store_cells(&store, sequence, entry, checkpoint, origin) {
            self.parked[index].is_stored = true;
        }
    }

    /// Stores what an entry says of a sequence, with its state at the end of that if it was taken on the way. False if that cannot be, or
    /// if there is no room for it.
    pub(super) fn store_cells(
        &mut self,
        store: &Store,
        sequence: SequenceId,
        entry: Entry,
        checkpoint: Option<&[u8]>,
        origin: Origin,
    ) -> bool {
        let (archive, context) = (&self.archive, &mut self.context);
        let (begin, end) = (entry.begin, entry.begin + entry.tokens.len() as u32);
        let exported = match entry.kind {
            Kind::Block => archive.export_block(context, sequence, begin, end),
            Kind::Tail => archive.export_tail(context, sequence, begin, end, checkpoint),
        };
        match exported {
            Ok(payload) => store.insert(entry, payload, origin),
            Err(error) => {
                self.note_export_failure(&error);
                false
            }
        }
    }

    fn note_export_failure(&mut self, error: &EngineError) {
        tracing::warn!("a prompt could not be stored: {error}");
        let is_empty = self
            .context
            .scratch()
            .is_none_or(|scratch| self.context.last_position(scratch).is_none());
        if !is_empty {
            tracing::error!("nothing more is stored until the model is loaded again");
            self.store = None;
        }
    }
}

/// The state of a sequence that has just so many tokens; `None`, with a word in the log, if it cannot be had.
pub(super) fn checkpoint(
    archive: &Archive,
    context: &mut Context,
    sequence: SequenceId,
    tokens: u32,
) -> Option<Checkpoint> {
    match archive.checkpoint(context, sequence) {
        Ok(state) => Some(Checkpoint {
            tokens,
            state: Arc::new(state),
        }),
        Err(error) => {
            tracing::warn!("a state could not be kept: {error}");
            None
        }
    }
}

/// What of a sequence is to be stored next: blocks from the beginning on, then its checkpoints, then its end.
fn next_piece(store: &Store, parked: &mut Parked, class: MemoryClass) -> Option<Piece> {
    let length = parked.tokens.len() as u32;
    let block = store.block_tokens() as u32;
    let namespace = &parked.namespace;
    let progress = &mut parked.progress;
    if matches!(class, MemoryClass::Blocks | MemoryClass::Checkpoints) {
        let stored = store.stored_blocks(namespace, &parked.tokens) as u32;
        let end = (stored + 1).saturating_mul(block);
        if end <= progress.block_tokens {
            return None;
        }
        if end <= length {
            progress.block_tokens = end;
            return Some(Piece {
                end,
                kind: Kind::Block,
                checkpoint: None,
            });
        }
    }
    let is_missing = |end: u32| {
        let tokens = &parked.tokens[..end as usize];
        store.missing(namespace, tokens, Kind::Tail).is_some()
    };
    if class == MemoryClass::Checkpoints {
        while let Some(checkpoint) = parked.checkpoints.get(progress.checkpoints) {
            progress.checkpoints += 1;
            if is_missing(checkpoint.tokens) {
                return Some(Piece {
                    end: checkpoint.tokens,
                    kind: Kind::Tail,
                    checkpoint: Some(checkpoint.state.clone()),
                });
            }
        }
    }
    if std::mem::replace(&mut progress.end, true) {
        return None;
    }
    let is_worth_it = class != MemoryClass::Blocks || length % block >= TAIL_TOKENS_MIN;
    (is_worth_it && is_missing(length)).then_some(Piece {
        end: length,
        kind: Kind::Tail,
        checkpoint: None,
    })
}
