//! The Hugging Face hub cache, as `huggingface_hub`, llama.cpp and others lay it out:
//!
//! ```text
//! models--OWNER--NAME/
//!   refs/main                    the commit that `main` was at the last download
//!   blobs/HASH                   contents: SHA-256 of large files, Git's hash of small ones
//!   snapshots/COMMIT/sub/file    relative link to ../../../blobs/HASH
//! ```
//!
//! Other programs write here too, so nothing is assumed: links may dangle, parts may be missing, snapshots may be without a ref, and
//! on file systems without links the snapshots hold the files themselves. Source: the cache's documentation,
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

mod removal;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    HubRef, ModelError, ModelSource, RepoId, StoredModel, catalogue,
    name::variant::{self, Variant, variants},
    store::entries,
};

/// Ending of a file that [`crate::Hub`] is still filling. Not `.incomplete`, which other programs resume by length
/// alone: ours are filled in several places at once, and their length says nothing.
pub(crate) const PARTIAL_SUFFIX: &str = ".aluco-part";
/// Ending of the notes beside it.
pub(crate) const PARTIAL_NOTES_SUFFIX: &str = ".aluco-part.json";

/// Ending of a link that is about to be renamed to its place in a snapshot.
pub(crate) const LINK_SUFFIX: &str = ".aluco-link";

/// Folders below a snapshot that are looked into.
const FOLDER_DEPTH_MAX: usize = 4;

pub(crate) use removal::{removable_bytes, remove};

/// Where the lock is that is held while a model of a repository is pulled or removed.
pub(crate) fn pull_lock(cache: &Path, repo: &RepoId) -> PathBuf {
    let folder = cache.join(".locks").join(repo.cache_folder());
    folder.join("aluco-pull.lock")
}

/// One snapshot of a repository.
struct Snapshot {
    commit: String,
    folder: PathBuf,
    /// Paths of its GGUF files whose contents are there.
    files: Vec<String>,
}

/// All models in a cache.
pub(crate) fn list(cache: &Path) -> Result<Vec<StoredModel>, ModelError> {
    let mut models = Vec::new();
    for entry in entries(cache)? {
        let Some(repo) = entry
            .file_name()
            .to_str()
            .and_then(RepoId::from_cache_folder)
        else {
            continue;
        };
        for (variant, snapshot) in models_of(&entry.path())? {
            // A file that vanishes meanwhile is no reason to list nothing.
            models.extend(stored(&repo, &snapshot, &variant).ok());
        }
    }
    Ok(models)
}

/// The model that a reference means, if it is here and whole.
pub(crate) fn find(cache: &Path, hub: &HubRef) -> Result<Option<StoredModel>, ModelError> {
    let Some((repo, folder)) = repo_folder(cache, &hub.repo)? else {
        return Ok(None);
    };
    let models = models_of(&folder)?;
    let found: Vec<Variant> = models.iter().map(|(variant, _)| variant.clone()).collect();
    let tag = hub.tag.as_ref().map(crate::Tag::as_str);
    if let Some(chosen) = variant::choose(&found, tag) {
        let (variant, snapshot) = models
            .iter()
            .find(|(variant, _)| variant == chosen)
            .expect("it was chosen from these");
        return stored(&repo, snapshot, variant).map(Some);
    }
    Ok(None)
}

/// The model that these files of a commit make.
pub(crate) fn find_files(
    cache: &Path,
    repo: &RepoId,
    commit: &str,
    files: &[String],
) -> Result<StoredModel, ModelError> {
    let snapshots = snapshots(&cache.join(repo.cache_folder()))?;
    let found = snapshots
        .iter()
        .filter(|snapshot| snapshot.commit == commit)
        .find_map(|snapshot| {
            let variants = variants(snapshot.files.iter().map(String::as_str));
            let variant = variants.into_iter().find(|v| v.files == files)?;
            Some((snapshot, variant))
        });
    match found {
        Some((snapshot, variant)) => stored(repo, snapshot, &variant),
        // Deleted by someone else in this moment.
        None => Err(ModelError::NotFound {
            name: repo.to_string(),
            similar: None,
        }),
    }
}

