//! What a server's log tells of its workers, with times.

use std::time::{Duration, SystemTime};

use crate::served::{PATIENCE, Served};

/// The life of one worker.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    pub(super) started: Option<SystemTime>,
    pub(super) loaded: Option<SystemTime>,
    /// By the worker's own clock.
    pub(super) load: Option<Duration>,
    pub(super) ended: Option<SystemTime>,
    /// The line that tells of the end.
    pub(super) cause: String,
}

/// All workers so far.
pub(super) fn lives(log: &str) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for line in log.lines() {
        let time = || {
            let time = line.split_whitespace().next().unwrap_or_default();
            Some(humantime::parse_rfc3339(time).unwrap())
        };
        if line.contains(" a worker started ") {
            lives.push(Life {
                started: time(),
                ..Life::default()
            });
        }
        let Some(life) = lives.last_mut() else {
            continue;
        };
        if line.contains(" a model was loaded ") {
            life.loaded = time();
            let load_ms = line.split("load_ms=").nth(1);
            let load_ms: Option<f64> = load_ms.and_then(|text| text.trim().parse().ok());
            life.load = load_ms.map(|ms| Duration::from_secs_f64(ms / 1e3));
        } else if line.contains(" the worker ended ") {
            life.ended = time();
            line.clone_into(&mut life.cause);
        }
    }
    lives
}

/// Waits until the workers' lives say something, [`PATIENCE`] at most.
pub(super) async fn told<T>(served: &Served, what: &str, say: impl Fn(&[Life]) -> Option<T>) -> T {
    told_within(PATIENCE, served, what, say).await
}

/// The same with a patience of the caller's choice.
pub(super) async fn told_within<T>(
    patience: Duration,
    served: &Served,
    what: &str,
    say: impl Fn(&[Life]) -> Option<T>,
) -> T {
    let asked = tokio::time::Instant::now();
    loop {
        if let Some(said) = say(&lives(&served.log())) {
            return said;
        }
        assert!(
            asked.elapsed() < patience,
            "no {what}\n{}",
            tail(&served.log())
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The last lines of a log, without those on requests.
pub(super) fn tail(log: &str) -> String {
    let of_workers = |line: &&str| !line.contains("aluco::access");
    let lines: Vec<&str> = log.lines().filter(of_workers).collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
