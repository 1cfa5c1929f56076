//! What goes wrong, in OpenAI's form: `{"error": {"message", "type", "param", "code"}}` and a status.

use aluco_fleet::{
    FleetError,
    plan::Refusal,
    proto::{Failure, FailureKind},
};
use aluco_model::ModelError;
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// Seconds after which a client that was turned away may try again.
const RETRY_AFTER_S: u64 = 2;

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
    /// Why there is no memory for a model, for programs.
    refusal: Option<Box<Refusal>>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            param: None,
            message: message.into(),
            refusal: None,
        }
    }

    /// The request is at fault.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// The value of one field is at fault.
    pub(crate) fn invalid_value(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).about(param)
    }

    /// A field that this server knows and cannot serve: ignoring it would give a wrong answer.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).about(param)
    }

    /// Names the field at fault.
    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The body, which is also the event that ends a stream. `refusal` is Aluco's own.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = json!({
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        });
        if let Some(refusal) = &self.refusal {
            error["refusal"] = json!(refusal);
        }
        json!({"error": error})
    }

    /// There is no memory for a model, now or at all.
    fn no_memory(status: StatusCode, message: String, refusal: Box<Refusal>) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::new(status, "insufficient_memory", message).about("model")
        }
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            400..=499 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "server_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
            }
            // Clients ask again after what begins with a 5 unless they are told that it is of no use.
            StatusCode::INSUFFICIENT_STORAGE => {
                headers.insert("x-should-retry", HeaderValue::from_static("false"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // The client may still be sending what was not read.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let message = error.to_string();
        match error {
            ModelError::NotFound { .. }
            | ModelError::NoSuchFile { .. }
            | ModelError::InvalidName { .. }
            | ModelError::NotInCatalogue { .. } => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", message).about("model")
            }
            ModelError::NotGguf { .. } | ModelError::Gguf { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "model_unusable", message).about("model")
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "model_unusable", message)
                .about("model"),
        }
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let message = error.to_string();
        match error {
            FleetError::Model(error) => error.into(),
            FleetError::Failed(failure) => failure.into(),
            FleetError::DoesNotFit(refusal) => {
                Self::no_memory(StatusCode::INSUFFICIENT_STORAGE, message, refusal)
            }
            FleetError::NoRoom(refusal) => {
                Self::no_memory(StatusCode::SERVICE_UNAVAILABLE, message, refusal)
            }
            FleetError::NoWorker { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "no_worker", message)
            }
            FleetError::WorkerLost { .. } => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "worker_lost", message)
            }
            FleetError::Overloaded { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            }
            FleetError::ShuttingDown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message)
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.message;
        match failure.kind {
            FailureKind::InvalidRequest => Self::invalid(message),
            FailureKind::ContextExceeded { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            }
            // Not 500, for which clients ask again by themselves: the next load would fail as well.
            FailureKind::LoadFailed => {
                Self::new(StatusCode::BAD_REQUEST, "model_unusable", message).about("model")
            }
            FailureKind::OutOfMemory => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "out_of_memory", message)
            }
            FailureKind::Overloaded => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            }
            FailureKind::WorkerLost => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "worker_lost", message)
            }
            // It was unloaded before the request could begin, and the next one loads it again.
            FailureKind::ModelNotLoaded => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_unloaded", message)
            }
            FailureKind::Engine => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_is_too_long_is_the_clients_to_mend() {
        let error = ApiError::from(Failure {
            kind: FailureKind::ContextExceeded {
                prompt_tokens: 9000,
                context_tokens: 8192,
            },
            message: "too long".to_owned(),
        });
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert_eq!(
            error.to_json(),
            json!({"error": {
                "message": "too long",
                "type": "invalid_request_error",
                "param": null,
                "code": "context_length_exceeded",
            }})
        );
    }

    #[test]
    fn who_is_turned_away_learns_when_to_come_back() {
        let response = ApiError::from(FleetError::Overloaded { waiting: 512 }).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }

    #[test]
    fn a_missing_model_is_a_404_about_the_field() {
        let error = ApiError::from(ModelError::NotFound {
            name: "nope".to_owned(),
            similar: None,
        });
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
        assert_eq!(error.to_json()["error"]["param"], "model");
    }
}
