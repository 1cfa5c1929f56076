//! One choice of a generation: its tokens, its text, how far it is.

pub mod catch_up;
pub mod lookup;

use std::{sync::Arc, time::Duration};

use aluco_prefix::Origin;
use aluco_proto::{FinishReason, RequestId, Token};

use self::{catch_up::CatchUp, lookup::Lookup};
use crate::{ffi::SequenceId, text::TextStream};

/// One choice of a generation. It owns no engine state but the name of its sequence, so it can lose that and be computed again.
#[derive(Debug)]
pub struct Stream {
    /// The generation that it belongs to.
    pub request: RequestId,
    /// Which choice, from 0.
    pub choice: u32,
    /// The prompt and what was generated.
    pub tokens: Vec<Token>,
    /// How many of `tokens` are the prompt.
    pub prompt_tokens: u32,
    /// How many of `tokens` lie in KV cells. Always less than `tokens.len()`: the last token is computed to get the next.
    pub computed_tokens: u32,
    /// Its sequence, while it runs.
    pub sequence: Option<SequenceId>,
    /// The length, in tokens, for which cells were promised to it when it was admitted.
    pub promised_tokens: u32,
    /// Positions at which its state is to be kept, in rising order, all beyond what is computed.
    pub borders: Vec<u32>,
    /// What was kept on the way.
    pub checkpoints: Vec<Checkpoint>,
    /// What of it was looked at for storing while it runs.
    pub kept: Kept,
    /// Time that was spent on computing it, here: of steps that it shared with others, its share.
    pub spent: Duration,
    /// Whose it is, for what its entries in the prefix store are worth.
    pub origin: Origin,
    /// True once its last event was sent; its cells are free at the end of the step.
    pub finished: bool,
    /// Decoded text.
    pub text: TextStream,
    /// Bytes of text that are still to be decoded again and were sent by another worker.
    pub sent_bytes: usize,
    /// How what another worker generated of it is computed.
    pub catch_up: CatchUp,
    /// Where its drafts come from.
    pub lookup: Lookup,
}

/// What of a stream was looked at for storing while it runs, in tokens from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// To where its blocks were.
    pub blocks_end: u32,
    /// The position of the last checkpoint that was.
    pub checkpoint: u32,
    /// The end of its prompt was.
    pub prompt_end: bool,
}

/// The state of a sequence at some position, where it cannot be cut there later.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Tokens computed by then.
    pub tokens: u32,
    /// What cannot be cut; see [`crate::memory`].
    pub state: Arc<Vec<u8>>,
}

/// What a sampled token means for a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Advance {
    /// Text that became certain.
    pub text: String,
    /// True if the token is part of the output (the end-of-generation token is not).
    pub visible: bool,
    /// Set if the stream ends here.
    pub finished: Option<FinishReason>,
}

/// Where a stream has to end.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most tokens to generate.
    pub tokens_max: Option<u32>,
    /// Tokens that one sequence can hold.
    pub context_tokens: u32,
}

impl Stream {
    /// Tokens generated so far.
    pub fn generated_tokens(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_tokens
    }

    /// Tokens that have to be computed before the next one can be sampled.
    pub fn pending_tokens(&self) -> u32 {
        self.tokens.len() as u32 - self.computed_tokens
    }

    /// Tokens that may be computed together with the next one; `None` if the next one is to be decoded alone.
    pub fn prefill_tokens(&self) -> Option<u32> {
        let end = match self.catch_up {
            _ if self.generated_tokens() == 0 => return Some(self.pending_tokens()),
            CatchUp::Retrace => self.prompt_tokens,
            // A stream that was computed before and lost its cells has many tokens to compute, and is a prefill again.
            CatchUp::Prefill if self.pending_tokens() > 1 => self.tokens.len() as u32,
            CatchUp::Prefill => return None,
        };
        end.checked_sub(self.computed_tokens)
            .filter(|left| *left > 0)
    }

    /// Tokens until the next border; `None` if there is none.
    pub fn until_border(&self) -> Option<u32> {
        let next = self
            .borders
            .iter()
            .find(|border| **border > self.computed_tokens);
        next.map(|border| border - self.computed_tokens)
    }

    /// Has the state kept after so many tokens, if that is still to come.
    pub fn add_border(&mut self, tokens: u32) {
        if tokens <= self.computed_tokens || tokens >= self.tokens.len() as u32 {
            return;
        }
        if let Err(index) = self.borders.binary_search(&tokens) {
            self.borders.insert(index, tokens);
        }
    }

    /// Takes the next token; `bytes` is its text and `is_end` tells an end-of-generation token.
    pub fn accept(
        &mut self,
        token: Token,
        bytes: &[u8],
        is_end: bool,
        stops: &[String],
        bounds: Bounds,
    ) -> Advance {
        self.tokens.push(token);
        if is_end {
            return Advance {
                text: self.finish_text(),
                visible: false,
                finished: Some(FinishReason::EndOfGeneration),
            };
        }
        let piece = self.text.push(bytes);
        let mut text = piece.text;
        let finished = if let Some(stop) = piece.stop {
            Some(FinishReason::StopString(stops[stop].clone()))
        } else if self.is_full(bounds) {
            text.push_str(&self.text.finish());
            Some(FinishReason::Length)
        } else {
            None
        };
        Advance {
            text: self.unsent(text),
            visible: true,
            finished,
        }
    }

