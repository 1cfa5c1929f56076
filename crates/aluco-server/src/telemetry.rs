//! How the machine does. Only the program around the server can tell; the server asks it seldom enough, and hands it on.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::Value;
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};

use crate::{app::App, error::ApiError, operations::Operator};

/// A sample is good for so long, however many ask.
const FRESH: Duration = Duration::from_millis(500);

/// Longest wait for a sample. Reading from a device that hangs can take for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// How the machine does at one moment.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// What `/aluco/v1/telemetry` answers.
    pub report: Value,
    /// What `/metrics` tells of it. Those of the same name stand together.
    pub gauges: Vec<MachineGauge>,
}

/// A figure of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineGauge {
    /// Its name, without `aluco_` before and without the unit behind.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// A base unit in the plural, such as `bytes`; empty for a count.
    pub unit: &'static str,
    /// What tells it from others of its name.
    pub label: Option<(&'static str, &'static str)>,
    /// How much.
    pub value: f64,
}

impl MachineGauge {
    /// One that is alone with its name.
    pub fn new(name: &'static str, help: &'static str, unit: &'static str, value: f64) -> Self {
        Self {
            name,
            help,
            unit,
            label: None,
            value,
        }
    }

    /// One of several of its name.
    #[must_use]
    pub fn labelled(mut self, label: &'static str, value: &'static str) -> Self {
        self.label = Some((label, value));
        self
    }
}

/// Why there is no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTelemetry {
    /// Nobody watches the machine.
    Unwatched,
    /// The machine does not tell how it does in time.
    Late,
}

impl From<NoTelemetry> for ApiError {
    fn from(reason: NoTelemetry) -> Self {
        match reason {
            NoTelemetry::Unwatched => Self::new(
                StatusCode::NOT_FOUND,
                "no_telemetry",
                "this server does not watch the machine that it runs on",
            ),
            NoTelemetry::Late => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "telemetry_late",
                format!(
                    "the machine does not tell how it does within {} s; try again",
                    PATIENCE.as_secs()
                ),
            ),
        }
    }
}

type Outcome = Result<Arc<Telemetry>, NoTelemetry>;

/// Takes samples, one at a time.
#[derive(Default)]
pub(crate) struct Sampled(Mutex<Sampler>);

#[derive(Default)]
struct Sampler {
    /// The last sample and when it was taken.
    last: Option<(Instant, Outcome)>,
    /// One that is being taken. If it hangs there must not be more and more of them: each holds a thread.
    taking: Option<JoinHandle<Option<Telemetry>>>,
}

impl Sampled {
    /// How the machine does. Whoever comes while a sample is taken waits for that one.
    pub(crate) async fn get(&self, operator: &Arc<dyn Operator>, patience: Duration) -> Outcome {
        let mut sampler = self.0.lock().await;
        if let Some((at, sample)) = &sampler.last
            && at.elapsed() < FRESH
        {
            return sample.clone();
        }
        let taking = sampler.taking.get_or_insert_with(|| {
            let operator = operator.clone();
            tokio::task::spawn_blocking(move || operator.telemetry())
        });
        let taken = tokio::time::timeout(patience, taking).await;
        let sample = if let Ok(taken) = taken {
            sampler.taking = None;
            let sample = taken.ok().flatten();
            sample.map(Arc::new).ok_or(NoTelemetry::Unwatched)
        } else {
            tracing::warn!(
                "the machine does not tell how it does within {} s",
                patience.as_secs()
            );
            Err(NoTelemetry::Late)
        };
        sampler.last = Some((Instant::now(), sample.clone()));
        sample
    }
}

pub(crate) async fn telemetry(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let telemetry = app.telemetry().await?;
    Ok(Json(telemetry.report.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    use super::*;
    use crate::{Reload, operations::Acceptance};

    /// Counts the samples, and takes each in this way.
    struct Counting<F> {
        samples: AtomicU32,
        take: F,
    }

    impl<F: Fn() + Send + Sync + 'static> Counting<F> {
        fn new(take: F) -> Arc<Self> {
            let samples = AtomicU32::default();
            Arc::new(Self { samples, take })
        }

        fn samples(&self) -> u32 {
            self.samples.load(Ordering::SeqCst)
        }
    }

    impl<F: Fn() + Send + Sync + 'static> Operator for Counting<F> {
        fn reload(&self, _: &Acceptance<'_>) -> Result<Reload, String> {
            Err(String::new())
        }

        fn log_filter(&self) -> String {
            String::new()
        }

        fn set_log_filter(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn telemetry(&self) -> Option<Telemetry> {
            self.samples.fetch_add(1, Ordering::SeqCst);
            (self.take)();
            Some(Telemetry::default())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cost_one_sample() {
        let counting = Counting::new(|| {});
        let operator: Arc<dyn Operator> = counting.clone();
        let sampled = Sampled::default();
        for samples in 1..=3 {
            let asked = (0..100).map(|_| sampled.get(&operator, PATIENCE));
            let told = futures_util::future::join_all(asked).await;
            assert!(told.iter().all(Result::is_ok));
            assert_eq!(counting.samples(), samples);
            tokio::time::advance(FRESH).await;
        }
    }

    #[tokio::test]
    async fn a_device_that_hangs_holds_up_nobody_and_one_thread_at_most() {
        let (let_go_on, go_on) = mpsc::channel::<()>();
        let go_on = std::sync::Mutex::new(go_on);
        let hanging = Counting::new(move || {
            let _ = go_on.lock().unwrap().recv();
        });
        let operator: Arc<dyn Operator> = hanging.clone();
        let sampled = Sampled::default();
        for _ in 0..3 {
            sampled.0.lock().await.last = None;
            let patience = Duration::from_millis(20);
            let told = sampled.get(&operator, patience).await;
            let reason = told.err().unwrap();
            assert_eq!(reason, NoTelemetry::Late);
            let status = ApiError::from(reason).status();
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
        drop(let_go_on);
        sampled.0.lock().await.last = None;
        assert!(sampled.get(&operator, Duration::MAX).await.is_ok());
        assert_eq!(hanging.samples(), 1);
    }
}
