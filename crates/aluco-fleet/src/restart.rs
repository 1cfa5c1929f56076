//! When a worker that died may be started again.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Deaths older than this are forgiven.
const WINDOW: Duration = Duration::from_secs(60);

/// With this many deaths in [`WINDOW`] requests no longer wait for the back-off but fail at once.
const DEATHS_MAX: usize = 5;

/// Bounds the memory of a worker that dies all the time; the doubling is long at its maximum by then.
const DEATHS_REMEMBERED: usize = 32;

/// What a request that needs a worker should do.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// Start one.
    Start,
    /// Start one at that time.
    WaitUntil(Instant),
    /// Give up, for this reason.
    Refuse(String),
}

/// Remembers the recent deaths of one worker.
#[derive(Debug)]
pub(crate) struct Restarts {
    backoff: Duration,
    backoff_max: Duration,
    deaths: VecDeque<Instant>,
    last_cause: String,
}

impl Restarts {
    pub(crate) fn new(backoff: Duration, backoff_max: Duration) -> Self {
        Self {
            backoff,
            backoff_max,
            deaths: VecDeque::new(),
            last_cause: String::new(),
        }
    }

    /// Notes a death. One of a worker that was of use is no sign that the next will not be, so it is the first again.
    pub(crate) fn died(&mut self, at: Instant, cause: String, was_useful: bool) {
        if was_useful {
            self.deaths.clear();
        }
        while self
            .deaths
            .front()
            .is_some_and(|&death| at.saturating_duration_since(death) > WINDOW)
        {
            self.deaths.pop_front();
        }
        if self.deaths.len() == DEATHS_REMEMBERED {
            self.deaths.pop_front();
        }
        self.deaths.push_back(at);
        self.last_cause = cause;
    }

    /// Whether a worker may be started now.
    pub(crate) fn decide(&self, now: Instant) -> Decision {
        let Some(&last) = self.deaths.back() else {
            return Decision::Start;
        };
        let doublings = (self.deaths.len() - 1).min(31) as u32;
        let backoff = self
            .backoff
            .saturating_mul(1 << doublings)
            .min(self.backoff_max);
        let until = last + backoff;
        if now >= until {
            Decision::Start
        } else if self.deaths.len() >= DEATHS_MAX {
            Decision::Refuse(format!(
                "{}; it died {} times within a minute and is not started again for {} s",
                self.last_cause,
                self.deaths.len(),
                (until - now).as_secs() + 1
            ))
        } else {
            Decision::WaitUntil(until)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts() -> Restarts {
        Restarts::new(SECOND, 10 * SECOND)
    }

    #[test]
    fn the_first_start_is_at_once() {
        assert_eq!(restarts().decide(Instant::now()), Decision::Start);
    }

    #[test]
    fn the_wait_doubles_with_each_death_and_stops_at_its_maximum() {
        let mut restarts = restarts();
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8] {
            restarts.died(now, "broken".to_owned(), false);
            let until = now + seconds * SECOND;
            assert_eq!(restarts.decide(now), Decision::WaitUntil(until));
            assert_eq!(restarts.decide(until), Decision::Start);
            now = until;
        }
        restarts.died(now, "broken".to_owned(), false);
        assert_eq!(restarts.decide(now + 10 * SECOND), Decision::Start);
    }

    #[test]
    fn after_five_deaths_in_a_minute_requests_fail_at_once_until_the_wait_is_over() {
        let mut restarts = restarts();
        let now = Instant::now();
        for _ in 0..5 {
            restarts.died(now, "killed by SIGSEGV".to_owned(), false);
        }
        assert_eq!(
            restarts.decide(now + SECOND),
            Decision::Refuse(
                "killed by SIGSEGV; it died 5 times within a minute and is not started again for 10 s"
                    .to_owned()
            )
        );
        assert_eq!(restarts.decide(now + 10 * SECOND), Decision::Start);
    }

    #[test]
    fn deaths_of_more_than_a_minute_ago_are_forgiven() {
        let mut restarts = restarts();
        let now = Instant::now();
        for _ in 0..5 {
            restarts.died(now, "broken".to_owned(), false);
        }
        let later = now + 61 * SECOND;
        restarts.died(later, "broken".to_owned(), false);
        assert_eq!(restarts.decide(later), Decision::WaitUntil(later + SECOND));
    }

    #[test]
    fn deaths_of_workers_that_were_of_use_do_not_add_up() {
        let mut restarts = restarts();
        let mut now = Instant::now();
        for _ in 0..50 {
            restarts.died(now, "killed by hand".to_owned(), true);
            assert_eq!(restarts.decide(now), Decision::WaitUntil(now + SECOND));
            now += SECOND;
        }
    }

    #[test]
    fn many_deaths_neither_overflow_nor_pile_up() {
        let mut restarts = restarts();
        let now = Instant::now();
        for _ in 0..10_000 {
            restarts.died(now, "broken".to_owned(), false);
        }
        assert!(restarts.deaths.len() < 100);
        assert!(matches!(restarts.decide(now), Decision::Refuse(_)));
    }
}
