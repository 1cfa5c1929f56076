//! What happens to every request before and after its handler: its id, who may ask, the log, the metrics.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use aluco_model::ModelRef;
use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::{app::App, client::Client, error::ApiError, resume::STREAM_ID, weight::Weight};

/// What programs ask again and again, and nobody wants to read about.
const ROUTINE: [&str; 4] = [
    "/health",
    "/metrics",
    "/aluco/v1/status",
    "/aluco/v1/telemetry",
];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Who asks, as handlers need it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Id of the request, in the log and in the reply.
    pub(crate) request_id: String,
    /// Who it is, as far as fairness and computed prompts go.
    pub(crate) client: Client,
    /// What its body takes of the server's memory.
    pub(crate) weight: Weight,
    /// The connection comes from this machine.
    is_local: bool,
}

impl Caller {
    /// A model's name, if this caller may use it: only programs of this machine may name files.
    pub(crate) fn may_use(&self, model: &str) -> Result<(), ApiError> {
        if model.is_empty() {
            return Err(ApiError::invalid_value("model", "no model is named"));
        }
        if !self.is_local && matches!(model.parse(), Ok(ModelRef::Path(_))) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "model_not_allowed",
                "files can be named as models only from this machine; use a model's name",
            )
            .about("model"));
        }
        Ok(())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts
            .extensions
            .get()
            .cloned()
            .expect("`watch` has seen every request"))
    }
}

/// The middleware.
pub(crate) async fn watch(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| *peer);
    let id = request_id(request.headers());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown", MatchedPath::as_str)
        .to_owned();
    let mut answer = Answer {
        app: app.clone(),
        began,
        id: id.clone(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        route,
        status: None,
        error: None,
    };
    let mut response = match admit(&app, &request) {
        Ok(client) => {
            request.extensions_mut().insert(Caller {
                request_id: id,
                client: client.unwrap_or_else(|| Client::at(peer)),
                weight: app.weight(),
                is_local: peer.is_none_or(|peer| peer.ip().to_canonical().is_loopback()),
            });
            let _running = app.metrics().begin();
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    answer.status = Some(response.status());
    answer.error = response
        .extensions()
        .get::<ApiError>()
        .map(|error| error.to_json().to_string());
    if let Ok(value) = HeaderValue::from_str(&answer.id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// What is logged and counted of a request, also if its client goes away before there is an answer.
struct Answer {
    app: App,
    began: Instant,
    id: String,
    method: Method,
    path: String,
    /// Its path among those that this server has: what clients make up must not become labels of metrics.
    route: String,
    status: Option<StatusCode>,
    error: Option<String>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // nginx's status for it.
        let status = self.status.map_or(499, |status| status.as_u16());
        let elapsed = self.began.elapsed();
        self.app.metrics().answered(&self.route, status, elapsed);
        let is_routine = self.error.is_none() && ROUTINE.contains(&self.route.as_str());
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    target: "aluco::access",
                    request = self.id,
                    method = %self.method,
                    path = self.path,
                    status,
                    ms = elapsed.as_secs_f64() * 1e3,
                    error = self.error,
                    "{}",
                    if self.status.is_some() { "answered" } else { "the client went away" }
                )
            };
        }
        if is_routine {
            log!(debug);
        } else {
            log!(info);
        }
    }
}

/// The client's own id if it is a sane one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX)
        .filter(|id| id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(
            || format!("req-{}", uuid::Uuid::new_v4().simple()),
            str::to_owned,
        )
}

/// Lets a request through to its handler, and says whom its key stands for if it needs one.
fn admit(app: &App, request: &Request) -> Result<Option<Client>, ApiError> {
    let keys = app.keys();
    let headers = request.headers();
    if keys.is_empty() {
        from_this_machine(headers, request.uri())?;
        return Ok(None);
    }
    if matches!(request.uri().path(), "/" | "/health") {
        return Ok(None);
    }
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| bearer(value.as_bytes()))
        .or_else(|| headers.get(API_KEY).map(HeaderValue::as_bytes));
    let Some(given) = given else {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "missing_api_key",
            "an API key is needed: send it as `Authorization: Bearer KEY`",
        ));
    };
    keys.find(given).cloned().map(Some).ok_or_else(|| {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "the API key is not one of this server's",
        )
    })
}

/// The key of an `Authorization` header.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| key.trim_ascii())
}

/// Without a key, browsers are the danger: any web page can send requests to this machine, directly (then they carry its origin) or by
/// having its own name resolve to 127.0.0.1 (then they carry its host).
fn from_this_machine(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let host = match headers.get(header::HOST) {
        Some(value) => value.to_str().ok(),
        None => uri.authority().map(axum::http::uri::Authority::as_str),
    };
    if host.is_some_and(|host| !names_this_machine(host)) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "host_not_allowed",
            "without an API key only requests to localhost are answered",
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    if is_local_origin(origin) {
        Ok(())
    } else {
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "origin_not_allowed",
            "web pages of other sites may use this server only with an API key, and none is set",
        ))
    }
}

/// Lets web pages read replies: those of this machine, or with a key those of any site. Requests without a right to it are refused by
/// [`watch`]; this answers the questions that browsers ask before (CORS).
pub(crate) fn cross_origin(app: App) -> CorsLayer {
    let allowed =
        AllowOrigin::predicate(move |origin, _| !app.keys().is_empty() || is_local_origin(origin));
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([REQUEST_ID, STREAM_ID])
}

fn is_local_origin(origin: &HeaderValue) -> bool {
    origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, authority)| names_this_machine(authority))
}

/// True for `localhost` and loopback addresses, with or without a port.
fn names_this_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(authority, |(host, _)| host),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for (authority, local) in [
            ("localhost", true),
            ("LOCALHOST:13313", true),
            ("aluco.localhost:80", true),
            ("127.0.0.1:13313", true),
            ("[::1]:13313", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example:13313", false),
            ("evillocalhost", false),
            ("192.168.0.3:13313", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(names_this_machine(authority), local, "{authority}");
        }
    }

    #[test]
    fn the_scheme_of_a_key_is_read_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(b"abc".as_slice()));
        assert_eq!(bearer(b"bearer  \xc3\xa9 "), Some(b"\xc3\xa9".as_slice()));
        assert_eq!(bearer(b"Basic abcdef"), None);
        assert_eq!(bearer(b"abc"), None);
    }

    #[test]
    fn ids_of_clients_are_taken_over_unless_they_could_do_harm() {
        let id = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(value));
            request_id(&headers)
        };
        assert_eq!(id("abc-1"), "abc-1");
        assert!(id("two words").starts_with("req-"));
        assert!(id("").starts_with("req-"));
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn files_can_be_named_only_from_this_machine() {
        let mut caller = Caller {
            request_id: String::new(),
            client: Client::at(None),
            weight: Weight::new(std::sync::Arc::default()),
            is_local: false,
        };
        assert!(caller.may_use("/models/a.gguf").is_err());
        assert!(caller.may_use("smollm2:135m").is_ok());
        assert!(caller.may_use("").is_err());
        caller.is_local = true;
        assert!(caller.may_use("/models/a.gguf").is_ok());
    }
}
