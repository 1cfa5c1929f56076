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
    config::{Config, Settings},
    engine,
    failure::{Failure, Outcome},
    render::say,
};

/// Digits of a key or a fingerprint that are shown.
const DIGITS: usize = 12;

/// Runs the command.
pub(super) fn run(args: &CacheArgs, config: &Config) -> Outcome {
    let settings = &config.settings;
    let root = &settings.cache_folder;
    match &args.action {
        CacheAction::Ls(args) => listing::run(args, settings),
        CacheAction::Stat(args) => stat::run(args, root),
        CacheAction::Rm(args) => removal::run(args, settings),
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

    /// True of one that was made for what is still to come, or that lost its last entry.
    fn is_empty(&self) -> bool {
        self.forest.entries().is_empty() && self.damaged.is_empty()
    }

    /// The model, by its file: the store knows models by what is in them, and that may have several names.
    fn model(&self) -> &str {
        let manifest = self.folder.manifest();
        let first = || manifest.facts.first().map(|(_, value)| value.as_str());
        let model = manifest.fact("file").map(stem);
        model.or_else(first).unwrap_or("unknown")
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

/// Those of one model, if one is named: as `aluco cache ls` calls it, or as any other command does.
fn shelves_of(settings: &Settings, model: Option<&str>) -> Outcome<Vec<Shelf>> {
    let mut shelves = shelves(&settings.cache_folder);
    let Some(name) = model else {
        return Ok(shelves);
    };
    let stored = engine::store(settings).find(name).ok();
    let file = stored.as_ref().and_then(|model| model.files.first());
    let file = file.and_then(|file| file.file_name()?.to_str());
    let wanted = [Some(stem(name)), file.map(stem)];
    let full = shelves.iter().filter(|shelf| !shelf.is_empty());
    let mut names: Vec<String> = full.map(|shelf| shelf.model().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    shelves.retain(|shelf| wanted.contains(&Some(shelf.model())));
    if shelves.is_empty() {
        let advice = if names.is_empty() {
            "nothing is stored at all".to_owned()
        } else {
            format!("there is something of {}", names.join(", "))
        };
        return Err(Failure::new(format!("nothing is stored of {name}")).advise(advice));
    }
    Ok(shelves)
}

/// The name of a model's file without its ending and, if it is the first of several, its number.
fn stem(file: &str) -> &str {
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    match stem.rsplit_once("-00001-of-") {
        Some((stem, count)) if count.len() == 5 => stem,
        _ => stem,
    }
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
        let facts = [("model", "1a2b"), ("file", model)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
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
        let mut settings = Settings::for_home(root.path());
        root.path().clone_into(&mut settings.cache_folder);
        put(root.path(), "owl.gguf", 1);
        let count = |model| shelves_of(&settings, model).map(|shelves| shelves.len());
        assert_eq!(count(Some("owl")).unwrap(), 1);
        assert_eq!(count(Some("owl.gguf")).unwrap(), 1);
        assert_eq!(count(None).unwrap(), 1);
        let error = count(Some("mouse")).unwrap_err();
        assert_eq!(error.to_string(), "nothing is stored of mouse");
    }

    #[test]
    fn a_model_goes_by_the_name_of_its_file() {
        for (file, expected) in [
            (
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "SmolLM2-135M-Instruct.Q4_1",
            ),
            ("owl-Q4_K_M-00001-of-00003.gguf", "owl-Q4_K_M"),
            ("owl-00001-of-more.gguf", "owl-00001-of-more"),
            ("owl", "owl"),
        ] {
            assert_eq!(stem(file), expected);
        }
    }
}
