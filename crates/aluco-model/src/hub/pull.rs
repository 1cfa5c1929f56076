//! One download from the name to the model: what to fetch, whether it fits, in which order, under which lock.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Hub, PullProgress, PullStage, blocking,
    cache::RepoFolder,
    download::{self, Download},
    find,
    listing::{RemoteFile, Revision},
    partial::Partial,
};
use crate::{
    HubRef, ModelError, RepoId, Store, StoredModel,
    name::variant::{self, variants},
    store::{hub_cache, lock::Lock},
};

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(200);

/// A download under way.
pub(super) struct Pull<'a> {
    pub(super) hub: &'a Hub,
    pub(super) store: &'a Store,
    pub(super) progress: &'a (dyn Fn(PullProgress) + Send + Sync),
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
    pub(super) async fn run(&self, wanted: &HubRef) -> Result<StoredModel, ModelError> {
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
            folder.create()?;
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
        let (repo, folder) = blocking(move || RepoFolder::locate(&cache, &asked, named)).await?;
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

/// Tried again and again rather than waited for, so that dropping the future leaves no thread behind that waits.
async fn wait_for(path: PathBuf) -> Result<Lock, ModelError> {
    loop {
        if let Some(lock) = Lock::take(&path)? {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_INTERVAL).await;
    }
}
