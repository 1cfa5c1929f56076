//! Request bodies: bounded, in time, and as the type that is asked for.

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::StatusCode,
};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::{app::App, error::ApiError, guard::Caller, weight::Weight};

/// Longer bodies are taken apart beside the tasks that serve others, in bytes.
const QUICK_BYTES_MAX: usize = 1 << 20;

/// A JSON body. The `Content-Type` is not looked at: clients forget it, and nothing else could be meant.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<App> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let config = app.config();
        let (mut parts, body) = request.into_parts();
        let Ok(caller) = Caller::from_request_parts(&mut parts, app).await;
        let reading = read(body, config.body_bytes_max, &caller.weight);
        let bytes = tokio::time::timeout(config.read_timeout, reading)
            .await
            .map_err(|_| {
                ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "timeout",
                    format!(
                        "the body did not arrive within {} s",
                        config.read_timeout.as_secs()
                    ),
                )
            })??;
        if bytes.len() <= QUICK_BYTES_MAX {
            return parse(&bytes).map(Self);
        }
        let parsing = tokio::task::spawn_blocking(move || parse(&bytes));
        let parsed = parsing.await.expect("reading JSON does not panic");
        parsed.map(Self)
    }
}

/// A whole body, which is within `bytes_max` itself and, by its weight, within what all may take.
async fn read(body: Body, bytes_max: usize, weight: &Weight) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| ApiError::invalid(format!("the body could not be read: {error}")))?;
        if whole.len() + chunk.len() > bytes_max {
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request_too_large",
                format!("the body is over the limit of {bytes_max} bytes"),
            ));
        }
        if !weight.add(chunk.len(), bytes_max) {
            return Err(ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "the requests that run are as large together as the server allows; try again when some have ended",
            ));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::invalid("the body is empty; JSON is expected"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if cause.is_data() {
            let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", cause.to_string());
            // A dot stands for the whole body.
            return if path == "." {
                error
            } else {
                error.about(path)
            };
        }
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            format!("the body is not JSON: {cause}"),
        )
    })?;
    json.end().map_err(|error| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            format!("the body goes on after its JSON: {error}"),
        )
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[allow(dead_code)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[allow(dead_code)]
        count: u32,
    }

    fn fault(json: &str) -> (String, Option<String>) {
        let error = parse::<Outer>(json.as_bytes()).unwrap_err().to_json();
        (
            error["error"]["code"].as_str().unwrap().to_owned(),
            error["error"]["param"].as_str().map(str::to_owned),
        )
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        assert_eq!(
            fault(r#"{"inner":[{"count":1},{"count":"two"}]}"#),
            (
                "invalid_value".to_owned(),
                Some("inner[1].count".to_owned())
            )
        );
    }

    #[test]
    fn what_is_no_json_is_told_apart_from_wrong_types() {
        for broken in ["{", "nonsense", "{\"inner\":[]} more", "\"\u{0}"] {
            assert_eq!(fault(broken).0, "invalid_json", "{broken}");
        }
        assert_eq!(fault("").0, "invalid_request");
        assert_eq!(fault("[]").0, "invalid_value");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert_eq!(fault(&deep).0, "invalid_json");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read() {
        let body = |bytes| Body::from(vec![b' '; bytes]);
        let weight = Weight::new(Arc::default());
        let error = read(body(100), 99, &weight).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(body(99), 99, &weight).await.unwrap().len(), 99);
    }
}
