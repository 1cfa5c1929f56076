//! The answer of a chat completion, event by event.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::{
    Client, ClientError,
    resuming::Kept,
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

/// A streamed answer. Dropping it closes the connection, and the server stops generating: at once, unless it keeps the stream for a client
/// that comes back.
#[derive(Debug)]
pub(crate) struct ChatStream {
    response: Response,
    client: Client,
    /// Set if the server keeps the stream.
    kept: Option<Kept>,
    parser: SseParser,
    unread: Vec<SseEvent>,
    events: VecDeque<ChatEvent>,
    /// What comes after the events: nothing more, or an error.
    end: Option<Result<(), ClientError>>,
    silence_max: Duration,
}

impl ChatStream {
    pub(super) fn new(response: Response, client: Client) -> Self {
        Self {
            kept: Kept::of(response.headers()),
            response,
            client,
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
            let bytes = match self.bytes().await {
                Ok(bytes) => bytes,
                Err(cause) => {
                    self.take_up(cause).await?;
                    continue;
                }
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

    /// What comes next over this connection.
    async fn bytes(&mut self) -> Result<Bytes, ClientError> {
        let silence_max = self.silence_max;
        let Ok(chunk) = timeout(silence_max, self.response.chunk()).await else {
            return Err(self.broken(format!("nothing came for {} s", silence_max.as_secs())));
        };
        chunk
            .map_err(|error| self.client.network(&error))?
            .ok_or_else(|| self.broken("the answer stops in the middle".to_owned()))
    }

    /// Goes on over another connection, behind the last event that came whole.
    async fn take_up(&mut self, cause: ClientError) -> Result<(), ClientError> {
        let Some(kept) = &mut self.kept else {
            return Err(cause);
        };
        let last = self.parser.last_id();
        self.response = kept.take_up(&self.client, last, cause).await?;
        self.parser.begin_again();
        Ok(())
    }

    /// Says farewell to an answer that is not wanted any more, so that the server stops generating at once.
    pub(crate) async fn give_up(self) {
        let is_over = self.end.is_some();
        let Self {
            response,
            client,
            kept,
            ..
        } = self;
        drop(response);
        if let Some(kept) = kept.filter(|_| !is_over) {
            kept.give_up(&client).await;
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
            url: self.client.url().to_owned(),
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
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::client::{
        Client,
        wire::{ChatRequest, PromptTokens, Sampling},
    };

    /// Takes a whole request: a connection that is closed before that may lose the reply.
    async fn request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        loop {
            let length = stream.read_buf(&mut request).await.unwrap();
            assert!(length > 0, "the request stops in the middle");
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
    }

    /// What a server's stream with this body comes to. The connection ends after it unless it `stays`.
    async fn read(body: &str, stays: bool) -> (Vec<ChatEvent>, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
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
        let mut events = Vec::new();
        let end = loop {
            match stream.next().await {
                Ok(Some(event)) => {
                    events.push(event);
                    if stays {
                        stream.silence_max = Duration::from_millis(50);
                    }
                }
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

    /// Gives each connection in turn one of these replies, and tells what was asked for.
    async fn serve(replies: Vec<String>) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let mut asked = Vec::new();
            for reply in replies {
                let (mut stream, _) = listener.accept().await.unwrap();
                asked.push(request(&mut stream).await);
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            asked
        });
        let mut client = Client::new(&url, None).unwrap();
        client.is_far = true;
        (client, server)
    }

    async fn ask(client: &Client) -> ChatStream {
        let sampling = Sampling::default();
        let request = ChatRequest::new("owl", &[], &sampling);
        client.chat(&request).await.unwrap()
    }

    fn stream_of(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Aluco-Stream-Id: 0123abcd\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn an_answer_goes_on_where_its_connection_broke_off() {
        let text = |number: u32, text: &str| {
            format!(
                "id: {number}\ndata: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
            )
        };
        let half = &text(2, "two")[..20];
        let (client, server) = serve(vec![
            stream_of(&format!("{}{half}", text(1, "one"))),
            stream_of(&text(2, "two")),
            stream_of(&format!("{}id: 4\ndata: [DONE]\n\n", text(3, "three"))),
        ])
        .await;
        let mut stream = ask(&client).await;
        let mut said = Vec::new();
        while let Some(event) = stream.next().await.unwrap() {
            let ChatEvent::Delta(text) = event else {
                panic!("{event:?}");
            };
            said.push(text);
        }
        assert_eq!(said, ["one", "two", "three"]);
        let asked = server.await.unwrap();
        assert!(asked[0].contains("x-aluco-resumable: true"), "{}", asked[0]);
        for (asked, last) in asked[1..].iter().zip(["1", "2"]) {
            assert!(
                asked.starts_with("get /aluco/v1/streams/0123abcd "),
                "{asked}"
            );
            assert!(
                asked.contains(&format!("last-event-id: {last}\r\n")),
                "{asked}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_that_the_server_has_forgotten_ends_with_how_it_was_lost() {
        let body = "{\"error\":{\"message\":\"gone\",\"code\":\"stream_not_found\"}}";
        let gone = format!(
            "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (client, server) = serve(vec![stream_of(HOOT), gone]).await;
        let mut stream = ask(&client).await;
        assert_eq!(stream.next().await.unwrap(), Some(hoot()));
        let error = stream.next().await.unwrap_err().to_string();
        assert!(error.contains("stops in the middle"), "{error}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_is_given_up_is_cancelled_at_the_server() {
        let done = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let (client, server) = serve(vec![stream_of(HOOT), done.to_owned()]).await;
        let mut stream = ask(&client).await;
        assert_eq!(stream.next().await.unwrap(), Some(hoot()));
        // On a busy machine the server gets its turn late.
        stream.kept.as_mut().unwrap().farewell_limit = Duration::from_secs(60);
        stream.give_up().await;
        let asked = server.await.unwrap();
        assert!(asked[1].starts_with("delete /aluco/v1/streams/0123abcd "));
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
