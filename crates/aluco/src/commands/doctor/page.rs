//! The report as a person reads it: what is wrong, grouped by what it costs.

use std::{collections::BTreeMap, fmt::Write};

use aluco_machine::{
    doctor::{Catalogue, Finding, FixAction, Report, Severity, Unchecked},
    facts::Facts,
};
use console::Style;

use super::paper::Paper;
use crate::render::printable;

/// How a severity looks.
pub(super) fn mark(severity: Severity) -> (&'static str, Style) {
    match severity {
        Severity::Error => ("✗", Style::new().red().bold()),
        Severity::Warning => ("!", Style::new().yellow().bold()),
        Severity::Hint => ("·", Style::new().blue()),
    }
}

/// The whole report.
pub(super) fn render(
    report: &Report,
    facts: &Facts,
    all: bool,
    width: usize,
    colours: bool,
) -> String {
    let mut paper = Paper::new(width, colours);
    let plain = Style::new();
    let dim = Style::new().dim();
    let bold = Style::new().bold();
    let machine = machine(facts);
    if !machine.is_empty() {
        paper.paragraph("", &machine, &dim);
        paper.gap();
    }
    let mut heading = None;
    for finding in &report.findings {
        if heading != Some(finding.cost) {
            heading = Some(finding.cost);
            let title = paper.paint(&bold, finding.cost.heading());
            paper.line(&title);
            paper.gap();
        }
        write_finding(&mut paper, finding, facts);
        paper.gap();
    }
    if report.findings.is_empty() {
        paper.paragraph("", "Nothing wrong was found.", &bold);
        paper.gap();
    }
    write_counts(&mut paper, report, facts);
    write_unchecked(&mut paper, report);
    if all {
        write_quiet(&mut paper, "Fine", &report.passed);
        write_quiet(&mut paper, "Not for this machine", &report.not_applicable);
    }
    if !report.findings.is_empty() {
        let tunable = report
            .findings
            .iter()
            .filter(|finding| finding.fix.iter().any(FixAction::is_tunable))
            .count();
        let mut advice =
            "`aluco doctor --explain RULE` tells the whole story of a rule.".to_owned();
        if tunable > 0 {
            let _ = write!(
                advice,
                " `aluco tune` shows the changes for {tunable} of these as a plan, makes them and can take them back."
            );
        }
        paper.gap();
        paper.paragraph("", &advice, &plain);
    }
    paper.into_text()
}

