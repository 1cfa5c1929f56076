//! Streams that outlive their connections.
//!
//! A generation that is cancelled when its client goes away spares everybody else's time, so that is what happens unless the client
//! asks for another thing: a resumable stream. Then a task of its own takes the events of the generation down, numbered, and the
//! reply is the first of its readers. Who loses the connection asks for the rest by the stream's id and the number of the last event
//! that arrived. A stream without a reader goes on for a while and is cancelled then; one that has ended stays for a few minutes.
//!
//! All of it is bounded in bytes: over all streams the oldest that have ended go first, and then running ones lose their beginnings,
//! of which a reader that wanted them is told.

mod log;
mod recording;
mod routes;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode},
    response::Response,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{log::Unreadable, recording::Recording};
use crate::{
    app::App,
    client::Client,
    error::ApiError,
    guard::Caller,
    sse::{self, Form, Script, Step},
};

pub(crate) use routes::{Asked, delete, get};

/// Names the stream in a reply that can be resumed.
pub(crate) const STREAM_ID: HeaderName = HeaderName::from_static("x-aluco-stream-id");

/// Which streams can be resumed, for how long, and what that may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeConfig {
    /// Which streams can be resumed.
    pub streams: ResumableStreams,
    /// How long a stream goes on without a reader before it is cancelled.
    pub grace: Duration,
    /// How long a stream that has ended can be read.
    pub keep: Duration,
    /// What all streams may cost, in bytes.
    pub bytes_max: usize,
    /// What one stream may cost, in bytes.
    pub stream_bytes_max: usize,
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            streams: ResumableStreams::default(),
            grace: Duration::from_secs(60),
            keep: Duration::from_secs(5 * 60),
            bytes_max: 64 << 20,
            stream_bytes_max: 8 << 20,
        }
    }
}

/// Which streams can be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResumableStreams {
    /// All but those whose request says no.
    Always,
    /// Those whose request says yes, by the header `x-aluco-resumable: true` or the field `"resumable": true`.
    #[default]
    OnRequest,
    /// None.
    Off,
}

impl ResumableStreams {
    /// Whether a stream can be resumed whose request says this.
    pub(crate) fn includes(self, asked: Option<bool>) -> bool {
        match self {
            Self::Always => asked.unwrap_or(true),
            Self::OnRequest => asked.unwrap_or(false),
            Self::Off => false,
        }
    }
}

/// All streams of a server that can be resumed. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// What all recordings cost, in bytes.
    total: Arc<AtomicUsize>,
    /// The server ends, so nobody who went away comes back.
    closing: CancellationToken,
}

#[derive(Default)]
struct Table {
    recordings: HashMap<Uuid, Arc<Recording>>,
    /// Those that have ended, the oldest first. Some may be gone.
    ended: VecDeque<Uuid>,
}

impl Streams {
    /// The stream of that id, if it is this client's.
    fn find(&self, id: &str, client: &Client) -> Result<Arc<Recording>, ApiError> {
        let known = Uuid::try_parse(id).ok();
        let known = known.and_then(|id| self.table().recordings.get(&id).cloned());
        known
            .filter(|recording| recording.owner.is(client))
            .ok_or_else(|| {
                ApiError::new(
                    StatusCode::NOT_FOUND,
                    "stream_not_found",
                    "there is no such stream: it was never resumable, it ended too long ago, or it is another client's",
                )
            })
    }

    /// Cancels those that nobody reads, now and later: nobody can come back for them.
    pub(crate) fn close(&self) {
        self.shared.closing.cancel();
    }

    fn forget(&self, recording: &Recording) {
        recording.dismissed.cancel();
        let mut table = self.table();
        table.recordings.remove(&recording.id);
        while let Some(id) = table.ended.front()
            && !table.recordings.contains_key(id)
        {
            table.ended.pop_front();
        }
    }

