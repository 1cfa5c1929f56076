//! Times in JSON as RFC 3339 strings, such as `2026-01-31T12:00:00Z`: for `#[serde(serialize_with = "…")]`.

use std::time::{Duration, SystemTime};

use serde::Serializer;

/// The last second of the year 9999, beyond which the form has no years; in seconds since 1970.
const LAST_S: u64 = 253_402_300_799;

/// Writes a time, to the second. Times before 1970, which a file may well claim, become its first second.
pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_S);
    let time = (*time).clamp(SystemTime::UNIX_EPOCH, last);
    serializer.collect_str(&humantime::format_rfc3339_seconds(time))
}

/// Writes a time or nothing.
pub fn serialize_option<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serialize(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_can_be_written() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, expected) in [
            (
                epoch + Duration::from_millis(1_700_000_000_999),
                "2023-11-14T22:13:20Z",
            ),
            (epoch - Duration::from_secs(1), "1970-01-01T00:00:00Z"),
            (epoch + Duration::from_secs(1 << 40), "9999-12-31T23:59:59Z"),
        ] {
            let text = serialize(&time, serde_json::value::Serializer).unwrap();
            assert_eq!(text, expected);
            let text = serialize_option(&Some(time), serde_json::value::Serializer).unwrap();
            assert_eq!(text, expected);
        }
        let nothing = serialize_option(&None, serde_json::value::Serializer).unwrap();
        assert!(nothing.is_null());
    }
}
