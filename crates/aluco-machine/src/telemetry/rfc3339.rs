//! Times in JSON as RFC 3339 strings to the millisecond, such as `2026-01-31T12:00:00.250Z`: for `#[serde(with = "…")]`.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// The last second of the year 9999, beyond which the form has no years; in seconds since 1970.
const LAST_S: u64 = 253_402_300_799;

pub(super) fn serialize<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(LAST_S);
    let time = (*time).clamp(SystemTime::UNIX_EPOCH, last);
    serializer.collect_str(&humantime::format_rfc3339_millis(time))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339(&text)
        .map_err(|error| D::Error::custom(format_args!("{text:?} is no time: {error}")))
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct At(#[serde(with = "super")] SystemTime);

    #[test]
    fn a_time_is_written_to_the_millisecond_and_read_again() {
        let epoch = SystemTime::UNIX_EPOCH;
        let at = At(epoch + Duration::from_millis(1_700_000_000_250));
        let text = serde_json::to_string(&at).unwrap();
        assert_eq!(text, "\"2023-11-14T22:13:20.250Z\"");
        assert_eq!(serde_json::from_str::<At>(&text).unwrap(), at);
    }

    #[test]
    fn a_time_that_the_form_has_no_words_for_is_the_nearest_one_that_it_has() {
        let epoch = SystemTime::UNIX_EPOCH;
        for (time, expected) in [
            (
                epoch - Duration::from_secs(1),
                "\"1970-01-01T00:00:00.000Z\"",
            ),
            (
                epoch + Duration::from_secs(1 << 40),
                "\"9999-12-31T23:59:59.000Z\"",
            ),
        ] {
            assert_eq!(serde_json::to_string(&At(time)).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "\"\"",
            "\"yesterday\"",
            "1700000000",
            "\"2023-13-41T22:13:20Z\"",
        ] {
            assert!(serde_json::from_str::<At>(text).is_err(), "{text}");
        }
    }
}
