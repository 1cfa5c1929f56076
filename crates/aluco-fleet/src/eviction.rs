//! Which models go when another needs their room. Pure.
//!
//! A model is worth what its absence costs: the time that it takes to load again, as often as it is likely to be asked for. Of those
//! that may go, the ones go that cost least for the room they give. [`Habit`] remembers the use of a model over its unloads.

use std::time::{Duration, Instant};

use aluco_plan::speed::BytesPerSecond;
use aluco_proto::ModelHandle;

/// After this time without a request, a model is half as likely to be asked for.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);

/// Bytes per millisecond that a model whose load was not measured is taken to be read with: 1 GB/s, a slow NVMe drive.
const READ_BYTES_PER_MS: f64 = 1e6;

/// Milliseconds that a load would take again: as long as the last one, and at least as long as the disk takes to read the weights. The last
/// one may have found them in memory, or mapped them and read nothing yet.
pub(crate) fn load_ms(last_ms: f64, weights_bytes: u64, disk_rate: Option<BytesPerSecond>) -> f64 {
    disk_rate.map_or(last_ms, |rate| {
        last_ms.max(weights_bytes as f64 / rate.0.max(1.0) * 1e3)
    })
}

/// How often a model is used, as a count that halves in [`HALF_LIFE`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Habit {
    uses: f64,
    at: Instant,
}

impl Habit {
    /// Of a model that has not been used yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { uses: 0.0, at: now }
    }

    /// It is used once more.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.uses = self.uses(now) + 1.0;
        self.at = now;
    }

    /// Uses, of which those that were long ago count for little.
    pub(crate) fn uses(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.uses * 0.5_f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }
}

/// A model that is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) model: ModelHandle,
    /// What is free when it has gone.
    pub(crate) bytes: u64,
    /// How long its load took, if that was measured.
    pub(crate) load_ms: Option<f64>,
    /// Decayed count of its uses.
    pub(crate) uses: f64,
    /// Since the end of its last request.
    pub(crate) idle: Duration,
    /// It is pinned, or has requests in flight.
    pub(crate) must_stay: bool,
}

impl Candidate {
    /// Milliseconds that its absence is expected to cost.
    fn cost(&self) -> f64 {
        let load_ms = self
            .load_ms
            .unwrap_or(self.bytes as f64 / READ_BYTES_PER_MS);
        load_ms * self.uses
    }
}

/// What has to become free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Places of models.
    pub(crate) places: usize,
    /// Bytes of memory.
    pub(crate) bytes: u64,
}

impl Need {
    fn is_met_by<'a>(self, leaving: impl Iterator<Item = &'a Candidate>) -> bool {
        let (places, bytes) = leaving.fold((0, 0_u64), |(places, bytes), candidate| {
            (places + 1, bytes.saturating_add(candidate.bytes))
        });
        places >= self.places && bytes >= self.bytes
    }

    /// The share of the need that one model meets.
    fn share(self, candidate: &Candidate) -> f64 {
        let of_places = if self.places > 0 {
            1.0 / self.places as f64
        } else {
            0.0
        };
        let of_bytes = if self.bytes > 0 {
            candidate.bytes.min(self.bytes) as f64 / self.bytes as f64
        } else {
            0.0
        };
        of_places + of_bytes
    }
}

