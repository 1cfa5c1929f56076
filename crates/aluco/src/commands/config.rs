//! `aluco config`: every value and where it came from.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::{
    cli::{ConfigArgs, ConfigTopic},
    config::{Config, Files, KEYS, Key},
    failure::{Outcome, Status},
    render::{self, Column, Table},
};

/// The topics that must work even if the configuration cannot be read, since they help to mend it.
pub(crate) fn without_values(args: &ConfigArgs, files: &Files) -> Option<Outcome> {
    match args.topic.as_ref()? {
        ConfigTopic::Path => Some(path(args, files)),
        ConfigTopic::Keys => Some(keys(args)),
    }
}

/// Prints all values.
pub(crate) fn run(args: &ConfigArgs, config: &Config) -> Outcome {
    if args.json {
        let values: Map<String, Value> = config
            .entries()
            .map(|(key, origin)| {
                let value = json!({
                    "value": shown(key, config),
                    "origin": origin.to_string(),
                });
                (key.name.to_owned(), value)
            })
            .collect();
        render::print_json(&values)?;
        return Ok(Status::Done);
    }
    let mut table = Table::new([
        Column::words("KEY"),
        Column::long_words("VALUE"),
        Column::long_words("ORIGIN"),
    ]);
    for (key, origin) in config.entries() {
        let value = match shown(key, config) {
            Value::Null => "-".to_owned(),
            Value::String(text) => text,
            Value::Array(items) if items.is_empty() => "-".to_owned(),
            Value::Object(entries) if entries.is_empty() => "-".to_owned(),
            other => other.to_string(),
        };
        table.row([key.name.to_owned(), value, origin.to_string()]);
    }
    write!(
        io::stdout().lock(),
        "{}",
        table.render(render::terminal_columns())
    )?;
    Ok(Status::Done)
}

/// The value, or for a secret only whether there is one.
fn shown(key: &Key, config: &Config) -> Value {
    let value = (key.get)(&config.settings);
    let is_set = match &value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    if key.secret && is_set {
        return json!("(secret)");
    }
    value
}

fn path(args: &ConfigArgs, files: &Files) -> Outcome {
    if args.json {
        render::print_json(&json!({ "user": files.user, "system": files.system }))?;
    } else {
        writeln!(io::stdout().lock(), "{}", files.user.display())?;
    }
    Ok(Status::Done)
}

fn keys(args: &ConfigArgs) -> Outcome {
    if args.json {
        let keys: Vec<Value> = KEYS
            .iter()
            .map(|key| {
                json!({
                    "key": key.name,
                    "flag": key.flag().map(|flag| format!("--{flag}")),
                    "env": key.env,
                    "aliases": key.aliases,
                    "help": key.help,
                })
            })
            .collect();
        render::print_json(&keys)?;
        return Ok(Status::Done);
    }
    let mut output = io::stdout().lock();
    for key in KEYS {
        writeln!(output, "{} ({})", key.name, key.help)?;
        let flag = key.flag().map(|flag| format!("--{flag}, "));
        let variables = std::iter::once(key.env)
            .chain(key.aliases.iter().copied())
            .collect::<Vec<_>>();
        writeln!(
            output,
            "    {}{}",
            flag.unwrap_or_default(),
            variables.join(", ")
        )?;
    }
    Ok(Status::Done)
}
