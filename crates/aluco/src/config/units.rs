//! Sizes as people write them.

/// Reads a size in bytes: `1048576`, `64MiB`, `64 MB`, `2g`. `KiB` and bare letters count in 1,024, `kB` in 1,000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("expected a size such as \"64MiB\" or \"1048576\", found \"{text}\"");
    let number_end = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..number_end].parse().map_err(|_| wrong())?;
    let (base, power) = match text[number_end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => (1.0_f64, 0),
        "k" | "kib" => (1024.0, 1),
        "m" | "mib" => (1024.0, 2),
        "g" | "gib" => (1024.0, 3),
        "t" | "tib" => (1024.0, 4),
        "kb" => (1000.0, 1),
        "mb" => (1000.0, 2),
        "gb" => (1000.0, 3),
        "tb" => (1000.0, 4),
        _ => return Err(wrong()),
    };
    let bytes = number * base.powi(power);
    // 2^53: beyond it an f64 does not tell neighbours apart.
    if bytes > 9_007_199_254_740_992.0 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// A size that [`parse_size`] reads back as the same: in the largest binary unit of which it is a whole number.
pub(crate) fn write_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value > 0 && value.is_multiple_of(1024) && unit + 1 < UNITS.len() {
        value /= 1024;
        unit += 1;
    }
    format!("{value}{}", UNITS[unit])
}

/// A size in the largest binary unit that leaves at least 1, with three significant digits: `269 MiB`, `1.50 GiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match (unit, value) {
        (0, _) | (_, 99.95..) => 0,
        (_, 9.995..) => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        for (text, expected) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64 mb", 64_000_000),
            ("2g", 2 << 30),
            ("1.5k", 1536),
        ] {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "MiB", "5 stones", "-1", "99999999T", "1..2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_written_size_is_read_back_as_the_same() {
        for (bytes, expected) in [
            (0, "0"),
            (1000, "1000"),
            (1536, "1536"),
            (64 << 20, "64MiB"),
            ((64 << 20) + 1, "67108865"),
            (5 << 40, "5TiB"),
            (1 << 52, "4096TiB"),
        ] {
            assert_eq!(write_size(bytes), expected);
            assert_eq!(parse_size(expected), Ok(bytes));
        }
    }

    #[test]
    fn sizes_are_shown_with_three_digits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (98_304, "96.0 KiB"),
            (94 << 20, "94.0 MiB"),
            (269 << 20, "269 MiB"),
            (1_610_612_736, "1.50 GiB"),
        ] {
            assert_eq!(show_size(bytes), expected);
        }
    }
}
