//! The small language in which rules say what they look for.
//!
//! `gpu.gtt_total < 0.7 * memory.total and not known(tuned.profile)`
//!
//! * facts by their dotted path; `it` is the item that `any`, `all`, `count`, `list` and `first` look at;
//! * numbers with units of bytes (`4 GiB`), texts in double quotes, versions (`v6.18.4`), `true`, `false`, `none`, lists;
//! * `or`, `and`, `not`, `== != < <= > >=`, `+ - * /`, `matches "regular expression"`, `contains`, `in`;
//! * the functions of [`Function`].
//!
//! A fact that is unknown makes unknown what depends on it, and only that: `false and unknown` is false.

mod evaluate;
mod lex;
mod parse;
mod value;

use regex::Regex;

pub(crate) use evaluate::{Certainty, Scope, certainty, evaluate};
pub(crate) use parse::parse;
pub(crate) use value::{Operand, Unknown, Value};

/// Where variables of the environment are told; the place that can be edited comes first.
const SETTINGS: [[&str; 2]; 3] = [
    ["environment", "configured"],
    ["environment", "own"],
    ["environment", "running"],
];

/// A parsed expression.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    Literal(Value),
    /// A fact, a name that the rule binds, or `it`, with the fields that follow.
    Path(Vec<String>),
    List(Vec<Expression>),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Compare(Comparison, Box<Expression>, Box<Expression>),
    Arithmetic(Arithmetic, Box<Expression>, Box<Expression>),
    Matches(Box<Expression>, Regex),
    Contains(Box<Expression>, Box<Expression>),
    Call(Function, Vec<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// What an expression can call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// Whether a fact is known.
    Known,
    /// Whether what a fact is about is known not to be there.
    Absent,
    /// The first argument, or the second if what the first is about is not there.
    Default,
    /// Whether a condition holds for any item of a list.
    Any,
    /// Whether a condition holds for every item of a list.
    All,
    /// How many items of a list satisfy a condition; without one, how many there are.
    Count,
    /// The first item of a list that satisfies a condition, or `none`.
    First,
    /// A value made of each item of a list; with a third argument, of each that satisfies it.
    List,
    /// The largest of its arguments, or of one list.
    Max,
    /// The smallest of its arguments, or of one list.
    Min,
    /// A number without its fraction.
    Floor,
    /// The first group of a regular expression in a text, or `none`.
    Capture,
    /// A number written as text, also `0x…`; `none` if it is none.
    Number,
    /// The second argument if the first is true, else the third.
    If,
    /// A row of a table: `table("rocm-on-kernel", version)`; `none` if no row fits.
    Table,
    /// A variable of the environment with its `name`, `value` and `file`, from wherever it is set; `none` if it is not.
    Setting,
    /// An entry of a map whose name is no word: `entry(software.packages, "amdgpu-dkms")`.
    Entry,
}

impl Function {
    /// Its name in an expression and how many arguments it takes, at least and at most.
    const TABLE: [(&'static str, Self, usize, usize); 17] = [
        ("known", Self::Known, 1, 1),
        ("absent", Self::Absent, 1, 1),
        ("default", Self::Default, 2, 2),
        ("any", Self::Any, 2, 2),
        ("all", Self::All, 2, 2),
        ("count", Self::Count, 1, 2),
        ("first", Self::First, 2, 2),
        ("list", Self::List, 2, 3),
        ("max", Self::Max, 1, 8),
        ("min", Self::Min, 1, 8),
        ("floor", Self::Floor, 1, 1),
        ("capture", Self::Capture, 2, 2),
        ("number", Self::Number, 1, 1),
        ("if", Self::If, 3, 3),
        ("table", Self::Table, 2, 2),
        ("setting", Self::Setting, 1, 1),
        ("entry", Self::Entry, 2, 2),
    ];

    fn named(name: &str) -> Option<(Self, usize, usize)> {
        let row = Self::TABLE.iter().find(|row| row.0 == name)?;
        Some((row.1, row.2, row.3))
    }
}

impl Expression {
    /// Every path it reads, those of items (`it.…`) left out.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.visit(&mut |expression| match expression {
            Self::Path(segments) if segments[0] != "it" => paths.push(segments.join(".")),
            Self::Call(Function::Setting, _) => {
                paths.extend(SETTINGS.iter().map(|path| path.join(".")));
            }
            _ => {}
        });
        paths
    }

    /// The tables it looks things up in.
    pub(crate) fn tables(&self) -> Vec<String> {
        let mut tables = Vec::new();
        self.visit(&mut |expression| {
            if let Self::Call(Function::Table, arguments) = expression
                && let Some(Self::Literal(Value::Text(name))) = arguments.first()
            {
                tables.push(name.clone());
            }
        });
        tables
    }

    fn visit(&self, see: &mut impl FnMut(&Self)) {
        see(self);
        match self {
            Self::Literal(_) | Self::Path(_) => {}
            Self::List(items) | Self::Call(_, items) => {
                for item in items {
                    item.visit(see);
                }
            }
            Self::Not(inner) | Self::Matches(inner, _) => inner.visit(see),
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Arithmetic(_, left, right)
            | Self::Contains(left, right) => {
                left.visit(see);
                right.visit(see);
            }
        }
    }
}
