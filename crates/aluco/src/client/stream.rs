//! The answer of a chat completion, event by event.

use std::collections::VecDeque;

use reqwest::Response;

use super::{
    ClientError,
    sse::{SseEvent, SseParser},
    wire::{Chunk, Timings, Usage},
};

/// What a streamed answer brings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ChatEvent {
    /// The prompt is being computed.
    Prefill {
        /// Tokens that are done.
        processed_tokens: u64,
        /// Tokens in all.
        prompt_tokens: u64,
    },
    /// New text.
    Delta(String),
    /// Why the text ends, such as `stop` or `length`.
    Finished(String),
    /// How many tokens there were.
    Usage(Usage),
    /// Where the time went.
    Timings(Timings),
}

/// A streamed answer. Dropping it closes the connection, and the server stops generating.
#[derive(Debug)]
pub(crate) struct ChatStream {
    response: Response,
    url: String,
    parser: SseParser,
    unread: Vec<SseEvent>,
    events: VecDeque<ChatEvent>,
    is_done: bool,
}

impl ChatStream {
    pub(super) fn new(response: Response, url: String) -> Self {
        Self {
            response,
            url,
            parser: SseParser::default(),
            unread: Vec::new(),
            events: VecDeque::new(),
            is_done: false,
        }
    }

    /// The next event; `None` after the last. Nothing is lost if the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Option<ChatEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.is_done {
                return Ok(None);
            }
            let chunk = self
                .response
                .chunk()
                .await
                .map_err(|error| ClientError::network(&self.url, &error))?;
            let Some(bytes) = chunk else {
                return Err(self.broken("the answer stops in the middle".to_owned()));
            };
            if self.parser.push(&bytes, &mut self.unread).is_err() {
                return Err(self.broken("the answer has a line without end".to_owned()));
            }
            for event in std::mem::take(&mut self.unread) {
                match event {
                    SseEvent::Comment(comment) => self.events.extend(prefill(&comment)),
                    SseEvent::Data(data) if data == "[DONE]" => self.is_done = true,
                    SseEvent::Data(data) => self.take(&data)?,
                }
            }
        }
    }

    fn take(&mut self, data: &str) -> Result<(), ClientError> {
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|error| self.broken(format!("the answer cannot be read: {error}")))?;
        if let Some(error) = chunk.error {
            return Err(ClientError::Refused {
                message: error.message,
                code: error.code,
            });
        }
        for choice in chunk.choices {
            let delta = choice.delta.content.filter(|text| !text.is_empty());
            self.events.extend(delta.map(ChatEvent::Delta));
            self.events
                .extend(choice.finish_reason.map(ChatEvent::Finished));
        }
        self.events.extend(chunk.usage.map(ChatEvent::Usage));
        self.events.extend(chunk.timings.map(ChatEvent::Timings));
        Ok(())
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            url: self.url.clone(),
            reason,
        }
    }
}

/// Reads `prefill 512/4096`.
fn prefill(comment: &str) -> Option<ChatEvent> {
    let (processed, total) = comment.strip_prefix("prefill ")?.split_once('/')?;
    Some(ChatEvent::Prefill {
        processed_tokens: processed.trim().parse().ok()?,
        prompt_tokens: total.trim().parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_comments_and_other_comments_are_left_alone() {
        assert_eq!(
            prefill("prefill 512/4096"),
            Some(ChatEvent::Prefill {
                processed_tokens: 512,
                prompt_tokens: 4096
            })
        );
        for comment in [
            "",
            "ping",
            "prefill",
            "prefill 1",
            "prefill a/b",
            "prefill -1/5",
        ] {
            assert_eq!(prefill(comment), None, "{comment}");
        }
    }
}
