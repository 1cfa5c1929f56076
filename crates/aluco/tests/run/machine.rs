//! `aluco machine`, `aluco doctor` and `aluco tune` on the machines of `fixtures/machines`, and on this one where that changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use aluco_fake_worker::Script;
use aluco_machine::fixture;
use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::home::Home;

const FRESH: &str = "strix-halo-ubuntu-fresh-62g";
const HEALTHY: &str = "strix-halo-fedora-healthy-128g";

fn home() -> Home {
    Home::with(&Script::default())
}

fn bundle(machine: &str) -> String {
    let path = fixture::folder().join(format!("{machine}.json"));
    path.to_str().unwrap().to_owned()
}

/// What it says on standard output when it ends with this status.
fn output(home: &Home, args: &[&str], status: i32) -> String {
    let assert = home.aluco(args).assert().code(status);
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn json(home: &Home, args: &[&str], status: i32) -> Value {
    serde_json::from_str(&output(home, args, status)).unwrap()
}

#[test]
fn a_machine_is_told_on_a_page_and_as_json() {
    let home = home();
    let page = output(&home, &["machine", "--root", &bundle(FRESH)], 0);
    assert!(page.contains("NucBox_EVO-X2"), "{page}");
    assert!(page.contains("Not known"), "{page}");
    let facts = json(&home, &["machine", "--json", "--root", &bundle(FRESH)], 0);
    assert_eq!(facts["identity"]["strix_halo"]["value"], true);
    let total = &facts["memory"]["total_bytes"];
    assert_eq!(total["source"], "/proc/meminfo");
    assert!(total["value"].as_u64() > Some(120 << 30));

    let here = json(&home, &["machine", "--json"], 0);
    assert!(here["kernel"]["release"]["value"].is_string());
    output(&home, &["machine", "--root", "nowhere"], 1);
}

#[test]
fn a_capture_is_replayed_with_the_same_findings() {
    let home = home();
    for machine in fixture::names() {
        let file = format!("{machine}.json");
        let capture = ["machine", "--root", &bundle(&machine), "capture", &file];
        output(&home, &capture, 0);
        let told = |root: &str| {
            let command = home.aluco(&["doctor", "--json", "--root", root]).output();
            let output = command.unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            (report["findings"].clone(), output.status.code())
        };
        assert_eq!(told(&bundle(&machine)), told(&file), "{machine}");
    }
}

#[test]
fn a_capture_overwrites_nothing() {
    let home = home();
    let capture = ["machine", "--root", &bundle(FRESH), "capture", "model.gguf"];
    let before = fs::read(home.model()).unwrap();
    output(&home, &capture, 1);
    assert_eq!(fs::read(home.model()).unwrap(), before);
}

#[test]
fn a_capture_of_this_machine_can_be_looked_at() {
    let home = home();
    output(&home, &["machine", "capture", "here.json"], 0);
    let kernel = |args: &[&str]| json(&home, args, 0)["kernel"]["release"]["value"].clone();
    let here = kernel(&["machine", "--json"]);
    assert!(here.is_string());
    assert_eq!(kernel(&["machine", "--json", "--root", "here.json"]), here);
}

#[test]
fn the_doctors_exit_status_says_how_bad_it_is() {
    let home = home();
    for (machine, status, worst) in [
        (HEALTHY, 0, Value::Null),
        ("strix-halo-toolbox", 3, "warning".into()),
        (FRESH, 4, "error".into()),
    ] {
        let args = ["doctor", "--json", "--root", &bundle(machine)];
        let report = json(&home, &args, status);
        assert_eq!(report["worst"], worst, "{machine}");
        let findings = report["findings"].as_array().unwrap();
        let steps = report["steps"].as_array().unwrap();
        assert_eq!(findings.len(), steps.len(), "{machine}");
        output(&home, &["doctor", "--root", &bundle(machine)], status);
    }
    output(&home, &["doctor", "--root", "nowhere"], 1);
    output(&home, &["doctor", "--explain", "NO-99"], 2);
    output(&home, &["doctor", "--explode"], 2);
}

#[test]
fn the_doctor_tells_the_story_of_a_rule() {
    let home = home();
    let args = ["doctor", "--explain", "mem-02", "--root", &bundle(FRESH)];
    let story = output(&home, &args, 0);
    for part in ["MEM-02", "ttm.pages_limit", "rocm.docs.amd.com"] {
        assert!(story.contains(part), "{part} in {story}");
    }
}

/// A machine's files below a folder of the home.
fn unpacked(home: &Home, machine: &str) -> PathBuf {
    let folder = home.path().join(machine);
    fs::create_dir(&folder).unwrap();
    fixture::unpack(machine, &folder).unwrap();
    folder
}

/// What stands at each path below a folder: permissions, and the content of a file or the target of a link.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let content = if about.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if about.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if about.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            found.insert(path, (about.permissions().mode(), content));
        }
    }
    found
}

