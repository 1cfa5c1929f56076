//! Notices when prefill becomes slow, which on some drivers comes before a crash. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Steps that the usual speed is taken from.
const STEPS_MAX: usize = 32;

/// With fewer nothing is usual.
const STEPS_MIN: usize = 8;

/// Smaller steps wait more than they compute.
const STEP_TOKENS_MIN: u32 = 128;

/// So many times slower than usual is worth a word.
const DECAY: f64 = 3.0;

/// Time between two words.
const PAUSE: Duration = Duration::from_secs(60);

/// The speed of one model's last steps.
#[derive(Debug, Default)]
pub(crate) struct PrefillSpeed {
    per_second: VecDeque<f64>,
    told_at: Option<Instant>,
}

/// A step that was much slower than usual, in tokens/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decay {
    pub(crate) usual_per_second: f64,
    pub(crate) now_per_second: f64,
}

impl PrefillSpeed {
    /// Notes a step in which nothing but one prompt was computed.
    pub(crate) fn observe(&mut self, tokens: u32, took: Duration, now: Instant) -> Option<Decay> {
        if tokens < STEP_TOKENS_MIN || took.is_zero() {
            return None;
        }
        let now_per_second = f64::from(tokens) / took.as_secs_f64();
        let usual = self.median();
        if self.per_second.len() == STEPS_MAX {
            self.per_second.pop_front();
        }
        self.per_second.push_back(now_per_second);
        let usual_per_second = usual.filter(|usual| now_per_second * DECAY < *usual)?;
        if self.told_at.is_some_and(|told| now < told + PAUSE) {
            return None;
        }
        self.told_at = Some(now);
        Some(Decay {
            usual_per_second,
            now_per_second,
        })
    }

    fn median(&self) -> Option<f64> {
        if self.per_second.len() < STEPS_MIN {
            return None;
        }
        let mut sorted: Vec<f64> = self.per_second.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        Some(sorted[sorted.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_step_at_a_third_of_the_usual_speed_is_told_once_a_minute() {
        let mut speed = PrefillSpeed::default();
        let now = Instant::now();
        for _ in 0..STEPS_MIN {
            assert_eq!(speed.observe(512, SECOND, now), None);
        }
        assert_eq!(speed.observe(512, 2 * SECOND, now), None);
        let decay = Decay {
            usual_per_second: 512.0,
            now_per_second: 128.0,
        };
        assert_eq!(speed.observe(512, 4 * SECOND, now), Some(decay));
        assert_eq!(speed.observe(512, 4 * SECOND, now + SECOND), None);
        assert!(speed.observe(512, 4 * SECOND, now + PAUSE).is_some());
    }

    #[test]
    fn a_speed_that_falls_with_the_depth_of_a_prompt_is_usual() {
        let mut speed = PrefillSpeed::default();
        let now = Instant::now();
        for step in 0..200 {
            let took = SECOND.mul_f64(1.0 + f64::from(step) / 20.0);
            assert_eq!(speed.observe(512, took, now), None, "step {step}");
        }
    }

    #[test]
    fn small_steps_tell_nothing() {
        let mut speed = PrefillSpeed::default();
        let now = Instant::now();
        for _ in 0..20 {
            speed.observe(512, SECOND, now);
        }
        assert_eq!(speed.observe(16, 100 * SECOND, now), None);
    }
}
