//! Memory bandwidth as STREAM counts it: `read` moves 8 bytes per element, `copy` 16, `triad` 24. The lines that a store has to fetch first
//! are not counted, so figures are comparable with published ones, and copy and triad stay below what the memory really moves.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use pulp::Arch;
use serde::{Deserialize, Serialize};

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct BandwidthOptions {
    /// Threads that read and write at once.
    pub threads: NonZeroUsize,
    /// Bytes of each of the three arrays, over all threads. It has to be several times the last-level cache.
    pub array_bytes: usize,
    /// How often each kernel runs; the best run counts, as in STREAM.
    pub rounds: u32,
}

/// Bytes per second of the best round of each kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Threads that took part.
    pub threads: usize,
    /// Bytes of each array, over all threads.
    pub array_bytes: usize,
    /// `sum += a[i]`.
    pub read: f64,
    /// `c[i] = a[i]`.
    pub copy: f64,
    /// `a[i] = b[i] + s * c[i]`.
    pub triad: f64,
}

#[derive(Debug, Clone, Copy)]
enum Kernel {
    Read,
    Copy,
    Triad,
}

impl Kernel {
    const ALL: [Self; 3] = [Self::Read, Self::Copy, Self::Triad];

    fn bytes_per_element(self) -> usize {
        match self {
            Self::Read => 8,
            Self::Copy => 16,
            Self::Triad => 24,
        }
    }
}

/// One thread's share of the arrays. Its thread touches them first, so that they lie near its core.
struct Share {
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
}

impl Share {
    fn new(elements: usize) -> Self {
        Self {
            a: vec![1.0; elements],
            b: vec![2.0; elements],
            c: vec![0.5; elements],
        }
    }

    fn run(&mut self, arch: Arch, kernel: Kernel) {
        match kernel {
            Kernel::Read => {
                black_box(arch.dispatch(|| sum(&self.a)));
            }
            Kernel::Copy => arch.dispatch(|| self.c.copy_from_slice(&self.a)),
            Kernel::Triad => arch.dispatch(|| {
                for ((a, b), c) in self.a.iter_mut().zip(&self.b).zip(&self.c) {
                    *a = b + 3.0 * c;
                }
            }),
        }
        black_box(&mut self.c);
        black_box(&mut self.a);
    }
}

/// A sum in many independent parts: one chain of additions would wait for the adder instead of for the memory.
#[inline(always)]
fn sum(values: &[f64]) -> f64 {
    const LANES: usize = 32;
    let mut parts = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (part, value) in parts.iter_mut().zip(chunk) {
            *part += value;
        }
    }
    parts.iter().sum::<f64>() + rest
}

/// Begin and end of a thread's part in a round.
type Span = (Instant, Instant);

/// From the first begin to the last end. Each thread looks at the clock itself: one that only watches the others may be put aside by the
/// kernel while they work, and would then see no time pass.
fn together(spans: impl Iterator<Item = Span>) -> Duration {
    let all = spans.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    all.map_or(Duration::ZERO, |(begin, end)| end - begin)
}

/// Measures. Takes three times `array_bytes` of memory for a moment.
pub(super) fn measure(options: &BandwidthOptions) -> Bandwidth {
    let threads = options.threads.get();
    let elements = (options.array_bytes / size_of::<f64>() / threads).max(1);
    let barrier = Barrier::new(threads);
    let rounds = options.rounds.max(1) as usize;
    let times: Vec<Vec<Span>> = thread::scope(|scope| {
        let work = || {
            let arch = Arch::new();
            let mut share = Share::new(elements);
            let mut times = Vec::with_capacity(Kernel::ALL.len() * (rounds + 1));
            for kernel in Kernel::ALL {
                for _ in 0..=rounds {
                    barrier.wait();
                    let begin = Instant::now();
                    share.run(arch, kernel);
                    times.push((begin, Instant::now()));
                }
            }
            times
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a kernel does not panic"))
            .collect()
    });
    // One round more than is counted: pages and clocks settle in it.
    let best = Kernel::ALL.map(|kernel| {
        let first = kernel as usize * (rounds + 1);
        let rounds = first + 1..=first + rounds;
        let time = |round| together(times.iter().map(|times| times[round]));
        rounds.map(time).min().unwrap_or(Duration::MAX)
    });
    let rate = |kernel: Kernel| {
        let bytes = elements * threads * kernel.bytes_per_element();
        bytes as f64 / best[kernel as usize].as_secs_f64().max(1e-9)
    };
    Bandwidth {
        threads,
        array_bytes: elements * threads * size_of::<f64>(),
        read: rate(Kernel::Read),
        copy: rate(Kernel::Copy),
        triad: rate(Kernel::Triad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_sums() {
        let values: Vec<f64> = (0..1000_u32).map(f64::from).collect();
        assert!((sum(&values) - 499_500.0).abs() < 1e-9);
        assert!((sum(&values[..7]) - 21.0).abs() < 1e-9);
    }

    #[test]
    fn every_kernel_has_a_rate_and_the_arrays_are_shared_out() {
        let options = BandwidthOptions {
            threads: NonZeroUsize::new(2).unwrap(),
            array_bytes: 1 << 20,
            rounds: 2,
        };
        let begin = Instant::now();
        let found = measure(&options);
        // Each kernel went through an array at least in less than all the time that passed.
        let slowest = f64::from(1 << 20) / begin.elapsed().as_secs_f64();
        assert_eq!((found.threads, found.array_bytes), (2, 1 << 20));
        for rate in [found.read, found.copy, found.triad] {
            assert!(rate.is_finite() && rate >= slowest, "{slowest}: {found:?}");
        }
    }

    #[test]
    fn a_round_lasts_from_the_first_begin_to_the_last_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let spans = [(at(5), at(20)), (at(3), at(9)), (at(18), at(31))];
        assert_eq!(together(spans.into_iter()), Duration::from_millis(28));
    }

    #[test]
    fn kernels_compute_what_they_say() {
        let mut share = Share::new(100);
        share.run(Arch::new(), Kernel::Triad);
        assert!(share.a.iter().all(|a| (a - 3.5).abs() < 1e-12));
        share.run(Arch::new(), Kernel::Copy);
        assert_eq!(share.c, share.a);
    }
}
