//! The routes and what they share.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, PoisonError, RwLock, atomic::AtomicUsize},
    time::SystemTime,
};

use aluco_fleet::Fleet;
use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    middleware,
    routing::{get, post},
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    ServerConfig,
    client::Keys,
    error::ApiError,
    guard, loading,
    metrics::Metrics,
    native, openai,
    operations::{self, Operator},
    resume::{self, Streams},
    telemetry::{self, NoTelemetry, Sampled, Telemetry},
    weight::Weight,
};

/// What all requests share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    shared: Arc<Shared>,
}

struct Shared {
    fleet: Fleet,
    /// What can change while the server runs.
    live: RwLock<Live>,
    streams: Streams,
    operator: Option<Arc<dyn Operator>>,
    /// Held while the configuration is read again.
    reloading: Mutex<()>,
    /// Where the server listens, once it does.
    address: OnceLock<SocketAddr>,
    metrics: Metrics,
    /// Bytes of the bodies of all requests that run.
    bodies: Arc<AtomicUsize>,
    sampled: Sampled,
    /// Cancelled when a client asks the server to stop.
    stop: CancellationToken,
}

#[derive(Clone)]
struct Live {
    config: Arc<ServerConfig>,
    keys: Arc<Keys>,
}

impl Live {
    fn new(config: ServerConfig) -> Self {
        Self {
            keys: Arc::new(Keys::new(&config)),
            config: Arc::new(config),
        }
    }
}

impl App {
    pub(crate) fn new(
        fleet: Fleet,
        config: ServerConfig,
        operator: Option<Arc<dyn Operator>>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                fleet,
                live: RwLock::new(Live::new(config)),
                streams: Streams::default(),
                operator,
                reloading: Mutex::default(),
                address: OnceLock::new(),
                metrics: Metrics::new(),
                bodies: Arc::default(),
                sampled: Sampled::default(),
                stop: CancellationToken::new(),
            }),
        }
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        &self.shared.fleet
    }

    /// Whether a stream can be fetched again, if its client asked for that, asked not to, or did not say.
    pub(crate) fn makes_resumable(&self, asked: Option<bool>) -> bool {
        self.config().resume.streams.includes(asked)
    }

    /// The configuration that holds now.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.live().config
    }

    /// The keys that hold now.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.live().keys
    }

    /// Puts another configuration in place. Requests that run go on under the one they began with.
    pub(crate) fn reconfigure(&self, config: ServerConfig) {
        let live = Live::new(config);
        let place = self.shared.live.write();
        *place.unwrap_or_else(PoisonError::into_inner) = live;
    }

    fn live(&self) -> Live {
        let live = self.shared.live.read();
        live.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whoever runs the server, if that is somebody.
    pub(crate) fn operator(&self) -> Result<&Arc<dyn Operator>, ApiError> {
        self.shared.operator.as_ref().ok_or_else(|| {
            ApiError::new(
                StatusCode::CONFLICT,
                "not_operated",
                "this server is part of another program and takes its settings only from there",
            )
        })
    }

    pub(crate) fn reloading(&self) -> &Mutex<()> {
        &self.shared.reloading
    }

    /// Where the server listens, if it does.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.shared.address.get().copied()
    }

    /// The server listens there from now on.
    pub(crate) fn listens_at(&self, address: SocketAddr) {
        let _ = self.shared.address.set(address);
    }

    /// Streams that can be resumed.
    pub(crate) fn streams(&self) -> &Streams {
        &self.shared.streams
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The weight of one more request.
    pub(crate) fn weight(&self) -> Weight {
        Weight::new(self.shared.bodies.clone())
    }

    /// How the machine does, if somebody watches it.
    pub(crate) async fn telemetry(&self) -> Result<Arc<Telemetry>, NoTelemetry> {
        let operator = self.shared.operator.as_ref();
        let operator = operator.ok_or(NoTelemetry::Unwatched)?;
        self.shared.sampled.get(operator, telemetry::PATIENCE).await
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.shared.stop
    }

    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/", get(native::about))
            .route("/health", get(native::health))
            .route("/metrics", get(native::metrics))
            .route("/v1/chat/completions", post(openai::chat::complete))
            .route("/v1/completions", post(openai::text::complete))
            .route("/v1/models", get(openai::models::list))
            .route("/v1/models/{*name}", get(openai::models::get))
            .route("/aluco/v1/status", get(native::status))
            .route("/aluco/v1/telemetry", get(telemetry::telemetry))
            .route("/aluco/v1/load", post(loading::load))
            .route("/aluco/v1/models/load", post(loading::load))
            .route("/aluco/v1/models/unload", post(native::unload))
            .route("/aluco/v1/tokenize", post(native::tokenize))
            .route("/aluco/v1/detokenize", post(native::detokenize))
            .route("/aluco/v1/render", post(native::render))
            .route(
                "/aluco/v1/streams/{id}",
                get(resume::get).delete(resume::delete),
            )
            .route("/aluco/v1/reload", post(operations::reload))
            .route(
                "/aluco/v1/log",
                get(operations::log).put(operations::set_log),
            )
            .route("/aluco/v1/shutdown", post(native::shutdown))
            .fallback(no_such_path)
            .method_not_allowed_fallback(no_such_method)
            .layer(middleware::from_fn_with_state(self.clone(), guard::watch))
            .layer(guard::cross_origin(self.clone()))
            .with_state(self)
    }
}

/// The routes, for use without a socket of one's own. `POST /aluco/v1/shutdown` has no effect then; [`crate::serve`] gives it one.
pub fn router(fleet: Fleet, config: ServerConfig) -> Router {
    App::new(fleet, config, None).router()
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs())
}

async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is nothing at {}", uri.path()),
    )
}

async fn no_such_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} does not take {method}", uri.path()),
    )
}
