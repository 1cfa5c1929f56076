//! Imported models: Aluco's own folder.
//!
//! ```text
//! models/
//!   smollm2@135m/              one folder per model; `@` stands for the `:` of its name
//!     manifest.json            what it is, with the hash of every file
//!     smollm2-135m.gguf        or smollm2-135m-00001-of-00002.gguf, …
//!   .incoming-PID-NANOS/       an import under way, locked by its process
//!   .trash-PID-NANOS/          a model being deleted
//!   .lock                      taken for moments, to make and rename the folders above
//! ```
//!
//! A model appears by the renaming of its folder when everything in it is on the disk, and disappears by renaming too. So whatever
//! kills the process, a model is whole or absent; the leftovers are folders that nobody has locked, and [`sweep`] deletes them.

mod manifest;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use self::manifest::{MANIFEST, MANIFEST_VERSION, Manifest, ManifestFile};
use super::{FreeSpace, ModelSource, StoredModel, entries, lock::Lock, parts_of, sync_folder};
use crate::{
    ModelError, ShortName,
    name::variant::{quant_label, split_part, strip_gguf},
};

const INCOMING: &str = ".incoming-";
const TRASH: &str = ".trash-";
const COPY_BUFFER_BYTES: usize = 1024 * 1024;

/// How to import a file.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// What to call it. `None`: a name made from the file's.
    pub name: Option<ShortName>,
    /// What becomes of the original and its bytes.
    pub mode: ImportMode,
}

/// What an import does with the original and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportMode {
    /// The original stays. Its bytes are shared where the file system can (copy-on-write clone, else a hard link), else copied.
    #[default]
    Share,
    /// The original stays and can change without harm: a copy-on-write clone, else a copy.
    Copy,
    /// The original stays and is only referred to; the model is gone when the original is.
    Link,
    /// The original is deleted once the import is safe on the disk.
    Move,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes read and hashed so far, of all files.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The import of exactly this name.
pub(super) fn find(models: &Path, name: &ShortName) -> Result<Option<StoredModel>, ModelError> {
    let folder = models.join(folder_of(name));
    match Manifest::read(&folder)? {
        Some(manifest) => stored(&folder, &manifest).map(Some),
        None => Ok(None),
    }
}

/// The import of this name, if it is there as a whole. `None` if nothing is there, or something damaged.
fn find_whole(folder: &Path) -> Result<Option<(Manifest, StoredModel)>, ModelError> {
    let Some(manifest) = none_if_damaged(Manifest::read(folder))?.flatten() else {
        return Ok(None);
    };
    let model = none_if_damaged(stored(folder, &manifest))?;
    Ok(model.map(|model| (manifest, model)))
}

fn none_if_damaged<T>(result: Result<T, ModelError>) -> Result<Option<T>, ModelError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ModelError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What [`remove`] would delete under this name, damaged or not: the import of exactly this name.
pub(super) fn has_folder(models: &Path, name: &ShortName) -> bool {
    models.join(folder_of(name)).is_dir()
}

/// The name of the import of this family, damaged or not, if there is just one.
pub(super) fn only_of_family(
    models: &Path,
    family: &ShortName,
) -> Result<Option<ShortName>, ModelError> {
    let mut names = names(models)?;
    names.retain(|name| name.family() == family.as_str());
    let only = (names.len() == 1).then(|| names.remove(0));
    Ok(only)
}

/// The import of this family, if there is just one.
pub(super) fn find_family(
    models: &Path,
    family: &ShortName,
) -> Result<Option<StoredModel>, ModelError> {
    match only_of_family(models, family)? {
        Some(name) => find(models, &name),
        None => Ok(None),
    }
}

/// All imports that are whole.
pub(super) fn list(models: &Path) -> Result<Vec<StoredModel>, ModelError> {
    Ok(names(models)?
        .iter()
        .filter_map(|name| find(models, name).ok().flatten())
        .collect())
}

fn names(models: &Path) -> Result<Vec<ShortName>, ModelError> {
    let mut names: Vec<ShortName> = entries(models)?
        .iter()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .replacen('@', ":", 1)
                .parse()
                .ok()
        })
        .collect();
    names.sort();
    Ok(names)
}

fn folder_of(name: &ShortName) -> String {
    name.as_str().replacen(':', "@", 1)
}

