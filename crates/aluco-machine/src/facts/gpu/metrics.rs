//! `gpu_metrics`: a binary table of the firmware, in little-endian words at natural alignment. The offsets follow from the order of fields in
//! `struct gpu_metrics_v1_3`, `_v2_1` and `_v3_0` of the kernel's `drivers/gpu/drm/amd/include/kgd_pp_interface.h`; the second number of a format adds
//! fields at the end.

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
        let mut metrics = match (format, content) {
            (1, 1..=3) if bytes >= 68 => of_a_card(table),
            (2, 1..=4) if bytes >= 88 => of_an_older_apu(table),
            (3, 0) if bytes >= 260 => of_an_apu(table),
            _ => Self::default(),
        };
        metrics.format = format!("{format}.{content}");
        Some(metrics)
    }
}

/// Formats 1.1 to 1.3: whole degrees, percent and watts. 1.0 has its clock elsewhere, and 1.4 and later, of accelerators, share nothing with them.
fn of_a_card(table: &[u8]) -> GpuMetrics {
    let told = |offset| told(table, offset);
    let temperature = |offset| told(offset).and_then(|degrees| degrees.checked_mul(100));
    GpuMetrics {
        gpu_temperature_cc: temperature(4),
        hotspot_temperature_cc: temperature(6),
        memory_temperature_cc: temperature(8),
        soc_temperature_cc: temperature(12),
        gpu_activity: told(16),
        memory_activity: told(18),
        video_activity: told(20).and_then(|percent| percent.checked_mul(100)),
        socket_power_mw: told(22).map(|watts| u32::from(watts) * 1000),
        gpu_clock_mhz: told(54),
        memory_clock_mhz: told(58),
        ..GpuMetrics::default()
    }
}

/// Formats 2.1 to 2.4: hundredths of a degree, milliwatts. 2.0 has its clock elsewhere.
fn of_an_older_apu(table: &[u8]) -> GpuMetrics {
    let told = |offset| told(table, offset);
    GpuMetrics {
        gpu_temperature_cc: told(4),
        soc_temperature_cc: told(6),
        gpu_activity: told(28),
        video_activity: told(30),
        socket_power_mw: told(40).map(u32::from),
        cores_power_mw: told(42).map(u32::from),
        gpu_power_mw: told(46).map(u32::from),
        gpu_clock_mhz: told(76),
        memory_clock_mhz: told(80),
        fabric_clock_mhz: told(82),
        ..GpuMetrics::default()
    }
}

