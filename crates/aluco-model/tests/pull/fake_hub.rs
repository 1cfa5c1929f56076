//! A hub on this machine that can misbehave.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Bytes that a body yields at a time.
const CHUNK_BYTES: u64 = 16 * 1024;

/// What happens to file bodies once [`Hub::bytes_allowed`] have been served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtLimit {
    /// Nothing more comes, and the connection stays.
    Stall,
    /// The connection breaks, and from then on all is well.
    BreakOnce,
}

/// An answer in place of the regular one.
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

/// What the hub holds and how it behaves.
pub(crate) struct Hub {
    pub(crate) repo: String,
    pub(crate) commit: String,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Hashes to publish in place of the true ones.
    pub(crate) false_hashes: BTreeMap<String, String>,
    /// Publishes files as if they were in Git itself, not in the storage for large ones.
    pub(crate) in_git: bool,
    pub(crate) ranges: bool,
    /// How many bytes of files may be served, and what happens then. Whole files in place of a range count for nothing: whoever asked
    /// for the range lets go of them at once.
    pub(crate) bytes_allowed: Option<(u64, AtLimit)>,
    /// Answers to the next requests for descriptions and for files.
    pub(crate) api_refusals: VecDeque<Refusal>,
    pub(crate) file_refusals: VecDeque<Refusal>,
    /// Where files are, if not here.
    pub(crate) files_at: Option<String>,
    /// Answers every range with this many bytes too many.
    pub(crate) excess_bytes: usize,
    pub(crate) bytes_served: u64,
    pub(crate) seen: Vec<Seen>,
}

#[derive(Clone)]
pub(crate) struct FakeHub {
    hub: Arc<Mutex<Hub>>,
    address: SocketAddr,
}

impl FakeHub {
    /// Serves a repository until the runtime ends.
    pub(crate) async fn serve(repo: &str, files: &[(&str, Vec<u8>)]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hub = Arc::new(Mutex::new(Hub {
            repo: repo.to_owned(),
            commit: "1".repeat(40),
            files: files
                .iter()
                .map(|(path, bytes)| ((*path).to_owned(), bytes.clone()))
                .collect(),
            false_hashes: BTreeMap::new(),
            in_git: false,
            ranges: true,
            bytes_allowed: None,
            api_refusals: VecDeque::new(),
            file_refusals: VecDeque::new(),
            files_at: None,
            excess_bytes: 0,
            bytes_served: 0,
            seen: Vec::new(),
        }));
        let router = Router::new().fallback(answer).with_state(hub.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { hub, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap()
    }

    /// Bytes of files that have been served since the last call.
    pub(crate) fn take_bytes_served(&self) -> u64 {
        std::mem::take(&mut self.state().bytes_served)
    }

    /// Requests since the last call.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }
}

async fn answer(State(hub): State<Arc<Mutex<Hub>>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let mut state = hub.lock().unwrap();
    state.seen.push(Seen {
        path: path.clone(),
        authorization: text(request.headers(), header::AUTHORIZATION),
    });
    let api = path.starts_with("/api/");
    let refusal = if api {
        state.api_refusals.pop_front()
    } else {
        state.file_refusals.pop_front()
    };
    if let Some(refusal) = refusal {
        let status = StatusCode::from_u16(refusal.status).unwrap();
        let mut response = status.into_response();
        for (name, value) in refusal.headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        return response;
    }
    if api {
        return describe(&state, &path);
    }
    let name = path
        .strip_prefix(&format!("/{}/resolve/{}/", state.repo, state.commit))
        .or_else(|| path.strip_prefix("/storage/"));
    let Some(contents) = name.and_then(|name| state.files.get(name)) else {
        let headers = [("x-error-code", "EntryNotFound")];
        return (StatusCode::NOT_FOUND, headers).into_response();
    };
    if let Some(base) = &state.files_at {
        let target = format!("{base}/storage/{}?Signature=secret-key", name.unwrap());
        return (StatusCode::FOUND, [(header::LOCATION, target)]).into_response();
    }
    let total = contents.len();
    let asked = text(request.headers(), header::RANGE);
    let is_unasked = asked.is_some() && !state.ranges;
    let range = asked.filter(|_| state.ranges).map(|range| {
        let (start, end) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        (start.parse().unwrap(), end.parse::<usize>().unwrap())
    });
    let (start, end) = range.unwrap_or((0, total - 1));
    let mut contents = contents[start..=end].to_vec();
    let excess = state.excess_bytes;
    drop(state);
    contents.resize(contents.len() + excess, 0);
    let length = contents.len();
    let mut response = Response::new(if is_unasked {
        contents.into()
    } else {
        body(hub, contents.into())
    });
    if excess == 0 {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!("bytes {start}-{end}/{total}");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_RANGE, value.parse().unwrap());
    }
    response
}

/// As `GET /api/models/OWNER/REPO/revision/main?blobs=true` answers.
fn describe(state: &Hub, path: &str) -> Response {
    let known = format!("/api/models/{}/revision/main", state.repo);
    if !path.eq_ignore_ascii_case(&known) {
        let headers = [("x-error-code", "RepoNotFound")];
        return (StatusCode::NOT_FOUND, headers).into_response();
    }
    let siblings: Vec<_> = state
        .files
        .iter()
        .map(|(name, contents)| {
            let hash = state.false_hashes.get(name).cloned();
            if state.in_git {
                return serde_json::json!({
                    "rfilename": name,
                    "size": contents.len(),
                    "blobId": hash.unwrap_or_else(|| git_hash(contents)),
                });
            }
            let hash = hash.unwrap_or_else(|| sha256(contents));
            serde_json::json!({
                "rfilename": name,
                "size": contents.len(),
                "blobId": "b".repeat(40),
                "lfs": {"sha256": hash, "size": contents.len(), "pointerSize": 134},
            })
        })
        .collect();
    axum::Json(serde_json::json!({
        "id": state.repo,
        "sha": state.commit,
        "private": false,
        "gated": false,
        "siblings": siblings,
    }))
    .into_response()
}

fn body(hub: Arc<Mutex<Hub>>, contents: Bytes) -> Body {
    let stream = futures_util::stream::unfold(contents, move |mut rest| {
        let hub = hub.clone();
        async move {
            if rest.is_empty() {
                return None;
            }
            let count = CHUNK_BYTES.min(rest.len() as u64);
            let limit = {
                let mut state = hub.lock().unwrap();
                let limit = match state.bytes_allowed {
                    Some((allowed, at_limit)) if state.bytes_served + count > allowed => {
                        Some(at_limit)
                    }
                    _ => None,
                };
                match limit {
                    None => state.bytes_served += count,
                    Some(AtLimit::BreakOnce) => state.bytes_allowed = None,
                    Some(AtLimit::Stall) => {}
                }
                limit
            };
            match limit {
                None => {}
                Some(AtLimit::Stall) => std::future::pending::<()>().await,
                Some(AtLimit::BreakOnce) => {
                    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                    return Some((Err(broken), Bytes::new()));
                }
            }
            Some((Ok(rest.split_to(count as usize)), rest))
        }
    });
    Body::from_stream(stream)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

/// In lower-case hexadecimal digits.
pub(crate) fn sha256(contents: &[u8]) -> String {
    hex(&Sha256::digest(contents))
}

/// As `git hash-object` prints it.
pub(crate) fn git_hash(contents: &[u8]) -> String {
    let header = format!("blob {}\0", contents.len());
    hex(&Sha1::new_with_prefix(header)
        .chain_update(contents)
        .finalize())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}
