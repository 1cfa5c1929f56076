//! Downloads from the Hugging Face hub into its standard cache.
//!
//! ```text
//! name ─► commit and files of main (listing) ─► lock ─► what is missing, does it fit ─►
//!      for each file: parts in parallel ranges (download, partial) ─► SHA-256 ─► blob ─► link (cache) ─► refs/main
//! ```
//!
//! The cache is laid out as `huggingface_hub` lays it out, so that neither downloads what the other has. A file counts as
//! there only under the name of its hash, and it gets that name only when its bytes have been checked.

mod cache;
mod client;
mod download;
mod listing;
mod partial;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    HubRef, ModelError, ModelRef, RepoId, Store, StoredModel, catalogue,
    name::variant::{self, variants},
    store::{hub_cache, lock::Lock},
};
use cache::RepoFolder;
use client::Client;
use download::Download;
use listing::{RemoteFile, Revision};
use partial::Partial;

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// How to reach a hub.
#[derive(Clone)]
pub struct HubConfig {
    /// Its address, such as `https://huggingface.co`.
    pub endpoint: String,
    /// Access token. Sent to the endpoint alone, and only if that is HTTPS or this machine.
    pub token: Option<String>,
    /// Ranges of one file that are fetched at the same time.
    pub connections: usize,
    /// How Aluco introduces itself.
    pub user_agent: String,
    /// How often a request is repeated in a row, without any progress, before the download fails.
    pub retries: u32,
    /// Pause before the first repetition; every further one is twice as long, up to half a minute.
    pub retry_wait: Duration,
    /// Bytes of a range. Larger files are fetched in several.
    pub part_bytes: u64,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            token: None,
            connections: 4,
            user_agent: concat!("aluco/", env!("CARGO_PKG_VERSION")).into(),
            retries: 6,
            retry_wait: Duration::from_secs(1),
            part_bytes: 64 * 1024 * 1024,
        }
    }
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("connections", &self.connections)
            .field("user_agent", &self.user_agent)
            .field("retries", &self.retries)
            .field("retry_wait", &self.retry_wait)
            .field("part_bytes", &self.part_bytes)
            .finish()
    }
}

/// A hub to download from. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    client: Arc<Client>,
    connections: usize,
    part_bytes: u64,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.client.endpoint())
            .finish_non_exhaustive()
    }
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub stage: PullStage,
    /// The file within the repository that it is being done to.
    pub file: Option<String>,
    /// Bytes of the model that are here; in [`PullStage::Verifying`], bytes of the file that have been checked.
    pub bytes_done: u64,
    /// Bytes of the model; in [`PullStage::Verifying`], of the file. 0 until it is known.
    pub bytes_total: u64,
    /// Bytes of the model that were here before.
    pub bytes_resumed: u64,
    /// Files that are here, checked.
    pub files_done: usize,
    /// Files of the model.
    pub files_total: usize,
}

/// What a download is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStage {
    /// Asks the hub what there is, or waits for another process that downloads from the same repository.
    Resolving,
    /// Fetches bytes.
    Downloading,
    /// Compares the hash of a file with the published one.
    Verifying,
    /// The model is here.
    Done,
}

impl Hub {
    /// A hub by its address. Does not connect yet.
    pub fn new(config: HubConfig) -> Result<Self, ModelError> {
        Ok(Self {
            connections: config.connections.max(1),
            part_bytes: config.part_bytes.max(1),
            client: Arc::new(Client::new(config)?),
        })
    }

    /// Downloads what a name means: a short name of the catalogue, or `OWNER/REPO[:TAG]`. What is here already is not
    /// downloaded again, and an interrupted download goes on where it stopped, also after a crash. If the hub cannot be
    /// reached and the model is here, that is no error.
    ///
    /// Dropping the future stops the download.
    pub async fn pull(
        &self,
        store: &Store,
        name: &str,
        progress: impl Fn(PullProgress) + Send + Sync,
    ) -> Result<StoredModel, ModelError> {
        let hub = match name.parse()? {
            // Nothing to download: there or not.
            ModelRef::Path(_) => return find(store, name).await,
            ModelRef::Hub(hub) => hub,
            ModelRef::Short(short) => match catalogue::lookup(&short) {
                Some(entry) => entry.hub_ref(),
                None => {
                    return find(store, name).await.map_err(|error| match error {
                        ModelError::NotFound { .. } => catalogue::not_in_catalogue(&short),
                        error => error,
                    });
                }
            },
        };
        Pull {
            hub: self,
            store,
            progress: &progress,
        }
        .run(&hub)
        .await
    }
}

