//! What the rules come to on one machine.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    catalogue::Catalogue,
    expression::{Certainty, Unknown, certainty},
    filling::fill,
    fix::FixAction,
    rule::{Condition, Cost, Disagreement, Rule, Severity, Source},
    scope::{self, RuleScope},
};
use crate::{
    facts::{Because, FactTree, Facts, Known},
    telemetry::KernelEvent,
};

/// What the rules come to on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong, by what it costs and then by how bad it is.
    pub findings: Vec<Finding>,
    /// The rules whose facts are not known, with the reasons.
    pub unchecked: Vec<Unchecked>,
    /// The rules that found nothing wrong.
    pub passed: Vec<String>,
    /// The rules about things that are not here.
    pub not_applicable: Vec<String>,
}

/// What one rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its id.
    pub rule: String,
    /// What is wrong, in a few words.
    pub title: String,
    /// How bad it is here.
    pub severity: Severity,
    /// What it costs.
    pub cost: Cost,
    /// What is so here, with its figures.
    pub message: String,
    /// Why it matters here.
    pub why: String,
    /// What to do, in this order.
    pub fix: Vec<FixAction>,
    /// How to take it back.
    pub undo: String,
    /// The facts that it rests on: their paths, and the file or command each is from.
    pub facts: BTreeMap<String, Option<String>>,
    /// Who says so.
    pub sources: Vec<Source>,
    /// Who says otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<Disagreement>,
    /// The command that would settle it on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
}

/// A rule that could not be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unchecked {
    /// Its id.
    pub rule: String,
    /// What it is about.
    pub title: String,
    /// The facts that are missing and why.
    pub missing: BTreeMap<String, String>,
}

impl Report {
    /// How bad the worst finding is.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }
}

/// Puts the rules that come with Aluco to the facts, those about the kernel's messages left out.
pub fn examine(facts: &Facts) -> Report {
    let pointless = Known::unknown(Because::NotApplicable, "only facts were asked for");
    examine_with_log(facts, &pointless)
}

/// Puts the rules that come with Aluco to the facts and to what the [kernel said](super::kernel_events).
pub fn examine_with_log(facts: &Facts, events: &Known<Vec<KernelEvent>>) -> Report {
    examine_with(Catalogue::embedded(), &FactTree::new(facts), events)
}

/// Puts these rules to the facts and to what the kernel said.
pub fn examine_with(
    catalogue: &Catalogue,
    tree: &FactTree,
    events: &Known<Vec<KernelEvent>>,
) -> Report {
    let log = scope::log(events);
    let mut report = Report {
        findings: Vec::new(),
        unchecked: Vec::new(),
        passed: Vec::new(),
        not_applicable: Vec::new(),
    };
    for rule in catalogue.rules() {
        let scope = RuleScope::new(tree, &log, &rule.bindings, &catalogue.tables);
        match rule.outcome(&scope) {
            Outcome::NotApplicable => report.not_applicable.push(rule.id.clone()),
            Outcome::Passed => report.passed.push(rule.id.clone()),
            Outcome::Unchecked(unknown) => report.unchecked.push(Unchecked {
                rule: rule.id.clone(),
                title: rule.title.clone(),
                missing: reasons(unknown),
            }),
            Outcome::Fired => report.findings.push(rule.finding(scope)),
        }
    }
    report
        .findings
        .sort_by_key(|finding| (finding.cost, std::cmp::Reverse(finding.severity)));
    report
}

fn reasons(unknown: Unknown) -> BTreeMap<String, String> {
    let reasons = unknown.0.into_iter();
    reasons.map(|(path, reason)| (path, reason.why)).collect()
}

enum Outcome {
    NotApplicable,
    Passed,
    Fired,
    Unchecked(Unknown),
}

impl Rule {
    fn outcome(&self, scope: &RuleScope<'_>) -> Outcome {
        if let Some(applies) = &self.applies {
            match certainty(&applies.expression, scope) {
                Certainty::Yes => {}
                Certainty::No => return Outcome::NotApplicable,
                Certainty::Unknown(unknown) if unknown.is_absence() => {
                    return Outcome::NotApplicable;
                }
                Certainty::Unknown(unknown) => return Outcome::Unchecked(unknown),
            }
        }
        match certainty(&self.condition.expression, scope) {
            Certainty::Yes => Outcome::Fired,
            Certainty::No => Outcome::Passed,
            Certainty::Unknown(unknown) if unknown.is_pointless() => Outcome::NotApplicable,
            Certainty::Unknown(unknown) => Outcome::Unchecked(unknown),
        }
    }

    fn finding(&self, scope: RuleScope<'_>) -> Finding {
        let holds = |condition: &Option<Condition>| {
            condition
                .as_ref()
                .is_some_and(|when| certainty(&when.expression, &scope) == Certainty::Yes)
        };
        let severity = if holds(&self.error_when) {
            Severity::Error
        } else if holds(&self.warning_when) {
            Severity::Warning
        } else {
            self.severity
        };
        let applicable = self
            .fixes
            .iter()
            .filter(|fix| fix.when.is_none() || holds(&fix.when));
        let fix = applicable
            .filter_map(|fix| fill(&fix.action, &scope).ok())
            .collect();
        Finding {
            rule: self.id.clone(),
            title: self.title.clone(),
            severity,
            cost: self.cost,
            message: self.message.render_anyway(&scope),
            why: self.why.render_anyway(&scope),
            fix,
            undo: self.undo.render_anyway(&scope),
            sources: self.sources.clone(),
            disagreements: self
                .disagreements
                .iter()
                .filter(|each| each.when.is_none() || holds(&each.when))
                .cloned()
                .collect(),
            measure: self.measure.clone(),
            facts: scope.asked(),
        }
    }
}