    /// Takes the tokens that another worker generated before it was lost, and gives what is left to be said of them: text that had not
    /// been sent, and the end if they come to it.
    pub fn replay(
        &mut self,
        generated: &[Token],
        sent_bytes: u64,
        bytes: impl Fn(Token) -> Vec<u8>,
        stops: &[String],
        bounds: Bounds,
    ) -> (String, Option<FinishReason>) {
        self.sent_bytes = usize::try_from(sent_bytes).unwrap_or(usize::MAX);
        let mut text = String::new();
        for token in generated {
            // The token that ends a generation is no part of what was sent.
            let advance = self.accept(*token, &bytes(*token), false, stops, bounds);
            text.push_str(&advance.text);
            if advance.finished.is_some() {
                return (text, advance.finished);
            }
        }
        (text, None)
    }

    /// What is still held of its text when it ends by itself.
    pub fn finish_text(&mut self) -> String {
        let text = self.text.finish();
        self.unsent(text)
    }

    /// The part of newly certain text that no other worker has sent.
    fn unsent(&mut self, mut text: String) -> String {
        let skipped = self.sent_bytes.min(text.len());
        self.sent_bytes -= skipped;
        // It was sent in whole characters, so it ends between two.
        let begin = (0..=skipped).rfind(|at| text.is_char_boundary(*at));
        text.split_off(begin.unwrap_or(0))
    }

    /// True if no further token may be sampled.
    pub fn is_full(&self, bounds: Bounds) -> bool {
        self.room_tokens(bounds) == 0
    }

    /// Tokens that may still be sampled.
    pub fn room_tokens(&self, bounds: Bounds) -> u32 {
        // The last token need not be computed, so a sequence may hold one token more than it has cells.
        let cells = (bounds.context_tokens + 1).saturating_sub(self.tokens.len() as u32);
        bounds.tokens_max.map_or(cells, |most| {
            cells.min(most.saturating_sub(self.generated_tokens()))
        })
    }

    /// Forgets its cells: it will be computed again from its tokens.
    pub fn release(&mut self) -> Option<SequenceId> {
        self.computed_tokens = 0;
        self.promised_tokens = 0;
        self.checkpoints.clear();
        self.kept = Kept::default();
        self.catch_up = CatchUp::Prefill;
        self.lookup.release();
        self.sequence.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Bounds = Bounds {
        tokens_max: None,
        context_tokens: 100,
    };

    fn stream(stops: &[&str]) -> (Stream, Vec<String>) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let stream = Stream {
            request: RequestId(1),
            choice: 0,
            tokens: vec![1, 2, 3],
            prompt_tokens: 3,
            computed_tokens: 3,
            sequence: Some(0),
            promised_tokens: 10,
            borders: Vec::new(),
            checkpoints: Vec::new(),
            kept: Kept::default(),
            spent: Duration::ZERO,
            origin: Origin::New,
            finished: false,
            text: TextStream::new(stops.clone()),
            sent_bytes: 0,
            catch_up: CatchUp::Prefill,
            lookup: Lookup::default(),
        };
        (stream, stops)
    }

    #[test]
    fn the_end_token_lets_go_what_was_held() {
        let (mut stream, stops) = stream(&["ab"]);
        assert_eq!(stream.accept(7, b"xa", false, &stops, OPEN).text, "x");
        let end = stream.accept(8, b"", true, &stops, OPEN);
        assert_eq!(
            (end.text.as_str(), end.visible, end.finished),
            ("a", false, Some(FinishReason::EndOfGeneration))
        );
        assert_eq!(stream.generated_tokens(), 2);
    }

    #[test]
    fn a_stop_string_is_named() {
        let (mut stream, stops) = stream(&["ab"]);
        let end = stream.accept(7, b"xab", false, &stops, OPEN);
        assert_eq!(
            (end.text.as_str(), end.finished),
            ("x", Some(FinishReason::StopString("ab".into())))
        );
    }

    #[test]
    fn both_bounds_end_a_stream() {
        let (mut limited, stops) = stream(&[]);
        let bounds = Bounds {
            tokens_max: Some(2),
            ..OPEN
        };
        assert_eq!(
            limited.accept(7, b"a", false, &stops, bounds).finished,
            None
        );
        assert_eq!(
            limited.accept(7, b"b", false, &stops, bounds).finished,
            Some(FinishReason::Length)
        );
        let (mut full, stops) = stream(&[]);
        let bounds = Bounds {
            context_tokens: 4,
            ..OPEN
        };
        assert_eq!(full.accept(7, b"a", false, &stops, bounds).finished, None);
        assert_eq!(
            full.accept(7, b"b", false, &stops, bounds).finished,
            Some(FinishReason::Length)
        );
    }

