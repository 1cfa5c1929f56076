//! What `aluco serve` and the service manager (systemd) tell each other. Without one, nothing is told and nothing asked.

use std::{
    env, io,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use aluco_server::Server;
use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::failure::{Failure, Outcome};

/// How long a message on the server's state waits for a manager that has not read the last ones. It may be busy with itself for a while,
/// and one that misses such a message ends the server. A manager that reads no more must not hold it up for longer.
const STATE_PATIENCE: Duration = Duration::from_secs(10);

/// The socket that the service manager listens at for this process (`LISTEN_FDS`). To be asked for before there are threads.
pub(crate) fn listener() -> Outcome<Option<TcpListener>> {
    let failed = |error: io::Error| {
        Failure::new(format!(
            "the socket that was handed over cannot be used: {error}"
        ))
        .advise("aluco.socket has to name one TCP socket (ListenStream=127.0.0.1:13313)")
    };
    let listener = ListenFd::from_env().take_tcp_listener(0).map_err(failed)?;
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).map_err(failed)?;
    }
    Ok(listener)
}

/// Requests are answered.
pub(crate) fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"), Some(STATE_PATIENCE));
}

/// The configuration is being read again; [`ready`] is to follow.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    let message = format!("RELOADING=1\nMONOTONIC_USEC={now_us}");
    tell(&message, Some(STATE_PATIENCE));
}

/// The end has begun.
pub(crate) fn stopping() {
    tell("STOPPING=1", Some(STATE_PATIENCE));
}

/// Tells the watchdog, as long as the server is well, that it is. Comes back at once if nobody watches.
pub(crate) async fn keep_watch(server: Server) {
    if let Some(limit) = watchdog_limit() {
        feed(server, limit).await;
    }
}

async fn feed(server: Server, limit: Duration) {
    // Two may be late before the third is missed.
    let every = limit / 3;
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if timeout(every, server.probe()).await.is_ok() {
            // The next one comes soon.
            tell("WATCHDOG=1", None);
        } else {
            tracing::error!(
                "the server does not answer itself; the watchdog is not told that all is well"
            );
        }
    }
}

/// How often the service manager wants to hear that all is well, if it watches this process.
fn watchdog_limit() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let watched = number("WATCHDOG_PID");
    let limit_us = number("WATCHDOG_USEC").filter(|limit_us| *limit_us > 0)?;
    watched
        .is_none_or(|pid| pid == u64::from(process::id()))
        .then(|| Duration::from_micros(limit_us))
}

/// Says something over the socket in `NOTIFY_SOCKET`, as in sd_notify(3), and waits so long if there is no room for it. Its name may be
/// abstract, which crates for this leave out.
fn tell(message: &str, patience: Option<Duration>) {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(patience.is_none())?;
        socket.set_write_timeout(patience)?;
        socket.send_to_addr(message.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