/// Format 3.0, which Strix Halo has: hundredths of a degree, milliwatts.
fn of_an_apu(table: &[u8]) -> GpuMetrics {
    let told = |offset| told(table, offset);
    let double = |offset| double(table, offset).filter(|double| *double != u32::MAX);
    GpuMetrics {
        gpu_temperature_cc: told(4),
        soc_temperature_cc: told(6),
        skin_temperature_cc: told(40),
        gpu_activity: told(42),
        video_activity: told(44),
        // Of bandwidth, all bits set is what it ends at, not "not measured".
        memory_read_mb_s: word(table, 94),
        memory_write_mb_s: word(table, 96),
        socket_power_mw: double(112),
        npu_power_mw: told(116),
        gpu_power_mw: double(124),
        cores_power_mw: double(132),
        system_power_mw: told(168),
        stapm_limit_mw: told(170),
        gpu_clock_mhz: told(174),
        npu_clock_mhz: told(180),
        fabric_clock_mhz: told(182),
        memory_clock_mhz: told(186),
        throttle: throttle(table),
        ..GpuMetrics::default()
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

/// A word, unless all its bits are set, which is "not measured".
fn told(table: &[u8], offset: usize) -> Option<u16> {
    word(table, offset).filter(|word| *word != u16::MAX)
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

    /// A table of a length and a format with words at offsets.
    fn made(bytes: u16, format: [u8; 2], words: &[(usize, u16)]) -> Vec<u8> {
        let mut table = vec![0xFF; usize::from(bytes)];
        table[..2].copy_from_slice(&bytes.to_le_bytes());
        table[2..4].copy_from_slice(&format);
        for (offset, word) in words {
            table[*offset..offset + 2].copy_from_slice(&word.to_le_bytes());
        }
        table
    }

    #[test]
    fn the_table_of_a_card_is_read_in_its_own_units() {
        let words = [
            (4, 61),
            (6, 74),
            (8, 66),
            (16, 99),
            (18, 37),
            (20, 5),
            (22, 291),
            (54, 2482),
            (58, 1249),
        ];
        let metrics = GpuMetrics::parse(&made(120, [1, 3], &words)).unwrap();
        let expected = GpuMetrics {
            format: "1.3".to_owned(),
            gpu_temperature_cc: Some(6100),
            hotspot_temperature_cc: Some(7400),
            memory_temperature_cc: Some(6600),
            gpu_activity: Some(99),
            memory_activity: Some(37),
            video_activity: Some(500),
            socket_power_mw: Some(291_000),
            gpu_clock_mhz: Some(2482),
            memory_clock_mhz: Some(1249),
            ..GpuMetrics::default()
        };
        assert_eq!(metrics, expected);
    }

    #[test]
    fn the_table_of_an_older_apu_is_read_in_its_own_units() {
        let words = [
            (4, 5230),
            (6, 4810),
            (28, 8700),
            (30, 0),
            (40, 24_100),
            (42, 9050),
            (46, 11_900),
            (76, 2700),
            (80, 2400),
            (82, 2000),
        ];
        for content in 1..=4 {
            let metrics = GpuMetrics::parse(&made(128, [2, content], &words)).unwrap();
            let expected = GpuMetrics {
                format: format!("2.{content}"),
                gpu_temperature_cc: Some(5230),
                soc_temperature_cc: Some(4810),
                gpu_activity: Some(8700),
                video_activity: Some(0),
                socket_power_mw: Some(24_100),
                cores_power_mw: Some(9050),
                gpu_power_mw: Some(11_900),
                gpu_clock_mhz: Some(2700),
                memory_clock_mhz: Some(2400),
                fabric_clock_mhz: Some(2000),
                ..GpuMetrics::default()
            };
            assert_eq!(metrics, expected);
        }
    }

    #[test]
    fn another_format_is_named_and_left_alone() {
        for format in [[1, 0], [1, 4], [1, 8], [2, 0], [2, 9], [3, 1], [9, 9]] {
            let metrics = GpuMetrics::parse(&made(300, format, &[(4, 50)])).unwrap();
            let expected = GpuMetrics {
                format: format!("{}.{}", format[0], format[1]),
                ..GpuMetrics::default()
            };
            assert_eq!(metrics, expected);
        }
        // A table that is shorter than its format is told no more of than its name.
        for (bytes, format) in [(67, [1, 3]), (87, [2, 2]), (259, [3, 0])] {
            let metrics = GpuMetrics::parse(&made(bytes, format, &[(4, 50)])).unwrap();
            assert_eq!(metrics.gpu_temperature_cc, None, "{format:?}");
        }
        assert_eq!(GpuMetrics::parse(&table()[..100]), None);
    }

    proptest! {
        #[test]
        fn no_table_breaks_the_reader(
            mut table in prop::collection::vec(any::<u8>(), 0..400),
            format in prop::option::of((1_u8..4, 0_u8..5)),
        ) {
            if let Some((format, content)) = format
                && table.len() >= 4
            {
                let bytes = (table.len() as u16).to_le_bytes();
                table[..4].copy_from_slice(&[bytes[0], bytes[1], format, content]);
                prop_assert!(GpuMetrics::parse(&table).is_some());
            } else {
                let _ = GpuMetrics::parse(&table);
            }
        }
    }
}
