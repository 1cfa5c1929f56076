//! `gpu_metrics`: a binary table of the firmware. Offsets are those of `struct gpu_metrics_v3_0` in the kernel's `kgd_pp_interface.h`.

use super::{GpuMetrics, Throttle};

/// A format grows, but not beyond a page.
pub(super) const BYTES_MAX: usize = 4096;

impl GpuMetrics {
    /// Reads the table. `None` if its header does not fit it.
    pub fn parse(table: &[u8]) -> Option<Self> {
        let bytes = usize::from(word(table, 0)?);
        let (format, content) = (*table.get(2)?, *table.get(3)?);
        if bytes < 4 || bytes > table.len() {
            return None;
        }
        let table = &table[..bytes];
        let mut metrics = Self {
            format: format!("{format}.{content}"),
            ..Self::default()
        };
        if (format, content) != (3, 0) || bytes < 260 {
            return Some(metrics);
        }
        // All bits set is "not measured".
        let word = |offset| word(table, offset).filter(|word| *word != u16::MAX);
        let double = |offset| double(table, offset).filter(|double| *double != u32::MAX);
        metrics.gpu_temperature_cc = word(4);
        metrics.soc_temperature_cc = word(6);
        metrics.skin_temperature_cc = word(40);
        metrics.gpu_activity = word(42);
        metrics.video_activity = word(44);
        // Of bandwidth, all bits set is what it ends at, not "not measured".
        metrics.memory_read_mb_s = self::word(table, 94);
        metrics.memory_write_mb_s = self::word(table, 96);
        metrics.socket_power_mw = double(112);
        metrics.npu_power_mw = word(116);
        metrics.gpu_power_mw = double(124);
        metrics.cores_power_mw = double(132);
        metrics.system_power_mw = word(168);
        metrics.stapm_limit_mw = word(170);
        metrics.gpu_clock_mhz = word(174);
        metrics.npu_clock_mhz = word(180);
        metrics.fabric_clock_mhz = word(182);
        metrics.memory_clock_mhz = word(186);
        metrics.throttle = throttle(table);
        Some(metrics)
    }
}

fn throttle(table: &[u8]) -> Option<Throttle> {
    let counter = |index: usize| double(table, 228 + 4 * index);
    Some(Throttle {
        prochot: counter(0)?,
        spl: counter(1)?,
        fppt: counter(2)?,
        sppt: counter(3)?,
        heat_cores: counter(4)?,
        heat_gpu: counter(5)?,
        heat_soc: counter(6)?,
    })
}

fn word(table: &[u8], offset: usize) -> Option<u16> {
    let bytes = table.get(offset..offset + 2)?;
    Some(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn double(table: &[u8], offset: usize) -> Option<u32> {
    let bytes = table.get(offset..offset + 4)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Vec<u8> {
        let mut table = vec![0; 264];
        table[..4].copy_from_slice(&[8, 1, 3, 0]);
        table[4..6].copy_from_slice(&7038_u16.to_le_bytes());
        table[94..96].copy_from_slice(&u16::MAX.to_le_bytes());
        table[112..116].copy_from_slice(&119_095_u32.to_le_bytes());
        table[170..172].copy_from_slice(&u16::MAX.to_le_bytes());
        table[232..236].copy_from_slice(&933_227_u32.to_le_bytes());
        table
    }

    #[test]
    fn what_the_firmware_does_not_measure_is_not_told() {
        let metrics = GpuMetrics::parse(&table()).unwrap();
        assert_eq!(metrics.format, "3.0");
        assert_eq!(metrics.gpu_temperature_cc, Some(7038));
        assert_eq!(metrics.socket_power_mw, Some(119_095));
        assert_eq!(metrics.memory_read_mb_s, Some(u16::MAX));
        assert_eq!(metrics.stapm_limit_mw, None);
        assert_eq!(metrics.throttle.unwrap().spl, 933_227);
    }

    #[test]
    fn another_format_is_named_and_left_alone() {
        let mut table = table();
        table[2..4].copy_from_slice(&[1, 3]);
        let metrics = GpuMetrics::parse(&table).unwrap();
        assert_eq!(metrics.format, "1.3");
        assert_eq!(metrics.gpu_temperature_cc, None);
        table.truncate(100);
        assert_eq!(GpuMetrics::parse(&table), None);
    }

    proptest! {
        #[test]
        fn no_table_breaks_the_reader(
            mut table in prop::collection::vec(any::<u8>(), 0..400),
            format in any::<bool>(),
        ) {
            if format && table.len() >= 4 {
                let bytes = (table.len() as u16).to_le_bytes();
                table[..4].copy_from_slice(&[bytes[0], bytes[1], 3, 0]);
                prop_assert!(GpuMetrics::parse(&table).is_some());
            } else {
                let _ = GpuMetrics::parse(&table);
            }
        }
    }
}