    /// Makes room until all streams cost no more than that.
    fn bound(&self, bytes_max: usize) {
        let total = || self.shared.total.load(Ordering::Relaxed);
        if total() <= bytes_max {
            return;
        }
        let mut table = self.table();
        while total() > bytes_max
            && let Some(id) = table.ended.pop_front()
        {
            if let Some(recording) = table.recordings.remove(&id) {
                // Whoever reads it must not hold it in memory for long.
                recording.shrink_to(0);
                recording.dismissed.cancel();
            }
        }
        while let excess @ 1.. = total().saturating_sub(bytes_max) {
            let largest = table.recordings.values().max_by_key(|it| it.bytes());
            let Some((largest, bytes)) = largest.map(|it| (it, it.bytes())) else {
                return;
            };
            largest.shrink_to(bytes.saturating_sub(excess));
            if largest.bytes() == bytes {
                return;
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        let table = &self.shared.table;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a stream taken down, and answers with it from its beginning.
pub(crate) fn begin<F: Form>(
    app: &App,
    caller: &Caller,
    script: Script<F>,
    first: &Step,
) -> Response {
    let (streams, config) = (app.streams(), app.config());
    let recording = Recording::new(
        caller.client.clone(),
        config.resume.stream_bytes_max,
        streams.shared.total.clone(),
    );
    let mut table = streams.table();
    table.recordings.insert(recording.id, recording.clone());
    drop(table);
    let frames = recording.read(0, false, config.heartbeat_interval);
    let recorder = Recorder {
        streams: streams.clone(),
        recording: recording.clone(),
        limits: config.resume.clone(),
    };
    recorder.add(first, &script.activity);
    tokio::spawn(recorder.record(script));
    with_id(sse::reply(frames), &recording)
}

fn with_id(mut response: Response, recording: &Recording) -> Response {
    let id = recording.id.simple().to_string();
    let id = HeaderValue::from_str(&id).expect("hex digits can be sent");
    response.headers_mut().insert(STREAM_ID, id);
    response
}

/// Takes one stream down, whoever reads it.
struct Recorder {
    streams: Streams,
    recording: Arc<Recording>,
    limits: ResumeConfig,
}

impl Recorder {
    async fn record<F: Form>(self, mut script: Script<F>) {
        let error = self.follow(&mut script).await;
        // Ends the generation, if it still runs.
        drop(script);
        self.finish(error.as_ref());
        let dismissed = self.recording.dismissed.cancelled();
        // Early if it is dismissed.
        let _ = tokio::time::timeout(self.limits.keep, dismissed).await;
        self.streams.forget(&self.recording);
    }

    /// To the end of the stream, or until it is not to go on.
    async fn follow<F: Form>(&self, script: &mut Script<F>) -> Option<ApiError> {
        let cancelled =
            |message| Some(ApiError::new(StatusCode::GONE, "stream_cancelled", message));
        let grace = self.limits.grace;
        let abandoned = self.recording.abandoned(grace);
        let deserted = async {
            self.streams.shared.closing.cancelled().await;
            self.recording.abandoned(Duration::ZERO).await;
        };
        let mut ends = std::pin::pin!(async {
            tokio::select! {
                () = self.recording.dismissed.cancelled() => cancelled("the stream was cancelled by its client".to_owned()),
                () = abandoned => cancelled(format!("nobody read the stream for {} s, so it was cancelled", grace.as_secs_f64())),
                () = deserted => cancelled("nobody read the stream when the server was stopped, so it was cancelled".to_owned()),
            }
        });
        loop {
            tokio::select! {
                error = &mut ends => return error,
                step = script.next() => self.add(&step?, &script.activity),
            }
        }
    }

    fn add(&self, step: &Step, activity: &str) {
        self.recording.add(step, activity);
        self.streams.bound(self.limits.bytes_max);
    }

    fn finish(&self, error: Option<&ApiError>) {
        if self.recording.is_over() {
            return;
        }
        let error = error.map(|error| error.to_json().to_string());
        self.recording.finish(error.as_deref());
        let mut table = self.streams.table();
        table.ended.push_back(self.recording.id);
        drop(table);
        self.streams.bound(self.limits.bytes_max);
    }
}

impl Drop for Recorder {
    /// A recorder that comes to grief must not leave its readers waiting.
    fn drop(&mut self) {
        self.finish(Some(&ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "the stream ended by an error of the server",
        )));
    }
}

/// What a client is told that asks for what cannot be read.
fn truncated(unreadable: Unreadable) -> ApiError {
    match unreadable {
        Unreadable::Gone { oldest } => ApiError::new(
            StatusCode::GONE,
            "stream_truncated",
            format!(
                "the stream was larger than what is kept of it: its events before {oldest} are gone"
            ),
        ),
        Unreadable::Ahead { last } => ApiError::invalid_value(
            "after",
            format!("the latest event of the stream is {last}, so none comes after the one named"),
        ),
    }
}
