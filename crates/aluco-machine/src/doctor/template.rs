//! Sentences of rules with values of facts in them: `you can use {gpu.gtt_total|gib} of {memory.total|gib}`.

use std::fmt::Write;

use serde::Deserialize;

use super::expression::{Expression, Scope, Unknown, Value, evaluate, parse};

/// A text with expressions in braces. `{{` stands for a brace.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Value(Expression, Format),
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// As it is: whole numbers without a fraction, others with one digit of it, lists with commas.
    Plain,
    /// Bytes as `62.8 GiB`, or as MiB below one.
    Gib,
    /// A share as `67 %`.
    Percent,
    /// `0x83`
    Hex,
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find('{') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('{') {
                plain.push('{');
                rest = after;
                continue;
            }
            let close = rest
                .find('}')
                .ok_or_else(|| format!("a brace is not closed: {text}"))?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(value(&rest[..close])?);
            rest = &rest[close + 1..];
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self { text, parts })
    }
}

fn value(inner: &str) -> Result<Part, String> {
    let (expression, format) = match inner.rsplit_once('|') {
        None => (inner, Format::Plain),
        Some((expression, "gib")) => (expression, Format::Gib),
        Some((expression, "percent")) => (expression, Format::Percent),
        Some((expression, "hex")) => (expression, Format::Hex),
        Some((_, other)) => return Err(format!("no format is called {other:?}")),
    };
    let expression = parse(expression).map_err(|error| format!("{expression:?}: {error}"))?;
    Ok(Part::Value(expression, format))
}

impl Template {
    /// As it is written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Its expressions.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Value(expression, _) => Some(expression),
        })
    }

    /// The sentence, or what is missing for it.
    pub(super) fn render(&self, scope: &dyn Scope) -> Result<String, Unknown> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(expression, format) => {
                    write_value(&mut text, &evaluate(expression, scope)?, *format);
                }
            }
        }
        Ok(text)
    }

    /// The sentence with `unknown` in the place of what is missing.
    pub(super) fn render_anyway(&self, scope: &dyn Scope) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(expression, format) => match evaluate(expression, scope) {
                    Ok(value) => write_value(&mut text, &value, *format),
                    Err(_) => text.push_str("unknown"),
                },
            }
        }
        text
    }
}

fn write_value(text: &mut String, value: &Value, format: Format) {
    match (value, format) {
        (Value::None, _) => text.push_str("none"),
        (Value::Bool(true), _) => text.push_str("yes"),
        (Value::Bool(false), _) => text.push_str("no"),
        (Value::Number(number), format) => write_number(text, *number, format),
        (Value::Text(plain), _) => text.push_str(plain),
        (Value::Version(version), _) => {
            let _ = write!(text, "{version}");
        }
        (Value::List(items), format) => {
            let mut items = items.iter().peekable();
            while let Some(item) = items.next() {
                write_value(text, item, format);
                let mut times = 1;
                while items.next_if(|next| next.same(item)).is_some() {
                    times += 1;
                }
                if times > 1 {
                    let _ = write!(text, " ({times} times)");
                }
                if items.peek().is_some() {
                    text.push_str(", ");
                }
            }
        }
        (Value::Record(fields), format) => {
            let known = fields
                .iter()
                .filter_map(|(name, value)| Some((name, value.as_ref().ok()?)));
            for (index, (name, value)) in known.enumerate() {
                if index > 0 {
                    text.push_str(", ");
                }
                let _ = write!(text, "{name} ");
                write_value(text, value, format);
            }
        }
    }
}

fn write_number(text: &mut String, number: f64, format: Format) {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    let _ = match format {
        Format::Gib if number.abs() < GIB => {
            write!(text, "{:.0} MiB", number / (1024.0 * 1024.0))
        }
        Format::Gib => {
            let gib = number / GIB;
            if (gib - gib.round()).abs() < 0.05 {
                write!(text, "{gib:.0} GiB")
            } else {
                write!(text, "{gib:.1} GiB")
            }
        }
        Format::Percent => write!(text, "{:.0} %", number * 100.0),
        Format::Hex => write!(text, "{:#04x}", number as u64),
        Format::Plain if number.fract() == 0.0 => write!(text, "{number:.0}"),
        Format::Plain => write!(text, "{number:.1}"),
    };
}
