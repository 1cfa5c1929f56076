//! Taking the computed state of sequences out of a context and putting it back, by what the memory of the model allows.
//!
//! Three kinds of memory are told apart, by trying and not by a list of architectures: the [`Archive`] is made by computing a few tokens,
//! putting them away and back, and comparing the logits of the next token.
//!
//! * Full attention ([`MemoryClass::Blocks`]): the cells of any range of positions can be taken out. The range is tagged with a scratch
//!   sequence and that is exported; to put it back, the scratch sequence is imported and tagged with its new owner.
//! * Sliding windows and recurrent state, alone or beside full attention ([`MemoryClass::Checkpoints`]): attention cells as above,
//!   with the rest left out; the rest is a checkpoint, taken when a sequence is just there, and a sequence can only go on from one.
//! * Anything else that survives being exported as a whole ([`MemoryClass::Whole`]).

use aluco_prefix::Kind;
use aluco_proto::Token;

use crate::ffi::{Batch, Context, Decoded, EngineError, SequenceId, StatePart};

/// Tokens that are computed to find out what memory can do.
const PROBE_TOKENS: u32 = 40;
/// Where the probe cuts; not at a border of its blocks.
const PROBE_CUT: u32 = 24;
const PROBE_BLOCK: u32 = 16;

/// Logits may differ by this share of the largest one where a device does not add in a fixed order.
const PROBE_TOLERANCE: f32 = 0.01;

/// How the memory of a model can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryClass {
    /// Cut at any token.
    Blocks,
    /// Attention in blocks, the rest at checkpoints.
    Checkpoints,
    /// As a whole, at the end of a sequence.
    Whole,
    /// Not at all.
    Off,
}

impl MemoryClass {
    /// The name in logs and status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Checkpoints => "checkpoints",
            Self::Whole => "whole",
            Self::Off => "off",
        }
    }
}

/// The way in and out of one context's memory.
#[derive(Debug, Clone)]
pub struct Archive {
    class: MemoryClass,
    scratch: SequenceId,
    /// The undivided part of an empty sequence.
    empty: Vec<u8>,
    window_tokens: u32,
}

/// A stored part that could not be put back.
#[derive(Debug)]
pub struct Unusable {
    /// Which of them, by its place.
    pub part: usize,
    /// Why.
    pub error: EngineError,
}

/// A stored part of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct StoredPart<'a> {
    /// Block or tail.
    pub kind: Kind,
    /// Position of its first token.
    pub begin: u32,
    /// Position behind its last token.
    pub end: u32,
    /// What [`Archive::export_block`] or [`Archive::export_tail`] gave.
    pub payload: &'a [u8],
}

impl Archive {
    /// Finds out what the memory of this context can do. The context must be empty, and is afterwards.
    pub fn probe(context: &mut Context) -> Self {
        let off = Self {
            window_tokens: context.model().window_tokens(),
            ..Self::off()
        };
        let (Some(best), Some(scratch)) = (Self::best_class(context), context.scratch()) else {
            return off;
        };
        for class in [best, MemoryClass::Whole] {
            let mut archive = Self {
                class,
                scratch,
                ..off.clone()
            };
            let works = archive
                .look_at_nothing(context)
                .and_then(|()| archive.try_out(context));
            context.clear();
            match works {
                Ok(()) => return archive,
                Err(error) => tracing::warn!(
                    "the memory of this model cannot be kept as {}: {error}",
                    class.name()
                ),
            }
        }
        off
    }

    /// As [`Self::probe`], where it is known from an earlier one that the best is possible. `None` if it is not even worth a try. The context must be
    /// empty, and stays so.
    pub fn as_found(context: &mut Context) -> Option<Self> {
        let mut archive = Self {
            class: Self::best_class(context)?,
            scratch: context.scratch()?,
            window_tokens: context.model().window_tokens(),
            ..Self::off()
        };
        archive.look_at_nothing(context).ok()?;
        Some(archive)
    }

    /// The best that can be hoped for, by the kind of memory that the model says it has; `None` if it cannot be kept.
    pub fn best_class(context: &Context) -> Option<MemoryClass> {
        let is_probed = context.scratch().is_some() && context.context_tokens() >= 2 * PROBE_TOKENS;
        let model = context.model();
        let is_whole_attention = !model.is_recurrent() && model.window_tokens() == 0;
        is_probed.then_some(if is_whole_attention {
            MemoryClass::Blocks
        } else {
            MemoryClass::Checkpoints
        })
    }

