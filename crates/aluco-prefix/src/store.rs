//! The store of one model: the tree, shared between threads, and the thread that writes to disk behind it.

mod disk_tier;

use std::{
    collections::HashMap,
    path::{Path as FsPath, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use aluco_proto::Token;

use self::disk_tier::Disk;
use crate::{
    Entry, Fingerprint, Key, Kind,
    disk::{self, DiskError, Folder},
    tree::{self, Common, Cut, Followed, Origin, Path, Payload, Place, Tree},
};

/// How long the disk is left alone after it failed.
const DISK_PAUSE: Duration = Duration::from_secs(60);

/// How often a prompt is looked up again when files turn out to be gone or damaged.
const FETCH_ATTEMPTS: usize = 4;

/// What a store is made for.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Everything that its states depend on.
    pub fingerprint: Fingerprint,
    /// The same for people: names and values. The first is the model; folders that differ only in others are told apart by it.
    pub facts: Vec<(String, String)>,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Where sequences can be gone on from.
    pub cut: Cut,
    /// Most bytes in memory. Nothing is stored on disk that was not in memory first.
    pub ram_bytes: u64,
    /// The disk tier.
    pub disk: Option<DiskOptions>,
}

/// Where and how much.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Folder of all models.
    pub root: PathBuf,
    /// Most bytes in it.
    pub bytes: u64,
}

/// Where a part of a prompt was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In memory.
    Ram,
    /// On disk.
    Disk,
}

/// A stored part with its payload.
#[derive(Debug, Clone)]
pub struct FoundPart {
    /// What it is.
    pub entry: Entry,
    /// Its payload.
    pub payload: Payload,
    /// Where it came from.
    pub tier: Tier,
}

/// The stored beginning of a prompt.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Its parts, from position 0 on.
    pub parts: Vec<FoundPart>,
    /// Tokens that they serve; the last part may go further.
    pub tokens: u32,
}

/// What was read from disk for a prompt. It holds the payloads until they are used, whatever is evicted meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    payloads: HashMap<Key, Payload>,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStatus {
    /// Bytes in memory.
    pub ram_bytes: u64,
    /// Most of them.
    pub ram_bytes_max: u64,
    /// Bytes on disk, of all models.
    pub disk_bytes: u64,
    /// Most of them.
    pub disk_bytes_max: u64,
    /// Bytes written to disk by this store.
    pub disk_written_bytes: u64,
}

/// A handle to the store of one model.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    jobs: Option<Sender<Job>>,
}

#[derive(Debug)]
struct Shared {
    fingerprint: Fingerprint,
    tree: Mutex<Tree>,
    disk: Option<Disk>,
    /// How the prompts of this model on disk were computed otherwise, if there are any.
    computed_otherwise: Option<String>,
}

#[derive(Debug)]
enum Job {
    Write(Vec<Key>),
    Touch(Vec<Key>),
    Clear(Key),
    /// Answers when everything before it is done.
    Mark(Sender<()>),
}

impl Store {
    /// Opens a store; what lies on disk under its fingerprint is known afterwards. If the disk tier cannot be opened the store works without it,
    /// and the error says why.
    pub fn open(options: StoreOptions) -> (Self, Option<DiskError>) {
        let mut tree = Tree::new(options.block_tokens, options.cut, options.ram_bytes);
        let mut computed_otherwise = None;
        let (disk, error) = match options.disk.filter(|disk| disk.bytes > 0) {
            None => (None, None),
            Some(disk) => match Folder::open(&disk.root, options.fingerprint, &options.facts) {
                Ok(folder) => {
                    computed_otherwise =
                        difference(&disk.root, &options.fingerprint, &options.facts);
                    let disk = Disk::new(folder, disk);
                    disk.index(&mut tree);
                    (Some(disk), None)
                }
                Err(error) => (None, Some(error)),
            },
        };
        let shared = Arc::new(Shared {
            fingerprint: options.fingerprint,
            tree: Mutex::new(tree),
            disk,
            computed_otherwise,
        });
        let jobs = shared.disk.is_some().then(|| {
            let (jobs, inbox) = channel();
            let shared = shared.clone();
            // Ends with the last handle.
            thread::Builder::new()
                .name("prefix store".to_owned())
                .spawn(move || write_behind(&shared, &inbox))
                .expect("the system lets a process have a few threads");
            jobs
        });
        (Self { shared, jobs }, error)
    }

    /// Tokens of a block.
    pub fn block_tokens(&self) -> usize {
        self.tree().block_tokens()
    }