/// The models that go so that the need is met, the one that costs least first; none of them is dispensable. `None` if it cannot be met.
pub(crate) fn victims(residents: &[Candidate], need: Need) -> Option<Vec<ModelHandle>> {
    let mut order: Vec<&Candidate> = residents.iter().filter(|one| !one.must_stay).collect();
    let per_share = |candidate: &Candidate| candidate.cost() / need.share(candidate);
    order.sort_by(|one, other| {
        per_share(one)
            .total_cmp(&per_share(other))
            .then(other.idle.cmp(&one.idle))
    });
    let mut leaving = Vec::new();
    for candidate in order {
        if need.is_met_by(leaving.iter().copied()) {
            break;
        }
        leaving.push(candidate);
    }
    if !need.is_met_by(leaving.iter().copied()) {
        return None;
    }
    // Small ones that were taken first may have become needless by a large one that was taken last.
    for index in (0..leaving.len()).rev() {
        let others = leaving.iter().enumerate().filter(|(at, _)| *at != index);
        if need.is_met_by(others.map(|(_, candidate)| *candidate)) {
            leaving.remove(index);
        }
    }
    Some(leaving.into_iter().map(|one| one.model).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GB: u64 = 1_000_000_000;

    fn candidate(model: u32, bytes: u64, load_ms: f64, uses: f64, idle_s: u64) -> Candidate {
        Candidate {
            model: ModelHandle(model),
            bytes,
            load_ms: Some(load_ms),
            uses,
            idle: Duration::from_secs(idle_s),
            must_stay: false,
        }
    }

    fn place() -> Need {
        Need {
            places: 1,
            bytes: 0,
        }
    }

    fn room(bytes: u64) -> Need {
        Need { places: 0, bytes }
    }

    fn handles(models: &[u32]) -> Vec<ModelHandle> {
        models.iter().copied().map(ModelHandle).collect()
    }

    #[test]
    fn what_loads_fast_goes_before_what_loads_slowly() {
        let residents = [
            candidate(1, GB, 60_000.0, 1.0, 500),
            candidate(2, GB, 900.0, 1.0, 10),
        ];
        assert_eq!(victims(&residents, place()), Some(handles(&[2])));
    }

    #[test]
    fn what_is_seldom_used_goes_before_what_is_often_used() {
        let residents = [
            candidate(1, GB, 1000.0, 8.0, 500),
            candidate(2, GB, 1000.0, 0.5, 10),
        ];
        assert_eq!(victims(&residents, place()), Some(handles(&[2])));
    }

    #[test]
    fn for_room_the_one_goes_that_gives_most_of_it_for_its_cost() {
        let residents = [
            candidate(1, GB, 1000.0, 1.0, 10),
            candidate(2, 60 * GB, 2000.0, 1.0, 10),
        ];
        assert_eq!(victims(&residents, room(40 * GB)), Some(handles(&[2])));
        assert_eq!(victims(&residents, place()), Some(handles(&[1])));
    }

    #[test]
    fn nothing_small_goes_beside_a_large_one_that_is_enough_alone() {
        let residents = [
            candidate(1, GB, 1.0, 1.0, 10),
            candidate(2, 2 * GB, 2.5, 1.0, 10),
            candidate(3, 60 * GB, 90_000.0, 1.0, 10),
        ];
        assert_eq!(victims(&residents, room(50 * GB)), Some(handles(&[3])));
    }

    #[test]
    fn of_equals_the_one_that_is_idle_for_longest_goes() {
        let residents = [
            candidate(1, GB, 1000.0, 0.0, 10),
            candidate(2, GB, 3000.0, 0.0, 50),
            candidate(3, GB, 1000.0, 0.0, 20),
        ];
        assert_eq!(victims(&residents, place()), Some(handles(&[2])));
    }

    #[test]
    fn what_must_stay_stays_though_the_need_is_not_met() {
        let mut residents = [candidate(1, GB, 1.0, 0.0, 9), candidate(2, GB, 1.0, 0.0, 9)];
        residents[0].must_stay = true;
        assert_eq!(victims(&residents, place()), Some(handles(&[2])));
        assert_eq!(victims(&residents, room(2 * GB)), None);
        assert_eq!(victims(&residents, Need::default()), Some(handles(&[])));
    }

    #[test]
    fn a_load_that_was_not_measured_is_guessed_by_its_bytes() {
        let guessed = Candidate {
            load_ms: None,
            ..candidate(1, 20 * GB, 0.0, 1.0, 10)
        };
        assert!((guessed.cost() - 20_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_load_from_memory_does_not_make_the_next_one_cheap() {
        let disk_rate = Some(BytesPerSecond(2e9));
        assert!((load_ms(300.0, 20 * GB, None) - 300.0).abs() < 1e-9);
        assert!((load_ms(300.0, 20 * GB, disk_rate) - 10_000.0).abs() < 1e-6);
        assert!((load_ms(25_000.0, 20 * GB, disk_rate) - 25_000.0).abs() < 1e-9);
    }

    #[test]
    fn use_counts_for_half_after_its_half_life() {
        let start = Instant::now();
        let mut habit = Habit::new(start);
        habit.touch(start);
        habit.touch(start);
        assert!((habit.uses(start) - 2.0).abs() < 1e-9);
        assert!((habit.uses(start + HALF_LIFE) - 1.0).abs() < 1e-9);
        habit.touch(start + HALF_LIFE);
        assert!((habit.uses(start + 2 * HALF_LIFE) - 1.0).abs() < 1e-9);
    }

    fn some_candidate() -> impl Strategy<Value = Candidate> {
        let load_ms = proptest::option::of(0.0..100_000.0);
        (0..80 * GB, load_ms, 0.0..20.0, 0_u64..5000, any::<bool>()).prop_map(
            |(bytes, load_ms, uses, idle_s, must_stay)| Candidate {
                model: ModelHandle(0),
                bytes,
                load_ms,
                uses,
                idle: Duration::from_secs(idle_s),
                must_stay,
            },
        )
    }

    proptest! {
        #[test]
        fn enough_goes_and_nothing_that_must_stay_and_nothing_for_nothing(
            mut residents in proptest::collection::vec(some_candidate(), 0..12),
            places in 0_usize..4,
            bytes in 0..200 * GB,
        ) {
            for (number, resident) in (1..).zip(&mut residents) {
                resident.model = ModelHandle(number);
            }
            let need = Need { places, bytes };
            let free = || residents.iter().filter(|one| !one.must_stay);
            let Some(leaving) = victims(&residents, need) else {
                prop_assert!(!need.is_met_by(free()), "it could have been met");
                return Ok(());
            };
            let leaving: Vec<&Candidate> = leaving
                .iter()
                .map(|model| free().find(|one| one.model == *model).expect("it may go"))
                .collect();
            prop_assert!(need.is_met_by(leaving.iter().copied()));
            for kept in 0..leaving.len() {
                let others = leaving.iter().enumerate().filter(|(index, _)| *index != kept);
                prop_assert!(!need.is_met_by(others.map(|(_, one)| *one)), "{kept} went for nothing");
            }
        }
    }
}
