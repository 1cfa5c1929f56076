//! Deleting models from the hub cache, and what broken-off downloads and deletions have left of them.
//!
//! Contents are deleted before the links to them. So whatever ends the process in the middle leaves links that lead nowhere: no
//! model any more, but names by which the deletion can be finished.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    FOLDER_DEPTH_MAX, LINK_SUFFIX, PARTIAL_NOTES_SUFFIX, PARTIAL_SUFFIX, collect_files, models_of,
    pull_lock, repo_folder, with_suffix,
};
use crate::{
    HubRef, ModelError, RepoId,
    name::variant::{self, Variant, variants},
    store::{entries, lock::Lock},
};

/// Folders below a snapshot that are searched for links. More than for models, because what is in use must not be missed.
const LINK_DEPTH_MAX: usize = 64;

/// Deletes the model that a reference means from every snapshot that has it, and the contents that nothing refers to any more. If no
/// whole model is meant: what is left of one. Gives the bytes freed; `None` if there was nothing of that name.
pub(crate) fn remove(cache: &Path, hub: &HubRef) -> Result<Option<u64>, ModelError> {
    let Some((repo, folder)) = repo_folder(cache, &hub.repo)? else {
        return Ok(None);
    };
    let _lock = lock(cache, &repo, hub)?;
    let Some(target) = target(&folder, hub)? else {
        return Ok(None);
    };
    let mut freed = remove_files(&folder, &target.files)?;
    // Other files of the same name, in an older snapshot, would take its place at once.
    while let Some((older, _)) = models_of(&folder)?
        .into_iter()
        .find(|(model, _)| model.tag == target.tag)
    {
        freed += remove_files(&folder, &older.files)?;
    }
    remove_repo_if_empty(&folder)?;
    Ok(Some(freed))
}

/// Bytes that [`remove`] would free; `None` if there is nothing of that name.
pub(crate) fn removable_bytes(cache: &Path, hub: &HubRef) -> Result<Option<u64>, ModelError> {
    let Some((_, folder)) = repo_folder(cache, &hub.repo)? else {
        return Ok(None);
    };
    let Some(target) = target(&folder, hub)? else {
        return Ok(None);
    };
    let Doomed { contents, links } = Doomed::find(&folder, &target.files)?;
    let bytes = contents
        .iter()
        .chain(&links)
        .filter_map(|path| fs::symlink_metadata(path).ok())
        .map(|metadata| bytes_freed_by_unlinking(&metadata));
    Ok(Some(bytes.sum()))
}

/// Nobody downloads into the repository while this is held.
fn lock(cache: &Path, repo: &RepoId, hub: &HubRef) -> Result<Lock, ModelError> {
    let path = pull_lock(cache, repo);
    let locks = path.parent().unwrap_or(cache);
    fs::create_dir_all(locks).map_err(ModelError::io("create", locks))?;
    Lock::take(&path)?.ok_or_else(|| ModelError::Busy {
        name: hub.to_string(),
    })
}

/// What is to be deleted: a whole model, else the rest of one.
fn target(folder: &Path, hub: &HubRef) -> Result<Option<Variant>, ModelError> {
    let tag = hub.tag.as_ref().map(crate::Tag::as_str);
    let whole: Vec<Variant> = models_of(folder)?.into_iter().map(|(v, _)| v).collect();
    if let Some(chosen) = variant::choose(&whole, tag) {
        return Ok(Some(chosen.clone()));
    }
    let mut files: BTreeSet<String> = partials(folder)?.into_iter().map(|p| p.file).collect();
    for snapshot in entries(&folder.join("snapshots"))? {
        let mut found = Vec::new();
        collect_files(&snapshot.path(), "", FOLDER_DEPTH_MAX, &mut found)?;
        files.extend(found);
    }
    let mut rests = variants(files.iter().map(String::as_str));
    for rest in &mut rests {
        // What is not there need not be deleted.
        rest.parts_total = rest.files.len();
    }
    Ok(variant::choose(&rests, tag).cloned())
}

/// What goes with some files of a repository.
#[derive(Default)]
struct Doomed {
    /// Blobs that only these files use, and unfinished downloads of them.
    contents: Vec<PathBuf>,
    /// The files in the snapshots.
    links: Vec<PathBuf>,
}

