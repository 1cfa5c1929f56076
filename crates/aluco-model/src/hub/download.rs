//! Fetching one file: its parts at the same time, each over a connection of its own, then the hash.

use std::{
    collections::VecDeque,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{Response, StatusCode, Url, header::CONTENT_RANGE};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{
    blocking,
    client::{Client, broken, unusable},
    listing::{ContentHash, RemoteFile},
    partial::Partial,
    retry::Failure,
};
use crate::{ModelError, RepoId, store::hex};

/// Bytes that are collected before they are written.
const WRITE_BYTES: usize = 1024 * 1024;
/// Bytes that are hashed between two reports.
const HASH_STEP_BYTES: u64 = 64 * 1024 * 1024;

/// One file on its way.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) repo: &'a RepoId,
    pub(super) url: Url,
    pub(super) partial: &'a Arc<Partial>,
    pub(super) connections: usize,
    /// Told the bytes of the file that are here.
    pub(super) progress: &'a (dyn Fn(u64) + Send + Sync),
}

/// Why a part could not be fetched.
enum Stop {
    Failure(Failure),
    /// The server sends the whole file whatever range is asked for.
    NoRanges,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ModelError> for Stop {
    fn from(error: ModelError) -> Self {
        Self::Failure(Failure::Final(error))
    }
}

impl Download<'_> {
    /// Fetches all that is missing.
    pub(super) async fn run(&self) -> Result<(), ModelError> {
        (self.progress)(self.partial.bytes_done());
        let queue = Mutex::new(VecDeque::from(self.partial.unfinished()));
        let workers = (0..self.connections).map(|_| self.work_through(&queue));
        match futures_util::future::try_join_all(workers).await {
            Ok(_) => Ok(()),
            Err(Stop::NoRanges) => self.fetch_whole().await,
            Err(Stop::Failure(Failure::Final(error))) => Err(error),
            Err(Stop::Failure(Failure::Transient { .. })) => {
                unreachable!("such failures end in an error or in success")
            }
        }
    }

    async fn work_through(&self, queue: &Mutex<VecDeque<usize>>) -> Result<(), Stop> {
        loop {
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match next {
                Some(part) => self.fetch_part(part).await?,
                None => return Ok(()),
            }
        }
    }

    async fn fetch_part(&self, part: usize) -> Result<(), Stop> {
        let mut backoff = self.client.backoff(self.what());
        loop {
            let missing = self.partial.missing(part);
            if missing.is_empty() {
                return Ok(());
            }
            let start = missing.start;
            if let Err(stop) = self.stream(part, missing).await {
                let Stop::Failure(failure) = stop else {
                    return Err(stop);
                };
                if self.partial.missing(part).start > start {
                    backoff.reset();
                }
                backoff.wait(failure).await?;
            }
        }
    }

