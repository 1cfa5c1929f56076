//! How often the same warning is repeated. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The same warning comes at most once in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Keeps storms of one kind of warning out of the log.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Of each kind, when it was told last and how often it was not since.
    told: HashMap<&'static str, (Instant, u64)>,
}

impl Quiet {
    /// Whether to tell of one more now; then how many of its kind were left out since the one before.
    pub(super) fn admit(&mut self, kind: &'static str, now: Instant) -> Option<u64> {
        let Some((last, left_out)) = self.told.get_mut(kind) else {
            self.told.insert(kind, (now, 0));
            return Some(0);
        };
        if now.duration_since(*last) < INTERVAL {
            *left_out += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_storm_the_first_is_told_and_later_how_many_were_not() {
        let mut quiet = Quiet::default();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(quiet.admit("LOG-01", begin), Some(0));
        assert_eq!(quiet.admit("LOG-03", begin), Some(0));
        for second in 1..60 {
            assert_eq!(quiet.admit("LOG-01", after(second)), None);
        }
        assert_eq!(quiet.admit("LOG-01", after(60)), Some(59));
        assert_eq!(quiet.admit("LOG-01", after(61)), None);
        assert_eq!(quiet.admit("LOG-03", after(61)), Some(0));
    }
}