impl Doomed {
    fn find(folder: &Path, files: &[String]) -> Result<Self, ModelError> {
        let mut doomed = Self::default();
        let (mut own, mut in_use) = (BTreeSet::new(), BTreeSet::new());
        for snapshot in entries(&folder.join("snapshots"))? {
            let mut found = Vec::new();
            collect_files(&snapshot.path(), "", LINK_DEPTH_MAX, &mut found)?;
            for file in found {
                let path = snapshot.path().join(&file);
                let blob = blob_of(folder, &path);
                let file = file.strip_suffix(LINK_SUFFIX).unwrap_or(&file);
                if files.iter().any(|doomed| doomed == file) {
                    own.extend(blob);
                    doomed.links.push(path);
                } else {
                    in_use.extend(blob);
                }
            }
        }
        doomed.contents.extend(own.difference(&in_use).cloned());
        for partial in partials(folder)? {
            if files.contains(&partial.file) {
                // The notes last, because they tell what the other is.
                let suffixes = [PARTIAL_SUFFIX, PARTIAL_NOTES_SUFFIX];
                let paths = suffixes.map(|suffix| with_suffix(&partial.blob, suffix));
                doomed.contents.extend(paths);
            }
        }
        Ok(doomed)
    }
}

fn remove_files(folder: &Path, files: &[String]) -> Result<u64, ModelError> {
    let Doomed { contents, links } = Doomed::find(folder, files)?;
    let mut freed = 0;
    for path in contents.iter().chain(&links) {
        match fs::symlink_metadata(path) {
            Ok(metadata) => {
                fs::remove_file(path).map_err(ModelError::io("delete", path))?;
                freed += bytes_freed_by_unlinking(&metadata);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ModelError::io("delete", path)(error)),
        }
    }
    for snapshot in entries(&folder.join("snapshots"))? {
        if snapshot.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_folders(&snapshot.path(), FOLDER_DEPTH_MAX)?;
        }
    }
    Ok(freed)
}

/// An unfinished download.
struct Partial {
    /// Path within the repository.
    file: String,
    /// Where its contents will be.
    blob: PathBuf,
}

/// The part of an unfinished download's notes that says what it is a download of.
#[derive(serde::Deserialize)]
struct Notes {
    file: String,
}

fn partials(folder: &Path) -> Result<Vec<Partial>, ModelError> {
    let blobs = folder.join("blobs");
    let mut found = Vec::new();
    for entry in entries(&blobs)? {
        let name = entry.file_name();
        let Some(hash) = name
            .to_str()
            .and_then(|n| n.strip_suffix(PARTIAL_NOTES_SUFFIX))
        else {
            continue;
        };
        let notes = fs::read(entry.path()).ok();
        if let Some(Notes { file }) = notes.and_then(|text| serde_json::from_slice(&text).ok()) {
            let blob = blobs.join(hash);
            found.push(Partial { file, blob });
        }
    }
    Ok(found)
}

fn bytes_freed_by_unlinking(metadata: &fs::Metadata) -> u64 {
    // Blocks, not length: an unfinished download is mostly holes.
    if metadata.is_file() && metadata.nlink() == 1 {
        metadata.len().min(metadata.blocks() * 512)
    } else {
        0
    }
}

/// The blob that a link in a snapshot stands for, if it is one of this repository's own.
fn blob_of(repo_folder: &Path, link: &Path) -> Option<PathBuf> {
    let target = fs::canonicalize(link).ok()?;
    let blobs = fs::canonicalize(repo_folder.join("blobs")).ok()?;
    (target.parent() == Some(&blobs)).then_some(target)
}

fn remove_empty_folders(folder: &Path, depth: usize) -> Result<(), ModelError> {
    for entry in entries(folder)? {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty_folders(&entry.path(), depth - 1)?;
        }
    }
    // Fails, as it should, on a folder that is not empty.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Removes refs to snapshots that are gone and, when no snapshot and no blob is left, the repository's folder.
fn remove_repo_if_empty(folder: &Path) -> Result<(), ModelError> {
    let snapshots = folder.join("snapshots");
    let mut refs = Vec::new();
    collect_files(&folder.join("refs"), "", FOLDER_DEPTH_MAX, &mut refs)?;
    for name in refs {
        let path = folder.join("refs").join(name);
        let commit = fs::read_to_string(&path).unwrap_or_default();
        if !commit.is_empty() && !snapshots.join(commit.trim()).exists() {
            fs::remove_file(&path).map_err(ModelError::io("delete", &path))?;
        }
    }
    if entries(&snapshots)?.is_empty() && entries(&folder.join("blobs"))?.is_empty() {
        remove_empty_folders(folder, FOLDER_DEPTH_MAX)?;
    }
    Ok(())
}
