//! Plans for the machines of `fixtures/machines`, and their way there and back.

use std::{fmt::Write as _, path::Path};

use aluco_machine::{
    doctor,
    facts::{Facts, Request},
    fixture,
    root::Root,
    tune::{
        Action, Choices, Extent, GttChoice, Instruction, Plan, Tree, TuneError, Verdict, apply,
        status, undo, unified_diff,
    },
};

use crate::machine::{FakeCommands, Fault, FaultyDisk, QuickDisk, picture, with_host};

/// More steps than an apply has.
const STEPS_MAX: usize = 1000;

struct Unpacked {
    folder: tempfile::TempDir,
    tree: Tree,
}

fn unpacked(name: &str) -> Unpacked {
    let folder = tempfile::tempdir().expect("a folder");
    fixture::unpack(name, folder.path()).expect("unpacked");
    let tree = Tree::new(folder.path()).expect("a tree");
    Unpacked { folder, tree }
}

/// Everything that can be asked for: hints, no NPU, a user.
fn all() -> Choices {
    Choices {
        npu: Some(false),
        hints: true,
        user: Some("anna".to_owned()),
        ..Choices::default()
    }
}

fn plan(machine: &Unpacked, choices: &Choices) -> Result<Plan, TuneError> {
    let root = Root::open(machine.tree.root()).expect("a root");
    let facts = Facts::collect(&root, &Request::default());
    let report = doctor::examine(&facts);
    Plan::make(&facts, &report.findings, &machine.tree, choices)
}

fn told(plan: &Plan) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        let _ = writeln!(text, "{}", line.trim_end());
    };
    if let Some(gtt) = &plan.gtt {
        say(format!(
            "GTT {} GiB = {} pages, {} MiB left",
            gtt.gtt_bytes >> 30,
            gtt.pages,
            gtt.reserve_bytes >> 20
        ));
    }
    for change in &plan.changes {
        let rules = change.rules().join(" ");
        say(format!(
            "\n[{:?}] {} ({rules})",
            change.effect, change.title
        ));
        match &change.action {
            Action::File(file) => unified_diff(file)
                .lines()
                .for_each(|line| say(format!("  {line}"))),
            Action::Command(command) => {
                say(format!("  $ {}", command.command));
                say(format!("  undo: {}", command.undo));
            }
            Action::Rebuild { command } => say(format!("  $ {command} (again after an undo)")),
        }
    }
    // What the doctor's rules say in words is tested with them.
    let ours = |instruction: &&Instruction| !instruction.text.is_empty();
    for instruction in plan.instructions.iter().filter(ours) {
        say(format!("\nBy hand: {}", instruction.title));
        say(format!("  {}", instruction.text));
        for line in &instruction.lines {
            say(format!("    {line}"));
        }
    }
    for left_out in &plan.left_out {
        say(format!("\nLeft out: {}: {}", left_out.rule, left_out.why));
    }
    text
}

fn there_and_back(name: &str) {
    let machine = unpacked(name);
    let root = machine.folder.path();
    let before = picture(root);
    insta::assert_snapshot!(
        format!("{name}-plan"),
        told(&plan(&machine, &Choices::default()).expect("a plan"))
    );
    let everything = plan(&machine, &all()).expect("a plan");
    insta::assert_snapshot!(format!("{name}-everything"), told(&everything));
    let mut runner = FakeCommands::new(root, None);
    with_host(&machine.tree, &QuickDisk, &mut runner, |host| {
        apply(host, &everything.changes).expect("applied")
    });
    let again = plan(&machine, &all()).expect("a plan");
    assert!(again.changes.is_empty(), "a second time: {}", told(&again));
    for change in status(&machine.tree)
        .expect("a status")
        .iter()
        .flat_map(|apply| &apply.changes)
    {
        let waits = matches!(
            change.verdict,
            Verdict::Active | Verdict::WaitsForReboot | Verdict::NotChecked { .. }
        );
        // No kernel takes the values of a folder.
        let of_kernel = change.path.as_ref().is_some_and(|path| {
            path.starts_with("/etc/sysctl.d") || path.starts_with("/etc/tmpfiles.d")
        });
        let by_daemon = change.command.as_ref().is_some_and(|command| {
            ["tuned-adm", "powerprofilesctl", "systemd-tmpfiles"].contains(&command.program())
        });
        assert!(waits || of_kernel || by_daemon, "{change:?}");
    }
    with_host(&machine.tree, &QuickDisk, &mut runner, |host| {
        undo(host, Extent::Last, false).expect("undone")
    });
    assert_eq!(picture(root), before);
    cut_anywhere(&machine, &everything);
}

