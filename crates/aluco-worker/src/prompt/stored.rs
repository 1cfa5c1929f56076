//! Tokens of stored prompts that spell the beginning of a text.
//!
//! What [`crate::memo::TokenMemo`] remembers ends with its process, and what lies on disk does not. So the text of a conversation is held
//! against what the stored tokens spell, and keeps them as far as they go. Three rules make that safe:
//!
//! * a control token stands just where the template spelled it; the same letters in a message are letters;
//! * what the tokens spell is the text, byte by byte;
//! * where they are left for the tokenizer's own, no word is cut in two that it would have taken as one, but where a reply was
//!   generated like that.

use std::collections::HashMap;

use aluco_prefix::{Place, Store};
use aluco_proto::Token;

use crate::ffi::{EngineError, Model, RenderedChat};

/// How far from its end what is stored may differ from the tokenizer's own cut and be no reply: the word at the end may have gone on otherwise.
const WORD_TOKENS: usize = 4;

/// A reply that is stored differs by no more than this from what comes back: a stop string, the white space at its end, its last token.
const END_BYTES_MAX: usize = 16;

/// What tokens spell.
pub(super) trait Vocabulary {
    /// The bytes of a token.
    fn spelling(&self, token: Token) -> Vec<u8>;
    /// True if it is a control token.
    fn is_control(&self, token: Token) -> bool;
}

impl Vocabulary for Model {
    fn spelling(&self, token: Token) -> Vec<u8> {
        self.token_bytes(token, true)
    }

    fn is_control(&self, token: Token) -> bool {
        Self::is_control(self, token)
    }
}

/// A control token that the template spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Control {
    token: Token,
    /// Where its letters are in the text.
    begin: usize,
    end: usize,
}

/// A text, and what is known of its tokens before it is tokenized.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    text: &'a str,
    /// The token that every prompt begins with and that is not in the text.
    begin_token: Option<Token>,
    /// In order.
    controls: Vec<Control>,
}

/// Stored tokens that spell the beginning of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    tokens: Vec<Token>,
    /// The bytes that they spell.
    bytes: usize,
    /// How many of both there are up to the last control token.
    control_tokens: usize,
    control_bytes: usize,
    /// True if it may be a reply that ends there.
    is_end: bool,
}

impl<'a> Outline<'a> {
    /// The outline of a rendered conversation. `None` if its tokens do not spell its text, or if it has no control tokens.
    pub(super) fn of(
        model: &Model,
        rendered: &'a RenderedChat,
        text: &'a str,
    ) -> Result<Option<Self>, EngineError> {
        let begin_token = match *model.tokenize("", true, true)? {
            [] => None,
            [token] => Some(token),
            _ => return Ok(None),
        };
        let mut controls = Vec::new();
        // Templates repeat themselves.
        let mut known: HashMap<&str, Vec<Control>> = HashMap::new();
        let mut begin = 0;
        for part in &rendered.parts {
            let part_begin = begin;
            begin += part.text.len();
            if part.is_input {
                continue;
            }
            let part = part.text.as_str();
            if !known.contains_key(part) {
                let tokens = model.tokenize(part, false, true)?;
                let Some(found) = controls_in(model, part, &tokens) else {
                    return Ok(None);
                };
                known.insert(part, found);
            }
            controls.extend(known[part].iter().map(|control| Control {
                begin: part_begin + control.begin,
                end: part_begin + control.end,
                ..*control
            }));
        }
        Ok((!controls.is_empty()).then_some(Self {
            text,
            begin_token,
            controls,
        }))
    }

    /// How much of the text is spelled with `token` behind `place`, if it may stand there.
    fn step(&self, vocabulary: &impl Vocabulary, place: Place, token: Token) -> Option<usize> {
        let begin = place.covered;
        if let (0, Some(begin_token)) = (place.tokens, self.begin_token) {
            return (token == begin_token).then_some(begin);
        }
        let next = self.next_control(begin);
        if vocabulary.is_control(token) {
            let next = next.filter(|next| next.begin == begin && next.token == token)?;
            return Some(next.end);
        }
        let spelling = vocabulary.spelling(token);
        let end = next.map_or(self.text.len(), |next| next.begin);
        let letters = &self.text.as_bytes()[begin..end];
        let agrees = !spelling.is_empty() && letters.starts_with(&spelling);
        agrees.then_some(begin + spelling.len())
    }

    fn next_control(&self, begin: usize) -> Option<&Control> {
        let index = self
            .controls
            .partition_point(|control| control.begin < begin);
        self.controls.get(index)
    }

    /// The stored prompt that spells most of the text.
    pub(super) fn find(
        &self,
        vocabulary: &impl Vocabulary,
        store: &Store,
        namespace: &str,
    ) -> Option<Stored> {
        let followed = store.follow(namespace, |place, token| {
            self.step(vocabulary, place, token)
        });
        let mut tokens = followed.tokens;
        let mut bytes = followed.covered;
        let mut ends_entry = followed.ends_entry;
        // What follows is text of its own and begins with a whole character.
        while !self.text.is_char_boundary(bytes) {
            bytes -= vocabulary.spelling(tokens.pop()?).len();
            ends_entry = false;
        }
        let own = usize::from(self.begin_token.is_some());
        let is_control = |token: &Token| vocabulary.is_control(*token);
        let control_tokens = 1 + tokens.iter().skip(own).rposition(is_control)? + own;
        // Each stands for one of the text's.
        let passed = tokens[own..].iter().filter(|token| is_control(token));
        let control_bytes = self.controls[passed.count() - 1].end;
        let next = self.next_control(bytes);
        let is_end = ends_entry || next.is_some_and(|next| next.begin - bytes <= END_BYTES_MAX);
        Some(Stored {
            tokens,
            bytes,
            control_tokens,
            control_bytes,
            is_end,
        })
    }
}

/// The control tokens of a template's own text, if its tokens spell it.
fn controls_in(vocabulary: &impl Vocabulary, text: &str, tokens: &[Token]) -> Option<Vec<Control>> {
    let mut begin = 0;
    let mut controls = Vec::new();
    for token in tokens {
        let spelling = vocabulary.spelling(*token);
        let end = begin + spelling.len();
        if text.as_bytes().get(begin..end) != Some(&*spelling) {
            return None;
        }
        if vocabulary.is_control(*token) {
            controls.push(Control {
                token: *token,
                begin,
                end,
            });
        }
        begin = end;
    }
    (begin == text.len()).then_some(controls)
}

impl Stored {
    /// How many bytes of the text it spells.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The tokens of the whole text. `rest` tokenizes it from a byte on, if tokens can be put together there.
    pub(super) fn complete<E>(
        mut self,
        mut rest: impl FnMut(usize) -> Result<Option<Vec<Token>>, E>,
    ) -> Result<Option<Vec<Token>>, E> {
        let Some(plain) = rest(self.control_bytes)? else {
            return Ok(None);
        };
        let behind = &self.tokens[self.control_tokens..];
        let alike = behind.iter().zip(&plain).take_while(|(a, b)| a == b);
        let was_generated = alike.count() + WORD_TOKENS < behind.len();
        if self.is_end
            && was_generated
            && let Some(rest) = rest(self.bytes)?
        {
            self.tokens.extend(rest);
            return Ok(Some(self.tokens));
        }
        self.tokens.truncate(self.control_tokens);
        self.tokens.extend(plain);
        Ok(Some(self.tokens))
    }
}

#[cfg(test)]
mod tests;
