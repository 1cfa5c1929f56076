//! Whether a worker still lives, judged by its answers to pings.
//!
//! Time is counted in heartbeats rather than read from a clock: when the supervisor itself was stopped or starved for a while, it
//! comes back to one late heartbeat and not to a worker that seems silent for minutes.

use std::{collections::VecDeque, time::Duration};

use crate::cause::CauseKind;

/// The last signs of life.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pulse {
    /// Of the last pong.
    pub(crate) sequence: u64,
    /// Of the last pong.
    pub(crate) steps: u64,
    /// Of the last pong.
    pub(crate) is_working: bool,
    /// Of the last pong: tokens in the step that runs.
    pub(crate) step_tokens: u32,
    /// Frames so far that tell of work on a device: of loads, generations and measurements.
    pub(crate) progress_frames: u64,
}

/// What to do at a heartbeat.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Send this ping.
    Ping { sequence: u64 },
    /// Kill it, for this reason.
    Dead(CauseKind, String),
}

/// Step sizes in tokens up to which steps take about as long, and one size for all larger ones.
const SIZES: [u32; 4] = [8, 64, 512, u32::MAX];

/// The last steps of each size that their usual time is taken from, and with how many it can be.
const STEPS_MAX: usize = 64;
const STEPS_MIN: usize = 8;

/// A step may take so many times as long as the slowest of the last ones of its size, and so long in any case: a machine that swaps or
/// compiles is slow for a while.
const PATIENCE: u32 = 20;
const PATIENCE_MIN: Duration = Duration::from_secs(20);

/// How long a worker may be silent or stand still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Without an answer.
    pub(crate) silence: Duration,
    /// Without an answer while its process is stopped by a signal, so that it cannot give one.
    pub(crate) stopped: Duration,
    /// Without finishing a step, at most.
    pub(crate) stall: Duration,
}

/// Judges one worker.
#[derive(Debug)]
pub(crate) struct Heart {
    interval: Duration,
    patience: Patience,
    sequence: u64,
    stalled: u32,
    /// Heartbeats within the step that runs. What a step tells of itself may come before the pong that counts it, and says nothing of its length.
    in_step: u32,
    last: Pulse,
    /// Heartbeats that the last steps of each size took.
    steps: [VecDeque<u32>; SIZES.len()],
}

impl Heart {
    pub(crate) fn new(interval: Duration, patience: Patience) -> Self {
        Self {
            interval,
            patience,
            sequence: 0,
            stalled: 0,
            in_step: 0,
            last: Pulse::default(),
            steps: Default::default(),
        }
    }

    /// Notes how long a step took that has ended.
    fn learn(&mut self, pulse: &Pulse) {
        let tokens = if self.last.step_tokens > 0 {
            self.last.step_tokens
        } else {
            pulse.step_tokens
        };
        if pulse.steps == self.last.steps || tokens == 0 {
            return;
        }
        let steps = &mut self.steps[size(tokens)];
        if steps.len() == STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back(self.in_step + 1);
    }

    /// How long the step that runs may take.
    fn stall_limit(&self, pulse: &Pulse) -> Duration {
        let steps = &self.steps[size(pulse.step_tokens)];
        // What is no step, such as a load, has no usual time.
        if pulse.step_tokens == 0 || steps.len() < STEPS_MIN {
            return self.patience.stall;
        }
        let slowest = steps.iter().copied().max().unwrap_or(1);
        let limit = self.interval * slowest.saturating_mul(PATIENCE);
        limit.max(PATIENCE_MIN).min(self.patience.stall)
    }

    /// One heartbeat, `interval` or more after the last one. `is_stopped` looks whether a signal has stopped the process.
    pub(crate) fn beat(&mut self, pulse: Pulse, is_stopped: impl FnOnce() -> bool) -> Verdict {
        self.learn(&pulse);
        // Pings without an answer so far: the oldest of them is that many heartbeats old. A worker that answers each of them late
        // is a slow one.
        let unanswered = self.sequence.saturating_sub(pulse.sequence) as u32;
        let has_stepped = pulse.steps != self.last.steps;
        let has_moved =
            has_stepped || pulse.progress_frames != self.last.progress_frames || !pulse.is_working;
        self.stalled = if has_moved { 0 } else { self.stalled + 1 };
        let has_ended = has_stepped || pulse.step_tokens == 0;
        self.in_step = if has_ended { 0 } else { self.in_step + 1 };
        self.last = pulse;
        let silence = self.interval * unanswered;
        let Patience {
            silence: silence_max,
            stopped: stopped_max,
            ..
        } = self.patience;
        if unanswered > 0 && silence >= stopped_max.min(silence_max) && is_stopped() {
            let seconds = stopped_max.min(silence_max).as_secs_f64();
            let reason = format!("it was stopped by a signal and did not answer for {seconds} s");
            return Verdict::Dead(CauseKind::Stopped, reason);
        }
        if unanswered > 0 && silence >= silence_max {
            let seconds = silence_max.as_secs_f64();
            let reason = format!("it did not answer for {seconds} s");
            return Verdict::Dead(CauseKind::Silent, reason);
        }
        let limit = self.stall_limit(&pulse);
        if self.stalled > 0 && self.interval * self.stalled >= limit {
            let seconds = limit.as_secs_f64();
            let reason = format!("its device did not finish a step for {seconds} s");
            return Verdict::Dead(CauseKind::Stalled, reason);
        }
        self.sequence += 1;
        Verdict::Ping {
            sequence: self.sequence,
        }
    }
}

