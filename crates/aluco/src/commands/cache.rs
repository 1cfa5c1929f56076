//! `aluco cache`: sees to the prompts that are stored on disk. Works on the files themselves, whether or not a server uses them.

mod forest;
mod listing;
mod pinning;
mod removal;
mod stat;
mod verify;

use std::path::Path;

use aluco_prefix::disk::{self, Damage, Folder, FolderInfo};

use self::forest::{Forest, Index};
use crate::{
    cli::{CacheAction, CacheArgs},
    config::Config,
    failure::{Failure, Outcome},
    render::say,
};

/// Digits of a key or a fingerprint that are shown.
const DIGITS: usize = 12;

/// Runs the command.
pub(super) fn run(args: &CacheArgs, config: &Config) -> Outcome {
    let root = &config.settings.cache_folder;
    match &args.action {
        CacheAction::Ls(args) => listing::run(args, root),
        CacheAction::Stat(args) => stat::run(args, root),
        CacheAction::Rm(args) => removal::run(args, root),
        CacheAction::Verify(args) => verify::run(args, root),
        CacheAction::Pin(args) => pinning::run(args, root, true),
        CacheAction::Unpin(args) => pinning::run(args, root, false),
    }
}

/// What is stored for one fingerprint.
struct Shelf {
    folder: Folder,
    forest: Forest,
    damaged: Vec<Damage>,
}

impl Shelf {
    fn new(folder: Folder) -> Self {
        let survey = folder.survey();
        Self {
            folder,
            forest: Forest::new(survey.found),
            damaged: survey.damaged,
        }
    }

    /// The model, as the folder calls it.
    fn model(&self) -> &str {
        let manifest = self.folder.manifest();
        let first = || manifest.facts.first().map(|(_, value)| value.as_str());
        manifest.fact("model").or_else(first).unwrap_or("unknown")
    }

    fn key(&self, index: Index) -> String {
        self.forest.get(index).entry.key.to_string()
    }
}

/// All shelves below a root, with everything that is on them.
fn shelves(root: &Path) -> Vec<Shelf> {
    let folders = disk::folders(root);
    let shelves = folders.iter().map(FolderInfo::folder).map(Shelf::new);
    shelves.collect()
}

/// Those of one model, if one is named.
fn shelves_of(root: &Path, model: Option<&str>) -> Outcome<Vec<Shelf>> {
    let mut shelves = shelves(root);
    let Some(model) = model else {
        return Ok(shelves);
    };
    let mut names: Vec<String> = shelves.iter().map(|s| s.model().to_owned()).collect();
    names.dedup();
    shelves.retain(|shelf| shelf.model() == model);
    if shelves.is_empty() {
        let advice = if names.is_empty() {
            "nothing is stored at all".to_owned()
        } else {
            format!("there is something of {}", names.join(", "))
        };
        return Err(Failure::new(format!("nothing is stored of {model}")).advise(advice));
    }
    Ok(shelves)
}

/// The entry whose key begins like this: number of its shelf, and of itself.
fn resolve(shelves: &[Shelf], beginning: &str) -> Outcome<(usize, Index)> {
    let wanted = beginning.to_ascii_lowercase();
    if wanted.is_empty() || !wanted.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!(
            "\"{beginning}\" is no key: keys have hexadecimal digits, as `aluco cache ls` shows them"
        )));
    }
    let mut matches = Vec::new();
    for (number, shelf) in shelves.iter().enumerate() {
        let all = 0..shelf.forest.entries().len();
        let fitting = all.filter(|index| shelf.key(*index).starts_with(&wanted));
        matches.extend(fitting.map(|index| (number, index)));
    }
    match matches[..] {
        [only] => Ok(only),
        [] => Err(Failure::new(format!("nothing is stored under {beginning}"))
            .advise("`aluco cache ls` lists what is")),
        _ => {
            let shown = matches.iter().take(4);
            let keys: Vec<String> = shown
                .map(|(number, index)| short(&shelves[*number].key(*index)))
                .collect();
            Err(Failure::usage(format!(
                "{beginning} may be any of {}: {}{}",
                matches.len(),
                keys.join(", "),
                if matches.len() > keys.len() {
                    ", …"
                } else {
                    ""
                },
            )))
        }
    }
}

/// As much of a key as is shown.
fn short(key: &str) -> String {
    key.chars().take(DIGITS).collect()
}

/// `1 entry`, `2 entries`.
fn entries(count: usize) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}

/// `1 conversation`, `2 conversations`.
fn conversations(count: usize) -> String {
    match count {
        1 => "1 conversation".to_owned(),
        count => format!("{count} conversations"),
    }
}

/// Says where nothing was found.
fn say_empty(root: &Path) {
    say(&format!("no prompts are stored in {}", root.display()));
}

#[cfg(test)]
mod tests {
    use aluco_prefix::{Entry, Fingerprint, Key, Kind};

    use super::*;

    pub(super) fn put(root: &Path, model: &str, first: i32) -> Entry {
        let fingerprint = Fingerprint::of([("model", model)]);
        let facts = [("model".to_owned(), model.to_owned())];
        let folder = Folder::open(root, fingerprint, &facts).unwrap();
        let parent = Key::root(&fingerprint, "");
        let tokens: Box<[i32]> = Box::new([first]);
        let entry = Entry {
            key: parent.child(Kind::Block, &tokens),
            parent,
            kind: Kind::Block,
            begin: 0,
            tokens,
        };
        folder.write(&entry, b"payload").unwrap();
        entry
    }

    #[test]
    fn a_key_is_found_by_as_many_digits_as_tell_it_from_others() {
        let root = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..40)
            .map(|first| put(root.path(), "owl", first).key.to_string())
            .collect();
        put(root.path(), "mouse", 1);
        let shelves = shelves(root.path());
        for key in &keys {
            for wanted in [&key[..12], &key.to_uppercase()] {
                let (number, index) = resolve(&shelves, wanted).unwrap();
                assert_eq!(&shelves[number].key(index), key);
                assert_eq!(shelves[number].model(), "owl");
            }
        }
        let shared = (0..16).map(|digit| format!("{digit:x}"));
        let error = shared
            .filter_map(|digit| resolve(&shelves, &digit).err())
            .find(|error| error.to_string().contains("may be any of"));
        assert!(error.is_some(), "forty keys share first digits");
        for wrong in ["", "owl", "0x12"] {
            let error = resolve(&shelves, wrong).unwrap_err().to_string();
            assert!(error.contains("is no key"), "{error}");
        }
        let error = resolve(&shelves, &"0".repeat(64)).unwrap_err();
        assert!(error.to_string().starts_with("nothing is stored under"));
    }

    #[test]
    fn a_model_that_has_nothing_stored_is_told_with_those_that_have() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "owl", 1);
        assert_eq!(shelves_of(root.path(), Some("owl")).unwrap().len(), 1);
        let error = shelves_of(root.path(), Some("mouse")).err().unwrap();
        assert_eq!(error.to_string(), "nothing is stored of mouse");
        assert_eq!(shelves_of(root.path(), None).unwrap().len(), 1);
    }
}