    /// Notes a text beside what lies on disk, if there is a disk tier, for [`disk::read_note`] in a later life.
    pub fn write_note(&self, text: &str) -> Result<(), DiskError> {
        let disk = self.shared.disk.as_ref();
        disk.map_or(Ok(()), |disk| disk.folder.write_note(text))
    }

    /// How prompts of this model that lie on disk were computed otherwise, such as `kv_type_k: q8_0, now f16`.
    pub fn computed_otherwise(&self) -> Option<&str> {
        self.shared.computed_otherwise.as_deref()
    }

    /// Reads from disk what there is of the beginning of `tokens` and not in memory.
    pub fn fetch(&self, namespace: &str, tokens: &[Token]) -> Fetched {
        let mut fetched = Fetched::default();
        let Some(disk) = &self.shared.disk else {
            return fetched;
        };
        let root = self.root(namespace);
        for _ in 0..FETCH_ATTEMPTS {
            let path = self.tree().find(&root, tokens, |_| true);
            let mut is_complete = true;
            for part in &path.parts {
                let key = part.entry.key;
                if part.payload.is_some() || fetched.payloads.contains_key(&key) {
                    continue;
                }
                match disk.read(&part.entry) {
                    Ok(Some(payload)) => {
                        self.tree().load(&key, payload.clone());
                        fetched.payloads.insert(key, payload);
                        continue;
                    }
                    Ok(None) => self.tree().lost(&key),
                    Err(error) => {
                        tracing::warn!("a stored prompt is not used: {error}");
                        self.tree().damaged(&key);
                    }
                }
                is_complete = false;
                break;
            }
            if is_complete {
                break;
            }
        }
        fetched
    }

    /// The stored beginning of `tokens` that serves most of them and is in memory or was fetched. It counts as used.
    pub fn find(&self, namespace: &str, tokens: &[Token], fetched: &Fetched) -> Found {
        let root = self.root(namespace);
        let path = self
            .tree()
            .find(&root, tokens, |key| fetched.payloads.contains_key(key));
        let mut parts = Vec::with_capacity(path.parts.len());
        for part in path.parts {
            let from_disk = fetched.payloads.get(&part.entry.key);
            let tier = if from_disk.is_some() {
                Tier::Disk
            } else {
                Tier::Ram
            };
            let Some(payload) = part.payload.or_else(|| from_disk.cloned()) else {
                return Found::default();
            };
            parts.push(FoundPart {
                entry: part.entry,
                payload,
                tier,
            });
        }
        Found {
            parts,
            tokens: path.tokens,
        }
    }

    /// Notes that what was found is used, here or because the same lies on the device: it will be kept for longer, and go to disk.
    pub fn touch(&self, namespace: &str, tokens: &[Token]) {
        let root = self.root(namespace);
        let mut tree = self.tree();
        let path: Path = tree.find(&root, tokens, |_| true);
        tree.touch(&path);
        drop(tree);
        let keys: Vec<Key> = path.parts.iter().map(|part| part.entry.key).collect();
        if !keys.is_empty() {
            self.job(Job::Write(keys.clone()));
            self.job(Job::Touch(keys));
        }
    }

    /// How far `tokens` go along with anything known, stored or not.
    pub fn common(&self, namespace: &str, tokens: &[Token]) -> Common {
        self.tree().common(&self.root(namespace), tokens)
    }

    /// The longest stored beginning of which `step` says, token by token, that it agrees with what is looked for: given the place before
    /// a token, it tells how much is covered with it. For prompts whose text is known and whose tokens are not.
    pub fn follow(
        &self,
        namespace: &str,
        step: impl Fn(Place, Token) -> Option<usize>,
    ) -> Followed {
        tree::follow(|| self.tree(), &self.root(namespace), step)
    }

    /// How many leading blocks of `tokens` are stored.
    pub fn stored_blocks(&self, namespace: &str, tokens: &[Token]) -> usize {
        self.tree().stored(&self.root(namespace), tokens)
    }

    /// The entry that ends where `tokens` end, if it is not stored yet.
    pub fn missing(&self, namespace: &str, tokens: &[Token], kind: Kind) -> Option<Entry> {
        let tree = self.tree();
        let entry = tree.entry(&self.root(namespace), tokens, kind);
        (!tree.holds(&entry.key)).then_some(entry)
    }

    /// Adds an entry whose parent is stored. False if that cannot be, or if there is no room that others would not need more.
    pub fn insert(&self, entry: Entry, payload: Vec<u8>, origin: Origin) -> bool {
        let key = entry.key;
        let is_in = self.tree().insert(entry, Payload::new(payload), origin);
        if is_in && origin == Origin::Returning {
            self.write(&key);
        }
        is_in
    }