fn stored(folder: &Path, manifest: &Manifest) -> Result<StoredModel, ModelError> {
    let mut files = Vec::new();
    for file in &manifest.files {
        let path = folder.join(&file.name);
        let size_bytes = fs::metadata(&path).map(|metadata| metadata.len()).ok();
        if size_bytes != Some(file.size_bytes) {
            let reason = match size_bytes {
                None => "the file, or what it links to, is gone".to_owned(),
                Some(now) => format!("it has {now} bytes and had {} at import", file.size_bytes),
            };
            return Err(ModelError::Damaged { path, reason });
        }
        files.push(path);
    }
    Ok(StoredModel {
        name: manifest.name.to_string(),
        short_name: None,
        source: ModelSource::Import {
            from: manifest.source.clone(),
        },
        files,
        size_bytes: manifest.size_bytes,
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(manifest.imported_at_s),
    })
}

/// Imports a file, see [`super::Store::import`].
pub(super) fn import(
    models: &Path,
    file: &Path,
    options: &ImportOptions,
    free_space: &FreeSpace,
    progress: &mut dyn FnMut(ImportProgress),
) -> Result<StoredModel, ModelError> {
    let given = std::path::absolute(file).map_err(ModelError::io("find", file))?;
    let sources = parts_of(&given)?;
    check_not_ours(models, &sources)?;
    for source in &sources {
        check_gguf(source)?;
    }
    let name = match &options.name {
        Some(name) => name.clone(),
        None => default_name(&given)?,
    };
    let total_bytes = total_size(&sources)?;
    let mut import = Import {
        name: &name,
        mode: options.mode,
        free_space,
        progress,
        done_bytes: 0,
        total_bytes,
    };
    let finished = models.join(folder_of(&name));

    // Copying gigabytes only to find that the name is taken would be rude: hash first.
    if let Some(existing) = find_whole(&finished)?
        && let files = import.hash_all(&sources)?
        && let Some(model) = import.settle_with(existing, &files)?
    {
        import.delete_originals(&sources)?;
        return Ok(model);
    }
    fs::create_dir_all(models).map_err(ModelError::io("create", models))?;
    let incoming = Incoming::new(models)?;
    let files = import.bring_all(&sources, &incoming.folder)?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        name: name.clone(),
        files,
        size_bytes: total_bytes,
        source: given,
        imported_at_s: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    };
    manifest.write(&incoming.folder)?;
    {
        let _lock = Lock::wait(&models.join(".lock"))?;
        if let Some(existing) = find_whole(&finished)?
            && let Some(model) = import.settle_with(existing, &manifest.files)?
        {
            import.delete_originals(&sources)?;
            return Ok(model);
        }
        let trash = models.join(unique(TRASH));
        let replaced = finished.is_dir();
        if replaced {
            fs::rename(&finished, &trash).map_err(ModelError::io("replace", &finished))?;
        }
        fs::rename(&incoming.folder, &finished).map_err(ModelError::io("create", &finished))?;
        if replaced {
            // The import has succeeded whether this does or not; what it leaves, a sweep deletes.
            let _ = fs::remove_dir_all(&trash);
        }
    }
    sync_folder(models)?;
    import.delete_originals(&sources)?;
    stored(&finished, &manifest)
}

/// Refuses files of Aluco's own: moving one would tear the import that it is of, and a link to one would go with it.
fn check_not_ours(models: &Path, sources: &[PathBuf]) -> Result<(), ModelError> {
    // Without the folder nothing is in it.
    let Ok(models) = fs::canonicalize(models) else {
        return Ok(());
    };
    for source in sources {
        let folder = source.parent().unwrap_or(source);
        for at in [folder, source] {
            let real = fs::canonicalize(at).map_err(ModelError::io("find", at))?;
            if real.starts_with(&models) {
                return Err(ModelError::AlreadyImported {
                    path: source.clone(),
                });
            }
        }
    }
    Ok(())
}

struct Import<'a> {
    name: &'a ShortName,
    mode: ImportMode,
    free_space: &'a FreeSpace,
    progress: &'a mut dyn FnMut(ImportProgress),
    done_bytes: u64,
    total_bytes: u64,
}

