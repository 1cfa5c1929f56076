//! What an expression comes to.

use std::{cmp::Ordering, collections::BTreeMap};

use super::super::version::Version;

/// A value, or why there is none.
pub(crate) type Operand = Result<Value, Unknown>;

/// Why something is not known: the facts that are missing, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown(pub(crate) BTreeMap<String, Reason>);

/// Why one fact is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) why: String,
    /// Whether what the fact is about is not there, rather than hidden.
    pub(crate) is_absent: bool,
    /// Whether the question makes no sense on this machine.
    pub(crate) is_pointless: bool,
}

impl Unknown {
    pub(crate) fn new(path: impl Into<String>, why: impl Into<String>, is_absent: bool) -> Self {
        let reason = Reason {
            why: why.into(),
            is_absent,
            is_pointless: false,
        };
        Self(BTreeMap::from([(path.into(), reason)]))
    }

    /// The question makes no sense on this machine.
    pub(crate) fn pointless(path: impl Into<String>, why: impl Into<String>) -> Self {
        let reason = Reason {
            why: why.into(),
            is_absent: true,
            is_pointless: true,
        };
        Self(BTreeMap::from([(path.into(), reason)]))
    }

    /// Whether nothing that is missing could be there.
    pub(crate) fn is_pointless(&self) -> bool {
        self.0.values().all(|reason| reason.is_pointless)
    }

    /// Whether all that is missing is known not to be there.
    pub(crate) fn is_absence(&self) -> bool {
        self.0.values().all(|reason| reason.is_absent)
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Known to be absent.
    None,
    Bool(bool),
    /// Bytes, MHz, counts: exact up to 2^53.
    Number(f64),
    Text(String),
    Version(Version),
    List(Vec<Value>),
    /// Fields, each known or not.
    Record(BTreeMap<String, Operand>),
}

impl Value {
    /// Whether two values are the same; numbers and versions written as text are understood.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::List(left), Self::List(right)) => {
                left.len() == right.len() && left.iter().zip(right).all(|(l, r)| l.same(r))
            }
            (Self::Text(left), Self::Text(right)) => left == right,
            _ => self.order(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two numbers or two versions; `None` if they have none.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => left.partial_cmp(right),
            (Self::Number(left), Self::Text(_)) => left.partial_cmp(&other.as_number()?),
            (Self::Text(_), Self::Number(_)) => other.order(self).map(Ordering::reverse),
            (Self::Version(left), Self::Version(right)) => Some(left.cmp(right)),
            (Self::Version(left), Self::Text(right)) => Some(left.cmp(&Version::parse(right)?)),
            (Self::Text(left), Self::Version(right)) => Some(Version::parse(left)?.cmp(right)),
            (Self::Text(left), Self::Text(right)) => {
                Some(Version::parse(left)?.cmp(&Version::parse(right)?))
            }
            _ => None,
        }
    }

    /// A number, also one that the kernel wrote as text.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => {
                let text = text.trim();
                match text.strip_prefix("0x") {
                    Some(digits) => u32::from_str_radix(digits, 16).ok().map(f64::from),
                    None => text.parse().ok().filter(|number: &f64| number.is_finite()),
                }
            }
            _ => None,
        }
    }

    /// What it is, for messages of errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Version(_) => "a version",
            Self::List(_) => "a list",
            Self::Record(_) => "a record",
        }
    }
}
