//! What the CPU computes at most: fused multiply-adds of `f32` that stay in registers.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use pulp::Arch;
use serde::{Deserialize, Serialize};

/// Independent sums per thread: twelve registers of AVX2 or of AVX-512, more than hide the latency of two adders, and none is spilled.
const LANES: usize = 96;
const LANES_WIDE: usize = 2 * LANES;

/// Multiply-adds of each sum between two looks at the clock.
const STEPS: usize = 20_000;

/// Floating-point operations per second; a multiply-add counts as two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arithmetic {
    /// Threads that took part in `all_threads`.
    pub threads: usize,
    /// Instructions in use, such as `AVX-512`.
    pub instructions: String,
    /// One thread alone.
    pub one_thread: f64,
    /// All threads at once.
    pub all_threads: f64,
}

/// Measures for about `time`, twice: with one thread and with all.
pub(super) fn measure(threads: NonZeroUsize, time: Duration) -> Arithmetic {
    Arithmetic {
        threads: threads.get(),
        instructions: instructions(Arch::new()).to_owned(),
        one_thread: rate(1, time),
        all_threads: rate(threads.get(), time),
    }
}

fn instructions(arch: Arch) -> &'static str {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Arch::V3(_) => "AVX2 and FMA",
        _ => "the compiler's baseline",
    }
}

/// True if a fused multiply-add is one instruction; elsewhere it may be a call into the mathematical library.
fn has_fused(arch: Arch) -> bool {
    !matches!(arch, Arch::Scalar) || cfg!(target_arch = "aarch64")
}

/// Operations per second of that many threads.
fn rate(threads: usize, time: Duration) -> f64 {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let arch = Arch::new();
                    match arch {
                        #[cfg(target_arch = "x86_64")]
                        Arch::V4(_) => rate_of_one::<LANES_WIDE>(arch, &barrier, time),
                        _ => rate_of_one::<LANES>(arch, &barrier, time),
                    }
                })
            })
            .collect();
        let rates = workers.into_iter().map(thread::ScopedJoinHandle::join);
        rates.map(|rate| rate.unwrap_or(0.0)).sum()
    })
}

/// Operations per second of this thread, while the others compute too.
fn rate_of_one<const N: usize>(arch: Arch, barrier: &Barrier, time: Duration) -> f64 {
    let mut sums = black_box([1.0_f32; N]);
    burn(arch, &mut sums);
    barrier.wait();
    let start = Instant::now();
    let mut rounds = 0_u32;
    while start.elapsed() < time || rounds == 0 {
        burn(arch, &mut sums);
        rounds += 1;
    }
    black_box(sums);
    let operations = f64::from(rounds) * (2 * N * STEPS) as f64;
    operations / start.elapsed().as_secs_f64()
}

fn burn<const N: usize>(arch: Arch, sums: &mut [f32; N]) {
    let (factor, term) = (black_box(0.999_f32), black_box(0.001_f32));
    if has_fused(arch) {
        arch.dispatch(|| {
            let mut local = *sums;
            for _ in 0..STEPS {
                for sum in &mut local {
                    *sum = sum.mul_add(factor, term);
                }
            }
            *sums = local;
        });
    } else {
        let mut local = *sums;
        for _ in 0..STEPS {
            for sum in &mut local {
                *sum = *sum * factor + term;
            }
        }
        *sums = local;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_approach_their_limit() {
        let mut sums = [1.5; LANES];
        burn(Arch::new(), &mut sums);
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-3), "{sums:?}");
    }

    #[test]
    fn rates_are_those_of_a_computer() {
        let begin = Instant::now();
        let found = measure(NonZeroUsize::MIN, Duration::from_millis(20));
        // Each did one round at least in less than all the time that passed.
        let slowest = (2 * LANES * STEPS) as f64 / begin.elapsed().as_secs_f64();
        for rate in [found.one_thread, found.all_threads] {
            assert!((slowest..1e14).contains(&rate), "{slowest}: {found:?}");
        }
    }
}
