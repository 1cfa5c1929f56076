//! Whether a worker still lives, judged by its answers to pings.
//!
//! Time is counted in heartbeats rather than read from a clock: when the supervisor itself was stopped or starved for a while, it
//! comes back to one late heartbeat and not to a worker that seems silent for minutes.

use std::time::Duration;

/// The last signs of life.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pulse {
    /// Of the last pong.
    pub(crate) sequence: u64,
    /// Of the last pong.
    pub(crate) steps: u64,
    /// Of the last pong.
    pub(crate) is_working: bool,
    /// Frames so far that tell of work on a device: of loads, generations and measurements.
    pub(crate) progress_frames: u64,
}

/// What to do at a heartbeat.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Send this ping.
    Ping { sequence: u64 },
    /// Kill it, for this reason.
    Dead(String),
}

/// Judges one worker.
#[derive(Debug)]
pub(crate) struct Heart {
    interval: Duration,
    timeout: Duration,
    stall_timeout: Duration,
    sequence: u64,
    stalled: u32,
    last: Pulse,
}

impl Heart {
    pub(crate) fn new(interval: Duration, timeout: Duration, stall_timeout: Duration) -> Self {
        Self {
            interval,
            timeout,
            stall_timeout,
            sequence: 0,
            stalled: 0,
            last: Pulse::default(),
        }
    }

    /// One heartbeat, `interval` or more after the last one.
    pub(crate) fn beat(&mut self, pulse: Pulse) -> Verdict {
        // Pings without an answer so far: the oldest of them is that many heartbeats old. A worker that answers each of them late
        // is a slow one.
        let unanswered = self.sequence.saturating_sub(pulse.sequence) as u32;
        let has_moved = pulse.steps != self.last.steps
            || pulse.progress_frames != self.last.progress_frames
            || !pulse.is_working;
        self.stalled = if has_moved { 0 } else { self.stalled + 1 };
        self.last = pulse;
        if unanswered > 0 && self.interval * unanswered >= self.timeout {
            return Verdict::Dead(format!(
                "it did not answer for {} s",
                self.timeout.as_secs_f64()
            ));
        }
        if self.stalled > 0 && self.interval * self.stalled >= self.stall_timeout {
            return Verdict::Dead(format!(
                "its device did not finish a step for {} s",
                self.stall_timeout.as_secs_f64()
            ));
        }
        self.sequence += 1;
        Verdict::Ping {
            sequence: self.sequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heart() -> Heart {
        Heart::new(
            Duration::from_secs(1),
            Duration::from_secs(3),
            Duration::from_secs(5),
        )
    }

    #[test]
    fn a_worker_that_answers_lives() {
        let mut heart = heart();
        let mut pulse = Pulse::default();
        for _ in 0..100 {
            let Verdict::Ping { sequence } = heart.beat(pulse) else {
                panic!("a living worker was given up");
            };
            pulse.sequence = sequence;
        }
    }

    #[test]
    fn a_worker_that_answers_each_ping_late_lives() {
        let mut heart = heart();
        let mut sequence = 0;
        for beat in 0..100 {
            let pulse = Pulse {
                sequence: sequence.max(1) - 1,
                ..Pulse::default()
            };
            let Verdict::Ping { sequence: next } = heart.beat(pulse) else {
                panic!("a slow worker was given up at beat {beat}");
            };
            sequence = next;
        }
    }

    #[test]
    fn a_silent_worker_is_dead_after_the_timeout_and_not_before() {
        let mut heart = heart();
        let verdicts: Vec<_> = (0..4).map(|_| heart.beat(Pulse::default())).collect();
        assert_eq!(verdicts[2], Verdict::Ping { sequence: 3 });
        assert_eq!(
            verdicts[3],
            Verdict::Dead("it did not answer for 3 s".to_owned())
        );
    }

    #[test]
    fn a_worker_that_answers_but_stands_still_is_dead_after_the_stall_timeout() {
        let mut heart = heart();
        let mut pulse = Pulse {
            is_working: true,
            steps: 7,
            ..Pulse::default()
        };
        let mut beats = 0;
        let reason = loop {
            match heart.beat(pulse) {
                Verdict::Ping { sequence } => pulse.sequence = sequence,
                Verdict::Dead(reason) => break reason,
            }
            beats += 1;
            assert!(beats < 100, "never given up");
        };
        assert_eq!(reason, "its device did not finish a step for 5 s");
        assert_eq!(beats, 5);
    }

    #[test]
    fn load_progress_and_idleness_are_no_stall() {
        let mut heart = heart();
        let mut pulse = Pulse::default();
        for beat in 0..100 {
            let Verdict::Ping { sequence } = heart.beat(pulse) else {
                panic!("a living worker was given up at beat {beat}");
            };
            pulse = Pulse {
                sequence,
                is_working: beat > 50,
                progress_frames: if beat > 50 { beat } else { 0 },
                ..pulse
            };
        }
    }
}
