//! The page as people see it, on the machines of `fixtures/machines`.

use aluco_machine::{
    doctor::{Catalogue, Report, examine_with_log, kernel_events},
    facts::{Facts, Request},
    fixture,
};
use console::measure_text_width;

use super::{explanation, page};

fn examined(machine: &str) -> (Report, Facts) {
    let root = fixture::root(machine);
    let facts = Facts::collect(&root, &Request::default());
    let report = examine_with_log(&facts, &kernel_events(&root));
    (report, facts)
}

fn page_of(machine: &str, width: usize) -> String {
    let (report, facts) = examined(machine);
    page::render(&report, &facts, false, width, false)
}

#[test]
fn a_fresh_machine_at_80_columns() {
    insta::assert_snapshot!(page_of("strix-halo-ubuntu-fresh-62g", 80));
}

#[test]
fn a_fresh_machine_at_160_columns() {
    insta::assert_snapshot!(page_of("strix-halo-ubuntu-fresh-62g", 160));
}

#[test]
fn a_machine_with_many_faults_at_80_columns() {
    insta::assert_snapshot!(page_of("strix-halo-bad-firmware", 80));
}

#[test]
fn a_container_at_160_columns() {
    insta::assert_snapshot!(page_of("strix-halo-toolbox", 160));
}

#[test]
fn a_healthy_machine_at_80_columns() {
    insta::assert_snapshot!(page_of("strix-halo-fedora-healthy-128g", 80));
}

#[test]
fn a_server_without_a_gpu_at_80_columns() {
    insta::assert_snapshot!(page_of("server-x86-no-gpu", 80));
}

#[test]
fn the_story_of_a_rule_at_80_columns() {
    let (report, facts) = examined("strix-halo-ubuntu-fresh-62g");
    let rule = Catalogue::embedded().rule("mem-02").unwrap();
    insta::assert_snapshot!(explanation::render(rule, &report, &facts, 80, false));
}

#[test]
fn no_line_of_prose_is_wider_than_the_terminal() {
    for machine in fixture::names() {
        let (report, facts) = examined(&machine);
        let actions = report.findings.iter().flat_map(|finding| &finding.fix);
        let commands: Vec<String> = actions
            .flat_map(|action| action.step(&facts).commands)
            .collect();
        for width in [60, 80, 160] {
            for line in page::render(&report, &facts, false, width, false).lines() {
                let text = line.trim();
                // A command is copied as it is, and a word is never broken.
                let stands_alone = commands.iter().any(|command| command.contains(text))
                    || text.split_whitespace().count() == 1;
                assert!(
                    measure_text_width(line) <= width || stands_alone,
                    "{machine} at {width}: {line}"
                );
            }
        }
    }
}

#[test]
fn nothing_that_a_machine_says_of_itself_reaches_the_terminal_as_a_control() {
    for machine in fixture::names() {
        let (report, facts) = examined(&machine);
        let mut text = page::render(&report, &facts, true, 80, false);
        for rule in Catalogue::embedded().rules() {
            text.push_str(&explanation::render(rule, &report, &facts, 80, false));
        }
        let control = text
            .chars()
            .find(|letter| letter.is_control() && *letter != '\n');
        assert_eq!(control, None, "{machine}");
    }
}

#[test]
fn colours_are_only_written_where_they_are_asked_for() {
    let (report, facts) = examined("strix-halo-bad-firmware");
    let plain = page::render(&report, &facts, true, 80, false);
    let coloured = page::render(&report, &facts, true, 80, true);
    assert!(!plain.contains('\u{1b}'));
    assert!(coloured.contains('\u{1b}'));
    assert_eq!(console::strip_ansi_codes(&coloured), plain);
}
