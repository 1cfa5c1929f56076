//! Models on this machine.
//!
//! Two places hold them: the standard Hugging Face hub cache, shared with every other program that uses it ([`hub_cache`]), and
//! Aluco's own folder for imported files ([`imports`]). A model can also be named by the path of its file, wherever it lies.
//! Everything here is plain file work and blocks; nothing here goes to the network.

pub(crate) mod hub_cache;
mod imports;
pub(crate) mod lock;
mod similar;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::{
    HubRef, ModelError, ModelRef, RepoId, ShortName, catalogue,
    name::variant::{split_part, strip_gguf},
};

pub(crate) use imports::hex;
pub use imports::{ImportMode, ImportOptions, ImportProgress};

/// Where models lie.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The Hugging Face hub cache, such as `~/.cache/huggingface/hub`.
    pub hub_cache: PathBuf,
    /// Aluco's own models (imports), such as `~/.local/share/aluco/models`.
    pub models: PathBuf,
}

/// Tells how many bytes this user may still write to the disk that holds a folder.
pub type FreeSpace = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The models on this machine. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    config: Arc<StoreConfig>,
    free_space: FreeSpace,
}

/// One model on this machine.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoredModel {
    /// Canonical name, such as `unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M`, `smollm2:135m`, or an absolute path.
    pub name: String,
    /// The catalogue's short name for a model in the hub cache, which means the same model.
    pub short_name: Option<ShortName>,
    /// Where it comes from.
    pub source: ModelSource,
    /// The GGUF files; several if it is split, in order.
    pub files: Vec<PathBuf>,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// When it came here.
    #[serde(serialize_with = "crate::rfc3339::serialize")]
    pub modified: SystemTime,
}

/// Where a model on this machine comes from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// The Hugging Face hub cache.
    Hub {
        /// The repository.
        repo: RepoId,
        /// The commit that its files are of.
        commit: String,
    },
    /// An import.
    Import {
        /// What was imported, as it was given.
        from: PathBuf,
    },
    /// A file that was named by its path.
    File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.config).finish()
    }
}

impl Store {
    /// A store over these folders, which need not exist yet.
    pub fn new(config: StoreConfig) -> Self {
        Self::with_free_space(config, Arc::new(free_space))
    }

    /// The same, with another way to learn how much space is left.
    pub fn with_free_space(config: StoreConfig, free_space: FreeSpace) -> Self {
        Self {
            config: Arc::new(config),
            free_space,
        }
    }

    /// Where its models lie.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// Bytes that may still be written to the disk that holds a folder.
    pub(crate) fn free_bytes(&self, folder: &Path) -> Result<u64, ModelError> {
        (self.free_space)(folder).map_err(ModelError::io("measure", folder))
    }

    /// The model of this name or path. A short name means an import of that name, else the catalogue's entry in the hub cache;
    /// a repository without a tag means the best default among those of its models that are here.
    pub fn find(&self, name: &str) -> Result<StoredModel, ModelError> {
        let not_found = || self.not_found(name);
        match name.parse()? {
            ModelRef::Path(path) => model_at(&path),
            ModelRef::Hub(hub) => {
                hub_cache::find(&self.config.hub_cache, &hub)?.ok_or_else(not_found)
            }
            ModelRef::Short(short) => {
                let entry = catalogue::lookup(&short);
                if let Some(model) = imports::find(&self.config.models, &short)? {
                    return Ok(model);
                }
                let Some(entry) = entry else {
                    return imports::find_family(&self.config.models, &short)?
                        .ok_or_else(not_found);
                };
                if let Some(model) = imports::find(&self.config.models, &entry.name)? {
                    return Ok(model);
                }
                hub_cache::find(&self.config.hub_cache, &entry.hub_ref())?.ok_or_else(not_found)
            }
        }
    }

    fn not_found(&self, name: &str) -> ModelError {
        let here = self.list().unwrap_or_default();
        ModelError::NotFound {
            name: name.into(),
            similar: similar::name(name, here.iter().map(|model| model.name.as_str())),
        }
    }

