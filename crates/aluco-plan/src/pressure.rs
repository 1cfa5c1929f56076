//! What others do to the pool while models run: when to give memory back, and how much of it.
//!
//! Two signs are watched: how much is available, and how long tasks wait for memory (PSI). The gauge has no clock and reads no file.

use std::{cmp::Ordering, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Bytes,
    pool::{Facts, Stall},
};

/// What to do about memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Pressure {
    /// Nothing.
    #[default]
    Calm,
    /// Drop stored prompts from memory; they are computed or read again when needed.
    ShrinkCache,
    /// Unload models that nobody uses, too.
    EvictIdle,
}

/// One look at the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// What programs can get without swapping: [`crate::pool::MemInfo::available`], or what the tightest cgroup leaves.
    pub available: Bytes,
    /// What is to be left free: [`crate::pool::Pool::reserve`].
    pub reserve: Bytes,
    /// How long tasks wait, if the kernel tells.
    pub stall: Option<Stall>,
}

impl Reading {
    /// What these facts say, with so much to be left free.
    pub fn of(facts: &Facts, reserve: Bytes) -> Self {
        let left = facts
            .cgroups
            .iter()
            .map(|cgroup| cgroup.limit.less(cgroup.used));
        Self {
            available: left.fold(facts.memory.available, Bytes::min),
            reserve,
            stall: facts.stall,
        }
    }
}

/// Tasks that wait this share of ten seconds, in percent: something is short.
const SOME_SHORT: f64 = 10.0;
/// All tasks wait this share of ten seconds, in percent: nothing else works any more.
const FULL_GRAVE: f64 = 5.0;
/// How long the milder step may be without effect.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long signs must be gone before the gauge goes down a step.
const RELIEF: Duration = Duration::from_secs(10);

/// Turns readings into decisions: up at once, down slowly.
#[derive(Debug, Clone, Default)]
pub struct PressureGauge {
    level: Pressure,
    /// When the level was reached.
    since: Duration,
    /// Since when signs are below the level.
    better_since: Option<Duration>,
}

impl PressureGauge {
    /// A gauge at rest.
    pub fn new() -> Self {
        Self::default()
    }

    /// The decision as of the last reading.
    pub fn level(&self) -> Pressure {
        self.level
    }

    /// Takes a reading in. `now`: time since any fixed moment, never earlier than before.
    pub fn observe(&mut self, reading: &Reading, now: Duration) -> Pressure {
        let sign = sign(reading, self.level);
        match sign.cmp(&self.level) {
            Ordering::Greater => self.step(sign, now),
            Ordering::Equal => {
                self.better_since = None;
                if sign == Pressure::ShrinkCache && now.saturating_sub(self.since) >= PATIENCE {
                    self.step(Pressure::EvictIdle, now);
                }
            }
            Ordering::Less => {
                let since = *self.better_since.get_or_insert(now);
                if now.saturating_sub(since) >= RELIEF {
                    self.step(self.level.below(), now);
                }
            }
        }
        self.level
    }

    fn step(&mut self, level: Pressure, now: Duration) {
        *self = Self {
            level,
            since: now,
            better_since: None,
        };
    }
}

impl Pressure {
    fn below(self) -> Self {
        match self {
            Self::Calm | Self::ShrinkCache => Self::Calm,
            Self::EvictIdle => Self::ShrinkCache,
        }
    }
}

