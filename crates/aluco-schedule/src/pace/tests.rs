use proptest::prelude::*;

use super::*;

const MICRO_BATCH: u32 = 512;

/// A simulated machine: seconds = slowness · (base + row · rows, and with a prompt: fixed + token · tokens), with noise.
#[derive(Debug, Clone, Copy)]
struct Machine {
    base: f64,
    row: f64,
    fixed: f64,
    token: f64,
    /// Standard deviation, relative.
    noise: f64,
    slowness: f64,
    random: u64,
}

/// Two cores and a small model: every token costs the same.
const CPU: Machine = Machine {
    base: 0.012,
    row: 0.002,
    fixed: 0.0,
    token: 0.0008,
    noise: 0.0,
    slowness: 1.0,
    random: 1,
};

/// Decoding is bound by memory; any prompt costs a fixed sum, and then little per token.
const GPU: Machine = Machine {
    base: 0.040,
    row: 0.0005,
    fixed: 0.010,
    token: 0.0001,
    ..CPU
};

impl Machine {
    fn mean(&self, prefill: u32, rows: u32) -> f64 {
        let prompt = if prefill > 0 {
            self.fixed + self.token * f64::from(prefill)
        } else {
            0.0
        };
        self.slowness * (self.base + self.row * f64::from(rows) + prompt)
    }

