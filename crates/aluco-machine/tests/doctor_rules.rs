//! Every rule fires on a machine that has what it looks for, and keeps quiet on one that has not. The machines are those of `fixtures/machines`, with
//! files replaced as `tests/rules` says: the facts are told from files by the real collectors.

use std::{collections::BTreeMap, fs};

use aluco_machine::{
    doctor::{Catalogue, Finding, Report, examine_with_log, kernel_events},
    facts::{Fact, Facts, Request},
    fixture,
    root::{Bundle, Entry, Root},
};
use serde::Deserialize;

/// The machine that nothing is wrong with.
const HEALTHY: &str = "strix-halo-fedora-healthy-128g";
/// Where its GPU and its NPU are; `GPU:` and `NPU:` in the cases.
const GPU: &str = "/sys/devices/pci0000:00/0000:00:08.1/0000:c3:00.0";
const NPU: &str = "/sys/devices/pci0000:00/0000:00:08.2/0000:c4:00.1";

/// When a rule fires and when it does not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Case {
    /// The machine on which it fires once its files are replaced; the healthy one if it is not said.
    on: Option<String>,
    /// Files that are replaced there.
    #[serde(default)]
    with: BTreeMap<String, serde_json::Value>,
    /// Files and folders that are taken away there.
    #[serde(default)]
    without: Vec<String>,
    /// What its message says then.
    says: String,
    /// How bad it is then.
    severity: String,
    /// The machine on which it does not fire.
    quiet_on: Option<String>,
    #[serde(default)]
    quiet_with: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    quiet_without: Vec<String>,
    /// It does not fire because what it is about is not there.
    #[serde(default)]
    quiet_as_absent: bool,
}

fn cases() -> BTreeMap<String, Case> {
    let folder = fixture::crate_folder().join("tests/rules");
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let file: BTreeMap<String, Case> =
            toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (rule, case) in file {
            assert!(cases.insert(rule.clone(), case).is_none(), "{rule} twice");
        }
    }
    cases
}

fn path(text: &str) -> String {
    text.replacen("GPU:", GPU, 1).replacen("NPU:", NPU, 1)
}

fn machine(
    name: Option<&String>,
    with: &BTreeMap<String, serde_json::Value>,
    without: &[String],
) -> Root {
    let mut bundle: Bundle = fixture::bundle(name.map_or(HEALTHY, String::as_str));
    for gone in without.iter().map(|gone| path(gone)) {
        let before = bundle.files.len();
        bundle
            .files
            .retain(|file, _| *file != gone && !file.starts_with(&format!("{gone}/")));
        assert!(bundle.files.len() < before, "{gone} was not there");
    }
    for (file, content) in with {
        let entry: Entry = serde_json::from_value(content.clone()).unwrap();
        bundle.files.insert(path(file), entry);
    }
    Root::bundle(bundle)
}

fn examine(root: &Root) -> (Facts, Report) {
    let facts = Facts::collect(root, &Request::default());
    let report = examine_with_log(&facts, &kernel_events(root));
    (facts, report)
}

fn finding<'a>(report: &'a Report, rule: &str) -> Option<&'a Finding> {
    report.findings.iter().find(|finding| finding.rule == rule)
}

/// How a rule stands in a report.
fn standing(report: &Report, rule: &str) -> String {
    let id = rule.to_owned();
    if let Some(finding) = finding(report, rule) {
        return format!("fires: {}", finding.message);
    }
    if let Some(unchecked) = report.unchecked.iter().find(|each| each.rule == rule) {
        return format!("unchecked: {:?}", unchecked.missing);
    }
    if report.passed.contains(&id) {
        return "passed".to_owned();
    }
    assert!(report.not_applicable.contains(&id), "{rule} is nowhere");
    "not applicable".to_owned()
}