impl Import<'_> {
    fn bring_all(
        &mut self,
        sources: &[PathBuf],
        folder: &Path,
    ) -> Result<Vec<ManifestFile>, ModelError> {
        let mut files = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let name = self.file_name(index, sources.len());
            let target = folder.join(&name);
            let (size_bytes, sha256) = self.bring(source, &target)?;
            files.push(ManifestFile {
                name,
                size_bytes,
                sha256,
            });
        }
        Ok(files)
    }

    fn hash_all(&mut self, sources: &[PathBuf]) -> Result<Vec<ManifestFile>, ModelError> {
        let mut files = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let (size_bytes, sha256) = self.pass(source, &mut io::sink(), source)?;
            files.push(ManifestFile {
                name: self.file_name(index, sources.len()),
                size_bytes,
                sha256,
            });
        }
        Ok(files)
    }

    /// The parts of a split model must be named as llama.cpp names them.
    fn file_name(&self, index: usize, total: usize) -> String {
        let stem = self.name.as_str().replacen(':', "-", 1);
        if total == 1 {
            format!("{stem}.gguf")
        } else {
            format!("{stem}-{:05}-of-{total:05}.gguf", index + 1)
        }
    }

    /// Brings one file's bytes to `target` in the cheapest way that the mode allows, and hashes them.
    fn bring(&mut self, source: &Path, target: &Path) -> Result<(u64, String), ModelError> {
        // A hard link to a symbolic link would be a link that points nowhere.
        let original = fs::canonicalize(source).map_err(ModelError::io("read", source))?;
        if self.mode == ImportMode::Link {
            std::os::unix::fs::symlink(source, target).map_err(ModelError::io("create", target))?;
            return self.pass(&original, &mut io::sink(), target);
        }
        let may_link = matches!(self.mode, ImportMode::Share | ImportMode::Move);
        if clone_file(&original, target) || (may_link && fs::hard_link(&original, target).is_ok()) {
            let result = self.pass(&original, &mut io::sink(), target)?;
            sync_file(target)?;
            return Ok(result);
        }
        let needed_bytes = self.total_bytes - self.done_bytes;
        let folder = target.parent().unwrap_or(target);
        let free_bytes = (self.free_space)(folder).map_err(ModelError::io("measure", folder))?;
        if free_bytes < needed_bytes {
            return Err(ModelError::NoSpace {
                path: folder.to_owned(),
                needed_bytes,
                free_bytes,
            });
        }
        let mut copy = File::create(target).map_err(ModelError::io("create", target))?;
        let result = self.pass(&original, &mut copy, target)?;
        copy.sync_all().map_err(ModelError::io("write", target))?;
        Ok(result)
    }

    /// Reads a file through to a writer; gives its size and SHA-256.
    fn pass(
        &mut self,
        from: &Path,
        to: &mut dyn Write,
        target: &Path,
    ) -> Result<(u64, String), ModelError> {
        let mut file = File::open(from).map_err(ModelError::io("read", from))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        let mut size_bytes = 0;
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ModelError::io("read", from)(error)),
            };
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])
                .map_err(ModelError::io("write", target))?;
            size_bytes += count as u64;
            self.done_bytes += count as u64;
            (self.progress)(ImportProgress {
                done_bytes: self.done_bytes,
                total_bytes: self.total_bytes,
            });
        }
        Ok((size_bytes, hex(&hasher.finalize())))
    }

    /// The name is taken: no error if by the same contents, and those are the result. `None` if they are to be replaced
    /// nevertheless: a link holds no bytes, so nothing can be moved into what consists of links.
    fn settle_with(
        &self,
        (manifest, model): (Manifest, StoredModel),
        files: &[ManifestFile],
    ) -> Result<Option<StoredModel>, ModelError> {
        if manifest.files != files {
            return Err(ModelError::NameTaken {
                name: self.name.to_string(),
            });
        }
        let links = model.files.iter().any(|file| file.is_symlink());
        let replace = self.mode == ImportMode::Move && links;
        Ok((!replace).then_some(model))
    }

    /// The end of a move.
    fn delete_originals(&self, sources: &[PathBuf]) -> Result<(), ModelError> {
        if self.mode == ImportMode::Move {
            for source in sources {
                fs::remove_file(source).map_err(ModelError::io("delete", source))?;
            }
        }
        Ok(())
    }
}

/// A folder for an import under way. Deleted when dropped, unless it has been renamed.
struct Incoming {
    folder: PathBuf,
    _lock: Lock,
}

