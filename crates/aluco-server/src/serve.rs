//! Connections: how they are accepted, bounded and ended.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::{
    ServerConfig,
    app::App,
    operations::{Operator, Reloaded, warn_of},
};

/// Connections at once. Each costs a file handle; the default limit of a process is 1,024 of them. More than a model's queue holds by
/// default, so that who finds it full is told so and the health can still be asked for.
const CONNECTIONS_MAX: usize = 768;

/// Connections at once from one other machine: one client must not take all places.
const CONNECTIONS_PER_PEER_MAX: usize = 64;

/// Longest time for the head of a request: it is small and comes at once.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// A client that does not take a byte for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Wait after an accept that failed because something ran out, such as file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long replies may take to leave once their generations have ended.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// A server that can be told things while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    app: App,
}

impl Server {
    /// A server that does not run yet. `operator` does for clients what only the program around it can.
    pub fn new(fleet: Fleet, config: ServerConfig, operator: Arc<dyn Operator>) -> Self {
        Self {
            app: App::new(fleet, config, Some(operator)),
        }
    }

    /// Has the configuration read again. Streams that run go on. The error says what is wrong; then nothing has changed.
    pub async fn reload(&self) -> Result<Reloaded, String> {
        let reloaded = self.app.reload().await;
        reloaded.map_err(|error| error.message().to_owned())
    }

    /// Sees that requests are answered and that the fleet is not stuck, which takes a second at most where all is well. To be given
    /// up after some time.
    pub async fn probe(&self) {
        let request = Request::get("/health").body(axum::body::Body::empty());
        let request = request.expect("the request is well-formed");
        let Ok(response) = self.app.clone().router().oneshot(request).await;
        debug_assert!(response.status().is_success());
        self.app.fleet().status().await;
    }

    /// Serves, as [`serve`] does.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        run(self.app, listener, shutdown).await
    }
}

/// Serves until `shutdown` comes or a client asks for the end. Then no connection is accepted any more, running requests get
/// [`ServerConfig::shutdown_limit`] to finish, the rest is cancelled, and the fleet's workers end.
pub async fn serve(
    listener: TcpListener,
    fleet: Fleet,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    run(App::new(fleet, config, None), listener, shutdown).await
}

async fn run(
    app: App,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    warn_of(&app.config());
    app.listens_at(listener.local_addr()?);
    let read_timeout = app.config().read_timeout;
    let stop = app.stop().clone();
    let router = app.clone().router();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = Peers::default();
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => {
                let (stream, peer, place) = accepted?;
                let Some(peer_place) = peers.enter(peer.ip()) else {
                    tracing::warn!(%peer, "too many connections from there");
                    continue;
                };
                let connection = connection(stream, peer, router.clone(), read_timeout);
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                    drop((place, peer_place));
                });
            }
        }
    }
    drop(listener);
    app.streams().close();
    let limit = app.config().shutdown_limit;
    tracing::info!("shutting down; running requests get {} s", limit.as_secs());
    app.fleet().shutdown(limit).await;
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

/// A connection whose writes may not stall for ever.
type PatientStream = TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>;

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    read_timeout: Duration,
) -> http1::Connection<
    PatientStream,
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
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout.min(HEAD_TIMEOUT_MAX))
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}

/// How many connections each other machine has.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection of a peer, until it is dropped.
struct PeerPlace {
    peers: Peers,
    ip: IpAddr,
}

impl Peers {
    /// `None` if that peer has too many. This machine has as many as there are.
    fn enter(&self, ip: IpAddr) -> Option<PeerPlace> {
        let ip = ip.to_canonical();
        let mut counts = self.counts();
        let count = counts.entry(ip).or_default();
        if *count >= CONNECTIONS_PER_PEER_MAX && !ip.is_loopback() {
            return None;
        }
        *count += 1;
        let peers = self.clone();
        Some(PeerPlace { peers, ip })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        let mut counts = self.peers.counts();
        if let Entry::Occupied(mut count) = counts.entry(self.ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_before_the_places_for_connections_are() {
        let nowhere = aluco_model::StoreConfig {
            hub_cache: "/nonexistent".into(),
            models: "/nonexistent".into(),
        };
        let fleet = aluco_fleet::FleetConfig::new(aluco_model::Store::new(nowhere));
        let waiting = fleet.queue_max + fleet.queue_max / 4;
        let requests = waiting + fleet.load_options.sequences_max as usize;
        assert!(requests < CONNECTIONS_MAX, "{requests} requests");
    }

    #[test]
    fn one_other_machine_cannot_take_all_places() {
        let peers = Peers::default();
        let far: IpAddr = "192.0.2.1".parse().unwrap();
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let mut places: Vec<_> = (0..CONNECTIONS_PER_PEER_MAX)
            .map(|_| peers.enter(far).unwrap())
            .collect();
        assert!(peers.enter(far).is_none());
        assert!(peers.enter("192.0.2.2".parse().unwrap()).is_some());
        places.pop();
        assert!(peers.enter(far).is_some());
        let local: Vec<_> = (0..=CONNECTIONS_PER_PEER_MAX)
            .map(|_| peers.enter(near))
            .collect();
        assert!(local.iter().all(Option::is_some));
        drop((places, local));
        assert!(peers.counts().is_empty());
    }
}