/// A repository's folder, whatever case its name was written in.
pub(crate) fn repo_folder(
    cache: &Path,
    repo: &RepoId,
) -> Result<Option<(RepoId, PathBuf)>, ModelError> {
    let exact = cache.join(repo.cache_folder());
    if exact.is_dir() {
        return Ok(Some((repo.clone(), exact)));
    }
    Ok(entries(cache)?.into_iter().find_map(|entry| {
        let found = RepoId::from_cache_folder(entry.file_name().to_str()?)?;
        found.same_as(repo).then(|| (found, entry.path()))
    }))
}

/// The whole models of a repository: from the snapshot that `main` points to, and from others what that one lacks.
fn models_of(repo_folder: &Path) -> Result<Vec<(Variant, std::rc::Rc<Snapshot>)>, ModelError> {
    let mut models: Vec<(Variant, std::rc::Rc<Snapshot>)> = Vec::new();
    for snapshot in snapshots(repo_folder)? {
        let snapshot = std::rc::Rc::new(snapshot);
        for variant in variants(snapshot.files.iter().map(String::as_str)) {
            let known = |(other, _): &(Variant, _)| {
                other.files == variant.files || other.tag == variant.tag
            };
            if variant.is_complete() && !models.iter().any(known) {
                models.push((variant, snapshot.clone()));
            }
        }
    }
    Ok(models)
}

/// The snapshots of a repository, the one of `main` first, then the newest first.
fn snapshots(repo_folder: &Path) -> Result<Vec<Snapshot>, ModelError> {
    let main = fs::read_to_string(repo_folder.join("refs/main")).unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries(&repo_folder.join("snapshots"))? {
        let Ok(commit) = entry.file_name().into_string() else {
            continue;
        };
        let modified = entry
            .metadata()
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let mut files = Vec::new();
        collect_files(&entry.path(), "", FOLDER_DEPTH_MAX, &mut files)?;
        files.retain(|path| {
            variant::strip_gguf(path).is_some() && entry.path().join(path).is_file()
        });
        found.push((
            commit != main.trim(),
            std::cmp::Reverse(modified),
            Snapshot {
                commit,
                folder: entry.path(),
                files,
            },
        ));
    }
    found.sort_by(|a, b| (a.0, a.1, &a.2.commit).cmp(&(b.0, b.1, &b.2.commit)));
    Ok(found.into_iter().map(|(_, _, snapshot)| snapshot).collect())
}

/// Everything below a snapshot that is not a folder, links included whether they dangle or not.
fn collect_files(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<String>,
) -> Result<(), ModelError> {
    for entry in entries(folder)? {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let kind = entry
            .file_type()
            .map_err(ModelError::io("read", &entry.path()))?;
        if kind.is_dir() {
            if depth > 0 {
                collect_files(&entry.path(), &path, depth - 1, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn stored(
    repo: &RepoId,
    snapshot: &Snapshot,
    variant: &Variant,
) -> Result<StoredModel, ModelError> {
    let files: Vec<PathBuf> = variant
        .files
        .iter()
        .map(|file| snapshot.folder.join(file))
        .collect();
    let mut size_bytes = 0;
    let mut modified = SystemTime::UNIX_EPOCH;
    for file in &files {
        let metadata = fs::metadata(file).map_err(ModelError::io("read", file))?;
        size_bytes += metadata.len();
        modified = modified.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    }
    Ok(StoredModel {
        name: format!("{repo}:{}", variant.tag),
        short_name: catalogue::short_name(repo, &variant.tag).cloned(),
        source: ModelSource::Hub {
            repo: repo.clone(),
            commit: snapshot.commit.clone(),
        },
        files,
        size_bytes,
        modified,
    })
}

/// A path with something put behind its file name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}