    /// Has an entry and all before it written to disk now, without waiting for that.
    pub fn write(&self, key: &Key) {
        if self.jobs.is_some() {
            let chain = self.tree().chain(key);
            self.job(Job::Write(chain));
        }
    }

    /// Drops what was found and turned out to be of no use, in memory and on disk. It is [`Self::missing`] from now on.
    pub fn reject(&self, key: &Key) {
        self.tree().unusable(key);
        self.job(Job::Clear(*key));
    }

    /// Has everything written to disk that is worth it: there is time for it now.
    pub fn write_all(&self) {
        if self.jobs.is_some() {
            let due = self.tree().due_for_disk(true);
            if !due.is_empty() {
                self.job(Job::Write(due));
            }
        }
    }

    /// As [`Self::write_all`], and waits for it, but not for longer than this. True if all is written.
    pub fn flush(&self, patience: Duration) -> bool {
        self.write_all();
        let (done, wait) = channel();
        self.job(Job::Mark(done));
        self.jobs.is_none() || wait.recv_timeout(patience).is_ok()
    }

    /// Allows other bytes in memory than before. What is beyond them is dropped, by value, and of what lies on disk too first; with `patience` so
    /// much of the rest is written there before as that time allows.
    pub fn resize(&self, ram_bytes: u64, patience: Duration) {
        if self.tree().ram_bytes() > ram_bytes && !patience.is_zero() {
            self.flush(patience);
        }
        self.tree().resize(ram_bytes);
        // One at a time, so that who needs a prompt meanwhile does not wait for all.
        while self.tree().shed() {}
    }

    /// What it holds.
    pub fn status(&self) -> StoreStatus {
        let disk = self.shared.disk.as_ref();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (ram_bytes, ram_bytes_max) = {
            let tree = self.tree();
            (tree.ram_bytes(), tree.ram_bytes_max())
        };
        StoreStatus {
            ram_bytes,
            ram_bytes_max,
            disk_bytes: disk.map_or(0, |disk| load(&disk.bytes)),
            disk_bytes_max: disk.map_or(0, |disk| disk.bytes_max),
            disk_written_bytes: disk.map_or(0, |disk| load(&disk.written_bytes)),
        }
    }

    fn root(&self, namespace: &str) -> Key {
        Key::root(&self.shared.fingerprint, namespace)
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.shared.tree()
    }

    fn job(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread lives as long as this sender.
            let _ = jobs.send(job);
        }
    }
}

impl Shared {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_behind(shared: &Shared, inbox: &Receiver<Job>) {
    let Some(disk) = &shared.disk else { return };
    let mut paused_until = None;
    for job in inbox {
        match job {
            Job::Mark(done) => {
                let _ = done.send(());
            }
            Job::Touch(keys) => {
                for key in keys {
                    disk.folder.touch(&key);
                }
            }
            Job::Clear(key) => disk.clear(&key, &shared.tree),
            Job::Write(keys) => {
                for key in keys {
                    if paused_until.is_some_and(|until| Instant::now() < until) {
                        break;
                    }
                    let Some((entry, payload)) = shared.tree().unwritten(&key) else {
                        continue;
                    };
                    match disk.write(&entry, &payload, &shared.tree) {
                        Ok(true) => {
                            shared.tree().written(&key);
                            disk.remove_superseded(&entry, shared);
                        }
                        Ok(false) => break,
                        Err(error) => {
                            tracing::warn!(
                                "prompts are not written to disk for {} s: {error}",
                                DISK_PAUSE.as_secs()
                            );
                            paused_until = Some(Instant::now() + DISK_PAUSE);
                            break;
                        }
                    }
                }
            }
        }
    }
}

/// How the prompts of this very model that lie on disk were computed otherwise, if all of them were.
fn difference(
    root: &FsPath,
    fingerprint: &Fingerprint,
    facts: &[(String, String)],
) -> Option<String> {
    let (model, value) = facts.first()?;
    let folders = disk::folders(root);
    let others = folders.iter().filter(|folder| {
        folder.fingerprint != *fingerprint
            && folder.entries > 0
            && folder
                .manifest
                .as_ref()
                .is_some_and(|manifest| manifest.fact(model) == Some(value))
    });
    let other = others.max_by_key(|folder| {
        let manifest = folder.manifest.as_ref();
        manifest.map(|manifest| manifest.created.clone())
    })?;
    let manifest = other.manifest.as_ref()?;
    let differences: Vec<String> = facts
        .iter()
        .filter_map(|(name, now)| {
            let was = manifest.fact(name)?;
            (was != now).then(|| format!("{name}: {was}, now {now}"))
        })
        .collect();
    (!differences.is_empty()).then(|| differences.join("; "))
}

#[cfg(test)]
mod tests;
