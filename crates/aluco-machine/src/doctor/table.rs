//! Tables of the rule files: what is known of versions that follow no order.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

use super::expression::{Operand, Unknown, Value};

/// Every table by its name.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<String, Vec<Row>>);

/// A table as a rule file has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct TableFile {
    pub(super) name: String,
    pub(super) rows: Vec<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Row {
    /// Which keys this row is for.
    key: Regex,
    cells: BTreeMap<String, String>,
}

impl Tables {
    /// Adds a table. Every row has a regular expression `match` for its keys; the first row that fits is the one.
    pub(super) fn add(&mut self, table: TableFile) -> Result<(), String> {
        let TableFile { name, rows } = table;
        let rows: Result<Vec<Row>, String> = rows
            .into_iter()
            .map(|mut cells| {
                let key = cells
                    .remove("match")
                    .ok_or_else(|| format!("a row of table {name:?} has no `match`"))?;
                let key = Regex::new(&key).map_err(|error| error.to_string())?;
                Ok(Row { key, cells })
            })
            .collect();
        match self.0.insert(name.clone(), rows?) {
            None => Ok(()),
            Some(_) => Err(format!("two tables are called {name:?}")),
        }
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The row for a key as a record, or nothing.
    pub(super) fn row(&self, name: &str, key: &Value) -> Operand {
        let rows = self
            .0
            .get(name)
            .ok_or_else(|| Unknown::new("rule", format!("no table is called {name:?}"), false))?;
        let key = match key {
            Value::Text(text) => text.clone(),
            Value::Version(version) => version.to_string(),
            Value::Number(number) => number.to_string(),
            _ => return Ok(Value::None),
        };
        let row = rows.iter().find(|row| row.key.is_match(&key));
        Ok(row.map_or(Value::None, |row| {
            let cells = row.cells.iter();
            Value::Record(
                cells
                    .map(|(name, cell)| (name.clone(), Ok(Value::Text(cell.clone()))))
                    .collect(),
            )
        }))
    }
}