/// An apply is killed before each of its steps in turn, and taken back.
fn cut_anywhere(machine: &Unpacked, plan: &Plan) {
    let root = machine.folder.path();
    let before = picture(root);
    for at in 0..STEPS_MAX {
        let disk = FaultyDisk::new(at, Fault::Dead);
        let mut runner = FakeCommands::new(root, Some(&disk));
        let applied = with_host(&machine.tree, &disk, &mut runner, |host| {
            apply(host, &plan.changes)
        });
        let mut runner = FakeCommands::new(root, None);
        with_host(&machine.tree, &QuickDisk, &mut runner, |host| {
            undo(host, Extent::Last, false).unwrap_or_else(|error| panic!("step {at}: {error}"))
        });
        assert!(picture(root) == before, "step {at}");
        if applied.is_ok() && !disk.is_dead() {
            return;
        }
    }
    panic!("an apply has fewer steps than that");
}

macro_rules! there_and_back {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                there_and_back($name);
            }
        )*

        #[test]
        fn every_machine_is_tuned_and_put_back() {
            assert_eq!(fixture::names(), [$($name),*]);
        }
    };
}

there_and_back! {
    a_spark_is_tuned_and_put_back: "dgx-spark-arm",
    a_hostile_machine_is_tuned_and_put_back: "hostile",
    a_server_is_tuned_and_put_back: "server-x86-no-gpu",
    an_arch_with_systemd_boot_is_tuned_and_put_back: "strix-halo-arch-64g-systemd-boot",
    one_with_bad_firmware_is_tuned_and_put_back: "strix-halo-bad-firmware",
    a_healthy_fedora_is_tuned_and_put_back: "strix-halo-fedora-healthy-128g",
    a_nixos_laptop_is_told_what_to_do: "strix-halo-nixos-laptop",
    an_image_of_rpm_ostree_is_tuned_and_put_back: "strix-halo-rpm-ostree",
    a_toolbox_is_told_to_go_out: "strix-halo-toolbox",
    an_ubuntu_with_dkms_is_tuned_and_put_back: "strix-halo-ubuntu-dkms",
    a_fresh_ubuntu_is_tuned_and_put_back: "strix-halo-ubuntu-fresh-62g",
}

#[test]
fn a_size_that_was_asked_for_is_set_although_no_rule_asks() {
    let machine = unpacked("strix-halo-fedora-healthy-128g");
    let choices = Choices {
        gtt: GttChoice::Size(100 << 30),
        ..Choices::default()
    };
    let plan = plan(&machine, &choices).expect("a plan");
    assert!(
        told(&plan).contains("ttm.pages_limit=26214400"),
        "{}",
        told(&plan)
    );
}

#[test]
fn rules_can_be_chosen_and_skipped() {
    let machine = unpacked("strix-halo-ubuntu-fresh-62g");
    let only = |only: &[&str], skip: &[&str]| {
        let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let choices = Choices {
            only: list(only),
            skip: list(skip),
            ..all()
        };
        plan(&machine, &choices).expect("a plan")
    };
    let rules = |plan: &Plan| {
        let mut rules: Vec<String> = plan
            .changes
            .iter()
            .flat_map(|change| change.rules())
            .map(str::to_owned)
            .collect();
        rules.sort();
        rules.dedup();
        rules
    };
    assert_eq!(rules(&only(&["mem-02"], &[])), ["MEM-02"]);
    assert!(only(&["MEM-02"], &["MEM-02"]).changes.is_empty());
    assert!(!rules(&only(&[], &["MEM-02"])).contains(&"MEM-02".to_owned()));
}

#[test]
fn the_iommu_stays_on_until_the_user_says_that_the_npu_is_not_used() {
    let machine = unpacked("strix-halo-ubuntu-fresh-62g");
    for (npu, off) in [(None, false), (Some(true), false), (Some(false), true)] {
        let choices = Choices { npu, ..all() };
        let text = told(&plan(&machine, &choices).expect("a plan"));
        let sets = text
            .lines()
            .any(|line| line.trim_start().starts_with('+') && line.contains("amd_iommu=off"));
        assert_eq!(sets, off, "{npu:?}: {text}");
    }
}

#[test]
fn a_plan_reads_nothing_outside_of_its_root() {
    let machine = unpacked("hostile");
    let link = machine.folder.path().join("etc/sysctl.d");
    let _ = std::fs::remove_dir_all(&link);
    std::os::unix::fs::symlink("../../../../etc", &link).expect("a link");
    let error = machine.tree.resolve(Path::new("/etc/sysctl.d/x"));
    assert!(matches!(error, Err(TuneError::Outside { .. })), "{error:?}");
}
