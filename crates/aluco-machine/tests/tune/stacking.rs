//! Several applies, other people's edits, and two at once.

use std::fs;

use aluco_machine::tune::{
    Extent, FileStatus, Host, NoRunner, Progress, RealDisk, TuneError, Verdict, apply, status, undo,
};

use crate::machine::{FakeCommands, Machine, NOW_S, with_host};

#[test]
fn applies_stack_and_are_taken_back_one_by_one_or_all() {
    let machine = Machine::new();
    let first = machine.picture();
    machine
        .apply(&[machine.file("/etc/a.conf", Some("1\n"))])
        .expect("applied");
    let second = machine.picture();
    machine
        .apply(&[machine.file("/etc/a.conf", Some("2\n"))])
        .expect("applied");
    let statuses = status(&machine.tree()).expect("a status");
    assert_eq!(statuses.len(), 2);
    assert_eq!(statuses[0].changes[0].file, Some(FileStatus::Superseded));
    assert_eq!(statuses[1].changes[0].file, Some(FileStatus::AsWritten));
    assert_eq!(
        machine.undo(Extent::Last, false).expect("undone").applies,
        1
    );
    assert_eq!(machine.picture(), second);
    machine
        .apply(&[machine.file("/etc/a.conf", Some("3\n"))])
        .expect("applied");
    assert_eq!(machine.undo(Extent::All, false).expect("undone").applies, 2);
    assert_eq!(machine.picture(), first);
    assert_eq!(
        machine.undo(Extent::Last, false).expect("undone").applies,
        0
    );
}

#[test]
fn a_file_that_changed_since_the_plan_is_not_overwritten() {
    let machine = Machine::new();
    let changes = machine.changes();
    machine.put("etc/default/real-grub", "mine\n", 0o640);
    let before = machine.picture();
    let error = machine.apply(&changes).expect_err("refused");
    assert!(
        matches!(&error, TuneError::ChangedUnderneath { path } if path.ends_with("grub")),
        "{error}"
    );
    assert_eq!(machine.picture(), before);
}

#[test]
fn an_undo_does_not_overwrite_what_somebody_wrote_since() {
    let machine = Machine::new();
    let before = machine.picture();
    machine.apply(&machine.changes()).expect("applied");
    machine.put("etc/default/real-grub", "mine\n", 0o640);
    let applied = machine.picture();
    let error = machine.undo(Extent::Last, false).expect_err("refused");
    assert!(
        matches!(&error, TuneError::ChangedSince { paths } if paths.len() == 1),
        "{error}"
    );
    assert!(error.to_string().contains("/etc/default/grub"), "{error}");
    assert_eq!(machine.picture(), applied, "nothing was taken back");
    machine.undo(Extent::Last, true).expect("undone by force");
    assert_eq!(machine.picture(), before);
}

#[test]
fn what_a_command_touched_and_others_changed_since_keeps_their_change() {
    let machine = Machine::new();
    machine.apply(&machine.changes()).expect("applied");
    let entries = machine.folder.path().join("boot/loader/entries");
    assert_eq!(
        fs::read_to_string(entries.join("a.conf")).expect("an entry"),
        "title A\noptions root=/dev/x quiet x=1\n"
    );
    // A kernel was installed since, and somebody gave the old one a new title.
    let new = "title New\noptions root=/dev/x quiet x=1\n";
    machine.put("boot/loader/entries/b.conf", new, 0o600);
    let edited = "title Old\noptions root=/dev/x quiet x=1\n";
    machine.put("boot/loader/entries/a.conf", edited, 0o600);
    machine.undo(Extent::Last, false).expect("undone");
    let read = |name| fs::read_to_string(entries.join(name)).expect("an entry");
    assert_eq!(read("a.conf"), "title Old\noptions root=/dev/x quiet\n");
    assert_eq!(read("b.conf"), "title New\noptions root=/dev/x quiet\n");
}

#[test]
fn what_is_built_from_files_is_built_again_after_they_are_back() {
    let machine = Machine::new();
    machine.apply(&machine.changes()).expect("applied");
    let mut runner = FakeCommands::new(machine.folder.path(), None);
    machine
        .undo_with(Extent::Last, false, &RealDisk, &mut runner)
        .expect("undone");
    assert_eq!(
        runner.ran,
        [
            "gpasswd -d anna render",
            "grubby --update-kernel=ALL --remove-args=x=1",
            "dracut -f"
        ]
    );
}

