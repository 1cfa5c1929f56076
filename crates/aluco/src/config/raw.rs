//! A value as it was written somewhere, and how it is read: one function per type of value, each with its own complaint.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use aluco_fleet::KeepAlive;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::units;

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A value before it is understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// From the environment or the command line, where everything is text.
    Word(String),
    /// Text of a file.
    Text(String),
    /// An integer of a file.
    Integer(i64),
    /// A number with a fraction, of a file.
    Decimal(f64),
    /// A boolean of a file.
    Boolean(bool),
    /// Several texts: of a file, or of a repeated flag.
    List(Vec<String>),
    /// Values by name, in a section of a file.
    Table(Vec<(String, Raw)>),
    /// Something that no key takes, such as a date; what it is.
    Other(&'static str),
}

impl Raw {
    fn found(&self) -> String {
        match self {
            Self::Word(text) | Self::Text(text) => format!("\"{text}\""),
            Self::Integer(value) => value.to_string(),
            Self::Decimal(value) => value.to_string(),
            Self::Boolean(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }

    fn expected(&self, what: &str) -> String {
        format!("expected {what}, found {}", self.found())
    }

    /// Text that is not empty.
    pub(crate) fn text(&self) -> Result<String, String> {
        match self {
            Self::Word(text) | Self::Text(text) if !text.trim().is_empty() => {
                Ok(text.trim().to_owned())
            }
            _ => Err(self.expected("text")),
        }
    }

    /// A path, as it stands.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        self.text().map(PathBuf::from)
    }

    /// Texts; one alone, or several with commas in the environment.
    pub(crate) fn list(&self) -> Result<Vec<String>, String> {
        let trimmed = |text: &str| text.trim().to_owned();
        let texts: Vec<String> = match self {
            Self::Word(text) => text.split(',').map(trimmed).collect(),
            Self::Text(text) => vec![trimmed(text)],
            Self::List(texts) => texts.iter().map(|text| trimmed(text)).collect(),
            _ => return Err(self.expected("text or a list of texts")),
        };
        Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
    }

    /// A whole number within bounds.
    pub(crate) fn count(&self, bounds: RangeInclusive<u64>) -> Result<u64, String> {
        let value = match self {
            Self::Integer(value) => u64::try_from(*value).ok(),
            Self::Word(text) => text.trim().parse().ok(),
            _ => None,
        };
        value
            .filter(|value| bounds.contains(value))
            .ok_or_else(|| self.expected(&bounded(&bounds)))
    }

    /// A whole number within bounds, or `auto`.
    pub(crate) fn count_or_auto(&self, bounds: RangeInclusive<u64>) -> Result<Option<u32>, String> {
        match self {
            Self::Word(text) | Self::Text(text) if is_auto(text) => Ok(None),
            _ => self
                .count(bounds.clone())
                .map(|count| Some(count as u32))
                .map_err(|_| self.expected(&format!("{} or \"auto\"", bounded(&bounds)))),
        }
    }

    /// A number within bounds, or `None` for "auto".
    pub(crate) fn number_or_auto(
        &self,
        bounds: RangeInclusive<f64>,
    ) -> Result<Option<f64>, String> {
        let number = match self {
            Self::Word(text) | Self::Text(text) if is_auto(text) => return Ok(None),
            Self::Word(text) => text.trim().parse().ok(),
            Self::Integer(value) => Some(*value as f64),
            Self::Decimal(value) => Some(*value),
            _ => None,
        };
        match number.filter(|number| bounds.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.expected(&format!(
                "a number from {} to {} or \"auto\"",
                bounds.start(),
                bounds.end()
            ))),
        }
    }

    /// A size, or `None` for "auto".
    pub(crate) fn size_or_auto(&self) -> Result<Option<u64>, String> {
        match self {
            Self::Word(text) | Self::Text(text) if is_auto(text) => Ok(None),
            _ => self.size(0).map(Some),
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Result<T, String> {
        let found = match self {
            Self::Word(text) | Self::Text(text) => choices
                .iter()
                .find(|(name, _)| text.trim().eq_ignore_ascii_case(name)),
            _ => None,
        };
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<String> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            self.expected(&format!("one of {}", names.join(", ")))
        })
    }

