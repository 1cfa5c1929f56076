//! Requests to the hub: token, redirects, and what answers mean.

use std::{error::Error, fmt::Write, net::IpAddr, ops::Range, time::Duration};

use reqwest::{
    Response, StatusCode, Url,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    },
};

use super::{
    HubConfig,
    listing::{self, Revision},
    retry::{Backoff, Failure},
};
use crate::{ModelError, RepoId};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may be silent before it counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 8;
/// The hub counts requests in windows of five minutes; it asks for no longer pause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(330);
/// The largest repositories have some ten thousand files at 300 bytes each.
const LISTING_BYTES_MAX: usize = 32 * 1024 * 1024;
const MESSAGE_CHARS_MAX: usize = 300;

pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// `None` also if there is a token that must not be sent.
    authorization: Option<HeaderValue>,
    token: Option<String>,
    retries: u32,
    retry_wait: Duration,
}

impl Client {
    pub(super) fn new(config: HubConfig) -> Result<Self, ModelError> {
        let endpoint = parse_endpoint(&config.endpoint)?;
        let token = config
            .token
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let local = is_loopback(&endpoint);
        let authorization = match &token {
            Some(token) if local || endpoint.scheme() == "https" => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
                    ModelError::BadToken {
                        detail: "it has characters in it that no token has".into(),
                    }
                })?;
                value.set_sensitive(true);
                Some(value)
            }
            _ => None,
        };
        let mut http = reqwest::Client::builder()
            .user_agent(config.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // Followed here, where it is decided which host sees the token.
            .redirect(reqwest::redirect::Policy::none())
            // HTTP/2 would put all ranges on one connection and lose what parallel ones are for.
            .http1_only()
            .default_headers(HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            )]));
        if local {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| ModelError::HttpSetup {
            reason: reason_of(&error),
        })?;
        Ok(Self {
            http,
            endpoint,
            authorization,
            token,
            retries: config.retries,
            retry_wait: config.retry_wait,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    /// The address of a file at a commit.
    pub(super) fn file_url(&self, repo: &RepoId, commit: &str, path: &str) -> Url {
        let parts = repo.as_str().split('/').chain(["resolve", commit]);
        self.url(parts.chain(path.split('/')))
    }

    fn url<'a>(&self, parts: impl Iterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("an endpoint is http or https")
            .pop_if_empty()
            .extend(parts);
        url
    }

    /// What `main` of a repository is at the moment.
    pub(super) async fn revision(
        &self,
        repo: &RepoId,
        retries_max: u32,
    ) -> Result<Revision, ModelError> {
        let parts = ["api", "models"]
            .into_iter()
            .chain(repo.as_str().split('/'));
        let mut url = self.url(parts.chain(["revision", "main"]));
        url.set_query(Some("blobs=true"));
        let mut backoff = self.backoff(format!("asking {} for {repo}", self.endpoint()));
        backoff.limit(retries_max);
        loop {
            match self.listing(repo, &url).await {
                Ok(answer) => return listing::parse(&answer, repo, &shown(&url)),
                Err(failure) => backoff.wait(failure).await?,
            }
        }
    }

    async fn listing(&self, repo: &RepoId, url: &Url) -> Result<Vec<u8>, Failure> {
        let mut response = self.get(repo, url, None).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            body.extend_from_slice(&chunk);
            if body.len() > LISTING_BYTES_MAX {
                return Err(unusable(url, "it is too long".into()));
            }
        }
        Ok(body)
    }

    /// Asks for something of a repository, follows redirects, and gives only answers that are a success.
    pub(super) async fn get(
        &self,
        repo: &RepoId,
        url: &Url,
        range: Option<Range<u64>>,
    ) -> Result<Response, Failure> {
        let mut at = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.http.get(at.clone());
            if let Some(authorization) = &self.authorization
                && at.origin() == self.endpoint.origin()
            {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            if let Some(range) = &range {
                request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
            }
            let response = request.send().await.map_err(broken)?;
            if !response.status().is_redirection() {
                return self.judge(repo, &at, response);
            }
            at = next_stop(&at, response.headers().get(LOCATION))?;
        }
        Err(unusable(url, "it redirects too often".into()))
    }

    fn judge(&self, repo: &RepoId, at: &Url, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = self.message(&response);
        if status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            )
        {
            return Err(Failure::Transient {
                reason: with_detail(format!("the server answers {status}"), &message),
                wait: retry_after(&response),
            });
        }
        // What a storage host refuses says nothing of the repository or the token, which it has never seen.
        if at.origin() != self.endpoint.origin() {
            return Err(unusable(at, with_detail(status.to_string(), &message)));
        }
        let code = header(&response, "x-error-code");
        let url = || format!("{}/{repo}", self.endpoint());
        Err(Failure::Final(match (status, code) {
            (_, "GatedRepo") | (StatusCode::FORBIDDEN, _) => ModelError::Gated {
                repo: repo.to_string(),
                url: url(),
                detail: message,
            },
            (_, "EntryNotFound" | "RevisionNotFound") => {
                return Err(unusable(at, with_detail(status.to_string(), &message)));
            }
            // To strangers the hub does not tell a private repository from none at all.
            (StatusCode::UNAUTHORIZED, code)
                if self.authorization.is_some() && code != "RepoNotFound" =>
            {
                ModelError::BadToken { detail: message }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, _) => ModelError::RepoNotFound {
                repo: repo.to_string(),
                endpoint: self.endpoint().to_owned(),
            },
            _ => return Err(unusable(at, with_detail(status.to_string(), &message))),
        }))
    }

    /// What the server says of an error, fit to be shown.
    fn message(&self, response: &Response) -> String {
        let text = header(response, "x-error-message");
        let text: String = text
            .chars()
            .filter(|c| !c.is_control())
            .take(MESSAGE_CHARS_MAX)
            .collect();
        match &self.token {
            Some(token) => text.replace(token.as_str(), "(token)"),
            None => text,
        }
    }

    /// Counts the tries of something, which is named for the error message.
    pub(super) fn backoff(&self, what: String) -> Backoff {
        Backoff::new(what, self.retries, self.retry_wait)
    }
}