    /// All models, in the order of their names. What cannot be read is left out.
    pub fn list(&self) -> Result<Vec<StoredModel>, ModelError> {
        let mut models = imports::list(&self.config.models)?;
        models.extend(hub_cache::list(&self.config.hub_cache)?);
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// Takes a GGUF file into Aluco's own folder; all parts of it if it is split. Either the whole model is there
    /// afterwards or nothing, also if the machine fails in the middle. The same contents under the same name again is no error.
    pub fn import(
        &self,
        file: &Path,
        options: &ImportOptions,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<StoredModel, ModelError> {
        imports::sweep(&self.config.models)?;
        imports::import(
            &self.config.models,
            file,
            options,
            &self.free_space,
            progress,
        )
    }

    /// Deletes a model and whatever only it used, and says how many bytes that freed. What is no whole model is deleted too: a damaged
    /// import, an unfinished download, the rest of a deletion that was broken off. Models that were named by path are not
    /// Aluco's to delete.
    pub fn remove(&self, name: &str) -> Result<u64, ModelError> {
        let removal = self.removal(name)?;
        imports::sweep(&self.config.models)?;
        let freed = match removal {
            Removal::Import(import) => Some(imports::remove(&self.config.models, &import)?),
            Removal::Hub(hub) => hub_cache::remove(&self.config.hub_cache, &hub)?,
            Removal::Nothing => None,
        };
        freed.ok_or_else(|| self.not_found(name))
    }

    /// Bytes that [`Self::remove`] would free; `None` if it would find nothing.
    pub fn removable_bytes(&self, name: &str) -> Result<Option<u64>, ModelError> {
        match self.removal(name)? {
            Removal::Import(import) => {
                imports::removable_bytes(&self.config.models, &import).map(Some)
            }
            Removal::Hub(hub) => hub_cache::removable_bytes(&self.config.hub_cache, &hub),
            Removal::Nothing => Ok(None),
        }
    }

    /// What a name means where it is to be deleted. An import counts by its folder, since a damaged one must be removable too;
    /// else by the same rules as in [`Self::find`].
    fn removal(&self, name: &str) -> Result<Removal, ModelError> {
        let models = &self.config.models;
        let short = match name.parse()? {
            ModelRef::Path(path) => return Err(ModelError::NotOurs { path }),
            ModelRef::Hub(hub) => return Ok(Removal::Hub(hub)),
            ModelRef::Short(short) => short,
        };
        if imports::has_folder(models, &short) {
            return Ok(Removal::Import(short));
        }
        Ok(match catalogue::lookup(&short) {
            Some(entry) if imports::has_folder(models, &entry.name) => {
                Removal::Import(entry.name.clone())
            }
            Some(entry) => Removal::Hub(entry.hub_ref()),
            None => {
                imports::only_of_family(models, &short)?.map_or(Removal::Nothing, Removal::Import)
            }
        })
    }
}

/// Where something that is to be deleted lies.
enum Removal {
    /// The folder of the import of this name.
    Import(ShortName),
    /// The hub cache, if it is there.
    Hub(HubRef),
    /// Nowhere.
    Nothing,
}

/// The model of a file that was named by path: the file, or all parts if it is one of several.
fn model_at(path: &Path) -> Result<StoredModel, ModelError> {
    let path = std::path::absolute(path).map_err(ModelError::io("find", path))?;
    check_is_file(&path)?;
    let path = canonical(&path)?;
    let files = parts_of(&path)?;
    let mut size_bytes = 0;
    let mut modified = SystemTime::UNIX_EPOCH;
    for file in &files {
        let metadata = fs::metadata(file).map_err(ModelError::io("read", file))?;
        size_bytes += metadata.len();
        modified = modified.max(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
    }
    Ok(StoredModel {
        name: files[0].display().to_string(),
        short_name: None,
        source: ModelSource::File,
        files,
        size_bytes,
        modified,
    })
}

/// The one spelling of a file's path, so that a file counts as one model however it is named. Not `canonicalize`: a file
/// in the hub cache is a link to a blob whose name says nothing of what it is, so only links to GGUF files are followed.
fn canonical(path: &Path) -> Result<PathBuf, ModelError> {
    let in_canonical_folder = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = fs::canonicalize(folder).map_err(ModelError::io("find", folder))?;
        Ok(folder.join(path.file_name().unwrap_or_default()))
    };
    let mut path = in_canonical_folder(path)?;
    // A part that is a link has its siblings beside the link, not beside what it links to. The system follows no more
    // than 40 links in a row either.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        let name = target.file_name().and_then(|name| name.to_str());
        if split_of(&path).is_some() || name.and_then(strip_gguf).is_none() {
            break;
        }
        path = in_canonical_folder(&path.with_file_name(target))?;
    }
    Ok(path)
}

fn check_is_file(path: &Path) -> Result<(), ModelError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(metadata) => Err(ModelError::NotGguf {
            path: path.to_owned(),
            reason: if metadata.is_dir() {
                "it is a folder; name a .gguf file in it".into()
            } else {
                "it is not a file".into()
            },
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ModelError::NoSuchFile {
            path: path.to_owned(),
        }),
        Err(error) => Err(ModelError::io("read", path)(error)),
    }
}

/// What the name of a file says of the split model that it is part of.
fn split_of(path: &Path) -> Option<(&str, usize, usize)> {
    split_part(strip_gguf(path.file_name()?.to_str()?)?)
}

/// A file and, if it is one part of a split model, all its siblings in order.
fn parts_of(path: &Path) -> Result<Vec<PathBuf>, ModelError> {
    check_is_file(path)?;
    let Some((stem, _, total)) = split_of(path) else {
        return Ok(vec![path.to_owned()]);
    };
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("gguf");
    let files: Vec<PathBuf> = (1..=total)
        .map(|part| path.with_file_name(format!("{stem}-{part:05}-of-{total:05}.{extension}")))
        .take_while(|file| file.is_file())
        .collect();
    if files.len() < total {
        return Err(ModelError::MissingParts {
            path: path.to_owned(),
            present: files.len(),
            total,
        });
    }
    Ok(files)
}

/// Bytes that this user may still write to the disk that holds a folder, or the nearest folder above it that exists.
pub(crate) fn free_space(folder: &Path) -> io::Result<u64> {
    let mut at = folder;
    loop {
        match rustix::fs::statvfs(at) {
            Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(rustix::io::Errno::NOENT) => match at.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => at = parent,
                _ => return Err(rustix::io::Errno::NOENT.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes sure that a folder's entries are on the disk, not only in memory.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), ModelError> {
    fs::File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(ModelError::io("write", folder))
}

/// The entries of a folder; none if there is no such folder.
pub(crate) fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, ModelError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .collect::<Result<_, _>>()
            .map_err(ModelError::io("read", folder)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(ModelError::io("read", folder)(error)),
    }
}