    /// Keeps nothing.
    pub fn off() -> Self {
        Self {
            class: MemoryClass::Off,
            scratch: 0,
            empty: Vec::new(),
            window_tokens: 0,
        }
    }

    /// How memory can be kept.
    pub fn class(&self) -> MemoryClass {
        self.class
    }

    /// The attention cells of a range of positions.
    pub fn export_block(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        begin: u32,
        end: u32,
    ) -> Result<Vec<u8>, EngineError> {
        let exported = self.export_range(context, sequence, begin, end);
        let emptied = context.remove_sequence(self.scratch);
        exported.and_then(|bytes| emptied.map(|()| bytes))
    }

    fn export_range(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        begin: u32,
        end: u32,
    ) -> Result<Vec<u8>, EngineError> {
        context.share_positions(sequence, self.scratch, begin..end)?;
        if self.class == MemoryClass::Blocks {
            return context.export(self.scratch, StatePart::Whole);
        }
        // Recurrent state is replaced by none before it is copied: it can be a hundred MiB.
        context.import(self.scratch, StatePart::Undivided, &self.empty)?;
        let mut bytes = context.export(self.scratch, StatePart::Whole)?;
        // Cells of a window that are still there are cut off: they end what is exported, and a checkpoint has all of them.
        let undivided = context.export(self.scratch, StatePart::Undivided)?;
        let (window, none) = (&undivided[HEADER_BYTES..], &self.empty[HEADER_BYTES..]);
        if !bytes.ends_with(window) {
            return Err(EngineError::Failed {
                call: "llama_state_seq_get_data",
                reason: "the state has another layout than was expected".to_owned(),
            });
        }
        bytes.truncate(bytes.len() - window.len());
        bytes.extend_from_slice(none);
        Ok(bytes)
    }

    /// What cannot be cut, of a sequence that is just there.
    pub fn checkpoint(
        &self,
        context: &mut Context,
        sequence: SequenceId,
    ) -> Result<Vec<u8>, EngineError> {
        context.export(sequence, StatePart::Undivided)
    }

    /// The end of a sequence from `begin` on, with what a sequence needs to go on from there: its `checkpoint` at `end` where there are
    /// any, else nothing more than its cells.
    pub fn export_tail(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        begin: u32,
        end: u32,
        checkpoint: Option<&[u8]>,
    ) -> Result<Vec<u8>, EngineError> {
        match (self.class, checkpoint) {
            (MemoryClass::Whole | MemoryClass::Off, _) => {
                context.export(sequence, StatePart::Whole)
            }
            (MemoryClass::Blocks, _) => self.export_block(context, sequence, begin, end),
            (MemoryClass::Checkpoints, checkpoint) => {
                let taken;
                let checkpoint = if let Some(checkpoint) = checkpoint {
                    checkpoint
                } else {
                    taken = self.checkpoint(context, sequence)?;
                    &taken
                };
                let attention = self.export_block(context, sequence, begin, end)?;
                let mut bytes = Vec::with_capacity(8 + attention.len() + checkpoint.len());
                bytes.extend_from_slice(&(attention.len() as u64).to_le_bytes());
                bytes.extend_from_slice(&attention);
                bytes.extend_from_slice(checkpoint);
                Ok(bytes)
            }
        }
    }

