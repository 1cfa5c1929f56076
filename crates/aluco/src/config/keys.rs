//! The one table of configuration keys. The file, the environment, the flags, their help and `aluco config` all read it.

mod table;

use serde_json::Value;

use super::{Raw, Settings};

pub(crate) use table::{KEYS, KV_TYPES};

/// What a key is about; commands take the parts that concern them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Where the server listens.
    Listen,
    /// How to reach a server.
    Connection,
    /// Where models lie and come from.
    Store,
    /// How a model is loaded.
    Engine,
    /// How many models and requests.
    Fleet,
    /// The log.
    Log,
}

impl Part {
    /// Heading in the help.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Listen => "Listening",
            Self::Connection => "Connection",
            Self::Store => "Model store",
            Self::Engine => "Engine",
            Self::Fleet => "Models and requests",
            Self::Log => "Log",
        }
    }
}

/// One configuration key.
pub(crate) struct Key {
    /// Name in the file; with `-` for `_`, the flag.
    pub(crate) name: &'static str,
    /// The flag, if it is another or none (empty).
    flag: Option<&'static str>,
    /// Its own environment variable.
    pub(crate) env: &'static str,
    /// Variables of Ollama and Hugging Face that are read too, below its own.
    pub(crate) aliases: &'static [&'static str],
    /// Stands for the value in the help.
    pub(crate) value_name: &'static str,
    /// One line for the help.
    pub(crate) help: &'static str,
    /// What it is about.
    pub(crate) part: Part,
    /// It is a path, which files and variables have to write from the root or from `~/` on.
    pub(crate) path: bool,
    /// The flag may be given more than once.
    pub(crate) repeated: bool,
    /// Never shown.
    pub(crate) secret: bool,
    /// Takes a value.
    pub(crate) set: fn(&mut Settings, &Raw) -> Result<(), String>,
    /// Shows the value, in a form that the file takes.
    pub(crate) get: fn(&Settings) -> Value,
}

impl Key {
    /// The name of its flag, without the dashes.
    pub(crate) fn flag(&self) -> Option<String> {
        match self.flag {
            Some("") => None,
            Some(flag) => Some(flag.to_owned()),
            None => Some(self.name.replace('_', "-")),
        }
    }
}

/// The number of a key in [`KEYS`].
pub(crate) fn index_of(name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.name == name)
}

/// A key without aliases, flag of the same name, given once and no secret: what most are.
const PLAIN: Key = Key {
    name: "",
    flag: None,
    env: "",
    aliases: &[],
    value_name: "",
    help: "",
    part: Part::Engine,
    path: false,
    repeated: false,
    secret: false,
    set: |_, _| Ok(()),
    get: |_| Value::Null,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn no_two_keys_share_a_name_a_variable_or_a_flag() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        let variables: BTreeSet<_> = KEYS.iter().map(|key| key.env).collect();
        let flags: BTreeSet<_> = KEYS.iter().filter_map(Key::flag).collect();
        assert_eq!(names.len(), KEYS.len());
        assert_eq!(variables.len(), KEYS.len());
        assert_eq!(
            flags.len(),
            KEYS.len() - 2,
            "all but the token and the models"
        );
        assert!(variables.iter().all(|name| name.starts_with("ALUCO_")));
    }

    #[test]
    fn models_are_told_apart_in_sections_of_the_file_and_in_one_line() {
        let models = &KEYS[index_of("models").unwrap()];
        let set = |raw: &Raw| {
            let mut settings = Settings::for_home("/home/owl".as_ref());
            (models.set)(&mut settings, raw).map(|()| (models.get)(&settings))
        };
        let expected = json!({"owl:7b": {"keep_alive": "1h"}, "x": {}});
        let in_file = Raw::Table(vec![
            (
                "owl:7b".to_owned(),
                Raw::Table(vec![("keep_alive".to_owned(), Raw::Text("60m".into()))]),
            ),
            ("x".to_owned(), Raw::Table(Vec::new())),
        ]);
        assert_eq!(set(&in_file), Ok(expected.clone()));
        for line in [
            r#"{ "owl:7b" = { keep_alive = 3600 }, x = {} }"#,
            r#"{"owl:7b": {"keep_alive": "1h"}, "x": {}}"#,
        ] {
            assert_eq!(set(&Raw::Word(line.into())), Ok(expected.clone()), "{line}");
        }
        for (line, complaint) in [
            ("owl:7b", "expected a table"),
            ("{ x = 5 }", "\"x\": expected a table"),
            ("{ x = { ttl = 5 } }", "unknown key `ttl`"),
            (
                "{ x = { keep_alive = true } }",
                "\"x\": keep_alive: expected a duration",
            ),
            ("{} \nurl = \"y\"", "expected a table"),
        ] {
            let error = set(&Raw::Word(line.into())).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn what_a_key_shows_is_what_it_takes() {
        let defaults = Settings::for_home("/home/owl".as_ref());
        for key in KEYS {
            let raw = match (key.get)(&defaults) {
                Value::String(text) => Raw::Text(text),
                Value::Number(number) => Raw::Integer(number.as_i64().unwrap()),
                Value::Array(_) => Raw::List(Vec::new()),
                Value::Object(_) => Raw::Table(Vec::new()),
                _ => continue,
            };
            let mut settings = defaults.clone();
            assert_eq!((key.set)(&mut settings, &raw), Ok(()), "{}", key.name);
            assert_eq!((key.get)(&settings), (key.get)(&defaults), "{}", key.name);
        }
    }
}