    /// Fetches the file in one go, from the start at every try.
    async fn fetch_whole(&self) -> Result<(), ModelError> {
        let mut backoff = self.client.backoff(self.what());
        loop {
            let partial = self.partial.clone();
            blocking(move || partial.start_over_in_one_part()).await?;
            match self.stream(0, 0..self.partial.size_bytes()).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failure(failure)) => backoff.wait(failure).await?,
                Err(Stop::NoRanges) => unreachable!("no range was asked for"),
            }
        }
    }

    fn what(&self) -> String {
        format!("downloading {} of {}", self.partial.name(), self.repo)
    }

    /// Fetches a range into a part, at whose end of what is there it begins.
    async fn stream(&self, part: usize, range: Range<u64>) -> Result<(), Stop> {
        let size_bytes = self.partial.size_bytes();
        let generation = self.partial.generation();
        let whole = range == (0..size_bytes);
        let asked = (!whole).then(|| range.clone());
        let mut response = self.client.get(self.repo, &self.url, asked).await?;
        self.check_answer(&response, &range, size_bytes)?;
        let mut left = range.end - range.start;
        let mut buffer = Vec::new();
        loop {
            let chunk = response.chunk().await;
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(chunk)) = &chunk {
                let Some(rest) = left.checked_sub(chunk.len() as u64) else {
                    let reason = "it is longer than the file is said to be".into();
                    return Err(unusable(&self.url, reason).into());
                };
                left = rest;
                buffer.extend_from_slice(chunk);
            }
            if !buffer.is_empty() && (ended || left == 0 || buffer.len() >= WRITE_BYTES) {
                let (partial, bytes) = (self.partial.clone(), std::mem::take(&mut buffer));
                blocking(move || partial.append(generation, part, &bytes)).await?;
                (self.progress)(self.partial.bytes_done());
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) if left == 0 => return Ok(()),
                Ok(None) => {
                    return Err(Stop::Failure(Failure::Transient {
                        reason: "the connection ended early".into(),
                        wait: None,
                    }));
                }
                Err(error) => return Err(broken(error).into()),
            }
        }
    }

    fn check_answer(
        &self,
        response: &Response,
        range: &Range<u64>,
        size_bytes: u64,
    ) -> Result<(), Stop> {
        let whole = *range == (0..size_bytes);
        match response.status() {
            StatusCode::OK if whole => match response.content_length() {
                Some(length) if length != size_bytes => {
                    let reason = format!("it is {length} bytes long instead of {size_bytes}");
                    Err(unusable(&self.url, reason).into())
                }
                _ => Ok(()),
            },
            StatusCode::OK => Err(Stop::NoRanges),
            StatusCode::PARTIAL_CONTENT if !whole => {
                let expected = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
                match response.headers().get(CONTENT_RANGE) {
                    Some(value) if value.as_bytes() == expected.as_bytes() => Ok(()),
                    value => {
                        let reason = format!("it holds {value:?}, wanted is {expected}");
                        Err(unusable(&self.url, reason).into())
                    }
                }
            }
            status => Err(unusable(&self.url, format!("{status} was not asked for")).into()),
        }
    }
}

/// Compares the hash of a complete file with the published one.
pub(super) async fn verify(
    partial: &Arc<Partial>,
    file: &RemoteFile,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), ModelError> {
    let (expected, actual) = match &file.hash {
        ContentHash::Sha256(expected) => (
            expected,
            hash(Sha256::new(), partial, file, progress).await?,
        ),
        ContentHash::Git(expected) => {
            // Git hashes its own header along with the contents.
            let header = format!("blob {}\0", file.size_bytes);
            let hasher = Sha1::new_with_prefix(header);
            (expected, hash(hasher, partial, file, progress).await?)
        }
    };
    if actual != *expected {
        return Err(ModelError::HashMismatch {
            file: file.path.clone(),
            expected: expected.clone(),
            actual,
        });
    }
    Ok(())
}

/// Hashes a whole file after whatever the hasher has seen; gives lower-case hexadecimal digits.
async fn hash<D: Digest + Send + 'static>(
    mut hasher: D,
    partial: &Arc<Partial>,
    file: &RemoteFile,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<String, ModelError> {
    let mut at = 0;
    progress(0);
    while at < file.size_bytes {
        let step = at..(at + HASH_STEP_BYTES).min(file.size_bytes);
        at = step.end;
        let partial = partial.clone();
        hasher = blocking(move || hash_range(hasher, &partial, step)).await?;
        progress(at);
    }
    Ok(hex(&hasher.finalize()))
}

fn hash_range<D: Digest>(
    mut hasher: D,
    partial: &Partial,
    range: Range<u64>,
) -> Result<D, ModelError> {
    let mut buffer = vec![0; WRITE_BYTES];
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(WRITE_BYTES as u64) as usize;
        partial
            .file()
            .read_exact_at(&mut buffer[..count], at)
            .map_err(ModelError::io("read", partial.path()))?;
        hasher.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(hasher)
}
