//! The whole story of one rule: what it looks for, what it means here, what to do, who says so.

use aluco_machine::{
    doctor::{Report, Rule},
    facts::{Fact, FactTree, Facts},
};
use console::Style;

use super::{
    page::{mark, sentence, write_steps},
    paper::Paper,
};
use crate::render::printable;

/// Longest value of a fact that is shown.
const VALUE_MAX: usize = 160;

pub(super) fn render(
    rule: &Rule,
    report: &Report,
    facts: &Facts,
    width: usize,
    colours: bool,
) -> String {
    let mut paper = Paper::new(width, colours);
    let plain = Style::new();
    let bold = Style::new().bold();
    let finding = report.findings.iter().find(|each| each.rule == rule.id);
    let severity = finding.map_or(rule.severity, |finding| finding.severity);
    let (_, style) = mark(severity);
    let title = format!(
        "{}  {}",
        paper.paint(&style, &rule.id),
        paper.paint(&bold, &rule.title)
    );
    paper.line(&title);
    paper.paragraph(
        "",
        &format!("{} · {}", severity.name(), rule.cost.heading()),
        &Style::new().dim(),
    );
    paper.gap();
    paper.paragraph("", &rule.explanation, &plain);

    section(&mut paper, "On this machine");
    match finding {
        Some(finding) => {
            paper.paragraph("  ", &sentence(&finding.message), &bold);
            paper.paragraph("  ", &sentence(&finding.why), &plain);
        }
        None => paper.paragraph("  ", &standing(rule, report), &plain),
    }
    write_facts(&mut paper, rule, facts);

    section(&mut paper, "What it looks for");
    if let Some(applies) = rule.applies() {
        paper.paragraph("  where  ", applies, &plain);
    }
    paper.paragraph("  that   ", rule.condition(), &plain);
    for (name, bound) in rule.bindings() {
        paper.paragraph(&format!("  with {name} = "), bound, &Style::new().dim());
    }

    section(&mut paper, "What to do");
    match finding {
        Some(finding) if !finding.fix.is_empty() => {
            write_steps(&mut paper, finding, facts, "  ");
            paper.paragraph("  undo: ", &sentence(&finding.undo), &plain);
        }
        _ => {
            for action in rule.actions() {
                let what = action.step(facts).what;
                paper.paragraph("  → ", &printable(&what), &Style::new().green());
            }
            paper.paragraph("  undo: ", &sentence(rule.undo()), &plain);
        }
    }
    if let Some(measure) = &rule.measure {
        paper.paragraph("  measure: ", measure, &plain);
    }

    if !rule.disagreements.is_empty() {
        section(&mut paper, "Where sources disagree");
        for disagreement in &rule.disagreements {
            paper.paragraph("  ", &disagreement.text, &plain);
            let sources = disagreement.sources.join("; ");
            paper.paragraph("  ", &format!("({sources})"), &Style::new().dim());
        }
    }
    section(&mut paper, "Sources");
    for source in &rule.sources {
        paper.paragraph(&format!("  {:<10}  ", source.date), &source.name, &plain);
        if let Some(url) = &source.url {
            paper.paragraph("              ", url, &Style::new().dim());
        }
    }
    paper.into_text()
}

fn section(paper: &mut Paper, heading: &str) {
    paper.gap();
    let heading = paper.paint(&Style::new().bold(), heading);
    paper.line(&heading);
}

fn standing(rule: &Rule, report: &Report) -> String {
    if report.passed.contains(&rule.id) {
        return "Nothing of the kind: this rule is satisfied.".to_owned();
    }
    if let Some(unchecked) = report.unchecked.iter().find(|each| each.rule == rule.id) {
        let reasons: Vec<&str> = unchecked.missing.values().map(String::as_str).collect();
        return format!("It could not be checked: {}.", reasons.join("; "));
    }
    "What the rule is about is not here.".to_owned()
}

/// The facts that it reads, as they are here, each with the file that says so.
fn write_facts(paper: &mut Paper, rule: &Rule, facts: &Facts) {
    let tree = FactTree::new(facts);
    for path in rule.facts() {
        if path.starts_with("log.") {
            // The kernel's messages are no part of the facts; the message above quotes what matters.
            continue;
        }
        let (value, from) = match tree.lookup(&path) {
            Fact::Value { value, source } => {
                let mut text = match value {
                    serde_json::Value::String(text) => text.clone(),
                    other => unwrapped(other).to_string(),
                };
                if text.chars().count() > VALUE_MAX {
                    text = text.chars().take(VALUE_MAX).collect::<String>() + "…";
                }
                (text, source.map(|source| format!("  [{source}]")))
            }
            Fact::Unknown { why, .. } => (format!("unknown: {why}"), None),
            Fact::Missing => ("none".to_owned(), None),
        };
        let text = format!("{path} = {value}{}", from.unwrap_or_default());
        paper.paragraph("  ", &printable(&text), &Style::new().dim());
    }
}

/// Values without the wrappers that say where each is from.
fn unwrapped(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().map(unwrapped).collect(),
        Value::Object(fields) => match (fields.get("value"), fields.get("unknown")) {
            (Some(inner), _) if fields.contains_key("source") => unwrapped(inner),
            (_, Some(_)) if fields.contains_key("because") => Value::String("unknown".to_owned()),
            _ => fields
                .iter()
                .map(|(name, field)| (name.clone(), unwrapped(field)))
                .collect(),
        },
        other => other.clone(),
    }
}
