//! Ctrl-C, and a reader that goes away.

use std::{
    fs,
    io::Read,
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aluco_fake_worker::{Gate, Place, Script};
use rustix::process::{Pid, Signal, kill_process};

use crate::home::{Home, PATIENCE, assert_gone, children, endless};

/// Starts an answer without end, and waits for its first words.
fn begun(home: &Home) -> Child {
    let mut child = home
        .run(&["hello"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut words = [0; 6];
    let output = child.stdout.as_mut().unwrap();
    output.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"on on ");
    child
}

fn ended(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it goes on for ever");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn ctrl_c_ends_an_answer_with_130_and_leaves_no_process() {
    let home = Home::with(&endless());
    let mut child = begun(&home);
    let workers = children(child.id());
    assert_eq!(workers.len(), 1);
    signal(&child, Signal::INT);
    // The pipe must not be full while it ends.
    let mut rest = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut rest)
        .unwrap();
    assert!(rest.ends_with('\n') && !rest.ends_with("\n\n"), "{rest:?}");
    assert_eq!(ended(&mut child).code(), Some(130));
    assert_gone(&workers);
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}

#[test]
fn ctrl_c_at_a_bench_keeps_what_was_measured() {
    let home = Home::with(&Script::default());
    let journal = home.path().join("journal");
    // The second measurement never comes to its end.
    Script {
        gates: vec![Gate {
            at: Place::Bench(2),
            file: home.path().join("never"),
        }],
        journal: Some(journal.clone()),
        ..Script::default()
    }
    .write(&home.model())
    .unwrap();
    let flags = "bench model.gguf -p 8 -n 0 -r 1 -ub 64,128,256 -o jsonl --worker";
    let mut child = home
        .aluco(&flags.split(' ').collect::<Vec<_>>())
        .arg(aluco_fake_worker::binary())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while fs::read_to_string(&journal)
        .unwrap_or_default()
        .lines()
        .count()
        < 2
    {
        assert!(begun.elapsed() < PATIENCE, "no second measurement begins");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal(&child, Signal::INT);
    assert_eq!(ended(&mut child).code(), Some(130));
    let mut records = String::new();
    let output = child.stdout.as_mut().unwrap();
    output.read_to_string(&mut records).unwrap();
    assert_eq!(records.lines().count(), 1, "{records}");
    assert!(records.starts_with("{\"build_commit\""), "{records}");
}

#[test]
fn a_killed_command_leaves_no_process() {
    let home = Home::with(&endless());
    let mut child = begun(&home);
    let workers = children(child.id());
    assert_eq!(workers.len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_gone(&workers);
}

#[test]
fn a_reader_that_goes_away_ends_the_answer_quietly() {
    let home = Home::with(&endless());
    let mut child = begun(&home);
    let workers = children(child.id());
    drop(child.stdout.take());
    assert_eq!(ended(&mut child).code(), Some(0));
    assert_gone(&workers);
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
}
