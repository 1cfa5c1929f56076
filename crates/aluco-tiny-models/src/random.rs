//! Random numbers that are the same on every machine.

/// SplitMix64 of Steele, Lea and Flood (2014).
pub(crate) struct Random(u64);

impl Random {
    /// Numbers that belong to a name.
    pub(crate) fn of(name: &str) -> Self {
        // FNV-1a.
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// The next number of a distribution with mean 0 and the given standard deviation: evenly spread, since that needs none of the
    /// functions on which mathematical libraries differ.
    pub(crate) fn next(&mut self, deviation: f32) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let unit = (bits >> 40) as f32 / (1_u32 << 24) as f32;
        (2.0 * unit - 1.0) * 3_f32.sqrt() * deviation
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn numbers_have_the_deviation_that_was_asked_for() {
        let mut random = Random::of("a tensor");
        let numbers: Vec<f32> = (0..10_000).map(|_| random.next(0.25)).collect();
        let mean = numbers.iter().sum::<f32>() / 10_000.0;
        let variance = numbers.iter().map(|number| number * number).sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance.sqrt() - 0.25).abs() < 0.005, "{variance}");
    }

    #[test]
    fn numbers_belong_to_the_name() {
        let first = |name| Random::of(name).next(1.0).to_bits();
        assert_eq!(first("blk.0.attn_q.weight"), first("blk.0.attn_q.weight"));
        assert_ne!(first("blk.0.attn_q.weight"), first("blk.1.attn_q.weight"));
    }
}