struct Pull<'a> {
    hub: &'a Hub,
    store: &'a Store,
    progress: &'a (dyn Fn(PullProgress) + Send + Sync),
}

/// What is known of a model once the hub has answered.
struct Plan {
    repo: RepoId,
    commit: String,
    files: Vec<RemoteFile>,
    folder: RepoFolder,
    bytes_total: u64,
}

impl Pull<'_> {
    async fn run(&self, wanted: &HubRef) -> Result<StoredModel, ModelError> {
        self.tell(PullStage::Resolving, None, 0, 0, Counts::default());
        let here = find(self.store, &wanted.to_string()).await.ok();
        // Whoever has the model does not wait long for news of it.
        let retries_max = if here.is_some() { 0 } else { u32::MAX };
        let revision = match self.hub.client.revision(&wanted.repo, retries_max).await {
            Ok(revision) => revision,
            Err(error @ ModelError::Network { .. }) => return here.ok_or(error),
            Err(error) => return Err(error),
        };
        let plan = self.plan(wanted, revision).await?;
        let lock = Arc::new(wait_for(plan.folder.lock_path()).await?);

        let (folder, commit, files) =
            (plan.folder.clone(), plan.commit.clone(), plan.files.clone());
        let here = blocking(move || {
            files
                .iter()
                .map(|file| folder.bytes_here(&commit, file))
                .collect::<Result<Vec<u64>, ModelError>>()
        })
        .await?;
        let bytes_resumed = here.iter().sum();
        self.check_space(&plan, plan.bytes_total - bytes_resumed)?;

        let mut counts = Counts {
            bytes_total: plan.bytes_total,
            bytes_resumed,
            files_done: 0,
            files_total: plan.files.len(),
        };
        let mut bytes_before = 0;
        let mut later: u64 = bytes_resumed;
        for (file, file_here) in plan.files.iter().zip(here) {
            later -= file_here;
            self.fetch(&plan, file, bytes_before + later, counts, &lock)
                .await?;
            bytes_before += file.size_bytes;
            counts.files_done += 1;
        }

        let cache = self.store.config().hub_cache.clone();
        let model = blocking(move || {
            plan.folder.set_main(&plan.commit)?;
            let paths: Vec<String> = plan.files.into_iter().map(|file| file.path).collect();
            hub_cache::find_files(&cache, &plan.repo, &plan.commit, &paths)
        })
        .await?;
        self.tell(
            PullStage::Done,
            None,
            counts.bytes_total,
            counts.bytes_total,
            counts,
        );
        Ok(model)
    }

    /// Picks the files, and the folder that they go to.
    async fn plan(&self, wanted: &HubRef, revision: Revision) -> Result<Plan, ModelError> {
        let found = variants(revision.files.iter().map(|file| file.path.as_str()));
        let tag = wanted.tag.as_ref().map(crate::Tag::as_str);
        let Some(chosen) = variant::choose(&found, tag) else {
            let repo = revision.repo.to_string();
            let whole = found.iter().filter(|v| v.is_complete());
            let available: Vec<String> = whole.map(|v| v.tag.clone()).collect();
            return Err(match tag {
                Some(tag) if !available.is_empty() => ModelError::NoSuchTag {
                    repo,
                    tag: tag.to_owned(),
                    available,
                },
                _ => ModelError::NoGgufInRepo { repo },
            });
        };
        let files: Vec<RemoteFile> = chosen
            .files
            .iter()
            .filter_map(|path| revision.files.iter().find(|file| file.path == *path))
            .cloned()
            .collect();
        let bytes_total = files
            .iter()
            .fold(0, |sum: u64, file| sum.saturating_add(file.size_bytes));
        let cache = self.store.config().hub_cache.clone();
        let asked = wanted.repo.clone();
        let named = revision.repo;
        let (repo, folder) = blocking(move || RepoFolder::create(&cache, &asked, named)).await?;
        Ok(Plan {
            repo,
            commit: revision.commit,
            files,
            folder,
            bytes_total,
        })
    }

    fn check_space(&self, plan: &Plan, needed_bytes: u64) -> Result<(), ModelError> {
        let path = plan.folder.blobs();
        let free_bytes = self.store.free_bytes(&path)?;
        if free_bytes < needed_bytes {
            return Err(ModelError::NoSpace {
                path,
                needed_bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    /// Gets one file, unless it is here, and links it into the snapshot. `others_done`: bytes of the other files that are here.
    async fn fetch(
        &self,
        plan: &Plan,
        file: &RemoteFile,
        others_done: u64,
        counts: Counts,
        lock: &Arc<Lock>,
    ) -> Result<(), ModelError> {
        let (folder, commit) = (plan.folder.clone(), plan.commit.clone());
        if !folder.is_here(&commit, file)? {
            // The same lock that huggingface_hub takes for the same blob.
            let blob_lock = wait_for(folder.blob_lock_path(file)).await?;
            if !folder.is_here(&commit, file)? {
                let guards = (lock.clone(), blob_lock);
                let (blob, wanted, part_bytes) =
                    (folder.blob(file), file.clone(), self.hub.part_bytes);
                let partial =
                    blocking(move || Partial::open(&blob, &wanted, part_bytes, guards)).await?;
                self.fill(plan, file, others_done, counts, Arc::new(partial))
                    .await?;
            }
        }
        let file = file.clone();
        blocking(move || folder.link(&commit, &file)).await
    }

    async fn fill(
        &self,
        plan: &Plan,
        file: &RemoteFile,
        others_done: u64,
        counts: Counts,
        partial: Arc<Partial>,
    ) -> Result<(), ModelError> {
        let tell = |stage, done, total| self.tell(stage, Some(file), done, total, counts);
        let downloaded = |bytes: u64| {
            tell(
                PullStage::Downloading,
                others_done + bytes,
                counts.bytes_total,
            );
        };
        let result = Download {
            client: &self.hub.client,
            repo: &plan.repo,
            url: self
                .hub
                .client
                .file_url(&plan.repo, &plan.commit, &file.path),
            partial: &partial,
            connections: self.hub.connections,
            progress: &downloaded,
        }
        .run()
        .await;
        if let Err(error) = result {
            return Err(self.explain_full_disk(error, &partial));
        }
        let verified = |bytes| tell(PullStage::Verifying, bytes, file.size_bytes);
        match download::verify(&partial, file, &verified).await {
            Ok(()) => blocking(move || partial.finish()).await,
            Err(error @ ModelError::HashMismatch { .. }) => {
                blocking(move || partial.discard()).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Others write to the disk too, so it can fill up although there was room at the start.
    fn explain_full_disk(&self, error: ModelError, partial: &Partial) -> ModelError {
        match error {
            ModelError::Io { source, path, .. }
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                ) =>
            {
                let path = path.parent().map_or(path.clone(), Path::to_owned);
                ModelError::NoSpace {
                    needed_bytes: partial.bytes_missing(),
                    free_bytes: self.store.free_bytes(&path).unwrap_or(0),
                    path,
                }
            }
            error => error,
        }
    }

    fn tell(
        &self,
        stage: PullStage,
        file: Option<&RemoteFile>,
        bytes_done: u64,
        bytes_total: u64,
        counts: Counts,
    ) {
        (self.progress)(PullProgress {
            stage,
            file: file.map(|file| file.path.clone()),
            bytes_done,
            bytes_total,
            bytes_resumed: counts.bytes_resumed,
            files_done: counts.files_done,
            files_total: counts.files_total,
        });
    }
}

/// The part of the progress that changes from file to file.
#[derive(Clone, Copy, Default)]
struct Counts {
    bytes_total: u64,
    bytes_resumed: u64,
    files_done: usize,
    files_total: usize,
}

async fn find(store: &Store, name: &str) -> Result<StoredModel, ModelError> {
    let (store, name) = (store.clone(), name.to_owned());
    blocking(move || store.find(&name)).await
}

/// Tried again and again rather than waited for, so that dropping the future leaves no thread behind that waits.
async fn wait_for(path: PathBuf) -> Result<Lock, ModelError> {
    loop {
        if let Some(lock) = Lock::take(&path)? {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}

/// Runs file work where it does not hold up the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ModelError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => unreachable!("nothing aborts these tasks"),
        },
    }
}
