use proptest::prelude::*;

use super::*;

/// A simulated machine, and what streams on it are like.
#[derive(Debug, Clone, Copy)]
struct World {
    /// Seconds of a step: `fixed + row · rows`.
    fixed: f64,
    row: f64,
    noise: f64,
    /// The chance that a drafted token is accepted if those before it were.
    accepted: f64,
    /// The chance that the lookup finds something.
    found: f64,
    streams: usize,
    random: u64,
}

const CHEAP_ROWS: World = World {
    fixed: 0.038,
    row: 0.002,
    noise: 0.05,
    accepted: 0.9,
    found: 0.8,
    streams: 1,
    random: 7,
};

const DEAR_ROWS: World = World {
    fixed: 0.0,
    row: 0.040,
    ..CHEAP_ROWS
};

/// What came of a number of steps.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    seconds: f64,
    plain_seconds: f64,
    tokens: u32,
    drafted: u32,
    drafting_steps: u32,
}

impl Run {
    /// Tokens per time, relative to plain decoding.
    fn gain(self, streams: usize) -> f64 {
        let plain_step = self.plain_seconds;
        f64::from(self.tokens) / self.seconds / (streams as f64 / plain_step)
    }
}

impl World {
    fn uniform(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn mean(&self, rows: u32) -> f64 {
        self.fixed + self.row * f64::from(rows)
    }

    fn run(
        &mut self,
        speculation: &mut Speculation,
        histories: &mut [DraftHistory],
        steps: u32,
    ) -> Run {
        let mut run = Run {
            plain_seconds: self.mean(histories.len() as u32),
            ..Run::default()
        };
        for _ in 0..steps {
            let candidates: Vec<Candidate> = histories
                .iter()
                .map(|history| Candidate {
                    history: *history,
                    available: if self.uniform() < self.found { 8 } else { 0 },
                })
                .collect();
            let drafts = speculation.plan(&candidates, false);
            let rows = histories.len() as u32 + drafts.iter().sum::<u32>();
            let noise = 1.0 + self.noise * (2.0 * self.uniform() - 1.0);
            let seconds = self.mean(rows) * noise;
            let mut outcomes = Vec::new();
            for (history, drafted) in histories.iter_mut().zip(drafts) {
                let mut accepted = 0;
                while accepted < drafted && self.uniform() < self.accepted {
                    accepted += 1;
                }
                run.tokens += 1 + accepted;
                run.drafted += drafted;
                run.drafting_steps += u32::from(drafted > 0);
                outcomes.push(Outcome {
                    history,
                    drafted,
                    accepted,
                });
            }
            run.seconds += seconds;
            speculation.observe(&mut outcomes, Duration::from_secs_f64(seconds));
        }
        run
    }

    fn fresh_run(mut self, steps: u32) -> Run {
        let mut histories = vec![DraftHistory::default(); self.streams];
        self.run(&mut Speculation::default(), &mut histories, steps)
    }
}

#[test]
fn where_drafts_are_accepted_and_rows_are_cheap_it_gains() {
    for streams in 1..=2 {
        for random in 1..=20 {
            let world = World {
                streams,
                random,
                ..CHEAP_ROWS
            };
            let gain = world.fresh_run(1000).gain(streams);
            assert!(gain > 1.3, "{streams} streams, seed {random}: {gain}");
        }
    }
}

#[test]
fn where_nothing_is_accepted_next_to_nothing_is_lost() {
    for world in [CHEAP_ROWS, DEAR_ROWS] {
        for streams in 1..=2 {
            for random in 1..=20 {
                let world = World {
                    streams,
                    random,
                    noise: 0.0,
                    accepted: 0.0,
                    ..world
                };
                let gain = world.fresh_run(2000).gain(streams);
                assert!(gain > 0.98, "{world:?}: {gain}");
            }
        }
    }
}

#[test]
fn where_rows_cost_as_much_as_steps_it_stays_off() {
    for accepted in [0.5, 0.9] {
        let run = World {
            accepted,
            ..DEAR_ROWS
        }
        .fresh_run(2000);
        assert!(run.drafting_steps < 25, "{run:?}");
        assert!(run.gain(1) > 0.98, "{}", run.gain(1));
    }
}

#[test]
fn many_short_answers_lose_no_more_than_a_long_one() {
    let mut world = World {
        accepted: 0.0,
        noise: 0.0,
        ..DEAR_ROWS
    };
    let mut speculation = Speculation::default();
    let (mut seconds, mut tokens) = (0.0, 0);
    for _ in 0..40 {
        let run = world.run(&mut speculation, &mut [DraftHistory::default()], 50);
        seconds += run.seconds;
        tokens += run.tokens;
    }
    let gain = f64::from(tokens) * world.mean(1) / seconds;
    assert!(gain > 0.98, "{gain}");
}

#[test]
fn drafts_are_as_long_as_they_pay() {
    let long = World {
        accepted: 0.97,
        found: 1.0,
        ..CHEAP_ROWS
    }
    .fresh_run(2000);
    let short = World {
        accepted: 0.5,
        found: 1.0,
        row: 0.006,
        ..CHEAP_ROWS
    }
    .fresh_run(2000);
    let mean = |run: Run| f64::from(run.drafted) / f64::from(run.drafting_steps);
    assert!(mean(long) > 6.0, "{}", mean(long));
    assert!(mean(short) < 4.0, "{}", mean(short));
}

#[test]
fn it_goes_off_when_acceptance_drops_and_on_again_when_it_comes_back() {
    let mut world = World {
        noise: 0.0,
        ..CHEAP_ROWS
    };
    let mut speculation = Speculation::default();
    let mut histories = [DraftHistory::default()];
    assert!(world.run(&mut speculation, &mut histories, 500).gain(1) > 1.3);
    world.accepted = 0.0;
    world.run(&mut speculation, &mut histories, 40);
    let off = world.run(&mut speculation, &mut histories, 500);
    assert!(off.drafting_steps < 10, "{off:?}");
    world.accepted = 0.9;
    world.run(&mut speculation, &mut histories, 1500);
    let on = world.run(&mut speculation, &mut histories, 500);
    assert!(on.gain(1) > 1.3, "{}", on.gain(1));
}

#[test]
fn a_stream_that_is_not_predictable_does_not_switch_off_one_that_is() {
    let mut speculation = Speculation::default();
    let (mut good, mut bad) = ([DraftHistory::default()], [DraftHistory::default()]);
    let mut predictable = CHEAP_ROWS;
    let mut unpredictable = World {
        accepted: 0.0,
        ..CHEAP_ROWS
    };
    for _ in 0..20 {
        predictable.run(&mut speculation, &mut good, 50);
        unpredictable.run(&mut speculation, &mut bad, 50);
    }
    assert!(predictable.run(&mut speculation, &mut good, 300).gain(1) > 1.3);
    assert!(unpredictable.run(&mut speculation, &mut bad, 300).gain(1) > 0.98);
}

#[test]
fn it_goes_off_when_rows_become_dear() {
    let mut world = CHEAP_ROWS;
    let mut speculation = Speculation::default();
    let mut histories = [DraftHistory::default()];
    world.run(&mut speculation, &mut histories, 500);
    (world.fixed, world.row) = (DEAR_ROWS.fixed, DEAR_ROWS.row);
    world.run(&mut speculation, &mut histories, 150);
    let off = world.run(&mut speculation, &mut histories, 500);
    assert!(off.drafting_steps < 10, "{off:?}");
}

#[test]
fn nothing_is_drafted_beside_prompts_or_many_streams_or_without_a_measurement() {
    let candidate = Candidate {
        history: DraftHistory::default(),
        available: 8,
    };
    assert_eq!(Speculation::default().plan(&[candidate], false), [0]);
    let mut world = CHEAP_ROWS;
    let mut speculation = Speculation::default();
    let mut histories = [DraftHistory::default()];
    world.run(&mut speculation, &mut histories, 500);
    let candidate = Candidate {
        history: histories[0],
        available: 8,
    };
    assert!(speculation.plan(&[candidate], false)[0] > 2);
    assert_eq!(speculation.plan(&[candidate], true), [0]);
    assert_eq!(speculation.plan(&[candidate; 3], false), [0; 3]);
    assert!(speculation.plan(&[], false).is_empty());
}

#[test]
fn plain_steps_are_still_measured_while_drafting_is_on() {
    let mut world = World {
        found: 1.0,
        ..CHEAP_ROWS
    };
    let mut speculation = Speculation::default();
    let mut histories = [DraftHistory::default()];
    world.run(&mut speculation, &mut histories, 200);
    let run = world.run(&mut speculation, &mut histories, 650);
    assert_eq!(650 - run.drafting_steps, 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_is_observed_drafts_are_in_bounds_and_losses_too(
        fixed in 0.0_f64..0.1, row in 0.0001_f64..0.1, noise in 0.0_f64..0.3, accepted in 0.0_f64..=1.0,
        found in 0.0_f64..=1.0, streams in 1_usize..=2, random in any::<u64>(),
    ) {
        let world = World { fixed, row, noise, accepted, found, streams, random };
        let run = world.fresh_run(1500);
        prop_assert!(run.drafted <= 8 * run.drafting_steps);
        prop_assert!(run.gain(streams) > 0.95, "{}", run.gain(streams));
    }

    #[test]
    fn no_more_is_drafted_than_there_is(available in prop::collection::vec(0_u32..12, 1..3), steps in 0_u32..200) {
        let mut world = World { streams: available.len(), ..CHEAP_ROWS };
        let mut speculation = Speculation::default();
        let mut histories = vec![DraftHistory::default(); available.len()];
        world.run(&mut speculation, &mut histories, steps);
        let candidates: Vec<Candidate> = histories.iter().zip(&available).map(|(history, available)| Candidate {
            history: *history, available: *available,
        }).collect();
        for (draft, available) in speculation.plan(&candidates, false).iter().zip(&available) {
            prop_assert!(draft <= available && *draft <= DRAFT_TOKENS_MAX);
        }
    }
}
