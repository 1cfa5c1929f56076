//! Every step of an apply and of an undo is let fail, and is the last one of a killed process, in turn.

use aluco_machine::tune::{Extent, RealDisk, TuneError};

use crate::machine::{FakeCommands, Fault, FaultyDisk, Machine};

/// More steps than an apply has.
const STEPS_MAX: usize = 500;

#[test]
fn an_apply_is_taken_back_byte_for_byte() {
    let machine = Machine::new();
    let before = machine.picture();
    let mut runner = FakeCommands::new(machine.folder.path(), None);
    let applied = machine
        .apply_with(&machine.changes(), &RealDisk, &mut runner)
        .expect("applied");
    assert_eq!(applied.changes, 6);
    assert_ne!(machine.picture(), before);
    let undone = machine
        .undo_with(Extent::Last, false, &RealDisk, &mut runner)
        .expect("undone");
    assert_eq!((undone.applies, undone.changes), (1, 6));
    assert_eq!(machine.picture(), before);
}

#[test]
fn a_failure_at_any_step_of_an_apply_leaves_everything_as_it_was() {
    for at in 0..STEPS_MAX {
        let machine = Machine::new();
        let before = machine.picture();
        let disk = FaultyDisk::new(at, Fault::Once);
        let mut runner = FakeCommands::new(machine.folder.path(), Some(&disk));
        match machine.apply_with(&machine.changes(), &disk, &mut runner) {
            Ok(_) => {
                assert!(at > 40, "only {at} steps");
                return;
            }
            Err(TuneError::TakenBack { .. }) => assert_eq!(machine.picture(), before, "step {at}"),
            // Before anything was done; a folder under a name of ours may be left.
            Err(_) => {
                machine.undo(Extent::Last, false).expect("undone");
                assert_eq!(machine.picture(), before, "step {at}");
            }
        }
    }
    panic!("an apply has fewer steps than that");
}

#[test]
fn an_apply_that_is_killed_at_any_step_can_be_taken_back() {
    for fault in [Fault::Dead, Fault::Torn] {
        for at in 0..STEPS_MAX {
            let machine = Machine::new();
            let before = machine.picture();
            let disk = FaultyDisk::new(at, fault);
            let mut runner = FakeCommands::new(machine.folder.path(), Some(&disk));
            let applied = machine.apply_with(&machine.changes(), &disk, &mut runner);
            if applied.is_ok() && !disk.is_dead() {
                break;
            }
            assert!(at < STEPS_MAX - 1);
            machine
                .undo(Extent::Last, false)
                .unwrap_or_else(|error| panic!("step {at} {fault:?}: {error}"));
            assert_eq!(machine.picture(), before, "step {at} {fault:?}");
        }
    }
}

#[test]
fn an_undo_that_fails_or_is_killed_at_any_step_can_be_repeated() {
    for fault in [Fault::Once, Fault::Dead, Fault::Torn] {
        for at in 0..STEPS_MAX {
            let machine = Machine::new();
            let before = machine.picture();
            machine.apply(&machine.changes()).expect("applied");
            let disk = FaultyDisk::new(at, fault);
            let mut runner = FakeCommands::new(machine.folder.path(), Some(&disk));
            let undone = machine.undo_with(Extent::Last, false, &disk, &mut runner);
            if undone.is_ok() && disk.steps.get() <= at {
                break;
            }
            assert!(at < STEPS_MAX - 1);
            machine
                .undo(Extent::All, false)
                .unwrap_or_else(|error| panic!("step {at} {fault:?}: {error}"));
            assert_eq!(machine.picture(), before, "step {at} {fault:?}");
        }
    }
}

#[test]
fn nothing_is_applied_on_top_of_what_was_broken_off() {
    let machine = Machine::new();
    let changes = machine.changes();
    let disk = FaultyDisk::new(25, Fault::Dead);
    let mut runner = FakeCommands::new(machine.folder.path(), Some(&disk));
    let killed = machine.apply_with(&changes, &disk, &mut runner);
    assert!(matches!(killed, Err(TuneError::HalfDone { .. })));
    let again = machine.apply(&[machine.file("/etc/new", Some("x"))]);
    assert!(matches!(again, Err(TuneError::Unfinished)), "{again:?}");
    machine.undo(Extent::Last, false).expect("undone");
    machine
        .apply_with(
            &changes,
            &RealDisk,
            &mut FakeCommands::new(machine.folder.path(), None),
        )
        .expect("applied");
}
