//! How much memory the GPU may have: all of it but what the system needs.

use serde::Serialize;

use crate::tune::TuneError;

const GIB: u64 = 1 << 30;
/// The kernel counts in pages of 4 KiB.
const PAGE_BYTES: u64 = 4096;
/// The system's own share where nothing else was asked for.
const RESERVE_BYTES: u64 = 8 * GIB;
/// Below this a system without a desktop stands still.
const RESERVE_BYTES_MIN: u64 = 2 * GIB;
/// More is not used by anybody, whatever is installed.
const GTT_BYTES_MAX: u64 = 124 * GIB;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GttChoice {
    /// 90 % of memory, at least 8 GiB less than all, and at most 124 GiB.
    #[default]
    Usual,
    /// This many bytes for the GPU.
    Size(u64),
    /// All but this many bytes.
    Reserve(u64),
}

/// How much memory the GPU may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GttSize {
    /// What the kernel has, in bytes.
    pub total_bytes: u64,
    /// For the GPU, in bytes: whole GiB unless a size was given.
    pub gtt_bytes: u64,
    /// What is left to everything else, in bytes.
    pub reserve_bytes: u64,
    /// Value of `ttm.pages_limit`.
    pub pages: u64,
}

impl GttSize {
    /// Sizes it for a machine whose kernel has this many bytes.
    pub fn of(total_bytes: u64, choice: GttChoice) -> Result<Self, TuneError> {
        let whole = |bytes: u64| bytes / GIB * GIB;
        let gtt_bytes = match choice {
            GttChoice::Usual => {
                let share = total_bytes / 10 * 9;
                let rest = total_bytes.saturating_sub(RESERVE_BYTES);
                whole(share.min(rest).min(GTT_BYTES_MAX))
            }
            GttChoice::Reserve(bytes) => whole(total_bytes.saturating_sub(bytes)),
            GttChoice::Size(bytes) => bytes / PAGE_BYTES * PAGE_BYTES,
        };
        let gib = |bytes: u64| bytes as f64 / GIB as f64;
        if gtt_bytes < GIB {
            return Err(TuneError::Size(format!(
                "{:.1} GiB for the GPU is too little to be of use; the system has {:.1} GiB",
                gib(gtt_bytes),
                gib(total_bytes)
            )));
        }
        let reserve_bytes = total_bytes.saturating_sub(gtt_bytes);
        if reserve_bytes < RESERVE_BYTES_MIN {
            return Err(TuneError::Size(format!(
                "{:.1} GiB for the GPU would leave the system less than {} GiB of its {:.1} GiB, and it would stand still; ask for at most {:.1} GiB",
                gib(gtt_bytes),
                RESERVE_BYTES_MIN / GIB,
                gib(total_bytes),
                gib(whole(total_bytes.saturating_sub(RESERVE_BYTES_MIN)))
            )));
        }
        Ok(Self {
            total_bytes,
            gtt_bytes,
            reserve_bytes,
            pages: gtt_bytes / PAGE_BYTES,
        })
    }

    /// Value of `amdgpu.gttsize`, in MiB, for drivers that need it beside `ttm.pages_limit`.
    pub fn mib(&self) -> u64 {
        self.gtt_bytes >> 20
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usual_gib(total_bytes: u64) -> u64 {
        let size = GttSize::of(total_bytes, GttChoice::Usual).expect("a size");
        size.gtt_bytes / GIB
    }

    #[test]
    fn the_usual_sizes_are_those_that_the_sources_recommend() {
        // MemTotal of a 128 GB machine with 512 MB carved out, and of one with 2 GB.
        assert_eq!(usual_gib(131_750_000 << 10), 113);
        assert_eq!(usual_gib(127_098_456 << 10), 109);
        assert_eq!(usual_gib(64 << 30), 56);
        assert_eq!(usual_gib(32 << 30), 24);
        assert_eq!(usual_gib(512 << 30), 124);
    }

    #[test]
    fn pages_are_of_four_kib() {
        let size = GttSize::of(125 * GIB, GttChoice::Size(112 * GIB)).expect("a size");
        assert_eq!(size.pages, 29_360_128);
        assert_eq!(size.mib(), 112 * 1024);
        let size = GttSize::of(125 * GIB + 5, GttChoice::Reserve(5 * GIB)).expect("a size");
        assert_eq!(size.pages, 31_457_280);
    }

    #[test]
    fn what_would_starve_the_system_is_refused_with_the_numbers() {
        let error = GttSize::of(121 * GIB, GttChoice::Size(128 * GIB)).expect_err("refused");
        let text = error.to_string();
        assert!(
            text.contains("128.0 GiB") && text.contains("121.0 GiB"),
            "{text}"
        );
        assert!(GttSize::of(121 * GIB, GttChoice::Reserve(121 * GIB)).is_err());
        assert!(GttSize::of(8 * GIB, GttChoice::Usual).is_err());
    }

    proptest! {
        #[test]
        fn no_size_takes_all(total: u64, given: u64, kind in 0..3) {
            let choice = match kind {
                0 => GttChoice::Usual,
                1 => GttChoice::Size(given),
                _ => GttChoice::Reserve(given),
            };
            if let Ok(size) = GttSize::of(total, choice) {
                prop_assert!(size.reserve_bytes >= RESERVE_BYTES_MIN);
                prop_assert_eq!(size.gtt_bytes + size.reserve_bytes, total);
            }
        }
    }
}