#[test]
fn every_rule_fires_where_it_should_and_nowhere_else() {
    let cases = cases();
    let mut wrong = Vec::new();
    for rule in Catalogue::embedded().rules() {
        let id = rule.id.as_str();
        let Some(case) = cases.get(id) else {
            wrong.push(format!("{id} has no case"));
            continue;
        };
        let (facts, report) = examine(&machine(case.on.as_ref(), &case.with, &case.without));
        match finding(&report, id) {
            None => wrong.push(format!("{id} should fire and is {}", standing(&report, id))),
            Some(finding) => {
                if !finding.message.contains(&case.says) {
                    wrong.push(format!("{id} says {:?}", finding.message));
                }
                if finding.severity.name() != case.severity {
                    wrong.push(format!("{id} is {:?}", finding.severity));
                }
                let texts = [&finding.message, &finding.why, &finding.undo];
                let is_hole =
                    |text: &str| text.replace("unknown parameter", "").contains("unknown");
                if texts.iter().any(|text| is_hole(text)) {
                    wrong.push(format!("{id} has holes: {texts:?}"));
                }
                if finding.fix.is_empty() {
                    wrong.push(format!("{id} offers nothing"));
                }
                for step in finding.fix.iter().map(|action| action.step(&facts)) {
                    let text = format!("{} {:?}", step.what, step.commands);
                    if text.contains("=none") || text.contains("  ") {
                        wrong.push(format!("{id} has a step with holes: {text}"));
                    }
                }
            }
        }
        let quiet = machine(
            case.quiet_on.as_ref(),
            &case.quiet_with,
            &case.quiet_without,
        );
        let standing = standing(&examine(&quiet).1, id);
        let wanted = if case.quiet_as_absent {
            "not applicable"
        } else {
            "passed"
        };
        if standing != wanted {
            wrong.push(format!("{id} should be {wanted} and is {standing}"));
        }
    }
    for id in cases.keys() {
        if Catalogue::embedded().rule(id).is_none() {
            wrong.push(format!("{id} has a case and is no rule"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_machine_makes_a_rule_stumble() {
    for name in fixture::names() {
        let (_, report) = examine(&fixture::root(&name));
        for unchecked in &report.unchecked {
            let stumbles = unchecked.missing.get("rule");
            assert_eq!(stumbles, None, "{} on {name}", unchecked.rule);
        }
        let told = report.findings.len()
            + report.unchecked.len()
            + report.passed.len()
            + report.not_applicable.len();
        assert_eq!(told, Catalogue::embedded().rules().len(), "{name}");
    }
}

#[test]
fn a_server_without_such_a_gpu_is_left_alone() {
    for name in ["server-x86-no-gpu", "dgx-spark-arm"] {
        let (_, report) = examine(&fixture::root(name));
        assert!(report.findings.is_empty(), "{name}: {:#?}", report.findings);
        assert_eq!(report.worst(), None);
    }
}

#[test]
fn the_healthy_machine_is_healthy() {
    let (_, report) = examine(&machine(None, &BTreeMap::new(), &[]));
    let found: Vec<_> = report.findings.iter().map(|each| &each.message).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn rules_read_only_facts_that_there_are() {
    let trees: Vec<_> = fixture::names()
        .iter()
        .map(|name| Facts::collect(&fixture::root(name), &Request::default()).tree())
        .collect();
    let mut unheard_of = Vec::new();
    for rule in Catalogue::embedded().rules() {
        for path in rule.facts() {
            // A map has the entries that a machine has.
            let is_entry = [
                "modules.ttm.",
                "modules.amdgpu.",
                "cpu.features.",
                "gpu.clocks.",
                "memory.vm.",
            ]
            .iter()
            .any(|map| path.starts_with(map));
            let is_fact = trees
                .iter()
                .any(|tree| !matches!(tree.lookup(&path), Fact::Missing));
            if !is_fact && !is_entry && path != "log.events" {
                unheard_of.push(format!("{} reads {path}", rule.id));
            }
        }
    }
    assert!(unheard_of.is_empty(), "{unheard_of:#?}");
}
