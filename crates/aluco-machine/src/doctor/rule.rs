//! A rule: what to look for, what it costs, why, what to do, and who says so.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    expression::{Expression, parse},
    filling::strings,
    fix::FixAction,
    template::Template,
};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// A few percent, or worth knowing.
    Hint,
    /// A large loss, or trouble to come.
    Warning,
    /// Broken, wrong, or about to crash.
    Error,
}

impl Severity {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hint => "hint",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a finding costs its user. The order is that of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Answers are wrong without a sign of it.
    WrongOutput,
    /// The driver hangs, resets or kills processes.
    Crashes,
    /// A device or a backend cannot be used at all.
    NoDevice,
    /// Memory is there that models cannot have.
    Memory,
    /// Prompts are computed more slowly than they could be.
    SlowPrefill,
    /// Tokens come more slowly than they could.
    SlowDecode,
    /// Models take long to load.
    SlowLoading,
    /// The NPU cannot be used, or not well.
    Npu,
    /// Figures that mislead, leftovers, and what other users of the machine could do.
    Hygiene,
}

impl Cost {
    /// As a heading says it.
    pub fn heading(self) -> &'static str {
        match self {
            Self::WrongOutput => "Wrong output",
            Self::Crashes => "Crashes and hangs",
            Self::NoDevice => "Devices that cannot be used",
            Self::Memory => "Memory that models cannot have",
            Self::SlowPrefill => "Slower prompts",
            Self::SlowDecode => "Slower tokens",
            Self::SlowLoading => "Slow loading",
            Self::Npu => "The NPU",
            Self::Hygiene => "Hygiene",
        }
    }
}

/// Who says so, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What it is: a page, an issue, a file of a repository.
    pub name: String,
    /// Where it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The date of what it says, `2026-05` or `2026-05-15`.
    pub date: String,
}

/// A place where sources contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disagreement {
    /// Who says what.
    pub text: String,
    /// The sources that do.
    pub sources: Vec<String>,
    /// When it matters here; always, without it.
    #[serde(default, skip_serializing)]
    pub(super) when: Option<Condition>,
}

/// A rule as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// `MEM-02`
    pub id: String,
    /// What is wrong when it fires, in a few words.
    pub title: String,
    /// How bad it is, unless a condition below says otherwise.
    pub severity: Severity,
    /// What it costs.
    pub cost: Cost,
    /// What must hold for the rule to make sense here. What is absent does not hold.
    pub(super) applies: Option<Condition>,
    /// What is wrong.
    pub(super) condition: Condition,
    /// When it is an error after all.
    pub(super) error_when: Option<Condition>,
    /// When it is a warning after all.
    pub(super) warning_when: Option<Condition>,
    /// Names for expressions, for use in the others.
    #[serde(default, rename = "let")]
    pub(super) bindings: BTreeMap<String, Condition>,
    /// What is so here, with its figures.
    pub(super) message: Template,
    /// Why it matters here.
    pub(super) why: Template,
    /// The whole story.
    pub explanation: String,
    /// What to do, the best first.
    #[serde(default, rename = "fix")]
    pub(super) fixes: Vec<Fix>,
    /// How to take it back.
    pub(super) undo: Template,
    /// The command that would settle it on this machine.
    pub measure: Option<String>,
    /// Who says so.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// Who says otherwise.
    #[serde(default, rename = "disagreement")]
    pub disagreements: Vec<Disagreement>,
}

/// One action of a rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Fix {
    /// When this action is the right one; always, without it.
    pub(super) when: Option<Condition>,
    /// What to do; its strings are templates.
    pub(super) action: FixAction,
}

/// An expression with its text.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Condition {
    pub(super) text: String,
    pub(super) expression: Expression,
}

impl TryFrom<String> for Condition {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expression = parse(&text).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { text, expression })
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Rule {
    /// When the rule makes sense, as its file says it.
    pub fn applies(&self) -> Option<&str> {
        self.applies
            .as_ref()
            .map(|condition| condition.text.as_str())
    }

    /// What it says when it fires, as its file says it: with expressions in braces.
    pub fn message(&self) -> &str {
        self.message.text()
    }

    /// Why it matters, as its file says it.
    pub fn why(&self) -> &str {
        self.why.text()
    }

    /// How to take it back, as its file says it.
    pub fn undo(&self) -> &str {
        self.undo.text()
    }

    /// What to do, as its file says it.
    pub fn actions(&self) -> impl Iterator<Item = &FixAction> {
        self.fixes.iter().map(|fix| &fix.action)
    }

    /// What it looks for, as its file says it.
    pub fn condition(&self) -> &str {
        &self.condition.text
    }

    /// The names it gives to expressions, for reading its conditions.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.bindings
            .iter()
            .map(|(name, bound)| (name.as_str(), bound.text.as_str()))
    }

    /// Every expression in it.
    pub(super) fn expressions(&self) -> Vec<&Expression> {
        let conditions = [&self.applies, &self.error_when, &self.warning_when];
        let mut expressions: Vec<&Expression> = conditions
            .into_iter()
            .flatten()
            .chain([&self.condition])
            .chain(self.bindings.values())
            .chain(self.fixes.iter().filter_map(|fix| fix.when.as_ref()))
            .chain(
                self.disagreements
                    .iter()
                    .filter_map(|each| each.when.as_ref()),
            )
            .map(|condition| &condition.expression)
            .collect();
        expressions.extend(self.message.expressions());
        expressions.extend(self.why.expressions());
        expressions.extend(self.undo.expressions());
        expressions
    }

    /// The facts that it and its actions read, by their paths.
    pub fn facts(&self) -> Vec<String> {
        let actions = self.fixes.iter().flat_map(|fix| strings(&fix.action));
        let templates = actions.filter_map(|text| Template::try_from(text).ok());
        let of_actions: Vec<String> = templates
            .flat_map(|template| {
                let paths: Vec<_> = template.expressions().flat_map(Expression::paths).collect();
                paths
            })
            .collect();
        let mut paths: Vec<String> = self
            .expressions()
            .into_iter()
            .flat_map(Expression::paths)
            .chain(of_actions)
            .filter(|path| {
                let first = path.split('.').next().unwrap_or_default();
                !self.bindings.contains_key(first)
            })
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }
}
