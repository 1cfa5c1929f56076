//! The answer of a chat completion, event by event.

use std::{collections::VecDeque, time::Duration};

use reqwest::Response;
use tokio::time::timeout;

use super::{
    ClientError,
    sse::{SseEvent, SseParser},
    wire::{Chunk, Timings, Usage},
};

/// Longest silence. Aluco's server sends a comment every few seconds when it has nothing else to say.
const SILENCE_MAX: Duration = Duration::from_secs(120);

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
    /// What comes after the events: nothing more, or an error.
    end: Option<Result<(), ClientError>>,
    silence_max: Duration,
}

impl ChatStream {
    pub(super) fn new(response: Response, url: String) -> Self {
        Self {
            response,
            url,
            parser: SseParser::default(),
            unread: Vec::new(),
            events: VecDeque::new(),
            end: None,
            silence_max: SILENCE_MAX,
        }
    }

    /// The next event; `None` after the last. Nothing is lost if the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<Option<ChatEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if let Some(end) = self.end.take() {
                self.end = Some(Ok(()));
                return end.map(|()| None);
            }
            let Ok(chunk) = timeout(self.silence_max, self.response.chunk()).await else {
                return Err(
                    self.broken(format!("nothing came for {} s", self.silence_max.as_secs()))
                );
            };
            let chunk = chunk.map_err(|error| ClientError::network(&self.url, &error))?;
            let Some(bytes) = chunk else {
                return Err(self.broken("the answer stops in the middle".to_owned()));
            };
            if self.parser.push(&bytes, &mut self.unread).is_err() {
                return Err(self.broken("the answer has a line without end".to_owned()));
            }
            for event in std::mem::take(&mut self.unread) {
                if self.end.is_some() {
                    break;
                }
                match event {
                    SseEvent::Comment(comment) => self.events.extend(prefill(&comment)),
                    SseEvent::Data(data) if data == "[DONE]" => self.end = Some(Ok(())),
                    // Text that came in the same packet as an error is still to be told first.
                    SseEvent::Data(data) => self.end = self.take(&data).err().map(Err),
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::client::{
        Client,
        wire::{ChatRequest, PromptTokens, Sampling},
    };

    /// What a server's stream with this body comes to. The connection ends after it unless it `stays`.
    async fn read(body: &str, stays: bool) -> (Vec<ChatEvent>, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(reply.as_bytes()).await.unwrap();
            if stays {
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
        let client = Client::new(&url, None).unwrap();
        let mut stream = client
            .chat(&ChatRequest::new("owl", &[], &Sampling::default()))
            .await
            .unwrap();
        stream.silence_max = Duration::from_millis(if stays { 50 } else { 60_000 });
        let mut events = Vec::new();
        let end = loop {
            match stream.next().await {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string().replace(&url, "URL")),
            }
        };
        drop(stream);
        server.await.unwrap();
        (events, end)
    }

    const HOOT: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"hoot\"},\"finish_reason\":null}]}\n\n";

    fn hoot() -> ChatEvent {
        ChatEvent::Delta("hoot".to_owned())
    }

    #[tokio::test]
    async fn a_whole_answer_is_text_then_reason_then_figures() {
        let body = format!(
            ": prefill 1/3\n\ndata: {{\"choices\":[{{\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}}}}]}}\n\n{HOOT}\
             data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
             data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4,\
             \"prompt_tokens_details\":{{\"cached_tokens\":2}}}},\"timings\":{{\"ttft_ms\":5.0,\"prompt_per_second\":null}}}}\n\n\
             data: [DONE]\n\n"
        );
        let (events, end) = read(&body, false).await;
        assert_eq!(end, Ok(()));
        assert_eq!(
            events,
            [
                ChatEvent::Prefill {
                    processed_tokens: 1,
                    prompt_tokens: 3
                },
                hoot(),
                ChatEvent::Finished("stop".to_owned()),
                ChatEvent::Usage(Usage {
                    prompt_tokens: 3,
                    completion_tokens: 1,
                    total_tokens: 4,
                    prompt_tokens_details: PromptTokens { cached_tokens: 2 },
                }),
                ChatEvent::Timings(Timings {
                    ttft_ms: Some(5.0),
                    ..Timings::default()
                }),
            ]
        );
    }

    #[tokio::test]
    async fn an_answer_without_its_end_is_an_error_after_the_text_that_came() {
        let error = "data: {\"error\":{\"message\":\"the worker is gone\",\"code\":500}}\n\n";
        for (rest, stays, expected) in [
            (
                "",
                false,
                "the connection to URL broke: the answer stops in the middle",
            ),
            (
                "",
                true,
                "the connection to URL broke: nothing came for 0 s",
            ),
            (
                "data: {\n\n",
                false,
                "the connection to URL broke: the answer cannot be read: ",
            ),
            (error, false, "the worker is gone"),
        ] {
            let (events, end) = read(&format!("{HOOT}{rest}"), stays).await;
            assert_eq!(events, [hoot()], "{rest}");
            let reason = end.unwrap_err();
            assert!(reason.starts_with(expected), "{reason}");
        }
    }

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