    /// Puts stored parts, from position 0 on, into an empty sequence, and leaves it with `tokens` tokens. If that fails the sequence is empty.
    /// What is wrong only with all of them together is blamed on the last.
    pub fn restore(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        parts: &[StoredPart<'_>],
        tokens: u32,
    ) -> Result<(), Unusable> {
        let unusable = |part: usize| move |error| Unusable { part, error };
        let last = parts.len().saturating_sub(1);
        let restored = parts
            .iter()
            .enumerate()
            .try_for_each(|(index, part)| {
                self.put(context, sequence, part).map_err(unusable(index))
            })
            .and_then(|()| {
                self.cut_back(context, sequence, parts, tokens)
                    .map_err(unusable(last))
            });
        if restored.is_err() {
            for sequence in [self.scratch, sequence] {
                let emptied = context.remove_sequence(sequence);
                emptied.map_err(unusable(last))?;
            }
        }
        restored
    }

    /// Leaves so many tokens of what was put back, and checks that they are there.
    fn cut_back(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        parts: &[StoredPart<'_>],
        tokens: u32,
    ) -> Result<(), EngineError> {
        if parts.last().is_some_and(|part| part.end > tokens) {
            context.truncate_sequence(sequence, tokens)?;
        }
        self.check(context, sequence, tokens)
    }

    fn put(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        part: &StoredPart<'_>,
    ) -> Result<(), EngineError> {
        match (self.class, part.kind) {
            (MemoryClass::Whole | MemoryClass::Off, _) => {
                context.import(sequence, StatePart::Whole, part.payload)
            }
            (MemoryClass::Checkpoints, Kind::Tail) => {
                let damaged = || EngineError::Failed {
                    call: "llama_state_seq_set_data",
                    reason: "a stored checkpoint is too short".to_owned(),
                };
                let (length, rest) = part.payload.split_first_chunk().ok_or_else(damaged)?;
                let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
                let (attention, checkpoint) = rest.split_at_checked(length).ok_or_else(damaged)?;
                self.put_range(context, sequence, part.begin, part.end, attention)?;
                context.import(sequence, StatePart::Undivided, checkpoint)
            }
            (MemoryClass::Blocks | MemoryClass::Checkpoints, _) => {
                self.put_range(context, sequence, part.begin, part.end, part.payload)
            }
        }
    }

    fn put_range(
        &self,
        context: &mut Context,
        sequence: SequenceId,
        begin: u32,
        end: u32,
        payload: &[u8],
    ) -> Result<(), EngineError> {
        context.import(self.scratch, StatePart::Whole, payload)?;
        context.share_positions(self.scratch, sequence, begin..end)?;
        context.remove_sequence(self.scratch)
    }

    /// Makes `to`, which is empty, begin like `from`, sharing its cells. Where memory cannot be cut, `checkpoint` is that of `from` at this
    /// number of tokens; `None` if `from` has just as many. If that fails `to` is empty.
    pub fn fork(
        &self,
        context: &mut Context,
        from: SequenceId,
        to: SequenceId,
        tokens: u32,
        checkpoint: Option<&[u8]>,
    ) -> Result<(), EngineError> {
        let forked = context
            .share_positions(from, to, 0..tokens)
            .and_then(|()| match checkpoint {
                Some(checkpoint) => context.import(to, StatePart::Undivided, checkpoint),
                None => Ok(()),
            })
            .and_then(|()| self.check(context, to, tokens));
        if forked.is_err() {
            context.remove_sequence(to)?;
        }
        forked
    }

    /// Makes `to`, which is empty, the same as `from`, which has this number of tokens.
    ///
    /// Cells of a window that two sequences share are not used again when both have moved on, and soon none would be left. So each gets its own.
    pub fn fork_all(
        &self,
        context: &mut Context,
        from: SequenceId,
        to: SequenceId,
        tokens: u32,
    ) -> Result<(), EngineError> {
        if self.class == MemoryClass::Checkpoints && self.window_tokens > 0 {
            let checkpoint = self.checkpoint(context, from)?;
            return self.fork(context, from, to, tokens, Some(&checkpoint));
        }
        context.share_sequence(from, to)
    }

    /// Checks that a sequence is where it should be.
    fn check(
        &self,
        context: &Context,
        sequence: SequenceId,
        tokens: u32,
    ) -> Result<(), EngineError> {
        let (first, last) = (
            context.first_position(sequence),
            context.last_position(sequence),
        );
        let begins_right = match self.class {
            MemoryClass::Blocks => first == Some(0),
            MemoryClass::Checkpoints
                if self.window_tokens > 0 && !context.model().is_recurrent() =>
            {
                // What the next token looks at, which is what is exported; cells before that may have been used again.
                let window_begin = if context.model().window_is_chunked() {
                    tokens / self.window_tokens * self.window_tokens
                } else {
                    (tokens + 1).saturating_sub(self.window_tokens)
                };
                first.is_some_and(|first| first <= window_begin)
            }
            _ => first.is_some(),
        };
        if begins_right && last == tokens.checked_sub(1) {
            return Ok(());
        }
        Err(EngineError::Failed {
            call: "llama_state_seq_set_data",
            reason: format!(
                "a sequence of {tokens} tokens was put back from {first:?} to {last:?}"
            ),
        })
    }

    /// Learns what an empty sequence is.
    fn look_at_nothing(&mut self, context: &mut Context) -> Result<(), EngineError> {
        self.empty = context
            .export(self.scratch, StatePart::Undivided)
            .unwrap_or_default();
        if self.class == MemoryClass::Checkpoints && self.empty.len() < HEADER_BYTES {
            return Err(failed("there is no state to be found beside attention"));
        }
        Ok(())
    }

    /// Computes, puts away, puts back, and compares.
    fn try_out(&self, context: &mut Context) -> Result<(), EngineError> {
        compute(context, 0..PROBE_CUT)?;
        let checkpoint = match self.class {
            MemoryClass::Checkpoints => Some(self.checkpoint(context, 0)?),
            _ => None,
        };
        let whole = context.export(0, StatePart::Whole)?;
        let expected = compute(context, PROBE_CUT..PROBE_CUT + 1)?;
        if self.class == MemoryClass::Whole {
            context.remove_sequence(0)?;
            let part = StoredPart {
                kind: Kind::Tail,
                begin: 0,
                end: PROBE_CUT,
                payload: &whole,
            };
            self.restore(context, 0, &[part], PROBE_CUT)
                .map_err(|unusable| unusable.error)?;
            return same(&expected, &compute(context, PROBE_CUT..PROBE_CUT + 1)?);
        }
        // The sequence goes on, so that a checkpoint and not the end is what is put back.
        compute(context, PROBE_CUT + 1..PROBE_TOKENS)?;
        let block = self.export_block(context, 0, 0, PROBE_BLOCK)?;
        let end = match self.class {
            MemoryClass::Blocks => PROBE_TOKENS,
            _ => PROBE_CUT,
        };
        let tail = self.export_tail(context, 0, PROBE_BLOCK, end, checkpoint.as_deref())?;
        context.remove_sequence(0)?;
        let parts = [
            StoredPart {
                kind: Kind::Block,
                begin: 0,
                end: PROBE_BLOCK,
                payload: &block,
            },
            StoredPart {
                kind: Kind::Tail,
                begin: PROBE_BLOCK,
                end,
                payload: &tail,
            },
        ];
        self.restore(context, 0, &parts, PROBE_CUT)
            .map_err(|unusable| unusable.error)?;
        same(&expected, &compute(context, PROBE_CUT..PROBE_CUT + 1)?)
    }
}

/// llama.cpp begins what it exports with a magic number and the sequence's id.
const HEADER_BYTES: usize = 8;

fn failed(reason: &str) -> EngineError {
    EngineError::Failed {
        call: "the memory probe",
        reason: reason.to_owned(),
    }
}

/// Computes made-up tokens at these positions of sequence 0; gives the logits of the last one.
fn compute(
    context: &mut Context,
    positions: std::ops::Range<u32>,
) -> Result<Vec<f32>, EngineError> {
    let vocabulary = context.model().vocabulary().max(1);
    let mut batch = Batch::default();
    let mut row = 0;
    let all: Vec<u32> = positions.collect();
    for chunk in all.chunks(context.batch_tokens().max(1) as usize) {
        batch.clear();
        for position in chunk {
            let token = (1 + position * 7919) % vocabulary;
            let is_last = all.last() == Some(position);
            row = batch.push(token as Token, *position, 0, is_last);
        }
        if context.decode(&mut batch)? == Decoded::NoCells {
            return Err(failed("there are no free cells"));
        }
    }
    Ok(context.logits(row)?.to_vec())
}

fn same(expected: &[f32], found: &[f32]) -> Result<(), EngineError> {
    let pairs = || expected.iter().zip(found);
    if pairs().all(|(a, b)| a.to_bits() == b.to_bits()) {
        return Ok(());
    }
    let largest = expected
        .iter()
        .fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let difference = pairs().fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    // A NaN is no agreement: it fails every comparison.
    if pairs().all(|(a, b)| (a - b).abs() <= largest * PROBE_TOLERANCE) {
        tracing::debug!("what was put back differs in the last bits: {difference} of {largest}");
        return Ok(());
    }
    Err(failed(&format!(
        "what was put back gives other logits: they differ by {difference} of {largest}"
    )))
}
