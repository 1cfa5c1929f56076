//! A small client of Aluco's own server: what `run`, `ps` and `stop` need of it.

mod error;
mod loading;
mod operating;
mod resuming;
mod sse;
mod stream;
pub(crate) mod wire;

use std::time::Duration;

use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) use error::ClientError;
pub(crate) use loading::{LoadEvent, LoadStream};
pub(crate) use stream::{ChatEvent, ChatStream};
use wire::{ChatRequest, ErrorAnswer, Health, LoadRequest, Status, Unloaded};

/// How long a server may take to take a connection. A server on a network is a few milliseconds away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to say that it is there. One on a machine that swaps or compiles is slow and not gone.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest part of a foreign error page that is quoted, in characters.
const QUOTE_MAX: usize = 200;

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    api_key: Option<String>,
    /// The network between here and there can fail by itself. Then answers are taken up where they broke off.
    is_far: bool,
}

impl Client {
    /// A client of the server at this URL. Sends nothing yet.
    pub(crate) fn new(url: &str, api_key: Option<&str>) -> Result<Self, ClientError> {
        let url = url.trim_end_matches('/').to_owned();
        let invalid = || ClientError::InvalidUrl { url: url.clone() };
        let parsed = Url::parse(&url).map_err(|_| invalid())?;
        let host = parsed.host_str().ok_or_else(invalid)?;
        if let Some(key) = api_key {
            HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| ClientError::InvalidKey)?;
        }
        let is_encrypted = match parsed.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(invalid()),
        };
        // Reading the system's certificates takes longer than a request to a server on this machine.
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .tls_built_in_root_certs(is_encrypted);
        let is_far = !(matches!(host, "localhost" | "[::1]") || host.starts_with("127."));
        if !is_far {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| ClientError::network(&url, &error))?;
        Ok(Self {
            http,
            url,
            api_key: api_key.map(str::to_owned),
            is_far,
        })
    }

    /// Where the server is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// True if it is on another machine.
    pub(crate) fn is_far(&self) -> bool {
        self.is_far
    }

    /// Comes back without error if an Aluco server answers.
    pub(crate) async fn check(&self) -> Result<(), ClientError> {
        let not_aluco = || ClientError::NotAluco {
            url: self.url.clone(),
        };
        let request = self.request(Method::GET, "/health").timeout(HEALTH_TIMEOUT);
        let response = request.send().await.map_err(|error| self.network(&error))?;
        let health: Health = response.json().await.map_err(|_| not_aluco())?;
        if health.service == "aluco" {
            Ok(())
        } else {
            Err(not_aluco())
        }
    }

    /// What the server's fleet does.
    pub(crate) async fn status(&self) -> Result<Status, ClientError> {
        self.json(self.request(Method::GET, "/aluco/v1/status"))
            .await
    }

    /// The same, as the server put it.
    pub(crate) async fn status_json(&self) -> Result<Value, ClientError> {
        self.json(self.request(Method::GET, "/aluco/v1/status"))
            .await
    }

    /// Loads a model, if it is not loaded.
    pub(crate) async fn load(&self, model: &str) -> Result<(), ClientError> {
        let request = self
            .request(Method::POST, "/aluco/v1/models/load")
            .json(&json!({ "model": model }));
        self.send(request).await.map(drop)
    }

    /// Loads a model, if it is not loaded, and tells how far that is.
    pub(crate) async fn follow_load(
        &self,
        request: &LoadRequest<'_>,
    ) -> Result<LoadStream, ClientError> {
        let request = self
            .request(Method::POST, "/aluco/v1/load")
            .header(ACCEPT, "text/event-stream")
            .json(request);
        let response = self.send(request).await?;
        Ok(LoadStream::new(response, self.url.clone()))
    }

    /// What a load would do, as the server puts it.
    pub(crate) async fn plan_load(&self, model: &str) -> Result<Value, ClientError> {
        let request = self
            .request(Method::POST, "/aluco/v1/load")
            .json(&json!({ "model": model, "dry_run": true }));
        self.json(request).await
    }

    /// Unloads a model. False: it was not loaded.
    pub(crate) async fn unload(&self, model: &str) -> Result<bool, ClientError> {
        let request = self
            .request(Method::POST, "/aluco/v1/models/unload")
            .json(&json!({ "model": model }));
        let answer: Unloaded = self.json(request).await?;
        Ok(answer.unloaded)
    }

    /// Asks the server to end. It finishes or cancels what it is at first.
    pub(crate) async fn shutdown(&self) -> Result<(), ClientError> {
        self.send(self.request(Method::POST, "/aluco/v1/shutdown"))
            .await
            .map(drop)
    }

    /// Asks for the next message of a conversation. To drop the stream is to cancel, if need be after [`ChatStream::give_up`].
    pub(crate) async fn chat(&self, request: &ChatRequest<'_>) -> Result<ChatStream, ClientError> {
        let mut request = self
            .request(Method::POST, "/v1/chat/completions")
            .json(request);
        if self.is_far {
            request = request.header(resuming::RESUMABLE, "true");
        }
        let response = self.send(request).await?;
        Ok(ChatStream::new(response, self.clone()))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| self.network(&error))
    }

    /// Sends the request. An answer that is no success becomes an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.network(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let is_json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let text = response
            .text()
            .await
            .map_err(|error| self.network(&error))?;
        let answer: Option<ErrorAnswer> =
            is_json.then(|| serde_json::from_str(&text).ok()).flatten();
        Err(self.refusal(status, answer, &text))
    }

    fn refusal(&self, status: StatusCode, answer: Option<ErrorAnswer>, text: &str) -> ClientError {
        let Some(ErrorAnswer { error }) = answer else {
            let line: Vec<&str> = text.split_whitespace().collect();
            let quote: String = line.join(" ").chars().take(QUOTE_MAX).collect();
            return ClientError::Broken {
                url: self.url.clone(),
                reason: format!("unexpected answer {status} {quote}")
                    .trim_end()
                    .to_owned(),
            };
        };
        if status == StatusCode::UNAUTHORIZED {
            return ClientError::Key {
                url: self.url.clone(),
                message: error.message,
            };
        }
        ClientError::Refused {
            message: error.message,
            code: error.code,
        }
    }

    fn network(&self, error: &reqwest::Error) -> ClientError {
        ClientError::network(&self.url, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_a_server_is_refused_at_once() {
        for url in ["", "localhost", "ftp://box", "http://", "file:///etc"] {
            assert!(
                matches!(Client::new(url, None), Err(ClientError::InvalidUrl { .. })),
                "{url}"
            );
        }
        let client = Client::new("http://127.0.0.1:13313/", None).unwrap();
        assert_eq!(client.url(), "http://127.0.0.1:13313");
    }

    #[test]
    fn a_foreign_error_page_is_quoted_in_part() {
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let error = client.refusal(StatusCode::BAD_GATEWAY, None, &"<p>\n\n x".repeat(1000));
        let text = error.to_string();
        assert!(text.contains("502 Bad Gateway"), "{text}");
        assert!(text.len() < 300 && !text.contains('\n'), "{text}");
    }
}
