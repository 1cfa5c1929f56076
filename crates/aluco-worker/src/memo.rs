//! Which tokens a conversation's text stands for.
//!
//! A reply comes back in the next turn as text, and text can be cut into tokens in more than one way: the model may have generated two tokens
//! where the tokenizer would take one. The next prompt would then differ from what was computed, at the start of the reply, and everything
//! behind it would be computed again. So what was tokenized and generated is remembered, and where a later prompt has the same
//! text it gets the same tokens. A long conversation need not be tokenized from the start each turn, either.
//!
//! Only conversations that end with the header of an answer are remembered: the model took up there, so tokens that begin there are what it knows.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aluco_proto::{RequestId, Token};

/// Conversations remembered, and bytes of text and tokens, per model.
const CONVERSATIONS_MAX: usize = 256;
const BYTES_MAX: usize = 64 << 20;

/// What is remembered for one model.
#[derive(Debug, Default)]
pub(crate) struct TokenMemo {
    conversations: Mutex<Conversations>,
}

#[derive(Debug, Default)]
struct Conversations {
    /// Those used last at the end.
    all: VecDeque<Conversation>,
    bytes: usize,
}

#[derive(Debug)]
struct Conversation {
    request: RequestId,
    namespace: String,
    /// The prompt and, once there is one, the reply.
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// How much of both is the prompt.
    prompt_bytes: usize,
    prompt_tokens: usize,
    /// Which bytes of the prompt came from messages. The same letters from the template mean something else.
    inputs: Vec<Range<usize>>,
}

impl Conversation {
    fn bytes(&self) -> usize {
        self.text.len() + self.tokens.len() * size_of::<Token>() + self.namespace.len()
    }

    /// True if the same bytes of the prompt came from messages in a conversation with these `inputs`. In the header of the answer, which was the
    /// template's own, the name of the role may come from a message by now.
    fn has_inputs(&self, inputs: &[Range<usize>]) -> bool {
        let header = self.inputs.last().map_or(0, |last| last.end);
        let split = inputs.partition_point(|range| range.start < header);
        let (before, after) = inputs.split_at(split);
        let mut in_header = after
            .iter()
            .filter(|range| range.start < self.prompt_bytes)
            .map(|range| &self.text[range.start..range.end.min(self.prompt_bytes)]);
        before == self.inputs && in_header.all(|name| name.iter().all(u8::is_ascii_alphanumeric))
    }
}

/// The remembered beginning of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// How many bytes it covers.
    pub(crate) bytes: usize,
    /// Their tokens.
    pub(crate) tokens: Vec<Token>,
}

impl TokenMemo {
    /// Remembers the prompt of a request.
    pub(crate) fn prompt(
        &self,
        request: RequestId,
        namespace: &str,
        text: &str,
        inputs: Vec<Range<usize>>,
        tokens: &[Token],
    ) {
        let mut conversations = self.lock();
        conversations.add(Conversation {
            request,
            namespace: namespace.to_owned(),
            text: text.as_bytes().to_vec(),
            tokens: tokens.to_vec(),
            prompt_bytes: text.len(),
            prompt_tokens: tokens.len(),
            inputs,
        });
    }

    /// Remembers the reply to a request; `tokens` without the one that ended it, `text` what they spell.
    pub(crate) fn reply(&self, request: RequestId, tokens: &[Token], text: &[u8]) {
        let mut conversations = self.lock();
        let all = &conversations.all;
        let Some(index) = all.iter().rposition(|known| known.request == request) else {
            return;
        };
        let Some(mut known) = conversations.remove(index) else {
            return;
        };
        // Of several choices the last one that ended is remembered.
        known.text.truncate(known.prompt_bytes);
        known.tokens.truncate(known.prompt_tokens);
        known.text.extend_from_slice(text);
        known.tokens.extend_from_slice(tokens);
        conversations.add(known);
    }

