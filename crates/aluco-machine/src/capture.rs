//! A machine in a file for a bug report: what its facts were told from, and nothing of its owner.
//!
//! What is read is noted while a snapshot is taken, so that the replay tells the same facts. Of that, only [what is listed](allowed) is kept, each
//! file reduced to the lines that facts need; then [addresses, identifiers and names](scrub) are replaced in what is left.

mod allowed;
mod content;
mod scrub;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::{
    facts::{Facts, Request},
    root::{Bundle, Entry, NodeKind, Root, Seen, Special},
};
use allowed::{Keep, keep};
use scrub::Scrub;

/// Takes a snapshot and writes down what it was told from. `version` is Aluco's.
pub fn capture(root: &Root, request: &Request, version: &str) -> Bundle {
    let (recorder, recording) = root.recording();
    let facts = Facts::collect(&recorder, request);
    let scrub = Scrub::of(root);
    let rivals = facts.processes.rivals.get();
    let rivals: BTreeSet<String> = rivals
        .into_iter()
        .flatten()
        .map(|rival| rival.pid.to_string())
        .collect();
    let mut files = BTreeMap::new();
    for (path, seen) in recording.seen() {
        if !of_rival(&path, &rivals) {
            continue;
        }
        if let Some(names) = &seen.names {
            for name in names {
                let below = format!("{path}/{name}");
                if allowed::keeps_name(&path, name) && of_rival(&below, &rivals) {
                    let below = scrub.path(&below);
                    files.entry(below).or_insert_with(folder);
                }
            }
        }
        if let Some(keep) = keep(&path)
            && let Some(entry) = entry(&seen, keep, &scrub)
            && !tells_nothing(&path, &entry)
        {
            files.insert(scrub.path(&path), entry);
        }
    }
    let spaces: BTreeMap<String, _> = recording
        .spaces()
        .into_iter()
        .map(|(path, space)| (scrub.free(&path), space))
        .collect();
    let spaces = serde_json::to_string(&spaces).expect("numbers under text keys");
    files.insert("/commands/space".to_owned(), Entry::Text(spaces + "\n"));
    Bundle {
        provenance: json!({
            "what": "A real machine, without what would tell whose it is.",
            "by": format!("aluco machine capture, version {version}"),
        }),
        files,
    }
}

/// A file that somebody put into a folder of settings, and that sets nothing that matters: its name alone could tell something.
fn tells_nothing(path: &str, entry: &Entry) -> bool {
    let in_folder = path
        .rsplit_once('/')
        .is_some_and(|(folder, _)| folder.strip_suffix(".d").is_some());
    in_folder && matches!(entry, Entry::Text(text) if text.is_empty())
}

/// Whether this is no file of a process, or one of a process that is told.
fn of_rival(path: &str, rivals: &BTreeSet<String>) -> bool {
    let Some(rest) = path.strip_prefix("/proc/") else {
        return true;
    };
    let pid = rest.split('/').next().unwrap_or(rest);
    !pid.bytes().all(|byte| byte.is_ascii_digit()) || rivals.contains(pid)
}

fn folder() -> Entry {
    Entry::Special(Special::default())
}

/// What a bundle says of a path; `None` if it says nothing, which is read as "absent".
fn entry(seen: &Seen, keep: Keep, scrub: &Scrub) -> Option<Entry> {
    if let Some(target) = &seen.link {
        let device = target == "/dev/kfd" || target.starts_with("/dev/dri/");
        return device.then(|| {
            Entry::Special(Special {
                link: Some(target.clone()),
                ..Special::default()
            })
        });
    }
    if let Some(bytes) = &seen.bytes {
        return match (keep, std::str::from_utf8(bytes)) {
            (Keep::Bytes(reduce), _) => Some(Entry::from(&reduce(bytes)[..])),
            (Keep::Text(reduce), Ok(text)) => Some(Entry::Text(scrub.plain(&reduce(text)))),
            (Keep::Free(reduce), Ok(text)) => Some(Entry::Text(scrub.free(&reduce(text)))),
            // What is no text is no fact either, only why there is none.
            (Keep::Text(_) | Keep::Free(_), Err(_)) => Some(Entry::from(&[0xFF][..])),
            (Keep::Node, _) => None,
        };
    }
    if let Some(node) = &seen.node {
        return Some(match node.kind {
            NodeKind::Directory => folder(),
            NodeKind::File => Entry::Text(String::new()),
            kind => Entry::Special(Special {
                kind: Some(kind),
                mode: Some(format!("{:04o}", node.mode)),
                owner: Some(node.owner),
                group: Some(node.group),
                usable: node.usable,
                ..Special::default()
            }),
        });
    }
    if seen.names.is_some() {
        return Some(folder());
    }
    match seen.error {
        None | Some(crate::facts::Because::Absent) => None,
        error => Some(Entry::Special(Special {
            error,
            ..Special::default()
        })),
    }
}