    #[test]
    fn room_is_what_the_nearer_bound_leaves() {
        let (stream, _) = stream(&[]);
        let room = |tokens_max, context_tokens| {
            stream.room_tokens(Bounds {
                tokens_max,
                context_tokens,
            })
        };
        // Of three tokens, the context of five holds two more, and one that is not computed.
        assert_eq!(
            (room(None, 5), room(Some(2), 5), room(Some(9), 5)),
            (3, 2, 3)
        );
        assert_eq!((room(None, 2), room(Some(0), 5)), (0, 0));
    }

    #[test]
    fn a_released_stream_computes_everything_again() {
        let (mut stream, stops) = stream(&[]);
        stream.accept(7, b"a", false, &stops, OPEN);
        assert_eq!(stream.pending_tokens(), 1);
        assert_eq!(stream.release(), Some(0));
        assert_eq!(
            (
                stream.pending_tokens(),
                stream.promised_tokens,
                stream.sequence
            ),
            (4, 0, None)
        );
    }

    #[test]
    fn a_stream_that_is_taken_up_says_the_rest_and_nothing_twice() {
        let owl = "\u{1f989}".as_bytes();
        let pieces: Vec<&[u8]> = vec![
            b"one E",
            b"N",
            b" two",
            &owl[..2],
            &owl[2..],
            b" E",
            b"ND",
            b"x",
        ];
        let bytes = |token: Token| pieces[token as usize].to_vec();
        for cut in 0..7 {
            let (mut first, stops) = stream(&["END"]);
            let mut said = String::new();
            for token in 0..cut {
                said += &first.accept(token, &bytes(token), false, &stops, OPEN).text;
            }
            let (mut second, _) = stream(&["END"]);
            let generated: Vec<Token> = (0..cut).collect();
            let (text, end) = second.replay(&generated, said.len() as u64, bytes, &stops, OPEN);
            assert_eq!((text.as_str(), end), ("", None), "cut at {cut}");
            assert_eq!(second.generated_tokens(), cut as u32);
            let mut end = None;
            for token in cut..7 {
                let advance = second.accept(token, &bytes(token), false, &stops, OPEN);
                said += &advance.text;
                end = advance.finished;
            }
            assert_eq!(said, "one EN two\u{1f989} ", "cut at {cut}");
            assert_eq!(end, Some(FinishReason::StopString("END".into())));
        }
    }

    #[test]
    fn a_stream_that_had_ended_unheard_ends_when_it_is_taken_up() {
        let (mut full, stops) = stream(&["END"]);
        let bounds = Bounds {
            tokens_max: Some(2),
            ..OPEN
        };
        let letters = |_| b"EN".to_vec();
        // The last delta was lost with the worker, its tokens were not.
        let (text, end) = full.replay(&[7, 7], 2, letters, &stops, bounds);
        assert_eq!((text.as_str(), end), ("EN", Some(FinishReason::Length)));
        let (mut ended, stops) = stream(&["END"]);
        // What was held at the end had been sent, and the end had not.
        ended.replay(&[7], 2, letters, &stops, OPEN);
        let advance = ended.accept(9, b"", true, &stops, OPEN);
        assert_eq!((advance.text.as_str(), advance.visible), ("", false));
    }

    #[test]
    fn a_reply_is_retraced_behind_its_prompt_and_computed_at_once_otherwise() {
        let (mut stream, stops) = stream(&[]);
        stream.computed_tokens = 1;
        assert_eq!(stream.prefill_tokens(), Some(2));
        for _ in 0..4 {
            stream.accept(7, b"a", false, &stops, OPEN);
        }
        assert_eq!(stream.prefill_tokens(), Some(6));
        stream.catch_up = CatchUp::Retrace;
        assert_eq!(stream.prefill_tokens(), Some(2));
        // The prompt is there, and some of the reply.
        for (computed, left_at_once) in [(3, Some(4)), (4, Some(3)), (5, Some(2)), (6, None)] {
            stream.computed_tokens = computed;
            stream.catch_up = CatchUp::Retrace;
            assert_eq!(stream.prefill_tokens(), None, "{computed}");
            stream.catch_up = stream.catch_up.among(2);
            assert_eq!(stream.prefill_tokens(), left_at_once, "{computed}");
        }
    }

    #[test]
    fn borders_lie_ahead_and_within_the_tokens() {
        let (mut stream, _) = stream(&[]);
        stream.tokens = (0..20).collect();
        for border in [3, 10, 5, 10, 20, 30] {
            stream.add_border(border);
        }
        assert_eq!(stream.borders, [5, 10]);
        assert_eq!(stream.until_border(), Some(2));
        stream.computed_tokens = 5;
        assert_eq!(stream.until_border(), Some(5));
        stream.computed_tokens = 12;
        assert_eq!(stream.until_border(), None);
    }
}
