//! What an expression comes to over facts, some of which may be unknown.

use regex::Regex;

use super::{Arithmetic, Comparison, Expression, Function, Operand, Unknown, Value};

/// Where an expression finds what it names.
pub(crate) trait Scope {
    /// A fact by its path.
    fn fact(&self, path: &[String]) -> Operand;
    /// What the rule itself calls by this name.
    fn bound(&self, name: &str) -> Option<&Expression>;
    /// The row of a table for a key, `none` if there is none.
    fn row(&self, table: &str, key: &Value) -> Operand;
}

/// What a condition comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Certainty {
    Yes,
    No,
    Unknown(Unknown),
}

/// Evaluates a condition.
pub(crate) fn certainty(expression: &Expression, scope: &dyn Scope) -> Certainty {
    match evaluate(expression, scope).and_then(|value| truth(&value)) {
        Ok(true) => Certainty::Yes,
        Ok(false) => Certainty::No,
        Err(unknown) => Certainty::Unknown(unknown),
    }
}

/// Evaluates an expression.
pub(crate) fn evaluate(expression: &Expression, scope: &dyn Scope) -> Operand {
    Evaluation { scope, item: None }.value(expression)
}

#[derive(Clone, Copy)]
struct Evaluation<'a> {
    scope: &'a dyn Scope,
    /// What `it` means.
    item: Option<&'a Value>,
}

/// A rule asked for something that values of this kind cannot give. Told as something unknown, so that no rule claims anything by mistake.
fn mismatch(what: impl Into<String>) -> Unknown {
    Unknown::new("rule", what, false)
}

fn truth(value: &Value) -> Result<bool, Unknown> {
    match value {
        Value::Bool(truth) => Ok(*truth),
        Value::None => Ok(false),
        other => Err(mismatch(format!("{} is no condition", other.kind()))),
    }
}