    /// On, off, or `auto` (`None`).
    pub(crate) fn switch_or_auto(&self) -> Result<Option<bool>, String> {
        let word = match self {
            Self::Boolean(value) => return Ok(Some(*value)),
            Self::Integer(0) => "0",
            Self::Integer(1) => "1",
            Self::Word(text) | Self::Text(text) => text.trim(),
            _ => "",
        };
        match word.to_ascii_lowercase().as_str() {
            "auto" | "-1" => Ok(None),
            "1" | "on" | "true" | "yes" => Ok(Some(true)),
            "0" | "off" | "false" | "no" => Ok(Some(false)),
            _ => Err(self.expected("\"on\", \"off\" or \"auto\"")),
        }
    }

    /// How long an idle model stays loaded. Numbers are seconds.
    pub(crate) fn keep_alive(&self) -> Result<KeepAlive, String> {
        let text = match self {
            Self::Word(text) | Self::Text(text) => text.clone(),
            Self::Integer(seconds) => seconds.to_string(),
            Self::Decimal(seconds) => format!("{seconds}s"),
            _ => return Err(self.expected("a duration such as \"30s\", \"5m\" or \"forever\"")),
        };
        text.parse()
            .map_err(|error: aluco_fleet::NoDuration| error.to_string())
    }

    /// A duration with an end. Numbers are seconds.
    pub(crate) fn duration(&self) -> Result<Duration, String> {
        self.keep_alive()?
            .duration()
            .ok_or_else(|| self.expected("a duration such as \"30s\" or \"5m\""))
    }

    /// A table of a file by the names in it, or the same on one line in TOML or JSON.
    pub(crate) fn table(&self) -> Result<Vec<(String, Raw)>, String> {
        match self {
            Self::Table(entries) => Ok(entries.clone()),
            Self::Word(text) => inline_table(text)
                .ok_or_else(|| self.expected("a table such as { \"NAME\" = { … } }")),
            _ => Err(self.expected("a table")),
        }
    }

    /// Levels of the log: one for all, or one for a part as in `aluco::worker=warn`, with commas between them. A word that is no
    /// level must not pass: it would be taken for the name of a part, and the log would be silent.
    pub(crate) fn log_levels(&self) -> Result<String, String> {
        let text = self.text()?;
        for part in text.split(',').map(str::trim) {
            let level = match part.split_once('=') {
                Some((target, level)) if !target.trim().is_empty() => level,
                Some(_) => "",
                None => part,
            };
            if !LOG_LEVELS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(level))
            {
                return Err(format!(
                    "expected a level ({}) or PART=LEVEL, as in info,aluco::worker=warn, found \"{part}\"",
                    LOG_LEVELS.join(", ")
                ));
            }
        }
        Ok(text)
    }

    /// A size in bytes, and at least this much.
    pub(crate) fn size(&self, bytes_min: u64) -> Result<u64, String> {
        let bytes = match self {
            Self::Word(text) | Self::Text(text) => units::parse_size(text)?,
            Self::Integer(bytes) if *bytes >= 0 => *bytes as u64,
            _ => return Err(self.expected("a size such as \"64MiB\" or 1048576")),
        };
        if bytes < bytes_min {
            let least = units::write_size(bytes_min);
            return Err(self.expected(&format!("a size from {least}")));
        }
        Ok(bytes)
    }
}

/// What a value of TOML says.
impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.as_ref().to_owned()),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Self::Other("a huge integer"), Self::Integer),
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => {
                let texts: Option<Vec<String>> = items
                    .iter()
                    .map(|item| item.get_ref().as_str().map(str::to_owned))
                    .collect();
                texts.map_or(Self::Other("a list of other things than text"), Self::List)
            }
            DeValue::Float(float) => float
                .as_str()
                .parse()
                .map_or(Self::Other("a strange number"), Self::Decimal),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(entries) => Self::Table(
                entries
                    .iter()
                    .map(|(name, value)| (name.get_ref().to_string(), value.get_ref().into()))
                    .collect(),
            ),
        }
    }
}

