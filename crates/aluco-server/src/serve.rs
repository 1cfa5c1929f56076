//! Connections: how they are accepted, bounded and ended.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use aluco_fleet::Fleet;
use axum::{Router, extract::ConnectInfo, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt;

use crate::{ServerConfig, app::App};

/// Connections at once. Each costs a file handle; the default limit of a process is 1,024 of them.
const CONNECTIONS_MAX: usize = 512;

/// Wait after an accept that failed because something ran out, such as file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long replies may take to leave once their generations have ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Serves until `shutdown` comes or a client asks for the end. Then no connection is accepted any more, running requests get
/// [`ServerConfig::shutdown_limit`] to finish, the rest is cancelled, and the fleet's workers end.
pub async fn serve(
    listener: TcpListener,
    fleet: Fleet,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (read_timeout, limit) = (config.read_timeout, config.shutdown_limit);
    let app = App::new(fleet.clone(), config);
    let stop = app.stop().clone();
    let router = app.router();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => {
                let (stream, peer, place) = accepted?;
                let connection = connection(stream, peer, router.clone(), read_timeout);
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    tracing::info!("shutting down; running requests get {} s", limit.as_secs());
    fleet.shutdown(limit).await;
    if tokio::time::timeout(FLUSH_LIMIT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some replies could not be delivered");
    }
    Ok(())
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places
        .clone()
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Tokens are small and must not wait for each other.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY");
                }
                return Ok((stream, peer, place));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections; trying on");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    read_timeout: Duration,
) -> http1::Connection<
    TokioIo<TcpStream>,
    impl hyper::service::Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future: Send,
    >,
> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .serve_connection(TokioIo::new(stream), service)
}