impl Incoming {
    fn new(models: &Path) -> Result<Self, ModelError> {
        // Held so that no sweep comes between making the folder and locking it.
        let _lock = Lock::wait(&models.join(".lock"))?;
        let folder = models.join(unique(INCOMING));
        fs::create_dir(&folder).map_err(ModelError::io("create", &folder))?;
        let lock = Lock::take_folder(&folder)?
            .ok_or_else(|| ModelError::io("lock", &folder)(io::ErrorKind::WouldBlock.into()))?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After the renaming there is nothing here; if this fails, a sweep will do it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn unique(prefix: &str) -> String {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    format!("{prefix}{}-{nanos}", std::process::id())
}

/// Deletes what dead imports and removals have left.
pub(super) fn sweep(models: &Path) -> Result<(), ModelError> {
    if !models.is_dir() {
        return Ok(());
    }
    let _lock = Lock::wait(&models.join(".lock"))?;
    for entry in entries(models)? {
        let name = entry.file_name();
        let left_over = name
            .to_str()
            .is_some_and(|name| name.starts_with(INCOMING) || name.starts_with(TRASH));
        if left_over && let Ok(Some(_lock)) = Lock::take_folder(&entry.path()) {
            fs::remove_dir_all(entry.path()).map_err(ModelError::io("delete", &entry.path()))?;
        }
    }
    Ok(())
}

/// Deletes an import, damaged or not; gives the bytes freed.
pub(super) fn remove(models: &Path, name: &ShortName) -> Result<u64, ModelError> {
    let folder = models.join(folder_of(name));
    let trash = models.join(unique(TRASH));
    let _lock = Lock::wait(&models.join(".lock"))?;
    fs::rename(&folder, &trash).map_err(ModelError::io("delete", &folder))?;
    sync_folder(models)?;
    let freed = bytes_of(&trash)?;
    fs::remove_dir_all(&trash).map_err(ModelError::io("delete", &trash))?;
    Ok(freed)
}

/// Bytes that [`remove`] would free.
pub(super) fn removable_bytes(models: &Path, name: &ShortName) -> Result<u64, ModelError> {
    bytes_of(&models.join(folder_of(name)))
}

/// Bytes of an import that nothing else holds.
fn bytes_of(folder: &Path) -> Result<u64, ModelError> {
    let mut bytes = 0;
    for entry in entries(folder)? {
        if let Ok(metadata) = fs::symlink_metadata(entry.path())
            && metadata.is_file()
            && metadata.nlink() == 1
            && entry.file_name() != MANIFEST
        {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

/// A second file with the same bytes, shared until one of them changes. False if the file system cannot, or if the two are on
/// different ones.
fn clone_file(from: &Path, to: &Path) -> bool {
    let (Ok(source), Ok(target)) = (File::open(from), File::create(to)) else {
        return false;
    };
    let cloned = rustix::fs::ioctl_ficlone(&target, &source).is_ok();
    if !cloned {
        let _ = fs::remove_file(to);
    }
    cloned
}

fn sync_file(path: &Path) -> Result<(), ModelError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(ModelError::io("write", path))
}

fn total_size(files: &[PathBuf]) -> Result<u64, ModelError> {
    files.iter().try_fold(0, |sum, file| {
        let metadata = fs::metadata(file).map_err(ModelError::io("read", file))?;
        Ok(sum + metadata.len())
    })
}

/// `SmolLM2-135M-Instruct.Q4_1.gguf` becomes `smollm2-135m-instruct:q4_1`.
fn default_name(path: &Path) -> Result<ShortName, ModelError> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = strip_gguf(&file).unwrap_or(&file);
    let stem = split_part(stem).map_or(stem, |(stem, _, _)| stem);
    let quant = quant_label(stem);
    let family = match &quant {
        Some(quant) => {
            let at = stem.to_ascii_uppercase().rfind(quant.as_str()).unwrap_or(0);
            &stem[..at]
        }
        None => stem,
    };
    let mut clean: String = family
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect();
    while clean.contains("..") {
        clean = clean.replace("..", ".");
    }
    let mut name = clean.trim_matches(['-', '.', '_']).to_owned();
    if name.is_empty() {
        "model".clone_into(&mut name);
    }
    match quant {
        Some(quant) => format!("{name}:{quant}").parse(),
        None => name.parse(),
    }
}

/// Refuses what is certainly no model before any of it is copied.
fn check_gguf(path: &Path) -> Result<(), ModelError> {
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(ModelError::io("read", path))?;
    let not_gguf = |reason: &str| ModelError::NotGguf {
        path: path.to_owned(),
        reason: reason.into(),
    };
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Ok(()) => Err(not_gguf("it does not begin with the letters GGUF")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(not_gguf("it is shorter than a header"))
        }
        Err(error) => Err(ModelError::io("read", path)(error)),
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