#[test]
fn what_is_tuned_is_taken_back_byte_for_byte() {
    let home = home();
    for machine in [FRESH, "strix-halo-arch-64g-systemd-boot"] {
        let folder = unpacked(&home, machine);
        let before = tree(&folder);
        let tune = |args: &[&str], status: i32| {
            let root = ["--root", folder.to_str().unwrap()];
            output(&home, &[&["tune"], args, &root].concat(), status)
        };
        let plan = tune(&["plan", "--hints"], 0);
        assert!(plan.contains("ttm.pages_limit="), "{plan}");
        let plan: Value = serde_json::from_str(&tune(&["plan", "--json"], 0)).unwrap();
        assert!(!plan["changes"].as_array().unwrap().is_empty());
        assert_eq!(tree(&folder), before, "a plan changes nothing");

        // Nobody can be asked here.
        tune(&["apply"], 2);
        assert_eq!(tree(&folder), before);
        tune(&["apply", "--hints", "--yes"], 0);
        assert_ne!(tree(&folder), before);
        let status = tune(&["status"], 0);
        assert!(status.contains("waits for reboot"), "{status}");
        let status: Value = serde_json::from_str(&tune(&["status", "--json"], 0)).unwrap();
        assert_eq!(status.as_array().map(Vec::len), Some(1));
        tune(&["undo", "--yes"], 0);
        assert_eq!(tree(&folder), before, "{machine} is as it was");
        let status = tune(&["status"], 0);
        assert!(status.contains("changed nothing"), "{status}");
    }
}

#[test]
fn a_bundle_can_be_examined_and_not_tuned() {
    let home = home();
    let assert = home
        .aluco(&["tune", "--root", &bundle(FRESH)])
        .assert()
        .code(2)
        .stdout("");
    let talk = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(talk.contains("aluco doctor --root"), "{talk}");
}

#[test]
fn a_file_that_changed_since_is_not_overwritten_unasked() {
    let home = home();
    let folder = unpacked(&home, FRESH);
    let root = folder.to_str().unwrap();
    output(&home, &["tune", "apply", "--yes", "--root", root], 0);
    let file = folder.join("etc/default/grub.d/60-aluco.cfg");
    fs::write(&file, "of somebody else\n").unwrap();
    output(&home, &["tune", "undo", "--yes", "--root", root], 1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "of somebody else\n");
    output(
        &home,
        &["tune", "undo", "--yes", "--force", "--root", root],
        0,
    );
    assert!(!file.exists());
}

/// An ordinary user, whoever runs the tests: nothing can be changed, so nothing but a plan and its commands come of it.
#[test]
fn without_root_this_machine_is_not_changed() {
    let home = home();
    let mut tune = home.aluco(&["tune", "apply", "--hints", "--yes"]);
    if rustix::process::geteuid().is_root() {
        let program = home.path().join("aluco");
        fs::copy(tune.get_program(), &program).unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut as_nobody = Command::new(program);
        as_nobody.args(tune.get_args()).env_clear().uid(65534);
        tune = as_nobody;
    }
    let output = tune.current_dir("/").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let talk = String::from_utf8(output.stderr).unwrap();
    if told.contains("There is nothing to change.") {
        assert_eq!(output.status.code(), Some(0), "{talk}");
    } else {
        assert_eq!(output.status.code(), Some(1), "{talk}");
        assert!(talk.contains("sudo aluco tune apply"), "{talk}");
    }
    assert!(!talk.contains("writing"), "{talk}");
}

#[test]
fn what_memory_processor_and_disk_do_is_measured() {
    let home = home();
    let bench = ["machine", "bench", "--json", "--no-keep", "--brief"];
    let report = json(&home, &[&bench[..], &["--folder", "."]].concat(), 0);
    let figure = |path: &str| report.pointer(path).and_then(Value::as_f64);
    for kernel in ["read", "copy", "triad"] {
        let bytes = figure(&format!("/bandwidth/{kernel}"));
        assert!(
            bytes > Some(1e6) && bytes < Some(1e13),
            "{kernel}: {report}"
        );
    }
    // There is no worker beside `aluco`, or one that says what it does.
    assert!(report["devices"].is_array());
    let kept: Vec<_> = fs::read_dir(home.path()).unwrap().flatten().collect();
    let kept: Vec<_> = kept.iter().map(fs::DirEntry::file_name).collect();
    assert_eq!(kept, ["model.gguf"], "nothing is kept");
    output(&home, &["machine", "bench", "--root", &bundle(FRESH)], 2);
}