impl Evaluation<'_> {
    fn truth(&self, expression: &Expression) -> Result<bool, Unknown> {
        truth(&self.value(expression)?)
    }

    fn value(&self, expression: &Expression) -> Operand {
        match expression {
            Expression::Literal(value) => Ok(value.clone()),
            Expression::Path(segments) => self.path(segments),
            Expression::List(items) => {
                let items: Result<_, _> = items.iter().map(|item| self.value(item)).collect();
                items.map(Value::List)
            }
            Expression::Not(inner) => self.truth(inner).map(|truth| Value::Bool(!truth)),
            Expression::And(left, right) => self.both(left, right, false),
            Expression::Or(left, right) => self.both(left, right, true),
            Expression::Compare(comparison, left, right) => self.compare(*comparison, left, right),
            Expression::Arithmetic(operation, left, right) => {
                self.arithmetic(*operation, left, right)
            }
            Expression::Matches(text, pattern) => match self.value(text)? {
                Value::Text(text) => Ok(Value::Bool(pattern.is_match(&text))),
                Value::None => Ok(Value::Bool(false)),
                other => Err(mismatch(format!("{} cannot match", other.kind()))),
            },
            Expression::Contains(whole, part) => {
                let part = self.value(part)?;
                match (self.value(whole)?, &part) {
                    (Value::List(items), _) => {
                        Ok(Value::Bool(items.iter().any(|item| item.same(&part))))
                    }
                    (Value::Text(text), Value::Text(part)) => Ok(Value::Bool(text.contains(part))),
                    (Value::None, _) => Ok(Value::Bool(false)),
                    (other, _) => Err(mismatch(format!("{} contains nothing", other.kind()))),
                }
            }
            Expression::Call(function, arguments) => self.call(*function, arguments),
        }
    }

    fn path(&self, segments: &[String]) -> Operand {
        let (first, fields) = segments.split_first().expect("a path has a segment");
        if first == "it" {
            let item = self.item.ok_or_else(|| mismatch("`it` outside a list"))?;
            return descend(item.clone(), fields);
        }
        match self.scope.bound(first) {
            Some(bound) => descend(self.value(bound)?, fields),
            None => self.scope.fact(segments),
        }
    }

    /// `or` if `decisive`, else `and`: one side may decide while the other is unknown.
    fn both(&self, left: &Expression, right: &Expression, decisive: bool) -> Operand {
        match self.truth(left) {
            Ok(truth) if truth == decisive => Ok(Value::Bool(decisive)),
            Ok(_) => self.truth(right).map(Value::Bool),
            Err(unknown) => match self.truth(right) {
                Ok(truth) if truth == decisive => Ok(Value::Bool(decisive)),
                Ok(_) => Err(unknown),
                Err(also) => Err(unknown.merge(also)),
            },
        }
    }

    fn compare(&self, comparison: Comparison, left: &Expression, right: &Expression) -> Operand {
        let (left, right) = self.pair(left, right)?;
        let truth = match comparison {
            Comparison::Equal => left.same(&right),
            Comparison::Unequal => !left.same(&right),
            _ => {
                let order = left.order(&right).ok_or_else(|| {
                    let (left, right) = (left.kind(), right.kind());
                    mismatch(format!("{left} and {right} have no order"))
                })?;
                match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    _ => order.is_ge(),
                }
            }
        };
        Ok(Value::Bool(truth))
    }

    fn arithmetic(&self, operation: Arithmetic, left: &Expression, right: &Expression) -> Operand {
        let (left, right) = self.pair(left, right)?;
        let (Some(left), Some(right)) = (left.as_number(), right.as_number()) else {
            let (left, right) = (left.kind(), right.kind());
            return Err(mismatch(format!("no arithmetic with {left} and {right}")));
        };
        let number: f64 = match operation {
            Arithmetic::Add => left + right,
            Arithmetic::Subtract => left - right,
            Arithmetic::Multiply => left * right,
            Arithmetic::Divide => left / right,
        };
        if !number.is_finite() {
            return Err(mismatch("a division by nothing"));
        }
        Ok(Value::Number(number))
    }

    /// Both values, or all that is missing for them.
    fn pair(&self, left: &Expression, right: &Expression) -> Result<(Value, Value), Unknown> {
        match (self.value(left), self.value(right)) {
            (Ok(left), Ok(right)) => Ok((left, right)),
            (Err(left), Err(right)) => Err(left.merge(right)),
            (Err(unknown), _) | (_, Err(unknown)) => Err(unknown),
        }
    }

    fn call(&self, function: Function, arguments: &[Expression]) -> Operand {
        match function {
            Function::Known => Ok(Value::Bool(self.value(&arguments[0]).is_ok())),
            Function::Absent => match self.value(&arguments[0]) {
                Ok(value) => Ok(Value::Bool(matches!(value, Value::None))),
                Err(unknown) if unknown.is_absence() => Ok(Value::Bool(true)),
                Err(unknown) => Err(unknown),
            },
            Function::Default => match self.value(&arguments[0]) {
                Ok(Value::None) => self.value(&arguments[1]),
                Err(unknown) if unknown.is_absence() => self.value(&arguments[1]),
                value => value,
            },
            Function::Any => self.quantify(arguments, true),
            Function::All => self.quantify(arguments, false),
            Function::Count => {
                let kept = self.kept(&arguments[0], arguments.get(1))?;
                Ok(Value::Number(kept.len() as f64))
            }
            Function::First => {
                let kept = self.kept(&arguments[0], arguments.get(1))?;
                Ok(kept.into_iter().next().unwrap_or(Value::None))
            }
            Function::List => {
                let kept = self.kept(&arguments[0], arguments.get(2))?;
                let made: Result<_, _> = kept
                    .iter()
                    .map(|item| self.over(item).value(&arguments[1]))
                    .collect();
                made.map(Value::List)
            }
            Function::Max => self.extreme(arguments, f64::max),
            Function::Min => self.extreme(arguments, f64::min),
            Function::Floor => match self.value(&arguments[0])? {
                Value::Number(number) => Ok(Value::Number(number.floor())),
                other => Err(mismatch(format!("no floor of {}", other.kind()))),
            },
            Function::Capture => self.capture(arguments),
            Function::Number => {
                let number = self.value(&arguments[0])?.as_number();
                Ok(number.map_or(Value::None, Value::Number))
            }
            Function::If => {
                let chosen = if self.truth(&arguments[0])? { 1 } else { 2 };
                self.value(&arguments[chosen])
            }
            Function::Table => {
                let Value::Text(name) = self.value(&arguments[0])? else {
                    return Err(mismatch("a table has a name"));
                };
                self.scope.row(&name, &self.value(&arguments[1])?)
            }
            Function::Setting => self.setting(&self.value(&arguments[0])?),
            Function::Entry => match (self.value(&arguments[0])?, self.value(&arguments[1])?) {
                (whole, Value::Text(name)) => descend(whole, &[name]),
                (_, other) => Err(mismatch(format!("{} is no name", other.kind()))),
            },
        }
    }

    fn setting(&self, name: &Value) -> Operand {
        let mut missing = None;
        for path in super::SETTINGS {
            let settings = match self.scope.fact(&path.map(str::to_owned)) {
                Ok(Value::List(settings)) => settings,
                Ok(_) => continue,
                Err(unknown) => {
                    if !unknown.is_absence() {
                        missing = Some(unknown);
                    }
                    continue;
                }
            };
            let found = settings.into_iter().find(|setting| match setting {
                Value::Record(fields) => {
                    matches!(fields.get("name"), Some(Ok(found)) if found.same(name))
                }
                _ => false,
            });
            if let Some(mut setting) = found {
                name_place(&mut setting);
                return Ok(setting);
            }
        }
        missing.map_or(Ok(Value::None), Err)
    }

    fn over<'a>(&'a self, item: &'a Value) -> Evaluation<'a> {
        Evaluation {
            scope: self.scope,
            item: Some(item),
        }
    }

    fn items(&self, list: &Expression) -> Result<Vec<Value>, Unknown> {
        match self.value(list)? {
            Value::List(items) => Ok(items),
            Value::None => Ok(Vec::new()),
            // Of a map, what it maps to.
            Value::Record(fields) => fields.into_values().collect(),
            other => Err(mismatch(format!("{} is no list", other.kind()))),
        }
    }

    /// `any` if `decisive`, else `all`.
    fn quantify(&self, arguments: &[Expression], decisive: bool) -> Operand {
        let mut missing: Option<Unknown> = None;
        for item in self.items(&arguments[0])? {
            match self.over(&item).truth(&arguments[1]) {
                Ok(truth) if truth == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(unknown) => {
                    missing = Some(match missing {
                        Some(before) => before.merge(unknown),
                        None => unknown,
                    });
                }
            }
        }
        missing.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn kept(
        &self,
        list: &Expression,
        condition: Option<&Expression>,
    ) -> Result<Vec<Value>, Unknown> {
        let mut kept = Vec::new();
        for item in self.items(list)? {
            let keep = match condition {
                Some(condition) => self.over(&item).truth(condition)?,
                None => true,
            };
            if keep {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn extreme(&self, arguments: &[Expression], choose: fn(f64, f64) -> f64) -> Operand {
        let values = match arguments {
            [list] => self.items(list)?,
            several => {
                let values: Result<_, _> = several.iter().map(|each| self.value(each)).collect();
                values?
            }
        };
        let numbers = values.iter().filter_map(|value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        });
        Ok(numbers.reduce(choose).map_or(Value::None, Value::Number))
    }

    fn capture(&self, arguments: &[Expression]) -> Operand {
        let (Value::Text(text), Value::Text(pattern)) =
            (self.value(&arguments[0])?, self.value(&arguments[1])?)
        else {
            return Ok(Value::None);
        };
        let pattern = Regex::new(&pattern).map_err(|error| mismatch(error.to_string()))?;
        let found = pattern
            .captures(&text)
            .and_then(|groups| groups.get(1).or_else(|| groups.get(0)));
        Ok(found.map_or(Value::None, |group| Value::Text(group.as_str().to_owned())))
    }
}

/// Says of a variable of a process whose it is, in the place of the file below `/proc`.
fn name_place(setting: &mut Value) {
    if let Value::Record(fields) = setting
        && let Some(Ok(Value::Text(file))) = fields.get_mut("file")
        && let Some(rest) = file.strip_prefix("/proc/")
    {
        *file = match rest.split('/').next() {
            None | Some("self") => "the environment of this login".to_owned(),
            Some(process) => format!("the environment of process {process}"),
        };
    }
}

/// The field of a value that a path leads to; nothing has only fields that are nothing.
fn descend(value: Value, fields: &[String]) -> Operand {
    let mut value = value;
    for field in fields {
        value = match value {
            Value::None => Value::None,
            Value::Record(mut record) => record.remove(field).unwrap_or(Ok(Value::None))?,
            other => {
                return Err(mismatch(format!("{} has no field {field:?}", other.kind())));
            }
        };
    }
    Ok(value)
}
