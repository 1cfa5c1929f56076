//! How fast models compute, from their counters of tokens at several moments.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use aluco_proto::{ModelActivity, ModelHandle};

/// How far back a speed looks.
const WINDOW: Duration = Duration::from_secs(10);

/// Counters that were read closer to each other say nothing: a step of many tokens is in one of them or not.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// Readings kept per model, however often somebody looks.
const READINGS_MAX: usize = 64;

/// How fast a model computed in the last seconds, of all its sequences together.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Speed {
    /// Prompt tokens computed per second.
    pub prefill_per_second: f64,
    /// Tokens generated per second.
    pub decode_per_second: f64,
    /// The time over which this was counted, in milliseconds.
    pub over_ms: u64,
}

/// Remembers what the counters of models said lately.
#[derive(Debug, Default)]
pub(crate) struct Speedometer(HashMap<ModelHandle, VecDeque<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    prefill_tokens: u64,
    decode_tokens: u64,
}

impl Speedometer {
    /// Takes the counters of all loaded models; those of others are forgotten.
    pub(crate) fn read(&mut self, now: Instant, activities: &[ModelActivity]) {
        self.0
            .retain(|model, _| activities.iter().any(|activity| activity.model == *model));
        for activity in activities {
            let readings = self.0.entry(activity.model).or_default();
            let reading = Reading {
                at: now,
                prefill_tokens: activity.prefill_tokens,
                decode_tokens: activity.decode_tokens,
            };
            // Loaded anew under the same handle.
            if readings.back().is_some_and(|last| {
                last.decode_tokens > reading.decode_tokens
                    || last.prefill_tokens > reading.prefill_tokens
            }) {
                readings.clear();
            }
            readings.retain(|it| now.saturating_duration_since(it.at) <= WINDOW);
            if readings.len() == READINGS_MAX {
                // Thinned out rather than cut off: the oldest reading is the one that counts.
                readings.remove(READINGS_MAX / 2);
            }
            readings.push_back(reading);
        }
    }

    /// The speed of a model. `None` as long as its counters were not read twice within some seconds.
    pub(crate) fn speed(&self, model: ModelHandle) -> Option<Speed> {
        let readings = self.0.get(&model)?;
        let (first, last) = (readings.front()?, readings.back()?);
        let span = last.at.saturating_duration_since(first.at);
        if span < SPAN_MIN {
            return None;
        }
        let per_second = |from: u64, to: u64| (to - from) as f64 / span.as_secs_f64();
        Some(Speed {
            prefill_per_second: per_second(first.prefill_tokens, last.prefill_tokens),
            decode_per_second: per_second(first.decode_tokens, last.decode_tokens),
            over_ms: span.as_millis() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(model: u32, prefill_tokens: u64, decode_tokens: u64) -> ModelActivity {
        ModelActivity {
            model: ModelHandle(model),
            sequences_running: 0,
            requests_waiting: 0,
            cells_used: 0,
            cells_total: 0,
            cache: aluco_proto::CacheActivity::default(),
            prefill_tokens,
            decode_tokens,
            memory: Vec::new(),
        }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_speed_is_what_was_computed_between_two_looks() {
        let start = Instant::now();
        let mut meter = Speedometer::default();
        meter.read(start, &[activity(1, 100, 10)]);
        assert_eq!(meter.speed(ModelHandle(1)), None, "one look is none");
        meter.read(start + seconds(0.1), &[activity(1, 200, 20)]);
        assert_eq!(meter.speed(ModelHandle(1)), None, "too close");
        meter.read(start + seconds(2.0), &[activity(1, 1100, 30)]);
        let expected = Speed {
            prefill_per_second: 500.0,
            decode_per_second: 10.0,
            over_ms: 2000,
        };
        assert_eq!(meter.speed(ModelHandle(1)), Some(expected));
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let start = Instant::now();
        let mut meter = Speedometer::default();
        meter.read(start, &[activity(1, 9000, 900)]);
        meter.read(start + seconds(20.0), &[activity(1, 9500, 950)]);
        assert_eq!(meter.speed(ModelHandle(1)), None);
        meter.read(start + seconds(21.0), &[activity(1, 9500, 950)]);
        let speed = meter.speed(ModelHandle(1)).unwrap();
        assert!(speed.prefill_per_second.abs() < 1e-9 && speed.decode_per_second.abs() < 1e-9);
    }

    #[test]
    fn counters_that_begin_anew_are_no_negative_speed() {
        let start = Instant::now();
        let mut meter = Speedometer::default();
        meter.read(start, &[activity(1, 9000, 900)]);
        meter.read(start + seconds(1.0), &[activity(1, 10, 1)]);
        assert_eq!(meter.speed(ModelHandle(1)), None);
    }

    #[test]
    fn nothing_piles_up_however_often_somebody_looks() {
        let start = Instant::now();
        let mut meter = Speedometer::default();
        for look in 0..5000_u32 {
            let at = start + seconds(0.001) * look;
            meter.read(at, &[activity(1, 0, look.into())]);
        }
        assert!(meter.0[&ModelHandle(1)].len() <= READINGS_MAX);
        let speed = meter.speed(ModelHandle(1)).unwrap();
        assert!((speed.decode_per_second - 1000.0).abs() < 1.0, "{speed:?}");
        meter.read(start, &[]);
        assert!(meter.0.is_empty());
    }
}
