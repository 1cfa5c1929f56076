//! Where the beginning of a prompt comes from, so that it need not be computed: from another sequence's cells, or from the prefix store.

use std::sync::Arc;

use aluco_prefix::{Common, Cut, Fetched, Found, Tier};
use aluco_proto::{CacheReport, Miss, Token};

use super::{ModelLoop, parked::Parked};
use crate::{
    ffi::SequenceId,
    memory::{MemoryClass, StoredPart, Unusable},
    stream::Stream,
};

/// It is worth waiting for the prefill of another stream if that saves so many tokens: that stream computes them anyway, so it takes no
/// longer. Where memory cannot be cut, a state is kept for those who wait, which has to be worth it.
const WAIT_TOKENS_MIN: u32 = 16;
const WAIT_FOR_STATE_TOKENS_MIN: u32 = 128;

/// Less than this is computed sooner than anything else is done about it.
const REUSE_TOKENS_MIN: u32 = 16;

/// Tokens behind a difference that must be the same again, and how far apart they may be, for the difference to count as something that
/// changes from request to request.
const SAME_AGAIN_TOKENS: usize = 16;
const CHANGE_TOKENS_MAX: usize = 64;

/// The beginning of a prompt that need not be computed.
pub(super) enum Beginning {
    /// None of it.
    Nothing,
    /// All of a parked sequence, which goes on.
    Continue {
        /// Which.
        sequence: SequenceId,
        /// Its length.
        tokens: u32,
    },
    /// The beginning of another sequence, whose cells are shared.
    Share {
        /// Which.
        sequence: SequenceId,
        /// How much of it.
        tokens: u32,
        /// Its state there, where it cannot be cut.
        state: Option<Arc<Vec<u8>>>,
    },
    /// From the store.
    Stored(Found),
}

impl Beginning {
    /// Tokens that need not be computed.
    pub(super) fn tokens(&self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Continue { tokens, .. } | Self::Share { tokens, .. } => *tokens,
            Self::Stored(found) => found.tokens,
        }
    }

    /// Tokens that need no cells of their own.
    pub(super) fn shared_tokens(&self) -> u32 {
        match self {
            Self::Nothing | Self::Stored(_) => 0,
            Self::Continue { tokens, .. } | Self::Share { tokens, .. } => *tokens,
        }
    }

    /// The sequence that it needs.
    pub(super) fn sequence(&self) -> Option<SequenceId> {
        match self {
            Self::Nothing | Self::Stored(_) => None,
            Self::Continue { sequence, .. } | Self::Share { sequence, .. } => Some(*sequence),
        }
    }
}

/// Cells on the device from which a prompt could go on.
struct Source<'a> {
    sequence: SequenceId,
    namespace: &'a str,
    tokens: &'a [Token],
    checkpoints: &'a [crate::stream::Checkpoint],
    is_parked: bool,
}

impl ModelLoop {
    /// The longest beginning that a stream can have. The last token is left out: it has to be computed to get the next one.
    pub(super) fn beginning(&self, stream: &Stream, fetched: &Fetched) -> Beginning {
        let wanted = &stream.tokens[..stream.tokens.len() - 1];
        let namespace = &*self.generations[&stream.request].namespace;
        let best = self
            .sources()
            .filter(|source| source.namespace == namespace)
            .filter_map(|source| self.on_device(&source, wanted))
            // To go on in a sequence is cheaper than to share it.
            .max_by_key(|beginning| {
                let goes_on = matches!(beginning, Beginning::Continue { .. });
                (beginning.tokens(), goes_on)
            });
        let best = best.unwrap_or(Beginning::Nothing);
        let enough = (wanted.len() as u32).saturating_sub(REUSE_TOKENS_MIN);
        if best.tokens() >= enough {
            return best;
        }
        let Some(store) = &self.store else {
            return best;
        };
        let found = store.find(namespace, wanted, fetched);
        if found.tokens > best.tokens() + REUSE_TOKENS_MIN {
            Beginning::Stored(found)
        } else {
            best
        }
    }

    fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        let running = self.running.iter().filter_map(|stream| {
            Some(Source {
                sequence: stream.sequence?,
                namespace: &self.generations[&stream.request].namespace,
                tokens: &stream.tokens[..stream.computed_tokens as usize],
                checkpoints: &stream.checkpoints,
                is_parked: false,
            })
        });
        let parked = self.parked.iter().map(|parked| Source {
            sequence: parked.sequence,
            namespace: &parked.namespace,
            tokens: &parked.tokens,
            checkpoints: &parked.checkpoints,
            is_parked: true,
        });
        running.chain(parked)
    }

    /// How far a prompt goes along with anything known, in the store or on the device, whether it can go on from there or not.
    pub(super) fn common(&self, namespace: &str, wanted: &[Token]) -> Common {
        let store = self.store.as_ref();
        let mut common =
            store.map_or_else(Common::default, |store| store.common(namespace, wanted));
        // What has just been computed may not be stored yet.
        for source in self.sources().filter(|it| it.namespace == namespace) {
            let tokens = common_tokens(source.tokens, wanted);
            if tokens > common.tokens {
                let differs = (tokens as usize) < wanted.len();
                common.tokens = tokens;
                common.other = if differs {
                    source.tokens[tokens as usize..].to_vec()
                } else {
                    Vec::new()
                };
            }
            if tokens > common.stored_tokens {
                common.stored_tokens = tokens;
            }
        }
        common
    }

    fn on_device(&self, source: &Source<'_>, wanted: &[Token]) -> Option<Beginning> {
        let common = common_tokens(source.tokens, wanted);
        let sequence = source.sequence;
        if common < REUSE_TOKENS_MIN {
            return None;
        }
        if source.is_parked && common as usize == source.tokens.len() {
            return Some(Beginning::Continue {
                sequence,
                tokens: common,
            });
        }
        match self.archive.class() {
            MemoryClass::Blocks => Some(Beginning::Share {
                sequence,
                tokens: common,
                state: None,
            }),
            MemoryClass::Checkpoints => {
                let within = source
                    .checkpoints
                    .iter()
                    .filter(|checkpoint| checkpoint.tokens <= common);
                let last = within.max_by_key(|checkpoint| checkpoint.tokens)?;
                Some(Beginning::Share {
                    sequence,
                    tokens: last.tokens,
                    state: Some(last.state.clone()),
                })
            }
            MemoryClass::Whole | MemoryClass::Off => None,
        }
    }

    /// True if `waiting[index]` had better wait until a running stream has computed what both begin with.
    pub(super) fn waits_for_prefill(&mut self, index: usize, have_tokens: u32) -> bool {
        let class = self.archive.class();
        if !matches!(class, MemoryClass::Blocks | MemoryClass::Checkpoints) {
            return false;
        }
        let stream = &self.waiting[index];
        let namespace = &self.generations[&stream.request].namespace;
        let wanted = &stream.tokens[..stream.tokens.len() - 1];
        let longest = self
            .running
            .iter()
            .enumerate()
            .filter(|(_, other)| other.pending_tokens() > 1)
            .filter(|(_, other)| self.generations[&other.request].namespace == *namespace)
            .map(|(at, other)| (common_tokens(&other.tokens, wanted), at))
            .filter(|(common, at)| *common > self.running[*at].computed_tokens)
            .max();
        let Some((common, at)) = longest else {
            return false;
        };
        let saved_tokens_min = match class {
            MemoryClass::Blocks => WAIT_TOKENS_MIN,
            _ => WAIT_FOR_STATE_TOKENS_MIN,
        };
        if common < have_tokens + saved_tokens_min {
            return false;
        }
        if class == MemoryClass::Checkpoints {
            self.running[at].add_border(common);
        }
        true
    }

    /// Gives an admitted stream its beginning; returns its sequence, the tokens that are computed, and from where they came.
    pub(super) fn begin(
        &mut self,
        tokens: &[Token],
        beginning: Beginning,
        free: Option<SequenceId>,
    ) -> Option<(SequenceId, CacheReport, Option<Parked>)> {
        let mut report = CacheReport::default();
        let sequence = match beginning {
            Beginning::Continue { sequence, tokens } => {
                let index = self
                    .parked
                    .iter()
                    .position(|parked| parked.sequence == sequence)?;
                let mut parked = self.parked.remove(index);
                self.keep_end(&mut parked);
                report.device_tokens = tokens;
                return Some((sequence, report, Some(parked)));
            }
            Beginning::Nothing => free?,
            Beginning::Share {
                sequence: from,
                tokens,
                state,
            } => {
                let to = free?;
                let state = state.as_ref().map(|state| state.as_slice());
                match self
                    .archive
                    .fork(&mut self.context, from, to, tokens, state)
                {
                    Ok(()) => {
                        self.cells.share(from, to, tokens);
                        report.device_tokens = tokens;
                    }
                    Err(error) => {
                        tracing::warn!("a prompt could not be shared and is computed: {error}");
                    }
                }
                to
            }
            Beginning::Stored(found) => {
                let to = free?;
                let parts: Vec<StoredPart<'_>> = found
                    .parts
                    .iter()
                    .map(|part| StoredPart {
                        kind: part.entry.kind,
                        begin: part.entry.begin,
                        end: part.entry.begin + part.entry.tokens.len() as u32,
                        payload: &part.payload,
                    })
                    .collect();
                let is_right = found
                    .parts
                    .iter()
                    .flat_map(|part| &part.entry.tokens)
                    .zip(tokens)
                    .take(found.tokens as usize)
                    .all(|(stored, wanted)| stored == wanted);
                assert!(is_right, "what was found is what was looked for");
                match self
                    .archive
                    .restore(&mut self.context, to, &parts, found.tokens)
                {
                    Ok(()) => {
                        self.cells.grow(to, found.tokens);
                        for part in &found.parts {
                            let end = part.entry.begin + part.entry.tokens.len() as u32;
                            let used = end.min(found.tokens) - part.entry.begin;
                            match part.tier {
                                Tier::Ram => report.ram_tokens += used,
                                Tier::Disk => report.disk_tokens += used,
                            }
                        }
                    }
                    Err(Unusable { part, error }) => {
                        tracing::warn!(
                            "a stored prompt could not be put back and is dropped: {error}"
                        );
                        // Else it would be tried again each time. What is computed now is stored in its place.
                        if let (Some(store), Some(part)) = (&self.store, found.parts.get(part)) {
                            store.reject(&part.entry.key);
                        }
                    }
                }
                to
            }
        };
        Some((sequence, report, None))
    }

    /// Why the tokens behind the first `have_tokens` of a prompt have to be computed. Called before anything of it is stored.
    pub(super) fn miss(&self, stream: &Stream, have_tokens: u32) -> Option<Miss> {
        let Some(store) = &self.store else {
            return Some(Miss::Off);
        };
        let wanted = &stream.tokens[..stream.tokens.len() - 1];
        let namespace = &self.generations[&stream.request].namespace;
        let known = self.common(namespace, wanted);
        if known.tokens >= have_tokens + REUSE_TOKENS_MIN {
            let is_stored = known.stored_tokens >= have_tokens + REUSE_TOKENS_MIN;
            let is_dropped = known.dropped_tokens >= have_tokens + REUSE_TOKENS_MIN;
            return Some(if is_stored && !is_dropped && self.cut() == Cut::Tails {
                Miss::NoCheckpoint
            } else {
                Miss::Evicted
            });
        }
        if known.tokens < REUSE_TOKENS_MIN && have_tokens == 0 {
            return Some(match store.computed_otherwise() {
                Some(_) => Miss::FingerprintChanged,
                None => Miss::NothingStored,
            });
        }
        if known.other.is_empty() || known.tokens < have_tokens {
            return None;
        }
        let at = known.tokens;
        let ours = &wanted[at as usize..];
        let miss = if is_the_same_again(ours, &known.other) {
            Miss::Volatile { at }
        } else {
            Miss::Diverged { at }
        };
        self.tell_difference(stream, miss, ours, &known.other);
        Some(miss)
    }

    fn tell_difference(&self, stream: &Stream, miss: Miss, ours: &[Token], theirs: &[Token]) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let model = self.context.model();
        let text = |tokens: &[Token]| {
            let some = &tokens[..tokens.len().min(SAME_AGAIN_TOKENS)];
            model.detokenize(some).unwrap_or_default()
        };
        let at = stream.tokens.len() - 1 - ours.len();
        let before = &stream.tokens[at.saturating_sub(SAME_AGAIN_TOKENS)..at];
        tracing::debug!(
            request = stream.request.0,
            "the prompt is {} at token {at}: after {:?} it has {:?}, an earlier one had {:?}",
            miss.name(),
            text(before),
            text(ours),
            text(theirs),
        );
    }

    /// Where stored sequences can be gone on from.
    pub(super) fn cut(&self) -> Cut {
        match self.archive.class() {
            MemoryClass::Blocks => Cut::Anywhere,
            _ => Cut::Tails,
        }
    }
}

/// Tokens that two sequences begin with alike.
fn common_tokens(a: &[Token], b: &[Token]) -> u32 {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() as u32
}

/// True if both go on alike a little behind their difference.
fn is_the_same_again(ours: &[Token], theirs: &[Token]) -> bool {
    let ours = &ours[..ours.len().min(CHANGE_TOKENS_MAX + SAME_AGAIN_TOKENS)];
    let theirs = &theirs[..theirs.len().min(CHANGE_TOKENS_MAX + SAME_AGAIN_TOKENS)];
    let mut windows = ours.windows(SAME_AGAIN_TOKENS);
    windows.any(|window| {
        theirs
            .windows(SAME_AGAIN_TOKENS)
            .any(|other| other == window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_told_from_another_prompt() {
        let after: Vec<Token> = (100..140).collect();
        let ours = [vec![1, 2, 3], after.clone()].concat();
        let theirs = [vec![7], after.clone()].concat();
        assert!(is_the_same_again(&ours, &theirs));
        assert!(!is_the_same_again(&ours, &(500..560).collect::<Vec<_>>()));
        assert!(!is_the_same_again(&ours[..10], &theirs));
        assert!(!is_the_same_again(&[], &theirs));
    }
}