/// What a reading alone would have done. A level that was reached is left only with some margin.
fn sign(reading: &Reading, level: Pressure) -> Pressure {
    let with_margin = |bytes: Bytes, is_reached: bool| {
        if is_reached {
            bytes + Bytes(bytes.0 / 4)
        } else {
            bytes
        }
    };
    let share = |share: f64, is_reached: bool| if is_reached { share / 2.0 } else { share };
    let stall = reading.stall.unwrap_or_default();
    let is_grave = level >= Pressure::EvictIdle;
    let is_short = level >= Pressure::ShrinkCache;
    if reading.available < with_margin(Bytes(reading.reserve.0 / 2), is_grave)
        || stall.full.avg10 >= share(FULL_GRAVE, is_grave)
    {
        Pressure::EvictIdle
    } else if reading.available < with_margin(reading.reserve, is_short)
        || stall.some.avg10 >= share(SOME_SHORT, is_short)
    {
        Pressure::ShrinkCache
    } else {
        Pressure::Calm
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pool::{CgroupFacts, MemInfo, StallShares};

    fn reading(available_gib: u64, some: f64, full: f64) -> Reading {
        let shares = |avg10| StallShares { avg10, avg60: 0.0 };
        Reading {
            available: Bytes::GIB.times(available_gib),
            reserve: Bytes::GIB.times(4),
            stall: Some(Stall {
                some: shares(some),
                full: shares(full),
            }),
        }
    }

    fn levels(readings: impl IntoIterator<Item = (u64, Reading)>) -> Vec<Pressure> {
        let mut gauge = PressureGauge::new();
        let mut level = |(second, reading)| gauge.observe(&reading, Duration::from_secs(second));
        readings.into_iter().map(&mut level).collect()
    }

    #[test]
    fn the_reserve_is_defended_in_two_steps() {
        use Pressure::{Calm, EvictIdle, ShrinkCache};
        let seen = levels([
            (0, reading(20, 0.0, 0.0)),
            (1, reading(3, 0.0, 0.0)),
            (2, reading(1, 0.0, 0.0)),
            (3, reading(9, 0.0, 0.0)),
            (12, reading(9, 0.0, 0.0)),
            (13, reading(9, 0.0, 0.0)),
            (14, reading(9, 0.0, 0.0)),
            (24, reading(9, 0.0, 0.0)),
        ]);
        assert_eq!(
            seen,
            [
                Calm,
                ShrinkCache,
                EvictIdle,
                EvictIdle,
                EvictIdle,
                ShrinkCache,
                ShrinkCache,
                Calm
            ]
        );
    }

    #[test]
    fn the_tightest_cgroup_says_what_is_available() {
        let facts = Facts {
            memory: MemInfo {
                total: Bytes::GIB.times(32),
                available: Bytes::GIB.times(20),
            },
            cgroups: vec![CgroupFacts {
                name: "/box".to_owned(),
                source: "/sys/fs/cgroup/box".to_owned(),
                limit: Bytes::GIB.times(8),
                used: Bytes::GIB.times(7),
            }],
            ..Facts::default()
        };
        let reading = Reading::of(&facts, Bytes::MIB);
        assert_eq!(reading.available, Bytes::GIB);
        assert_eq!(reading.reserve, Bytes::MIB);
        let open = Facts {
            cgroups: Vec::new(),
            ..facts
        };
        assert_eq!(
            Reading::of(&open, Bytes::MIB).available,
            Bytes::GIB.times(20)
        );
    }

    #[test]
    fn tasks_that_wait_are_a_sign_as_well() {
        use Pressure::{EvictIdle, ShrinkCache};
        assert_eq!(levels([(0, reading(20, 12.0, 1.0))]), [ShrinkCache]);
        assert_eq!(levels([(0, reading(20, 50.0, 6.0))]), [EvictIdle]);
    }

    #[test]
    fn what_does_not_help_is_followed_by_more() {
        use Pressure::{EvictIdle, ShrinkCache};
        let short = |second| (second, reading(3, 0.0, 0.0));
        assert_eq!(
            levels([short(0), short(14), short(15)]),
            [ShrinkCache, ShrinkCache, EvictIdle]
        );
    }

    #[test]
    fn a_level_is_not_left_for_a_little_more_room() {
        let seen = levels(
            (0..60).map(|second| (second, reading(if second == 0 { 3 } else { 4 }, 0.0, 0.0))),
        );
        assert!(!seen.contains(&Pressure::Calm), "{seen:?}");
    }

    proptest! {
        #[test]
        fn calm_weather_always_calms_in_the_end(
            storm in prop::collection::vec((0_u64..40, 0.0..100.0, 0.0..100.0), 0..50),
        ) {
            let mut gauge = PressureGauge::new();
            let mut second = 0;
            for (available, some, full) in storm {
                gauge.observe(&reading(available, some, full), Duration::from_secs(second));
                second += 1;
            }
            for _ in 0..=2 * RELIEF.as_secs() + 2 {
                gauge.observe(&reading(40, 0.0, 0.0), Duration::from_secs(second));
                second += 1;
            }
            prop_assert_eq!(gauge.level(), Pressure::Calm);
        }
    }
}
