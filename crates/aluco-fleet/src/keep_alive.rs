//! How long a model stays loaded when nobody uses it, in all the ways in which people write that.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How long a model stays loaded after its last request.
///
/// Written as Ollama writes it: `5m`, `1h30m`, `1.5s`, a number of seconds, 0 to unload at once, and a negative number or `forever`
/// to keep it for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// For this long; nothing at all is zero.
    For(Duration),
    /// Until another model needs its place.
    Forever,
}

/// What was found in place of a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as \"30s\", \"5m\" or \"forever\", found \"{0}\"")]
pub struct NoDuration(String);

impl KeepAlive {
    /// Unloaded right after its last request.
    pub const NONE: Self = Self::For(Duration::ZERO);

    /// The duration. `None`: for ever.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::Forever => None,
        }
    }

    /// So many seconds; for ever if they are negative. `None` if no clock counts so many.
    fn from_seconds(seconds: f64) -> Option<Self> {
        if seconds < 0.0 {
            return Some(Self::Forever);
        }
        Duration::try_from_secs_f64(seconds).ok().map(Self::For)
    }
}

impl Default for KeepAlive {
    /// Five minutes.
    fn default() -> Self {
        Self::For(Duration::from_secs(5 * 60))
    }
}

impl From<Duration> for KeepAlive {
    fn from(duration: Duration) -> Self {
        Self::For(duration)
    }
}

impl From<Option<Duration>> for KeepAlive {
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::Forever, Self::For)
    }
}

impl FromStr for KeepAlive {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        let text = text.trim();
        let wrong = || NoDuration(text.to_owned());
        if text.eq_ignore_ascii_case("forever") {
            return Ok(Self::Forever);
        }
        let (sign, magnitude) = match text.strip_prefix('-') {
            Some(rest) => (-1.0, rest),
            None => (1.0, text),
        };
        let seconds = if magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
            magnitude.parse::<u64>().map_err(|_| wrong())? as f64
        } else {
            sum_of_units(magnitude).ok_or_else(wrong)?
        };
        Self::from_seconds(sign * seconds).ok_or_else(wrong)
    }
}

/// Seconds of a sum such as `1h30m`.
fn sum_of_units(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number_end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        rest = &rest[number_end..];
        let unit_end = rest
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Some(seconds)
}

impl fmt::Display for KeepAlive {
    /// The shortest form that is read back as the same, to the millisecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::For(duration) = self else {
            return f.write_str("forever");
        };
        match (duration.as_secs(), duration.subsec_millis()) {
            (0, 0) => f.write_str("0s"),
            (_, 1..) => write!(f, "{}ms", duration.as_millis()),
            (seconds, _) if seconds % 3600 == 0 => write!(f, "{}h", seconds / 3600),
            (seconds, _) if seconds % 60 == 0 => write!(f, "{}m", seconds / 60),
            (seconds, _) => write!(f, "{seconds}s"),
        }
    }
}

impl Serialize for KeepAlive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeepAlive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

/// A text, or a number of seconds.
struct Written;

impl de::Visitor<'_> for Written {
    type Value = KeepAlive;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"5m\", \"forever\" or a number of seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAlive, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<KeepAlive, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<KeepAlive, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<KeepAlive, E> {
        KeepAlive::from_seconds(seconds)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Float(seconds), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seconds(seconds: f64) -> KeepAlive {
        KeepAlive::For(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn it_is_read_as_ollama_writes_it() {
        for (text, expected) in [
            ("0", KeepAlive::NONE),
            ("0s", KeepAlive::NONE),
            ("300", seconds(300.0)),
            ("5m", seconds(300.0)),
            ("1h30m", seconds(5400.0)),
            ("1.5s", seconds(1.5)),
            (" 24h ", seconds(86_400.0)),
            ("-1", KeepAlive::Forever),
            ("-5m", KeepAlive::Forever),
            ("Forever", KeepAlive::Forever),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
            assert_eq!(
                serde_json::from_value::<KeepAlive>(json!(text)).unwrap(),
                expected
            );
        }
        for (number, expected) in [
            (json!(0), KeepAlive::NONE),
            (json!(-0.0), KeepAlive::NONE),
            (json!(90), seconds(90.0)),
            (json!(0.25), seconds(0.25)),
            (json!(-1), KeepAlive::Forever),
            (json!(-0.5), KeepAlive::Forever),
        ] {
            let read: KeepAlive = serde_json::from_value(number.clone()).unwrap();
            assert_eq!(read, expected, "{number}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_was_found() {
        for text in [
            "",
            "-",
            "soon",
            "5 m",
            "5d",
            "m5",
            "1e400s",
            "99999999999999999999",
        ] {
            let message = text.parse::<KeepAlive>().unwrap_err().to_string();
            assert!(message.contains(&format!("found \"{text}\"")), "{message}");
        }
        for value in [json!(null), json!(true), json!([5]), json!(1e300)] {
            assert!(serde_json::from_value::<KeepAlive>(value).is_err());
        }
    }

    #[test]
    fn what_is_shown_is_read_back_as_the_same() {
        for (keep_alive, shown) in [
            (KeepAlive::NONE, "0s"),
            (KeepAlive::default(), "5m"),
            (seconds(5400.0), "90m"),
            (seconds(7200.0), "2h"),
            (seconds(61.0), "61s"),
            (seconds(1.5), "1500ms"),
            (KeepAlive::Forever, "forever"),
        ] {
            assert_eq!(keep_alive.to_string(), shown);
            assert_eq!(shown.parse(), Ok(keep_alive));
            assert_eq!(serde_json::to_value(keep_alive).unwrap(), json!(shown));
        }
    }
}