/// The index of a step's size.
fn size(tokens: u32) -> usize {
    SIZES.iter().position(|most| tokens <= *most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENT: Patience = Patience {
        silence: Duration::from_secs(3),
        stopped: Duration::from_secs(2),
        stall: Duration::from_secs(5),
    };

    fn heart() -> Heart {
        Heart::new(Duration::from_secs(1), PATIENT)
    }

    impl Heart {
        fn beat_of_running(&mut self, pulse: Pulse) -> Verdict {
            self.beat(pulse, || false)
        }

        /// The same of a worker that answers at once; false if it is given up.
        fn beat_answered(&mut self, pulse: &mut Pulse) -> bool {
            match self.beat_of_running(*pulse) {
                Verdict::Ping { sequence } => {
                    pulse.sequence = sequence;
                    true
                }
                Verdict::Dead(..) => false,
            }
        }
    }

    #[test]
    fn a_stopped_worker_is_given_up_sooner_than_a_slow_one() {
        let mut heart = heart();
        for _ in 0..2 {
            let verdict = heart.beat(Pulse::default(), || true);
            assert!(matches!(verdict, Verdict::Ping { .. }));
        }
        let Verdict::Dead(kind, reason) = heart.beat(Pulse::default(), || true) else {
            panic!("not given up");
        };
        assert_eq!(kind, CauseKind::Stopped);
        assert!(reason.contains("2 s"), "{reason}");
    }

    /// Beats until a worker is given up whose steps of `usual` tokens took one beat, and which now hangs in one of `tokens`.
    fn beats_of_patience(usual: u32, tokens: u32) -> u32 {
        let patience = Patience {
            stall: Duration::from_secs(600),
            ..PATIENT
        };
        let mut heart = Heart::new(Duration::from_secs(1), patience);
        let mut pulse = Pulse {
            is_working: true,
            step_tokens: usual,
            ..Pulse::default()
        };
        for _ in 0..100 {
            pulse.steps += 1;
            assert!(heart.beat_answered(&mut pulse));
        }
        pulse.steps += 1;
        pulse.step_tokens = tokens;
        let beats = (0..10_000).take_while(|_| heart.beat_answered(&mut pulse));
        beats.count() as u32
    }

    #[test]
    fn a_step_may_take_twenty_times_as_long_as_those_of_its_size() {
        assert_eq!(beats_of_patience(4, 4), 20);
        assert_eq!(beats_of_patience(4, 512), 600, "nothing is known of such");
        assert_eq!(beats_of_patience(4, 0), 600, "no step");
    }

    #[test]
    fn a_step_that_tells_of_its_end_before_the_next_pong_is_as_long_as_it_was() {
        let patience = Patience {
            stall: Duration::from_secs(6000),
            ..PATIENT
        };
        let mut heart = Heart::new(Duration::from_secs(1), patience);
        let mut pulse = Pulse {
            is_working: true,
            step_tokens: 500,
            ..Pulse::default()
        };
        for _ in 0..10 {
            // The answer to the last ping was given within the step, and its tokens came behind it.
            for _ in 0..10 {
                assert!(heart.beat_answered(&mut pulse));
            }
            pulse.progress_frames += 1;
            assert!(heart.beat_answered(&mut pulse));
            pulse.steps += 1;
        }
        for _ in 0..100 {
            assert!(heart.beat_answered(&mut pulse));
        }
    }

    #[test]
    fn a_worker_that_answers_lives() {
        let mut heart = heart();
        let mut pulse = Pulse::default();
        for _ in 0..100 {
            let Verdict::Ping { sequence } = heart.beat_of_running(pulse) else {
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
            let Verdict::Ping { sequence: next } = heart.beat_of_running(pulse) else {
                panic!("a slow worker was given up at beat {beat}");
            };
            sequence = next;
        }
    }

    #[test]
    fn a_silent_worker_is_dead_after_the_timeout_and_not_before() {
        let mut heart = heart();
        let verdicts: Vec<_> = (0..4)
            .map(|_| heart.beat_of_running(Pulse::default()))
            .collect();
        assert_eq!(verdicts[2], Verdict::Ping { sequence: 3 });
        assert_eq!(
            verdicts[3],
            Verdict::Dead(CauseKind::Silent, "it did not answer for 3 s".to_owned())
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
            match heart.beat_of_running(pulse) {
                Verdict::Ping { sequence } => pulse.sequence = sequence,
                Verdict::Dead(_, reason) => break reason,
            }
            beats += 1;
            assert!(beats < 100, "never given up");
        };
        assert_eq!(reason, "its device did not finish a step for 5 s");
        assert_eq!(beats, 5);
    }

    #[test]
    fn steps_that_take_almost_the_stall_timeout_are_no_stall() {
        let mut heart = heart();
        let mut pulse = Pulse {
            is_working: true,
            step_tokens: 1,
            ..Pulse::default()
        };
        for beat in 0..100 {
            let Verdict::Ping { sequence } = heart.beat_of_running(pulse) else {
                panic!("a slow worker was given up at beat {beat}");
            };
            pulse.sequence = sequence;
            pulse.steps = beat / 5 + 1;
        }
    }

    #[test]
    fn load_progress_and_idleness_are_no_stall() {
        let mut heart = heart();
        let mut pulse = Pulse::default();
        for beat in 0..100 {
            let Verdict::Ping { sequence } = heart.beat_of_running(pulse) else {
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