    fn uniform(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Computes a step: tells `pace` the noisy time and returns it.
    fn step(&mut self, pace: &mut Pace, prefill: u32, rows: u32) -> f64 {
        let spread: f64 = (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0;
        let seconds = self.mean(prefill, rows) * (1.0 + self.noise * spread).max(0.2);
        pace.observe(prefill, rows, Duration::from_secs_f64(seconds));
        seconds
    }

    fn decode(&mut self, pace: &mut Pace, rows: u32, steps: u32) {
        for _ in 0..steps {
            self.step(pace, 0, rows);
        }
    }

    /// Computes prompts beside `rows`; returns the mean time of all steps, and the mean of the tokens of those that had some.
    fn prefill(&mut self, pace: &mut Pace, rows: u32, steps: u32) -> (f64, f64) {
        let (mut seconds, mut tokens, mut count) = (0.0, 0.0, 0.0_f64);
        for _ in 0..steps {
            let share = pace.prefill_beside_decode_tokens(rows);
            seconds += self.step(pace, share, rows);
            if share > 0 {
                tokens += f64::from(share);
                count += 1.0;
            }
        }
        (seconds / f64::from(steps), tokens / count.max(1.0))
    }
}

/// Decodes, learns for a while, and then measures how much of the budget steps use on average.
fn used_of_budget(mut machine: Machine, tpot: Option<f64>) -> f64 {
    let mut pace = Pace::new(tpot.map(Duration::from_secs_f64), MICRO_BATCH);
    machine.decode(&mut pace, 3, 50);
    machine.prefill(&mut pace, 3, 60);
    let (seconds, _) = machine.prefill(&mut pace, 3, 300);
    seconds / tpot.unwrap_or(SLOWDOWN * machine.mean(0, 3))
}

#[test]
fn before_anything_is_measured_a_probe_is_sent() {
    let pace = Pace::new(None, MICRO_BATCH);
    assert_eq!(pace.prefill_beside_decode_tokens(3), 32);
    assert_eq!(pace.prefill_beside_decode_tokens(0), MICRO_BATCH);
    assert_eq!(Pace::new(None, 16).prefill_beside_decode_tokens(3), 16);
}

#[test]
fn streams_keep_one_and_a_half_times_their_pace() {
    for (machine, name) in [(CPU, "cpu"), (GPU, "gpu")] {
        let used = used_of_budget(machine, None);
        assert!((0.85..=1.0).contains(&used), "{name}: {used}");
    }
}

/// Two cores and a small quantised model: a few prompt tokens cost nearly as much each as a decoded one, many together much less.
const STEEP: Machine = Machine {
    base: 0.003,
    row: 0.008,
    fixed: 0.060,
    token: 0.003,
    ..CPU
};

#[test]
fn where_small_chunks_are_dear_prompts_go_in_bursts_that_few_tokens_wait_for() {
    let mut machine = Machine {
        noise: 0.05,
        ..STEEP
    };
    let mut pace = Pace::new(None, MICRO_BATCH);
    machine.decode(&mut pace, 3, 50);
    machine.prefill(&mut pace, 3, 300);
    let (mut tokens, mut seconds, mut slow) = (0, 0.0, 0);
    for _ in 0..2000 {
        let share = pace.prefill_beside_decode_tokens(3);
        let took = machine.step(&mut pace, share, 3);
        tokens += share;
        seconds += took;
        slow += u32::from(took > SLOWDOWN * machine.mean(0, 3));
    }
    assert!(slow < 100, "{slow} of 2000 steps were slow");
    let mean = seconds / 2000.0 / machine.mean(0, 3);
    assert!(
        (1.5..=2.1).contains(&mean),
        "{mean} times as slow on average"
    );
    // Nearly half of the time, at nearly the speed of large chunks.
    let speed = f64::from(tokens) / seconds;
    assert!(speed > 0.3 / machine.token, "{speed} tokens/s");
}

#[test]
fn a_stated_time_is_kept() {
    for (machine, tpot) in [(CPU, 0.1), (CPU, 0.025), (GPU, 0.06), (GPU, 0.09)] {
        let used = used_of_budget(machine, Some(tpot));
        assert!((0.85..=1.0).contains(&used), "{tpot} s: {used}");
    }
}

#[test]
fn the_budget_is_used_and_kept_on_a_noisy_machine() {
    for (machine, name) in [(CPU, "cpu"), (GPU, "gpu")] {
        for noise in [0.05, 0.1, 0.2] {
            for random in 1..=5 {
                let noisy = Machine {
                    noise,
                    random,
                    ..machine
                };
                let used = used_of_budget(noisy, None);
                assert!(
                    (0.8..=1.2).contains(&used),
                    "{name}, noise {noise}, seed {random}: {used}"
                );
            }
        }
    }
}

#[test]
fn a_fixed_cost_is_seen_so_that_chunks_are_not_cut_in_vain() {
    let mut machine = GPU;
    let tpot = Duration::from_secs_f64(SLOWDOWN * machine.mean(0, 3));
    let mut pace = Pace::new(Some(tpot), MICRO_BATCH);
    machine.decode(&mut pace, 3, 50);
    machine.prefill(&mut pace, 3, 100);
    let (_, tokens) = machine.prefill(&mut pace, 3, 100);
    // (0.95 · 1.5 - 1) · 41.5 ms, less 10 ms fixed, at 0.1 ms each: 76 tokens.
    assert!((64.0..=80.0).contains(&tokens), "{tokens}");
}

#[test]
fn a_micro_batch_is_reached_within_a_few_steps_where_prompts_are_cheap() {
    let mut machine = Machine {
        fixed: 0.001,
        token: 0.000_005,
        ..GPU
    };
    let mut pace = Pace::new(None, MICRO_BATCH);
    machine.decode(&mut pace, 3, 50);
    machine.prefill(&mut pace, 3, 12);
    assert_eq!(pace.prefill_beside_decode_tokens(3), MICRO_BATCH);
}

#[test]
fn slow_phases_of_the_machine_are_followed() {
    for (machine, name) in [(CPU, "cpu"), (GPU, "gpu")] {
        let mut machine = Machine {
            noise: 0.05,
            ..machine
        };
        let mut pace = Pace::new(None, MICRO_BATCH);
        machine.decode(&mut pace, 3, 50);
        machine.prefill(&mut pace, 3, 200);
        for slowness in [3.0, 1.0, 2.0, 0.7] {
            machine.slowness = slowness;
            // Streams decode between two prompts, which is when their own pace is learnt.
            machine.decode(&mut pace, 3, 30);
            machine.prefill(&mut pace, 3, 100);
            let (seconds, _) = machine.prefill(&mut pace, 3, 200);
            let used = seconds / (SLOWDOWN * machine.mean(0, 3));
            assert!((0.8..=1.4).contains(&used), "{name} at {slowness}: {used}");
        }
    }
}

#[test]
fn prompts_get_on_again_when_the_machine_is_slow_in_the_midst_of_one() {
    let mut machine = CPU;
    let mut pace = Pace::new(None, MICRO_BATCH);
    machine.decode(&mut pace, 8, 50);
    let (_, before) = machine.prefill(&mut pace, 8, 200);
    machine.slowness = 2.0;
    machine.prefill(&mut pace, 8, 64 * 20);
    let (_, after) = machine.prefill(&mut pace, 8, 200);
    assert!(after > 0.6 * before, "{before} and then {after} tokens");
}

#[test]
fn a_deepening_context_shrinks_the_chunks_in_time() {
    let mut machine = Machine { noise: 0.03, ..GPU };
    let mut pace = Pace::new(None, MICRO_BATCH);
    machine.decode(&mut pace, 3, 50);
    machine.prefill(&mut pace, 3, 100);
    let (mut seconds, mut steps) = (0.0, 0.0);
    for _ in 0..400 {
        // Four times the cost per token at the end.
        machine.token *= 1.0035;
        let (took, _) = machine.prefill(&mut pace, 3, 2);
        seconds += took;
        steps += 1.0;
    }
    let used = seconds / steps / (SLOWDOWN * machine.mean(0, 3));
    assert!((0.85..=1.02).contains(&used), "{used}");
}

#[test]
fn hiccups_do_not_stop_prompts() {
    let mut machine = CPU;
    let mut pace = Pace::new(None, MICRO_BATCH);
    machine.decode(&mut pace, 8, 50);
    let (_, before) = machine.prefill(&mut pace, 8, 200);
    let mut total = 0.0;
    for _ in 0..20 {
        pace.observe(16, 8, Duration::from_secs(2));
        total += machine.prefill(&mut pace, 8, 20).1;
    }
    let after = total / 20.0;
    assert!(after > 0.7 * before, "{before} and then {after} tokens");
}

/// Prompt tokens that are computed beside three streams in so many steps.
fn tokens_beside(mut pace: Pace, mut machine: Machine, steps: u32) -> u32 {
    (0..steps)
        .map(|_| {
            let share = pace.prefill_beside_decode_tokens(3);
            machine.step(&mut pace, share, 3);
            share
        })
        .sum()
}

#[test]
fn a_hiccup_in_the_first_step_with_a_prompt_keeps_prompts_out_for_some_steps_only() {
    for (mut machine, name) in [(CPU, "cpu"), (GPU, "gpu"), (STEEP, "steep")] {
        let tpot = Duration::from_secs_f64(2.0 * machine.mean(32, 3));
        for (tpot, hiccup) in [(None, 0.3), (None, 5.0), (None, 60.0), (Some(tpot), 5.0)] {
            let mut undisturbed = Pace::new(tpot, MICRO_BATCH);
            machine.decode(&mut undisturbed, 3, 50);
            let mut pace = undisturbed.clone();
            pace.observe(32, 3, Duration::from_secs_f64(hiccup));
            let soon = tokens_beside(pace.clone(), machine, 40);
            assert!(soon > 0, "{name}, {hiccup} s: no tokens in 40 steps");
            // The very first steps teach something, too.
            let tokens = tokens_beside(pace, machine, 200);
            let least = tokens_beside(undisturbed, machine, 150);
            assert!(tokens > least, "{name}, {hiccup} s: {tokens} < {least}");
        }
    }
}

#[test]
fn a_hiccup_in_the_first_step_that_decodes_is_forgotten() {
    let mut machine = GPU;
    let mut pace = Pace::new(None, MICRO_BATCH);
    pace.observe(0, 3, Duration::from_secs(5));
    machine.decode(&mut pace, 3, 4);
    let decode = pace.decode_step(3).expect("5 measurements").as_secs_f64();
    let mean = machine.mean(0, 3);
    assert!((decode / mean - 1.0).abs() < 0.01, "{decode} for {mean}");
}

#[test]
fn a_stale_pace_of_decoding_is_measured_anew_now_and_then() {
    let mut machine = GPU;
    let mut pace = Pace::new(Some(Duration::from_millis(60)), MICRO_BATCH);
    machine.decode(&mut pace, 3, 20);
    let mut without_prefill = 0;
    for _ in 0..650 {
        let share = pace.prefill_beside_decode_tokens(3);
        machine.step(&mut pace, share, 3);
        without_prefill += u32::from(share == 0);
    }
    assert_eq!(without_prefill, 10);
}

#[test]
fn the_pace_of_other_numbers_of_streams_is_predicted() {
    let mut machine = CPU;
    let mut pace = Pace::new(None, MICRO_BATCH);
    assert_eq!(pace.decode_step(1), None);
    for rows in [1, 2, 4].repeat(20) {
        machine.decode(&mut pace, rows, 1);
    }
    for rows in [1, 3, 8] {
        let predicted = pace
            .decode_step(rows)
            .expect("60 measurements")
            .as_secs_f64();
        let actual = machine.mean(0, rows);
        assert!(
            (predicted / actual - 1.0).abs() < 0.1,
            "{rows} rows: {predicted} for {actual}"
        );
    }
}

proptest! {
    #[test]
    fn whatever_is_measured_the_answer_is_in_bounds(
        steps in prop::collection::vec((0_u32..600, 0_u32..20, 0_u64..5_000_000), 0..200),
        tpot in prop::option::of(0_u64..500), micro_batch in 4_u32..1024, rows in 1_u32..40,
    ) {
        let mut pace = Pace::new(tpot.map(Duration::from_millis), micro_batch);
        for (prefill, rows, micros) in steps {
            pace.observe(prefill, rows, Duration::from_micros(micros));
        }
        let mut tokens = pace.prefill_beside_decode_tokens(rows);
        for _ in 0..100_000 {
            if tokens == 0 {
                pace.observe(0, rows, Duration::from_millis(20));
                tokens = pace.prefill_beside_decode_tokens(rows);
            }
        }
        prop_assert!((4..=micro_batch).contains(&tokens));
        prop_assert!(tokens <= 16 || tokens.is_multiple_of(8));
    }
}