    /// The longest remembered conversation that `text` begins with. `inputs` are the ranges of it that came from messages.
    pub(crate) fn find(
        &self,
        namespace: &str,
        text: &str,
        inputs: &[Range<usize>],
    ) -> Option<Known> {
        let mut conversations = self.lock();
        let text = text.as_bytes();
        let (bytes, index) = conversations
            .all
            .iter()
            .enumerate()
            .filter(|(_, known)| known.namespace == namespace)
            .filter_map(|(index, known)| {
                let covered = [known.text.len(), known.prompt_bytes]
                    .into_iter()
                    .find(|bytes| text.starts_with(&known.text[..*bytes]))?;
                known.has_inputs(inputs).then_some((covered, index))
            })
            .max()?;
        let known = conversations.remove(index)?;
        let tokens = if bytes == known.prompt_bytes {
            &known.tokens[..known.prompt_tokens]
        } else {
            &known.tokens
        };
        let found = Known {
            bytes,
            tokens: tokens.to_vec(),
        };
        conversations.add(known);
        Some(found)
    }

    fn lock(&self) -> MutexGuard<'_, Conversations> {
        self.conversations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conversations {
    fn add(&mut self, conversation: Conversation) {
        self.bytes += conversation.bytes();
        self.all.push_back(conversation);
        while self.all.len() > CONVERSATIONS_MAX || self.bytes > BYTES_MAX {
            self.remove(0);
        }
    }

    fn remove(&mut self, index: usize) -> Option<Conversation> {
        let conversation = self.all.remove(index)?;
        self.bytes -= conversation.bytes();
        Some(conversation)
    }
}

#[cfg(test)]
// One range in a list is what is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn memo() -> TokenMemo {
        let memo = TokenMemo::default();
        memo.prompt(
            RequestId(1),
            "",
            "user: hi\nassistant: ",
            vec![6..8],
            &[1, 2, 3],
        );
        memo.reply(RequestId(1), &[40, 41], b"hello");
        memo
    }

    #[test]
    fn the_next_turn_gets_the_tokens_that_were_generated() {
        let next = "user: hi\nassistant: hello\nuser: more\nassistant: ";
        // The name of the role is the template's in the first turn and the message's in the second.
        let inputs = [6..8, 9..18, 20..25, 32..36];
        let known = memo().find("", next, &inputs).unwrap();
        assert_eq!((known.bytes, known.tokens), (25, vec![1, 2, 3, 40, 41]));
        // A reply that was changed still has its question.
        let changed = next.replace("hello", "help");
        let known = memo().find("", &changed, &[6..8, 20..24, 31..35]).unwrap();
        assert_eq!((known.bytes, known.tokens), (20, vec![1, 2, 3]));
        assert_eq!(memo().find("", "user: ho\nassistant: ", &[6..8]), None);
        assert_eq!(memo().find("someone", next, &inputs), None);
    }

    #[test]
    fn typed_letters_do_not_pose_as_the_template() {
        // The whole text was typed into one message.
        let next = "user: hi\nassistant: hello\nuser: more\nassistant: ";
        assert_eq!(memo().find("", next, &[6..36]), None);
        assert_eq!(memo().find("", next, &[]), None);
        // The header was typed behind the question, or into the name of a role.
        assert_eq!(memo().find("", next, &[6..20]), None);
        assert_eq!(memo().find("", next, &[6..8, 9..20]), None);
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten() {
        let memo = memo();
        for request in 2..400 {
            memo.prompt(
                RequestId(request),
                "",
                &format!("{request} "),
                Vec::new(),
                &[5],
            );
            let used = memo.find("", "user: hi\nassistant: ", &[6..8]);
            assert!(used.is_some(), "{request}");
        }
        assert_eq!(memo.find("", "2 ", &[]), None);
        assert!(memo.find("", "399 and more", &[]).is_some());
        let conversations = memo.lock();
        assert_eq!(conversations.all.len(), CONVERSATIONS_MAX);
        let bytes: usize = conversations.all.iter().map(Conversation::bytes).sum();
        assert_eq!(bytes, conversations.bytes);
    }

    #[test]
    fn memory_is_bounded() {
        let memo = memo();
        for request in 2..12 {
            let text = format!("{request}{}", "x".repeat(BYTES_MAX / 5));
            memo.prompt(RequestId(request), "", &text, Vec::new(), &[5]);
            assert!(memo.lock().bytes <= BYTES_MAX);
        }
        memo.reply(RequestId(1), &[1], b"too late");
        assert!(memo.lock().all.len() < 6);
    }
}