/// The entries of `{ … }`, in TOML as in a file, or in JSON as this program shows it.
fn inline_table(text: &str) -> Option<Vec<(String, Raw)>> {
    let line = format!("table = {text}");
    let Ok(parsed) = DeTable::parse(&line) else {
        return of_json(text);
    };
    match parsed
        .get_ref()
        .values()
        .next()
        .map(|it| it.get_ref().into())
    {
        Some(Raw::Table(entries)) if parsed.get_ref().len() == 1 => Some(entries),
        _ => None,
    }
}

fn of_json(text: &str) -> Option<Vec<(String, Raw)>> {
    let entries: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
    let raw = entries
        .into_iter()
        .map(|(name, value)| (name, value.into()));
    Some(raw.collect())
}

/// What a value of JSON says.
impl From<Value> for Raw {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text),
            Value::Number(number) => number.as_i64().map_or_else(
                || Self::Decimal(number.as_f64().unwrap_or(f64::NAN)),
                Self::Integer,
            ),
            Value::Bool(value) => Self::Boolean(value),
            Value::Object(entries) => Self::Table(
                entries
                    .into_iter()
                    .map(|(name, value)| (name, value.into()))
                    .collect(),
            ),
            Value::Array(_) | Value::Null => Self::Other("something else"),
        }
    }
}

fn is_auto(text: &str) -> bool {
    text.trim().eq_ignore_ascii_case("auto")
}

fn bounded(bounds: &RangeInclusive<u64>) -> String {
    if *bounds.end() > u64::from(u32::MAX) {
        return format!("a whole number from {}", bounds.start());
    }
    format!("a whole number from {} to {}", bounds.start(), bounds.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_file_is_no_number_but_a_word_of_the_environment_is() {
        assert_eq!(Raw::Word("80".into()).count(1..=65_535), Ok(80));
        assert_eq!(
            Raw::Text("80".into()).count(1..=65_535),
            Err("expected a whole number from 1 to 65535, found \"80\"".into())
        );
        assert!(Raw::Integer(-1).count(0..=10).is_err());
        assert!(Raw::Word("11".into()).count(0..=10).is_err());
    }

    #[test]
    fn switches_know_the_words_that_people_use() {
        for (raw, expected) in [
            (Raw::Boolean(true), Some(true)),
            (Raw::Integer(0), Some(false)),
            (Raw::Word("1".into()), Some(true)),
            (Raw::Word("OFF".into()), Some(false)),
            (Raw::Text("auto".into()), None),
        ] {
            assert_eq!(raw.switch_or_auto(), Ok(expected), "{raw:?}");
        }
        assert!(Raw::Word("perhaps".into()).switch_or_auto().is_err());
        assert!(Raw::Integer(2).switch_or_auto().is_err());
    }

    #[test]
    fn a_misspelt_log_level_is_refused() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,aluco::worker=warn",
            "info, hyper=off",
        ] {
            assert!(Raw::Word(good.into()).log_levels().is_ok(), "{good}");
        }
        for wrong in [
            "inof",
            "",
            "info,",
            "info,aluco::worker=wran",
            "=warn",
            "aluco",
        ] {
            assert!(Raw::Word(wrong.into()).log_levels().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_choice_names_the_right_ones() {
        let choices = [("text", 1), ("json", 2)];
        assert_eq!(Raw::Text("JSON".into()).choice(&choices), Ok(2));
        assert_eq!(
            Raw::Text("xml".into()).choice(&choices),
            Err("expected one of \"text\", \"json\", found \"xml\"".into())
        );
    }

    #[test]
    fn lists_come_from_commas_and_from_lists() {
        let keys = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(Raw::Word("a, b,".into()).list(), Ok(keys.clone()));
        assert_eq!(Raw::List(keys.clone()).list(), Ok(keys));
        assert_eq!(Raw::Text("a,b".into()).list(), Ok(vec!["a,b".into()]));
        assert!(Raw::Integer(1).list().is_err());
    }
}
