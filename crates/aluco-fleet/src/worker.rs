//! A running worker: its process, its connection, and the tasks that keep both.

use std::{
    path::Path,
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use aluco_proto::{Command, PROTOCOL_VERSION, WorkerHello};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    FleetConfig,
    cause::CauseKind,
    connection::{self, Connection},
    error::Fault,
    heartbeat::{Heart, Patience, Verdict},
    mishaps::Tally,
    process::{self, Control, LineTail, Surroundings},
};

/// More heartbeats than this would only cost power.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// How long a worker may take to obey [`Command::Shutdown`].
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long a worker may take to obey SIGTERM.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);

/// A running worker. Dropping it kills the process.
pub(crate) struct Worker {
    pub(crate) connection: Arc<Connection>,
    pub(crate) hello: WorkerHello,
    pub(crate) started_at: SystemTime,
    control: mpsc::UnboundedSender<Control>,
}

/// What all workers of a fleet share.
#[derive(Debug, Default)]
pub(crate) struct Nursery {
    /// Cancelled when all processes must go at once.
    pub(crate) kill: CancellationToken,
    /// Waits for the reaping of all processes.
    pub(crate) keepers: TaskTracker,
    /// Told of the end of each process.
    pub(crate) changed: watch::Sender<()>,
    /// Counts what went wrong.
    pub(crate) tally: Arc<Tally>,
}

impl Worker {
    /// Starts a worker and exchanges hellos with it. If the caller goes away meanwhile, so does the process.
    pub(crate) async fn start(
        binary: &Path,
        config: &FleetConfig,
        nursery: &Nursery,
    ) -> Result<Self, Fault> {
        let process::Process {
            child,
            socket,
            stderr,
            started_at,
        } = process::spawn(binary).map_err(|error| {
            Fault::NoWorker(format!("{} cannot be started: {error}", binary.display()))
        })?;
        let span = tracing::info_span!(target: "aluco::worker", "worker", pid = child.id());
        let (connection, frames) = Connection::new();
        let (read_half, write_half) = socket.into_split();
        let (control, control_receiver) = mpsc::unbounded_channel();
        let tail = Arc::new(Mutex::new(LineTail::default()));
        let enough = CancellationToken::new();
        tokio::spawn(connection::write(write_half, frames));
        let around = Surroundings {
            reader: tokio::spawn(
                connection::read(read_half, connection.clone()).instrument(span.clone()),
            ),
            stderr: tokio::spawn(
                process::read_stderr(stderr, tail.clone(), enough.clone()).instrument(span.clone()),
            ),
            enough,
            tail,
            control: control_receiver,
            kill: nursery.kill.clone(),
            started_at,
            kernel_log: config.kernel_log.clone(),
        };
        let kept = connection.clone();
        let changed = nursery.changed.clone();
        let tally = nursery.tally.clone();
        nursery.keepers.spawn(
            async move {
                let cause = process::keep(child, around, || kept.ending()).await;
                tracing::info!(cause = cause.text, kind = ?cause.kind, "the worker ended");
                tally.died(cause.kind);
                kept.end(cause);
                changed.send_replace(());
            }
            .instrument(span.clone()),
        );

        let refused = connection.send(&Command::Hello {
            protocol: PROTOCOL_VERSION,
        });
        debug_assert!(refused.is_ok(), "a hello fits into a frame");
        let hello = tokio::select! {
            biased;
            hello = timeout(config.hello_timeout, connection.hello()) => hello,
            death = connection.ended() => return Err(Fault::WorkerLost(death.cause.clone())),
        };
        let kill = |reason: String| {
            let _ = control.send(Control::Kill(CauseKind::Protocol, reason));
        };
        let hello = match hello {
            Ok(hello) if hello.protocol == PROTOCOL_VERSION => hello.clone(),
            Ok(hello) => {
                kill(format!(
                    "{} speaks protocol {}, this supervisor {PROTOCOL_VERSION} (install both from one build)",
                    binary.display(),
                    hello.protocol
                ));
                return Err(Fault::WorkerLost(connection.ended().await.cause.clone()));
            }
            Err(_) => {
                kill(format!(
                    "it did not say hello within {} s",
                    config.hello_timeout.as_secs_f64()
                ));
                return Err(Fault::WorkerLost(connection.ended().await.cause.clone()));
            }
        };
        let every = config.heartbeat_interval.max(HEARTBEAT_INTERVAL_MIN);
        let heart = Heart::new(
            every,
            Patience {
                silence: config.heartbeat_timeout,
                stopped: config.stopped_timeout,
                stall: config.stall_timeout,
            },
        );
        tokio::spawn(
            watch_over(
                Arc::downgrade(&connection),
                control.downgrade(),
                heart,
                every,
                hello.pid,
            )
            .instrument(span.clone()),
        );
        span.in_scope(|| {
            tracing::info!(
                backend = %hello.backend,
                engine = hello.engine_build,
                cpu_level = hello.cpu_level,
                "a worker started"
            );
        });
        Ok(Self {
            connection,
            hello,
            started_at,
            control,
        })
    }

    /// Ends the process: by asking, by SIGTERM, by SIGKILL. Comes back when it is reaped.
    pub(crate) async fn stop(&self) {
        let _ = self.connection.send(&Command::Shutdown);
        if timeout(SHUTDOWN_GRACE, self.connection.ended())
            .await
            .is_ok()
        {
            return;
        }
        let _ = self.control.send(Control::Terminate);
        if timeout(TERMINATE_GRACE, self.connection.ended())
            .await
            .is_ok()
        {
            return;
        }
        let _ = self.control.send(Control::Kill(
            CauseKind::Unneeded,
            "it did not end when it was asked to".to_owned(),
        ));
        self.connection.ended().await;
    }
}

/// Pings until the connection is over, and has the process killed when its heart stops.
async fn watch_over(
    connection: Weak<Connection>,
    control: mpsc::WeakUnboundedSender<Control>,
    mut heart: Heart,
    every: Duration,
    pid: u32,
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(connection) = connection.upgrade().filter(|it| it.is_open()) else {
            return;
        };
        match heart.beat(connection.pulse(), || process::is_stopped(pid)) {
            Verdict::Ping { sequence } => {
                let _ = connection.send(&Command::Ping { sequence });
            }
            Verdict::Dead(kind, reason) => {
                if let Some(control) = control.upgrade() {
                    let _ = control.send(Control::Kill(kind, reason));
                }
                return;
            }
        }
    }
}
