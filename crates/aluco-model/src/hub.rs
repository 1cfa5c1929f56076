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
mod pull;
mod retry;

use std::{fmt, sync::Arc, time::Duration};

use crate::{ModelError, ModelRef, Store, StoredModel, catalogue};
use client::Client;
use pull::Pull;

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

async fn find(store: &Store, name: &str) -> Result<StoredModel, ModelError> {
    let (store, name) = (store.clone(), name.to_owned());
    blocking(move || store.find(&name)).await
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
