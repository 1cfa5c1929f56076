//! Server-sent events: how the events of a generation are written, and the reply that carries them.

use std::{collections::VecDeque, convert::Infallible, fmt::Display, time::Duration};

use aluco_fleet::{Recovery, proto::GenerationEvent};
use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde_json::Value;
use tokio::time::{Instant, Interval};

use crate::{
    app::App,
    error::ApiError,
    guard::Caller,
    resume,
    stream::{Feed, Happened, Totals},
};

/// Time between two looks at how far the load of a model is.
const LOAD_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How a dialect puts events into chunks.
pub(crate) trait Form: Send + 'static {
    /// The chunks that an event of a prompt becomes, as JSON. The end of a choice comes with what its generation went through.
    fn chunks(
        &mut self,
        prompt: usize,
        event: &GenerationEvent,
        recovery: Option<&Recovery>,
    ) -> Vec<String>;

    /// The chunk that ends the stream, if one does.
    fn last_chunk(&self, totals: &Totals) -> Option<Value>;
}

/// A streamed reply. What goes wrong before the request is accepted gets a status of its own, unless that takes longer than
/// [`crate::ServerConfig::accept_patience`], as the load of a large model does: then the stream begins, and errors come as its events.
pub(crate) async fn respond<F: Form>(
    app: &App,
    caller: &Caller,
    feed: Feed,
    form: F,
    is_resumable: bool,
) -> Result<Response, ApiError> {
    let config = app.config();
    let mut script = Script {
        feed,
        form,
        activity: "loading or waiting".to_owned(),
        has_begun: false,
        load_look: tokio::time::interval_at(
            Instant::now() + LOAD_LOOK_INTERVAL,
            LOAD_LOOK_INTERVAL,
        ),
        is_over: false,
    };
    let first = tokio::time::timeout(config.accept_patience, script.feed.next()).await;
    let first = if let Ok(first) = first {
        script.take(first?)
    } else {
        script.look_at_load();
        Step {
            has_progress: true,
            ..Step::default()
        }
    };
    if is_resumable {
        return Ok(resume::begin(app, caller, script, &first));
    }
    let mut direct = Direct {
        script,
        heartbeat: Heartbeat::new(config.heartbeat_interval),
        frames: VecDeque::new(),
    };
    direct.take(&first);
    let frames = stream::unfold(direct, |mut direct| async {
        let frame = direct.next().await?;
        Some((frame, direct))
    });
    Ok(reply(frames))
}

/// A reply that consists of these frames.
pub(crate) fn reply(frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    use futures_util::StreamExt;

    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        // nginx would otherwise collect the stream.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
    let body = Body::from_stream(frames.map(Ok::<_, Infallible>));
    (headers, body).into_response()
}

/// A line that clients skip: proxies see that the stream lives, and those who look see how far the prompt is.
pub(crate) fn comment(activity: &str) -> Bytes {
    Bytes::from(format!(": {activity}\n\n"))
}

/// One event, without a number.
pub(crate) fn data(json: &impl Display) -> Bytes {
    Bytes::from(format!("data: {json}\n\n"))
}

/// One event, with the number from which a client can go on.
pub(crate) fn numbered(number: u64, data: &str) -> Bytes {
    Bytes::from(format!("id: {number}\ndata: {data}\n\n"))
}

/// Sees that a client hears something now and then, whatever goes on where the stream comes from: much of that adds nothing to it.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    last_sent: Instant,
}

impl Heartbeat {
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            last_sent: Instant::now(),
        }
    }

    /// The client hears something now.
    pub(crate) fn sent(&mut self) {
        self.last_sent = Instant::now();
    }

    /// The client has heard nothing for too long.
    pub(crate) fn is_due(&self) -> bool {
        self.last_sent.elapsed() >= self.interval
    }

    /// What comes; `None` if the client has to hear something before.
    pub(crate) async fn wait<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        let left = self.interval.saturating_sub(self.last_sent.elapsed());
        tokio::time::timeout(left, next).await.ok()
    }
}

/// What a step of a generation adds to its stream.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The data of its events.
    pub(crate) events: Vec<String>,
    /// There is something new to say in a comment.
    pub(crate) has_progress: bool,
}

/// The events of a request as a dialect writes them.
pub(crate) struct Script<F> {
    feed: Feed,
    form: F,
    /// What a comment says.
    pub(crate) activity: String,
    /// There was an event, so the model is loaded.
    has_begun: bool,
    /// When to look at the load again.
    load_look: Interval,
    is_over: bool,
}

impl<F: Form> Script<F> {
    /// The next step; `None` when the stream is over. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Step> {
        if self.is_over {
            return None;
        }
        let next = loop {
            if self.has_begun {
                break self.feed.next().await;
            }
            tokio::select! {
                next = self.feed.next() => break next,
                _ = self.load_look.tick() => {}
            }
            if self.look_at_load() {
                return Some(Step {
                    has_progress: true,
                    ..Step::default()
                });
            }
        };
        match next {
            Ok(event) => Some(self.take(event)),
            Err(error) => {
                let error = error.to_json().to_string();
                tracing::warn!(
                    target: "aluco::access",
                    request = self.feed.request_id(),
                    error,
                    "stream failed"
                );
                self.is_over = true;
                Some(Step {
                    events: vec![error],
                    has_progress: false,
                })
            }
        }
    }

    /// True if the load of the model has come further.
    fn look_at_load(&mut self) -> bool {
        let Some(progress) = self.feed.load_progress() else {
            return false;
        };
        let activity = format!("loading {:.0}%", progress.clamp(0.0, 1.0) * 100.0);
        let has_come_further = activity != self.activity;
        self.activity = activity;
        has_come_further
    }

    fn take(&mut self, event: Option<(usize, Happened)>) -> Step {
        self.has_begun = true;
        let Some((prompt, (event, recovery))) = event else {
            self.is_over = true;
            let last = self.form.last_chunk(self.feed.totals());
            let last = last.map(|chunk| chunk.to_string());
            return Step {
                events: last.into_iter().chain(["[DONE]".to_owned()]).collect(),
                has_progress: false,
            };
        };
        let mut has_progress = false;
        match event {
            GenerationEvent::Prefill {
                processed_tokens,
                prompt_tokens,
            } => {
                self.activity = format!("prefill {processed_tokens}/{prompt_tokens}");
                has_progress = processed_tokens < prompt_tokens;
            }
            GenerationEvent::Delta { .. } => "generating".clone_into(&mut self.activity),
            _ => {}
        }
        Step {
            events: self.form.chunks(prompt, &event, recovery.as_ref()),
            has_progress,
        }
    }
}

/// A stream that ends with its connection.
struct Direct<F> {
    script: Script<F>,
    heartbeat: Heartbeat,
    frames: VecDeque<Bytes>,
}

impl<F: Form> Direct<F> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                self.heartbeat.sent();
                return Some(frame);
            }
            match self.heartbeat.wait(self.script.next()).await {
                Some(step) => self.take(&step?),
                None => self.frames.push_back(comment(&self.script.activity)),
            }
        }
    }

    fn take(&mut self, step: &Step) {
        if step.has_progress {
            self.frames.push_back(comment(&self.script.activity));
        }
        self.frames.extend(step.events.iter().map(data));
    }
}
