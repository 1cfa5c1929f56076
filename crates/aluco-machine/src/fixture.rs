//! The machines of `fixtures/machines`, for tests.
//!
//! Each is a [`Bundle`]; its provenance says which lines are real and which are made. Facts are told from a bundle as it is ([`root`]); what changes
//! files works on a tree ([`unpack`]).

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::root::{Bundle, Entry, NodeKind, Root};

/// Larger files stay out of a tree.
const TREE_FILE_BYTES_MAX: usize = 1 << 20;

/// Where they are kept.
pub fn folder() -> PathBuf {
    let mut places = crate_folder();
    loop {
        let folder = places.join("fixtures/machines");
        if folder.is_dir() {
            return folder;
        }
        assert!(places.pop(), "the fixtures are in the repository");
    }
}

/// The folder of the crate that is tested. Cargo says it when it runs a test; what was compiled may come from another checkout that shares the target
/// folder.
pub fn crate_folder() -> PathBuf {
    let said = env::var_os("CARGO_MANIFEST_DIR");
    said.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The names of all machines, in order.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("the fixtures are in the repository");
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some(name.strip_suffix(".json")?.to_owned())
        })
        .collect();
    names.sort_unstable();
    names
}

/// The bundle of a machine.
pub fn bundle(name: &str) -> Bundle {
    Bundle::read(&folder().join(format!("{name}.json"))).unwrap_or_else(|error| {
        panic!("{error}; the machines are {}", names().join(", "));
    })
}

/// A machine as a root.
pub fn root(name: &str) -> Root {
    Root::bundle(bundle(name))
}

/// Writes a machine as a tree below an empty folder, which `Root::open` then takes.
pub fn unpack(name: &str, into: &Path) -> io::Result<()> {
    unpack_bundle(&bundle(name), into)
}

/// Writes a bundle as a tree below an empty folder. Device nodes, files that cannot be read and huge ones go to the bundle beside the tree.
pub fn unpack_bundle(bundle: &Bundle, into: &Path) -> io::Result<()> {
    let mut beside = Bundle::default();
    let mut links = Vec::new();
    for (path, entry) in &bundle.files {
        let place = into.join(path.trim_start_matches('/'));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        if let Entry::Special(special) = entry {
            let kept = special.error.is_none()
                && special.kind.is_none_or(|kind| {
                    matches!(kind, NodeKind::File | NodeKind::Directory | NodeKind::Fifo)
                });
            let huge = special
                .times
                .is_some_and(|times| times > TREE_FILE_BYTES_MAX / 64);
            if !kept || huge {
                beside.files.insert(path.clone(), entry.clone());
                continue;
            }
            if let Some(target) = &special.link {
                links.push((place, target));
                continue;
            }
        }
        let node = entry.node();
        match node.kind {
            NodeKind::Directory => fs::create_dir_all(&place)?,
            NodeKind::Fifo => {
                let mode = rustix::fs::Mode::from_raw_mode(node.mode);
                rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, mode, 0)?;
            }
            _ => {
                let bytes = entry
                    .bytes(path, TREE_FILE_BYTES_MAX)
                    .map_err(io::Error::other)?;
                fs::write(&place, bytes.unwrap_or_default())?;
                fs::set_permissions(&place, fs::Permissions::from_mode(node.mode))?;
            }
        }
    }
    // Links come last, so that nothing is written through one.
    for (place, target) in links {
        std::os::unix::fs::symlink(target, place)?;
    }
    if !beside.files.is_empty() {
        let text = serde_json::to_vec_pretty(&beside).map_err(io::Error::other)?;
        fs::write(into.join(&Bundle::BESIDE[1..]), text)?;
    }
    Ok(())
}