#[test]
fn below_a_folder_commands_are_left_out_and_named() {
    let machine = Machine::new();
    let before = machine.picture();
    let applied = machine
        .apply_with(&machine.changes(), &RealDisk, &mut NoRunner)
        .expect("applied");
    assert_eq!((applied.changes, applied.left_out.len()), (3, 3));
    let undone = machine
        .undo_with(Extent::Last, false, &RealDisk, &mut NoRunner)
        .expect("undone");
    assert_eq!((undone.changes, undone.left_out.len()), (3, 0));
    assert_eq!(machine.picture(), before);
}

#[test]
fn a_rescue_system_puts_back_what_commands_changed() {
    let machine = Machine::new();
    let before = machine.picture();
    machine.apply(&machine.changes()).expect("applied");
    let undone = machine
        .undo_with(Extent::Last, false, &RealDisk, &mut NoRunner)
        .expect("undone");
    assert_eq!(undone.left_out.len(), 3);
    assert_eq!(machine.picture(), before);
}

#[test]
fn two_at_once_are_refused() {
    let machine = Machine::new();
    let tree = machine.tree();
    let outer = machine.file("/etc/a", Some("x"));
    let inner = machine.file("/etc/b", Some("x"));
    let mut runner = FakeCommands::new(machine.folder.path(), None);
    let mut refused = Vec::new();
    // While the first is at work, a second one begins.
    let mut begin_second = |_: Progress<'_>| {
        let mut runner = FakeCommands::new(machine.folder.path(), None);
        with_host(&tree, &RealDisk, &mut runner, |host| {
            refused.push(apply(host, std::slice::from_ref(&inner)).expect_err("busy"));
            refused.push(undo(host, Extent::Last, false).expect_err("busy"));
        });
    };
    let mut host = Host {
        tree: &tree,
        disk: &RealDisk,
        runner: &mut runner,
        now_s: NOW_S,
        interrupted: &|| false,
        progress: &mut begin_second,
    };
    apply(&mut host, std::slice::from_ref(&outer)).expect("applied");
    assert_eq!(refused.len(), 2);
    assert!(
        refused.iter().all(|error| matches!(error, TuneError::Busy)),
        "{refused:?}"
    );
}

#[test]
fn an_interruption_puts_everything_back() {
    let machine = Machine::new();
    let before = machine.picture();
    let mut runner = FakeCommands::new(machine.folder.path(), None);
    let asked = std::cell::Cell::new(0);
    let mut host = Host {
        tree: &machine.tree(),
        disk: &RealDisk,
        runner: &mut runner,
        now_s: NOW_S,
        interrupted: &|| asked.replace(asked.get() + 1) == 3,
        progress: &mut |_| {},
    };
    let error = apply(&mut host, &machine.changes()).expect_err("interrupted");
    assert!(
        matches!(&error, TuneError::TakenBack { cause } if matches!(**cause, TuneError::Interrupted)),
        "{error}"
    );
    assert_eq!(machine.picture(), before);
}

#[test]
fn a_kernel_argument_waits_for_a_reboot_and_is_then_active_or_not() {
    let machine = Machine::new();
    machine.apply(&machine.changes()).expect("applied");
    let verdict = || {
        let applies = status(&machine.tree()).expect("a status");
        applies[0].changes[3].verdict.clone()
    };
    assert_eq!(verdict(), Verdict::WaitsForReboot);
    machine.put("proc/sys/kernel/random/boot_id", "second\n", 0o444);
    let Verdict::NotTaken { why } = verdict() else {
        panic!("{:?}", verdict());
    };
    assert!(why.contains("without x=1"), "{why}");
    machine.put("proc/cmdline", "root=/dev/x quiet x=1 x=2\n", 0o444);
    let Verdict::NotTaken { why } = verdict() else {
        panic!("{:?}", verdict());
    };
    assert!(why.contains("x=2"), "{why}");
    machine.put("proc/cmdline", "root=/dev/x quiet x=1\n", 0o444);
    assert_eq!(verdict(), Verdict::Active);
}

#[test]
fn a_journal_that_others_could_have_written_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new();
    machine.apply(&machine.changes()).expect("applied");
    let folder = machine.folder.path().join("var/lib/aluco-tune");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("a mode");
    let error = machine.undo(Extent::Last, false).expect_err("refused");
    assert!(error.to_string().contains("cannot be trusted"), "{error}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a mode");
    machine.undo(Extent::Last, false).expect("undone");
}
