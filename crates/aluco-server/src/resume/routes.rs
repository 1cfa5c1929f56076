//! `/aluco/v1/streams/{id}`, and how a request asks for a stream that can be resumed.

use axum::{
    Json,
    extract::{FromRequestParts, RawQuery, State},
    http::{HeaderMap, HeaderName, request::Parts},
    response::Response,
};
use serde_json::{Value, json};

use super::{truncated, with_id};
use crate::{app::App, error::ApiError, guard::Caller, path::PathName, sse};

const RESUMABLE: HeaderName = HeaderName::from_static("x-aluco-resumable");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What a request's header says about resumption.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(pub(crate) Option<bool>);

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(RESUMABLE) else {
            return Ok(Self(None));
        };
        match value.as_bytes().to_ascii_lowercase().as_slice() {
            b"true" | b"1" => Ok(Self(Some(true))),
            b"false" | b"0" => Ok(Self(Some(false))),
            _ => Err(ApiError::invalid_value(
                RESUMABLE.as_str(),
                "the header x-aluco-resumable is \"true\" or \"false\"",
            )),
        }
    }
}

/// What comes behind the event that the client names (`Last-Event-ID`, or else `?after=`); everything if it names none.
pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    PathName(id): PathName,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let after = after(&headers, query.as_deref())?;
    let recording = app.streams().find(&id, &caller.client)?;
    recording.check(after).map_err(truncated)?;
    let frames = recording.read(after, true, app.config().heartbeat_interval);
    Ok(with_id(sse::reply(frames), &recording))
}

/// Cancels the stream if it still runs, and forgets it.
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    PathName(id): PathName,
) -> Result<Json<Value>, ApiError> {
    let streams = app.streams();
    let recording = streams.find(&id, &caller.client)?;
    let was_running = !recording.is_over();
    streams.forget(&recording);
    Ok(Json(json!({"cancelled": was_running})))
}

/// The number of the last event that arrived. A browser that comes back by itself repeats the query of its first request and tells the
/// truth in the header, so that wins.
fn after(headers: &HeaderMap, query: Option<&str>) -> Result<u64, ApiError> {
    let header = headers.get(LAST_EVENT_ID).map(|value| {
        let text = value.to_str().unwrap_or("?");
        ("Last-Event-ID", text.trim())
    });
    let query = query.unwrap_or_default().split('&').find_map(|pair| {
        let value = pair.strip_prefix("after=")?;
        Some(("after", value))
    });
    match header.filter(|(_, text)| !text.is_empty()).or(query) {
        None => Ok(0),
        Some((name, text)) => text
            .parse()
            .map_err(|_| ApiError::invalid_value(name, "it is no number of an event")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_header_wins_over_the_query() {
        let number = |header: Option<&'static str>, query: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(header) = header {
                headers.insert(LAST_EVENT_ID, HeaderValue::from_static(header));
            }
            after(&headers, query).ok()
        };
        assert_eq!(number(None, None), Some(0));
        assert_eq!(number(None, Some("x=1&after=7")), Some(7));
        assert_eq!(number(Some("9"), Some("after=7")), Some(9));
        assert_eq!(number(Some(""), Some("after=7")), Some(7));
        for wrong in ["-1", "x", "1.5", "99999999999999999999"] {
            assert_eq!(number(Some(wrong), None), None, "{wrong}");
            assert_eq!(number(None, Some(&format!("after={wrong}"))), None);
        }
    }
}
