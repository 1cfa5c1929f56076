//! A vocabulary of words, a chat template and stop strings, all as simple as can be.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use aluco_proto::{ChatPrompt, Failure, FailureKind, Prompt, Token};

/// Words get ids in the order in which they are first seen.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    words: Mutex<(Vec<String>, HashMap<String, Token>)>,
}

impl Vocabulary {
    pub(crate) fn id(&self, word: &str) -> Token {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let (list, ids) = &mut *words;
        *ids.entry(word.to_owned()).or_insert_with(|| {
            list.push(word.to_owned());
            list.len() as Token - 1
        })
    }

    pub(crate) fn tokenize(&self, text: &str) -> Vec<Token> {
        words(text).iter().map(|word| self.id(word)).collect()
    }

    pub(crate) fn detokenize(&self, tokens: &[Token]) -> Result<String, Failure> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .iter()
            .map(|&token| {
                usize::try_from(token)
                    .ok()
                    .and_then(|index| words.0.get(index).cloned())
                    .ok_or_else(|| invalid(format!("token {token} is not in the vocabulary")))
            })
            .collect()
    }
}

/// Cuts a text before each run of spaces, so that the pieces add up to the text.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::<String>::new();
    let mut after_space = true;
    for character in text.chars() {
        let is_space = character.is_whitespace();
        match words.last_mut() {
            Some(word) if !is_space || after_space => word.push(character),
            _ => words.push(character.to_string()),
        }
        after_space = is_space;
    }
    words
}

/// The text of a prompt, and what an echo of it is.
pub(crate) fn prompt_text(
    prompt: &Prompt,
    vocabulary: &Vocabulary,
) -> Result<(String, String), Failure> {
    match prompt {
        Prompt::Text(text) => Ok((text.clone(), text.clone())),
        Prompt::Tokens(tokens) => {
            let text = vocabulary.detokenize(tokens)?;
            Ok((text.clone(), text))
        }
        Prompt::Chat(chat) => {
            let rendered = render(chat)?;
            let last = chat
                .messages
                .as_array()
                .and_then(|messages| messages.last())
                .map(content)
                .unwrap_or_default();
            Ok((rendered, last))
        }
    }
}

/// `<|role|> content` per message, one a line.
pub(crate) fn render(chat: &ChatPrompt) -> Result<String, Failure> {
    let messages = chat
        .messages
        .as_array()
        .filter(|messages| !messages.is_empty())
        .ok_or_else(|| invalid("messages must be an array with at least one entry".to_owned()))?;
    let mut text = String::new();
    for message in messages {
        let role = message["role"]
            .as_str()
            .ok_or_else(|| invalid("a message has no role".to_owned()))?;
        for piece in ["<|", role, "|> ", &content(message), "\n"] {
            text += piece;
        }
    }
    if chat.add_generation_prompt {
        text += "<|assistant|>";
    }
    Ok(text)
}

fn content(message: &serde_json::Value) -> String {
    match &message["content"] {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

/// Holds text back while it may be the begin of a stop string.
#[derive(Debug, Default)]
pub(crate) struct StopFilter {
    pending: String,
}

impl StopFilter {
    /// Text that may go out, and the stop string if one came up.
    pub(crate) fn push(&mut self, text: &str, stops: &[String]) -> (String, Option<String>) {
        self.pending += text;
        if stops.is_empty() {
            return (std::mem::take(&mut self.pending), None);
        }
        let found = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| self.pending.find(stop.as_str()).map(|at| (at, stop)))
            .min_by_key(|(at, _)| *at);
        if let Some((at, stop)) = found {
            self.pending.truncate(at);
            return (std::mem::take(&mut self.pending), Some(stop.clone()));
        }
        let held = (0..self.pending.len())
            .filter(|&at| self.pending.is_char_boundary(at))
            .find(|&at| {
                stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.pending[at..]))
            })
            .unwrap_or(self.pending.len());
        let rest = self.pending.split_off(held);
        (std::mem::replace(&mut self.pending, rest), None)
    }

    /// What is left when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.pending)
    }
}

pub(crate) fn invalid(message: String) -> Failure {
    Failure {
        kind: FailureKind::InvalidRequest,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_add_up_to_the_text() {
        for text in ["", " ", "one", " one  two\nthree ", "größer als ß"] {
            assert_eq!(words(text).concat(), text);
        }
        assert_eq!(words("one two"), ["one", " two"]);
    }

    #[test]
    fn tokens_become_the_text_again() {
        let vocabulary = Vocabulary::default();
        let tokens = vocabulary.tokenize("to be or not to be");
        assert_eq!(tokens.len(), 6);
        assert_eq!(tokens[1], tokens[5]);
        assert_eq!(
            vocabulary.detokenize(&tokens).unwrap(),
            "to be or not to be"
        );
        assert!(vocabulary.detokenize(&[99]).is_err());
    }

    #[test]
    fn a_stop_string_across_pieces_is_cut_out() {
        let stops = ["END".to_owned()];
        let mut filter = StopFilter::default();
        assert_eq!(filter.push("some E", &stops), ("some ".to_owned(), None));
        assert_eq!(filter.push("N", &stops), (String::new(), None));
        assert_eq!(
            filter.push("D more", &stops),
            (String::new(), Some("END".to_owned()))
        );
    }

    #[test]
    fn a_held_begin_of_a_stop_string_comes_out_at_the_end() {
        let stops = ["END".to_owned()];
        let mut filter = StopFilter::default();
        assert_eq!(filter.push("the EN", &stops), ("the ".to_owned(), None));
        assert_eq!(filter.finish(), "EN");
    }
}
