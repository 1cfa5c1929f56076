//! Facts, bindings and tables as the expressions of one rule see them.

use std::{cell::RefCell, collections::BTreeMap};

use serde_json::Value as Json;

use super::{
    expression::{Expression, Operand, Scope, Unknown, Value},
    table::Tables,
};
use crate::{
    facts::{Because, Fact, FactTree, Known},
    telemetry::KernelEvent,
};

/// The kernel's events as a list of records, and where they are from.
pub(super) type Log = (Operand, Option<String>);

/// What the kernel said, as rules see it: `log.events`, each with its `kind`, its `line`, and what else is known of it.
pub(super) fn log(events: &Known<Vec<KernelEvent>>) -> Log {
    let list = match events {
        Known::Value { value, .. } => {
            let records = value.iter().map(|event| {
                // The kind is a map of its own, with its name under `kind`.
                let mut json = serde_json::to_value(event).unwrap_or_default();
                let kind = json.get_mut("kind").map(Json::take).unwrap_or_default();
                if let (Json::Object(fields), Json::Object(kind)) = (&mut json, kind) {
                    fields.extend(kind);
                }
                from_json(&json, "log.events")
            });
            records.collect::<Result<_, _>>().map(Value::List)
        }
        Known::Unknown {
            unknown: why,
            because,
        } => Err(unknown("log.events", why, *because)),
    };
    (list, events.source().map(str::to_owned))
}

/// What the expressions of a rule can name, and a record of the facts they asked for.
pub(super) struct RuleScope<'a> {
    tree: &'a FactTree,
    log: &'a Log,
    bindings: &'a BTreeMap<String, super::rule::Condition>,
    tables: &'a Tables,
    asked: RefCell<BTreeMap<String, Option<String>>>,
}

impl<'a> RuleScope<'a> {
    pub(super) fn new(
        tree: &'a FactTree,
        log: &'a Log,
        bindings: &'a BTreeMap<String, super::rule::Condition>,
        tables: &'a Tables,
    ) -> Self {
        Self {
            tree,
            log,
            bindings,
            tables,
            asked: RefCell::default(),
        }
    }

    /// The facts that were asked for and are known, each with the file or command it is from.
    pub(super) fn asked(self) -> BTreeMap<String, Option<String>> {
        self.asked.into_inner()
    }
}

impl Scope for RuleScope<'_> {
    fn fact(&self, path: &[String]) -> Operand {
        let path = path.join(".");
        if path == "log.events" {
            let (events, source) = self.log;
            let source = source.clone();
            self.asked.borrow_mut().insert(path, source);
            return events.clone();
        }
        match self.tree.lookup(&path) {
            Fact::Value { value, source } => {
                let value = from_json(value, &path);
                self.asked
                    .borrow_mut()
                    .insert(path, source.map(str::to_owned));
                value
            }
            Fact::Unknown { why, because } => Err(unknown(&path, why, because)),
            Fact::Missing => Ok(Value::None),
        }
    }

    fn bound(&self, name: &str) -> Option<&Expression> {
        self.bindings.get(name).map(|bound| &bound.expression)
    }

    fn row(&self, table: &str, key: &Value) -> Operand {
        self.tables.row(table, key)
    }
}

fn unknown(path: &str, why: &str, because: Because) -> Unknown {
    match because {
        Because::NotApplicable => Unknown::pointless(path, why),
        Because::Absent => Unknown::new(path, why, true),
        _ => Unknown::new(path, why, false),
    }
}

/// A value of the tree; the wrappers of what is known or not are seen through at every depth.
fn from_json(json: &Json, path: &str) -> Operand {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => number.as_f64().map_or(Value::None, Value::Number),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => {
            let items: Result<_, _> = items.iter().map(|item| from_json(item, path)).collect();
            Value::List(items?)
        }
        Json::Object(entries) => {
            if entries.len() == 2 {
                if let (Some(value), Some(Json::String(_))) =
                    (entries.get("value"), entries.get("source"))
                {
                    return from_json(value, path);
                }
                if let (Some(Json::String(why)), Some(because)) =
                    (entries.get("unknown"), entries.get("because"))
                {
                    let because: Because =
                        serde::Deserialize::deserialize(because).unwrap_or(Because::Failed);
                    return Err(unknown(path, why, because));
                }
            }
            let fields = entries.iter().map(|(name, value)| {
                let value = from_json(value, &format!("{path}.{name}"));
                (name.clone(), value)
            });
            Value::Record(fields.collect())
        }
    })
}
