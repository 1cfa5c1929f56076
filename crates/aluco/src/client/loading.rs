//! The load of a model, as the server tells of it.

use std::{collections::VecDeque, time::Duration};

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    ClientError,
    sse::{SseEvent, SseParser},
    wire::ErrorAnswer,
};

/// Longest silence. Aluco's server tells the progress every few seconds, be it the same.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What a load brings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LoadEvent {
    /// Share of the weights that is read, 0 to 1.
    Progress(f64),
    /// What was loaded, as the server put it.
    Loaded(Value),
}

/// A load that is followed. Dropping it does not end the load.
#[derive(Debug)]
pub(crate) struct LoadStream {
    response: Response,
    url: String,
    parser: SseParser,
    unread: VecDeque<String>,
}

impl LoadStream {
    pub(super) fn new(response: Response, url: String) -> Self {
        Self {
            response,
            url,
            parser: SseParser::default(),
            unread: VecDeque::new(),
        }
    }

    /// The next event; the last one is `Loaded`. Nothing is lost if the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Result<LoadEvent, ClientError> {
        loop {
            if let Some(data) = self.unread.pop_front() {
                return self.understood(&data);
            }
            let Ok(chunk) = timeout(SILENCE_MAX, self.response.chunk()).await else {
                return Err(self.broken(format!("nothing came for {} s", SILENCE_MAX.as_secs())));
            };
            let chunk = chunk.map_err(|error| ClientError::network(&self.url, &error))?;
            let Some(bytes) = chunk else {
                return Err(self.broken("the answer stops in the middle".to_owned()));
            };
            let mut events = Vec::new();
            if self.parser.push(&bytes, &mut events).is_err() {
                return Err(self.broken("the answer has a line without end".to_owned()));
            }
            self.unread
                .extend(events.into_iter().filter_map(|event| match event {
                    SseEvent::Data(data) => Some(data),
                    SseEvent::Comment(_) => None,
                }));
        }
    }

    fn understood(&self, data: &str) -> Result<LoadEvent, ClientError> {
        let unreadable = |error| self.broken(format!("the answer cannot be read: {error}"));
        let value: Value = serde_json::from_str(data).map_err(unreadable)?;
        if let Some(progress) = value["progress"].as_f64() {
            return Ok(LoadEvent::Progress(progress));
        }
        if value.get("error").is_none() {
            return Ok(LoadEvent::Loaded(value));
        }
        let ErrorAnswer { error } = serde_json::from_value(value).map_err(unreadable)?;
        Err(ClientError::Refused {
            message: error.message,
            code: error.code,
        })
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            url: self.url.clone(),
            reason,
        }
    }
}
