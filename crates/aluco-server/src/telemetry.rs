//! How the machine does. Only the program around the server can tell; the server asks it seldom enough, and hands it on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{app::App, error::ApiError, operations::Operator};

/// A sample is good for so long, however many ask.
const FRESH: Duration = Duration::from_millis(500);

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

/// The last sample and when it was taken.
#[derive(Default)]
pub(crate) struct Sampled(Mutex<Option<(Instant, Option<Arc<Telemetry>>)>>);

impl Sampled {
    /// How the machine does; `None` if nobody watches it. Whoever comes while a sample is taken waits for that one.
    pub(crate) async fn get(&self, operator: &Arc<dyn Operator>) -> Option<Arc<Telemetry>> {
        let mut last = self.0.lock().await;
        if let Some((at, sample)) = &*last
            && at.elapsed() < FRESH
        {
            return sample.clone();
        }
        let operator = operator.clone();
        let taking = tokio::task::spawn_blocking(move || operator.telemetry());
        let sample = taking.await.ok().flatten().map(Arc::new);
        *last = Some((Instant::now(), sample.clone()));
        sample
    }
}

pub(crate) async fn telemetry(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let telemetry = app.telemetry().await.ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "no_telemetry",
            "this server does not watch the machine that it runs on",
        )
    })?;
    Ok(Json(telemetry.report.clone()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::Reload;

    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Operator for Counting {
        fn reload(&self) -> Result<Reload, String> {
            Err(String::new())
        }

        fn log_filter(&self) -> String {
            String::new()
        }

        fn set_log_filter(&self, _: &str) -> Result<(), String> {
            Ok(())
        }

        fn telemetry(&self) -> Option<Telemetry> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Some(Telemetry::default())
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_cost_one_sample() {
        let counting = Arc::new(Counting::default());
        let operator: Arc<dyn Operator> = counting.clone();
        let sampled = Sampled::default();
        for _ in 0..100 {
            assert!(sampled.get(&operator).await.is_some());
        }
        // One, or a second where this machine took longer than a sample is good for.
        let taken = counting.0.load(Ordering::SeqCst);
        assert!((1..10).contains(&taken), "{taken}");
    }
}
