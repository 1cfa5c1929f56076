//! What a client may change of a running server.

use aluco_server::Reloaded;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Client, ClientError};

/// What a server logs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogLevels {
    /// As in `info,aluco::worker=warn`.
    pub(crate) filter: String,
}

impl Client {
    /// How the server's machine does, as the server put it.
    pub(crate) async fn telemetry_json(&self) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, "/aluco/v1/telemetry"))
            .await
    }

    /// Has the server read its configuration again.
    pub(crate) async fn reload(&self) -> Result<Reloaded, ClientError> {
        self.json(self.request(Method::POST, "/aluco/v1/reload"))
            .await
    }

    /// Changes what the server logs, if that is asked for; says what it logs then.
    pub(crate) async fn log(&self, filter: Option<&str>) -> Result<LogLevels, ClientError> {
        let path = "/aluco/v1/log";
        let request = match filter {
            Some(filter) => self
                .request(Method::PUT, path)
                .json(&json!({ "filter": filter })),
            None => self.request(Method::GET, path),
        };
        self.json(request).await
    }
}
