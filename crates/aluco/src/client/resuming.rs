//! Answers that are taken up where the connection broke off.

use std::time::Duration;

use reqwest::{Method, Response, header::HeaderMap};
use tokio::time::{Instant, sleep};

use super::{Client, ClientError};

/// Asks for a stream that can be taken up again.
pub(super) const RESUMABLE: &str = "x-aluco-resumable";

/// Names the stream in the reply.
const STREAM_ID: &str = "x-aluco-stream-id";

/// Names the last event that arrived.
const LAST_EVENT_ID: &str = "last-event-id";

/// How long a server is looked for: it keeps a stream that nobody reads for a minute unless it is told otherwise.
const SEARCH_LIMIT: Duration = Duration::from_secs(60);

/// First wait before another attempt; it doubles up to `WAIT_MAX`.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Connections in a row that may break before anything new has come.
const FRUITLESS_MAX: u32 = 5;

/// How long the farewell to a stream may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// A stream that its server keeps for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    id: String,
    /// The last event that arrived at the last attempt.
    last: Option<String>,
    /// Attempts since then.
    fruitless: u32,
    /// How long the farewell may take.
    pub(super) farewell_limit: Duration,
}

impl Kept {
    /// The stream of a reply with these headers, if it is kept.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let id = headers.get(STREAM_ID)?.to_str().ok()?;
        let is_sane = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_sane.then(|| Self {
            id: id.to_owned(),
            last: None,
            fruitless: 0,
            farewell_limit: FAREWELL_LIMIT,
        })
    }

    fn path(&self) -> String {
        format!("/aluco/v1/streams/{}", self.id)
    }

    /// Takes the stream up behind that event. `cause` is told if that cannot be.
    pub(super) async fn take_up(
        &mut self,
        client: &Client,
        last: Option<&str>,
        cause: ClientError,
    ) -> Result<Response, ClientError> {
        if self.last.as_deref() == last {
            self.fruitless += 1;
        } else {
            self.last = last.map(str::to_owned);
            self.fruitless = 0;
        }
        if self.fruitless > FRUITLESS_MAX {
            return Err(cause);
        }
        let (began, mut wait) = (Instant::now(), WAIT_MIN);
        loop {
            let request = client.request(Method::GET, &self.path());
            let request = request.header(LAST_EVENT_ID, last.unwrap_or("0"));
            match client.send(request).await {
                Ok(response) => return Ok(response),
                Err(ClientError::NoServer { .. } | ClientError::Broken { .. })
                    if began.elapsed() < SEARCH_LIMIT =>
                {
                    sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
                // That the stream is not there any more says less than how it was lost.
                Err(_) => return Err(cause),
            }
        }
    }

    /// Tells the server that nobody comes back.
    pub(super) async fn give_up(&self, client: &Client) {
        let request = client.request(Method::DELETE, &self.path());
        // If it does not arrive, the server finds out by itself after a while.
        let _ = request.timeout(self.farewell_limit).send().await;
    }
}