/// What machine this is, in one line of what is known.
fn machine(facts: &Facts) -> String {
    let memory = facts.memory.total_bytes.copied();
    let memory = memory.map(|bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    let kernel = facts.kernel.release.get();
    let parts = [
        facts.board.vendor.get().cloned(),
        facts.board.product.get().cloned(),
        facts.cpu.model.get().cloned(),
        facts.identity.gpu_name.get().cloned(),
        memory,
        facts.distribution.name.get().cloned(),
        kernel.map(|release| format!("Linux {release}")),
    ];
    let mut named: Vec<String> = Vec::new();
    for part in parts.into_iter().flatten() {
        let part = printable(part.trim()).into_owned();
        // A processor's name often ends in that of its GPU.
        if !part.is_empty() && !named.iter().any(|before| before.contains(&part)) {
            named.push(part);
        }
    }
    named.join(" · ")
}

fn write_finding(paper: &mut Paper, finding: &Finding, facts: &Facts) {
    let (sign, style) = mark(finding.severity);
    let dim = Style::new().dim();
    let indent = " ".repeat(12);
    let label = format!("  {} {:<6}  ", paper.paint(&style, sign), finding.rule);
    paper.paragraph(&label, &sentence(&finding.message), &Style::new().bold());
    paper.paragraph(&indent, &sentence(&finding.why), &Style::new());
    write_steps(paper, finding, facts, &indent);
    if let Some(first) = finding.disagreements.first() {
        let label = format!("{indent}{}", paper.paint(&dim, "disputed  "));
        paper.paragraph(&label, &first.text, &dim);
        if let Some(measure) = &finding.measure {
            let label = format!("{indent}{}", paper.paint(&dim, "measure   "));
            paper.paragraph(&label, measure, &dim);
        }
    }
}

/// What to do: in words, each with its commands below.
pub(super) fn write_steps(paper: &mut Paper, finding: &Finding, facts: &Facts, indent: &str) {
    let steps: Vec<_> = finding
        .fix
        .iter()
        .map(|action| action.step(facts))
        .collect();
    for step in &steps {
        let mut what = printable(&step.what).into_owned();
        if step.needs_reboot {
            what.push_str(" (holds after a reboot)");
        }
        let arrow = format!("{indent}→ ");
        paper.paragraph(&arrow, &what, &Style::new().green());
        for command in &step.commands {
            paper.command(&format!("{indent}  "), &printable(command));
        }
    }
}

fn write_counts(paper: &mut Paper, report: &Report, facts: &Facts) {
    let found = report.findings.len();
    let checked = found + report.passed.len();
    let count = |severity: Severity| {
        report
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let kinds = [
        (count(Severity::Error), "error"),
        (count(Severity::Warning), "warning"),
        (count(Severity::Hint), "hint"),
    ];
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| plural(count, name))
        .collect();
    let mut text = format!(
        "{} checked: {} fine",
        plural(checked, "rule"),
        report.passed.len()
    );
    if !kinds.is_empty() {
        text = format!("{text}, {}", kinds.join(", "));
    }
    text.push('.');
    if !report.not_applicable.is_empty() {
        let count = plural(report.not_applicable.len(), "rule");
        let _ = match facts.identity.strix_halo.copied() {
            Some(false) => write!(
                text,
                " This is no Strix Halo machine: {count} do not concern it."
            ),
            _ => write!(
                text,
                " {count} about things that this machine does not have."
            ),
        };
    }
    if !report.unchecked.is_empty() {
        let count = plural(report.unchecked.len(), "rule");
        let _ = write!(text, " {count} could not be checked:");
    }
    paper.paragraph("", &text, &Style::new());
}

/// The rules that could not be checked, by the reason.
fn write_unchecked(paper: &mut Paper, report: &Report) {
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for unchecked in &report.unchecked {
        let mut reasons: Vec<&str> = unchecked.missing.values().map(String::as_str).collect();
        reasons.sort_unstable();
        reasons.dedup();
        let rules = by_reason.entry(reasons.join("; ")).or_default();
        rules.push(&unchecked.rule);
    }
    for (reason, rules) in by_reason {
        let text = format!("{}: {reason}", listed(&rules));
        paper.paragraph("  ", &printable(&text), &Style::new().dim());
    }
    let is_refused = |reason: &String| reason.contains("not readable by this user");
    let refused = |each: &Unchecked| each.missing.values().any(is_refused);
    if report.unchecked.iter().any(refused) {
        let text = "As root, more can be checked: sudo aluco doctor";
        paper.paragraph("  ", text, &Style::new().dim());
    }
}

/// A few rules by name; of many, the first and the last.
fn listed(rules: &[&str]) -> String {
    match rules {
        [first, .., last] if rules.len() > 5 => {
            format!("{} ({first} … {last})", plural(rules.len(), "rule"))
        }
        few => few.join(", "),
    }
}

fn write_quiet(paper: &mut Paper, heading: &str, rules: &[String]) {
    if rules.is_empty() {
        return;
    }
    paper.gap();
    let title = paper.paint(&Style::new().bold(), heading);
    paper.line(&title);
    for id in rules {
        let title = Catalogue::embedded()
            .rule(id)
            .map_or("", |rule| &rule.title);
        paper.paragraph(&format!("    {id:<6}  "), title, &Style::new().dim());
    }
}

/// A message as a sentence: with a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let text = printable(text.trim());
    let mut letters = text.chars();
    let mut sentence: String = match letters.next() {
        Some(first) if begins_with_a_word(&text) => first.to_uppercase().chain(letters).collect(),
        _ => text.to_string(),
    };
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

/// Whether the first word is one of prose and not a name such as `amdgpu-dkms` or `vm.min_free_kbytes`.
fn begins_with_a_word(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.chars()
        .all(|letter| letter.is_ascii_lowercase() || letter == ',')
        && !matches!(
            word,
            "zram" | "vulkaninfo" | "udev" | "llama-server" | "modprobe"
        )
}

fn plural(count: usize, name: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {name}{ending}")
}
