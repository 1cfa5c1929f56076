//! What drafted rows cost: the time of a step with them, relative to one without.

use std::time::Duration;

use super::{DRAFT_TOKENS_MAX, STREAMS_MAX};

/// The most drafted rows of a step.
const EXTRA_ROWS_MAX: usize = (DRAFT_TOKENS_MAX * STREAMS_MAX) as usize;

/// The part of an estimate that one measurement replaces, if each step brings one.
const GAIN: f64 = 0.1;

/// The most that one measurement replaces.
const GAIN_MAX: f64 = 0.5;

/// How far beyond what was measured costs are extrapolated: so many times the rows.
const EXTRAPOLATED: usize = 3;

/// Times of steps with a certain number of streams, by drafted rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    /// Seconds of a step without drafts.
    plain_seconds: Option<f64>,
    plain_age: i32,
    /// Times of a plain step that one with so many drafted rows takes. They hold longer than the times themselves, which change with the
    /// depth of the context and the load of the machine.
    ratios: [Option<f64>; EXTRA_ROWS_MAX + 1],
}

impl Cost {
    /// Notes a step of `streams` streams with so many drafted rows beside one row for each.
    pub(super) fn observe(&mut self, streams: u32, extra_rows: u32, took: Duration) {
        let seconds = took.as_secs_f64();
        if extra_rows == 0 {
            // The rarer, the more it counts.
            let gain = (1.0 - (1.0 - GAIN).powi(self.plain_age + 1)).min(GAIN_MAX);
            self.plain_age = 0;
            let plain = self.plain_seconds.get_or_insert(seconds);
            // A single hiccup is no new pace.
            *plain += gain * (seconds.min(3.0 * *plain) - *plain);
            return;
        }
        self.plain_age = self.plain_age.saturating_add(1);
        let Some(plain) = self.plain_seconds.filter(|plain| *plain > 0.0) else {
            return;
        };
        // No machine needs more than twice the time per row; whatever took longer was something else.
        let most = 2.0 * (1.0 + f64::from(extra_rows) / f64::from(streams));
        let ratio = (seconds / plain).clamp(0.5, most);
        let Some(estimate) = self.ratios.get_mut(extra_rows as usize) else {
            return;
        };
        match estimate {
            Some(estimate) => *estimate += 2.0 * GAIN * (ratio - *estimate),
            None => *estimate = Some(ratio),
        }
    }

    /// Steps since one without drafts was measured.
    pub(super) fn plain_age(&self) -> u32 {
        self.plain_age as u32
    }

    /// True once a plain step was measured.
    pub(super) fn knows_plain(&self) -> bool {
        self.plain_seconds.is_some()
    }

    /// How many plain steps one with so many drafted rows takes; `None` if it is too far from what was measured.
    pub(super) fn ratio(&self, extra_rows: u32) -> Option<f64> {
        let rows = extra_rows as usize;
        if rows == 0 {
            return Some(1.0);
        }
        if let Some(known) = *self.ratios.get(rows)? {
            return Some(known);
        }
        let known = |at: &usize| self.ratios[*at].map(|ratio| (*at, ratio));
        let (below, below_ratio) = (1..rows)
            .rev()
            .find(|at| self.ratios[*at].is_some())
            .as_ref()
            .and_then(known)
            .unwrap_or((0, 1.0));
        let above = (rows + 1..=EXTRA_ROWS_MAX)
            .find(|at| self.ratios[*at].is_some())
            .as_ref()
            .and_then(known);
        let slope = match above {
            Some((above, above_ratio)) => (above_ratio - below_ratio) / (above - below) as f64,
            None if below > 0 && rows <= EXTRAPOLATED * below => {
                ((below_ratio - 1.0) / below as f64).max(0.0)
            }
            None => return None,
        };
        Some(below_ratio + slope * (rows - below) as f64)
    }

    /// The same, and if nothing is known, as if every row cost a plain step's share.
    pub(super) fn ratio_at_worst(&self, streams: u32, extra_rows: u32) -> f64 {
        self.ratio(extra_rows)
            .unwrap_or(1.0 + f64::from(extra_rows) / f64::from(streams))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn costs_between_measured_ones_are_interpolated_and_beyond_extrapolated() {
        let mut cost = Cost::default();
        cost.observe(1, 0, millis(100));
        assert_eq!(cost.ratio(0), Some(1.0));
        assert_eq!(cost.ratio(2), None);
        assert!((cost.ratio_at_worst(1, 2) - 3.0).abs() < 1e-9);
        cost.observe(1, 2, millis(120));
        for (rows, ratio) in [(1, 1.1), (2, 1.2), (6, 1.6)] {
            let found = cost.ratio(rows).expect("near enough");
            assert!((found - ratio).abs() < 1e-9, "{rows} rows: {found}");
        }
        assert_eq!(cost.ratio(7), None);
        cost.observe(1, 8, millis(300));
        assert!((cost.ratio(5).expect("between") - 2.1).abs() < 1e-9);
    }

    #[test]
    fn ratios_survive_a_change_of_the_machine_s_speed() {
        let mut cost = Cost::default();
        cost.observe(1, 0, millis(100));
        cost.observe(1, 4, millis(150));
        for _ in 0..60 {
            cost.observe(1, 0, millis(200));
        }
        cost.observe(1, 4, millis(300));
        let ratio = cost.ratio(4).expect("measured");
        assert!((ratio - 1.5).abs() < 0.01, "{ratio}");
    }

    #[test]
    fn a_hiccup_is_bounded() {
        let mut cost = Cost::default();
        cost.observe(1, 0, millis(10));
        cost.observe(1, 0, millis(5000));
        cost.observe(1, 2, millis(5000));
        assert!(cost.ratio(2).expect("measured") <= 6.0);
        for _ in 0..30 {
            cost.observe(1, 0, millis(10));
            cost.observe(1, 2, millis(11));
        }
        assert!(cost.ratio(2).expect("measured") < 1.15);
    }
}
