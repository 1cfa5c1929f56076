//! The files of a machine: what is told from them, and what is done to them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use aluco_machine::{
    capture::capture,
    doctor::{examine_with_log, kernel_events},
    facts::{Facts, Request},
    fixture,
    root::{Bundle, Entry, Root},
    tune::{self, Choices, Extent, Host, NoRunner, Plan, RealDisk, Tree},
};

/// Takes the bytes for the files of a machine: two bytes choose the file, two more say how long it is. Whatever stands in them, there is a snapshot
/// that survives JSON, every rule has an outcome, and a capture of the machine can be replayed.
pub fn machine_files(data: &[u8]) {
    static MACHINE: LazyLock<Bundle> = LazyLock::new(|| fixture::bundle("strix-halo-bad-firmware"));
    let mut bundle = MACHINE.clone();
    let paths = bundle.files.keys().cloned().collect();
    replace(&mut bundle, paths, data);
    let root = Root::bundle(bundle);
    let request = Request::default();
    let facts = Facts::collect(&root, &request);
    let json = serde_json::to_string(&facts).expect("facts can be written");
    let read: Facts = serde_json::from_str(&json).expect("and read again");
    assert!(read == facts);
    let report = examine_with_log(&facts, &kernel_events(&root));
    for finding in &report.findings {
        finding
            .fix
            .iter()
            .for_each(|action| drop(action.step(&facts)));
    }
    // It takes longer than all before it, so not every input pays for it.
    if data.len().is_multiple_of(4) {
        let captured = capture(&root, &request, "0");
        let _ = Facts::collect(&Root::bundle(captured), &request);
    }
}

/// Machines with other boot loaders each.
const TUNED: [&str; 4] = [
    "strix-halo-ubuntu-fresh-62g",
    "strix-halo-ubuntu-dkms",
    "strix-halo-arch-64g-systemd-boot",
    "strix-halo-fedora-healthy-128g",
];

/// Takes the bytes for the settings of a machine: one byte chooses it, then as for its files. All that the doctor asks for is done and taken back, and
/// then every file is as it was. A plan may be refused; its undo may not.
pub fn machine_tuned(data: &[u8]) {
    let Some((machine, data)) = data.split_first() else {
        return;
    };
    static MACHINES: LazyLock<[Bundle; 4]> = LazyLock::new(|| TUNED.map(fixture::bundle));
    let mut bundle = MACHINES[usize::from(*machine) % TUNED.len()].clone();
    let is_setting = |path: &&String| {
        ["/etc/", "/boot/", "/proc/cmdline", "/sys/module/"]
            .iter()
            .any(|begin| path.starts_with(begin))
    };
    let paths = bundle.files.keys().filter(is_setting).cloned().collect();
    replace(&mut bundle, paths, data);
    let root = Root::bundle(bundle.clone());
    let facts = Facts::collect(&root, &Request::default());
    let report = examine_with_log(&facts, &kernel_events(&root));
    // Of a tree only the settings, what makes them true and the programs are looked at.
    let on_disk = |path: &String| {
        [
            "/etc/",
            "/boot/",
            "/usr/",
            "/run/",
            "/sys/module/",
            "/proc/cmdline",
        ]
        .iter()
        .any(|begin| path.starts_with(begin))
    };
    bundle.files.retain(|path, _| on_disk(path));
    let folder = tempfile::tempdir().expect("a folder");
    if fixture::unpack_bundle(&bundle, folder.path()).is_err() {
        return;
    }
    let before = files(folder.path());
    let tree = Tree::new(folder.path()).expect("a tree");
    let choices = Choices {
        hints: true,
        npu: Some(false),
        user: Some("anna".to_owned()),
        ..Choices::default()
    };
    let Ok(plan) = Plan::make(&facts, &report.findings, &tree, &choices) else {
        return;
    };
    let mut host = Host {
        tree: &tree,
        disk: &RealDisk,
        runner: &mut NoRunner,
        now_s: 0,
        interrupted: &|| false,
        progress: &mut |_| {},
    };
    let applied = tune::apply(&mut host, &plan.changes);
    if applied.is_ok() {
        tune::status(&tree).expect("a status");
    }
    tune::undo(&mut host, Extent::All, false).expect("all is taken back");
    assert!(
        files(folder.path()) == before,
        "files differ after the undo"
    );
}

fn replace(bundle: &mut Bundle, paths: Vec<String>, data: &[u8]) {
    let mut rest = data;
    while let [choice, more, low, high, after @ ..] = rest {
        let index = usize::from(u16::from_le_bytes([*choice, *more])) % paths.len();
        let bytes = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (content, after) = after.split_at(bytes);
        let entry = Entry::from(content);
        bundle.files.insert(paths[index].clone(), entry);
        rest = after;
    }
}

/// Every regular file below a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.insert(entry.path(), fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    found
}
