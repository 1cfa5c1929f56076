//! `POST /aluco/v1/load`: loads a model and tells how far that is, if somebody wants to know.

use std::time::Duration;

use aluco_fleet::{Fleet, FleetError, KeepAlive, LoadWishes, proto::LoadedModel};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    app::App,
    body::JsonBody,
    error::ApiError,
    guard::Caller,
    sse::{self, Heartbeat},
};

/// Time between two looks at how far a load is.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What is loaded, and how.
#[derive(Debug, Deserialize)]
pub(crate) struct LoadBody {
    model: String,
    /// How long it stays loaded when nobody uses it.
    keep_alive: Option<KeepAlive>,
    /// It stays until it is unloaded by name.
    #[serde(default)]
    pin: bool,
    /// Tell the progress as server-sent events, as `Accept: text/event-stream` does.
    #[serde(default)]
    stream: bool,
    /// Only tell what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Answers when the model is loaded, with what it is and takes. As a stream: `progress` as it comes, then `loaded` or `error`.
pub(crate) async fn load(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(body): JsonBody<LoadBody>,
) -> Result<Response, ApiError> {
    caller.may_use(&body.model)?;
    let fleet = app.fleet().clone();
    if body.dry_run {
        return Ok(Json(fleet.plan_load(&body.model).await?).into_response());
    }
    let wishes = LoadWishes {
        keep_alive: body.keep_alive,
        pin: body.pin,
    };
    if !body.stream && !accepts_events(&headers) {
        let loaded = fleet.load_with(&body.model, wishes).await?;
        return Ok(Json(loaded).into_response());
    }
    let (loader, model) = (fleet.clone(), body.model.clone());
    let loading = Loading {
        fleet,
        model: body.model,
        load: Some(Box::pin(
            async move { loader.load_with(&model, wishes).await },
        )),
        percent: None,
        heartbeat: Heartbeat::new(app.config().heartbeat_interval),
    };
    let frames = stream::unfold(loading, |mut loading| async {
        let frame = loading.next().await?;
        loading.heartbeat.sent();
        Some((frame, loading))
    });
    Ok(sse::reply(frames))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .filter_map(|kind| kind.split(';').next())
        .any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// A load that somebody follows. It goes on if they go away.
struct Loading {
    fleet: Fleet,
    model: String,
    /// `None` once its end is told.
    load: Option<BoxFuture<'static, Result<LoadedModel, FleetError>>>,
    /// What was told last.
    percent: Option<u32>,
    heartbeat: Heartbeat,
}

impl Loading {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let load = self.load.as_mut()?;
            if let Ok(ended) = tokio::time::timeout(LOOK_INTERVAL, load).await {
                self.load = None;
                return Some(match ended {
                    Ok(loaded) => event("loaded", &json!(loaded)),
                    Err(error) => event("error", &ApiError::from(error).to_json()),
                });
            }
            if let Some(progress) = self.fleet.load_progress(&self.model) {
                let percent = (progress.clamp(0.0, 1.0) * 100.0) as u32;
                if self.percent.replace(percent) != Some(percent) {
                    return Some(event(
                        "progress",
                        &json!({"model": self.model, "progress": progress}),
                    ));
                }
            }
            // There is nothing to look at where the model is still looked at itself, or on its way out.
            if self.heartbeat.is_due() {
                return Some(sse::comment("loading or waiting"));
            }
        }
    }
}

fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn events_are_asked_for_among_other_forms() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(accepts_events(&headers), expected, "{accept}");
        }
    }
}