fn parse_endpoint(text: &str) -> Result<Url, ModelError> {
    let bad = |shown: &str, reason| ModelError::BadEndpoint {
        endpoint: shown.to_owned(),
        reason,
    };
    let url = Url::parse(text).map_err(|_| bad(text, "it is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad(text, "it does not begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not shown: there is a password in it.
        let host = url.host_str().unwrap_or_default();
        return Err(bad(host, "there is a user name or password in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad(text, "there is a ? or # in it"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn next_stop(at: &Url, location: Option<&HeaderValue>) -> Result<Url, Failure> {
    let next = location
        .and_then(|value| value.to_str().ok())
        .and_then(|location| at.join(location).ok())
        .filter(|next| matches!(next.scheme(), "http" | "https"))
        .ok_or_else(|| unusable(at, "it redirects to nowhere".into()))?;
    if at.scheme() == "https" && next.scheme() != "https" {
        return Err(unusable(at, "it redirects from HTTPS to plain HTTP".into()));
    }
    Ok(next)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let wait = Duration::from_secs(value.trim().parse().ok()?);
    Some(wait.min(RETRY_AFTER_MAX))
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// A connection that failed or broke.
pub(super) fn broken(error: reqwest::Error) -> Failure {
    Failure::Transient {
        reason: reason_of(&error.without_url()),
        wait: None,
    }
}

/// An answer that trying again will not change.
pub(super) fn unusable(url: &Url, reason: String) -> Failure {
    Failure::Final(ModelError::HubAnswer {
        url: shown(url),
        reason,
    })
}

/// Without the query, which on storage hosts is a key.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn with_detail(text: String, detail: &str) -> String {
    if detail.is_empty() {
        text
    } else {
        format!("{text} ({detail})")
    }
}

/// What an error says together with its causes: `reqwest` leaves out what went wrong.
fn reason_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<Client, ModelError> {
        Client::new(HubConfig {
            endpoint: endpoint.into(),
            token: Some("hf_secret".into()),
            ..HubConfig::default()
        })
    }

    #[test]
    fn the_token_goes_only_over_https_or_to_this_machine() {
        for (endpoint, sent) in [
            ("https://huggingface.co", true),
            ("http://127.0.0.1:80", true),
            ("http://[::1]:80", true),
            ("http://localhost", true),
            ("http://huggingface.co", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            let client = client(endpoint).unwrap();
            assert_eq!(client.authorization.is_some(), sent, "{endpoint}");
        }
    }

    #[test]
    fn endpoints_may_have_a_path_but_no_password() {
        let mirror = client("https://mirror.example/hf/").unwrap();
        let url = mirror.file_url(&"o/r".parse().unwrap(), "abc", "a b/ü#.gguf");
        assert_eq!(
            url.as_str(),
            "https://mirror.example/hf/o/r/resolve/abc/a%20b/%C3%BC%23.gguf"
        );
        for bad in [
            "huggingface.co",
            "ftp://x",
            "https://me:geheim@x",
            "https://x/?a=b",
        ] {
            let error = client(bad).err().unwrap().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn neither_errors_nor_debug_output_show_the_token() {
        let config = HubConfig {
            token: Some("hf_secret\n\u{1}".into()),
            ..HubConfig::default()
        };
        assert!(!format!("{config:?}").contains("hf_secret"));
        let error = super::super::Hub::new(config).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hf_secret"));
    }

    #[test]
    fn redirects_do_not_leave_https() {
        let at = Url::parse("https://hub.example/a/b").unwrap();
        let go = |location| next_stop(&at, Some(&HeaderValue::from_static(location)));
        let Ok(next) = go("/c?d=e") else {
            panic!("refused to stay on the host")
        };
        assert_eq!(next.as_str(), "https://hub.example/c?d=e");
        assert!(go("https://cdn.example/x").is_ok());
        assert!(go("http://cdn.example/x").is_err());
        assert!(go("file:///etc/passwd").is_err());
        assert!(next_stop(&at, None).is_err());
    }

    #[test]
    fn addresses_are_shown_without_their_keys() {
        let url = Url::parse("https://cdn.example/file?Signature=abc").unwrap();
        assert_eq!(shown(&url), "https://cdn.example/file");
    }
}
