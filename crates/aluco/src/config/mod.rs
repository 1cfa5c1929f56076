//! What the user wants: defaults < system file < user file < environment < flags, each value with its origin.

mod environment;
mod keys;
mod layers;
mod ollama;
mod raw;
mod spelling;
mod units;

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use aluco_fleet::{KeepAlive, ModelConfig};
use aluco_proto::{Backend, LoadOptions};
use aluco_server::{Isolation, ResumableStreams};

pub(crate) use environment::Environment;
pub(crate) use keys::{KEYS, KV_TYPES, Key, Part};
pub(crate) use layers::{Files, Given, load};
pub(crate) use raw::Raw;
pub(crate) use units::{parse_size, show_size};

/// Where `aluco serve` listens unless told otherwise.
pub(crate) const PORT: u16 = 13313;

/// Every value that can be configured, in the form in which it is used.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) url: Option<String>,
    pub(crate) api_keys: Vec<String>,
    pub(crate) models_folder: PathBuf,
    pub(crate) hub_cache: PathBuf,
    pub(crate) hub_endpoint: String,
    pub(crate) hub_token: Option<String>,
    /// Without the folder of the disk tier; see [`Settings::load_options`].
    pub(crate) load: LoadOptions,
    pub(crate) cache_folder: PathBuf,
    /// Where `aluco machine bench` keeps its reports.
    pub(crate) measurements_folder: PathBuf,
    pub(crate) cache_isolation: Isolation,
    pub(crate) prompt_rules: Option<PathBuf>,
    pub(crate) backend: Option<Backend>,
    pub(crate) worker: Option<PathBuf>,
    pub(crate) models_max: usize,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) memory_reserve: Option<u64>,
    pub(crate) queue_max: usize,
    pub(crate) keep_alive: KeepAlive,
    /// By any of their names. What is pinned is in `pinned`.
    pub(crate) models: BTreeMap<String, ModelConfig>,
    pub(crate) pinned: Vec<String>,
    pub(crate) preload: Vec<String>,
    pub(crate) resume_streams: ResumableStreams,
    pub(crate) resume_grace: Duration,
    pub(crate) body_bytes_max: u64,
    pub(crate) shutdown_limit: Duration,
    pub(crate) log_level: String,
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Settings {
    /// The defaults of a user with this home folder and no XDG variables.
    pub(crate) fn for_home(home: &Path) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: PORT,
            url: None,
            api_keys: Vec::new(),
            models_folder: home.join(".local/share/aluco/models"),
            hub_cache: home.join(".cache/huggingface/hub"),
            hub_endpoint: "https://huggingface.co".to_owned(),
            hub_token: None,
            load: LoadOptions::default(),
            cache_folder: home.join(".cache/aluco/prefix"),
            measurements_folder: home.join(".local/share/aluco/measurements"),
            cache_isolation: Isolation::default(),
            prompt_rules: None,
            backend: None,
            worker: None,
            models_max: 3,
            memory_limit: None,
            memory_reserve: None,
            queue_max: 512,
            keep_alive: KeepAlive::default(),
            models: BTreeMap::new(),
            pinned: Vec::new(),
            preload: Vec::new(),
            resume_streams: ResumableStreams::default(),
            resume_grace: Duration::from_secs(60),
            body_bytes_max: 64 << 20,
            shutdown_limit: Duration::from_secs(10),
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }

    /// How models are loaded. The disk tier has its folder unless it may hold nothing.
    pub(crate) fn load_options(&self) -> LoadOptions {
        let mut options = self.load.clone();
        options.cache.folder =
            (options.cache.disk_bytes != Some(0)).then(|| self.cache_folder.clone());
        options
    }

    /// What is different for some models, the pinned ones included.
    pub(crate) fn model_configs(&self) -> BTreeMap<String, ModelConfig> {
        let mut models = self.models.clone();
        for name in &self.pinned {
            models.entry(name.clone()).or_default().pin = true;
        }
        models
    }

    /// The host and port as one address, with brackets around IPv6.
    pub(crate) fn address(&self) -> String {
        authority(&self.host, self.port)
    }

    /// Where clients find the server. A server on all interfaces is reached over loopback.
    pub(crate) fn server_url(&self) -> String {
        self.url.clone().unwrap_or_else(|| {
            let host = match self.host.as_str() {
                "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                host => host,
            };
            format!("http://{}", authority(host, self.port))
        })
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A file, and the line if the file is a configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: Option<usize>,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "file {}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The settings, and where each came from.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// What holds.
    pub(crate) settings: Settings,
    /// One per key, in the order of [`KEYS`].
    origins: Vec<Origin>,
}

impl Config {
    /// Where the value of a key came from.
    pub(crate) fn origin(&self, name: &str) -> &Origin {
        let index = keys::index_of(name).expect("the key is in the table");
        &self.origins[index]
    }

    /// The variables and files that gave these keys their values; `None` if all have their defaults or come from flags, which whoever
    /// typed them knows.
    pub(crate) fn named_by(&self, names: &[&str]) -> Option<String> {
        let mut sources: Vec<String> = names
            .iter()
            .map(|name| self.origin(name))
            .filter(|origin| matches!(origin, Origin::File { .. } | Origin::Environment(_)))
            .map(ToString::to_string)
            .collect();
        sources.dedup();
        (!sources.is_empty()).then(|| sources.join(" and "))
    }

    /// The keys, in the order of the table, each with its origin.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static Key, &Origin)> {
        KEYS.iter().zip(&self.origins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_tier_has_no_folder_if_it_may_hold_nothing() {
        let mut settings = Settings::for_home("/home/owl".as_ref());
        let folder = |settings: &Settings| settings.load_options().cache.folder;
        let default = Path::new("/home/owl/.cache/aluco/prefix");
        assert_eq!(folder(&settings).as_deref(), Some(default));
        settings.load.cache.disk_bytes = Some(1);
        assert_eq!(folder(&settings).as_deref(), Some(default));
        settings.load.cache.disk_bytes = Some(0);
        assert_eq!(folder(&settings), None);
    }

    #[test]
    fn clients_reach_a_server_on_all_interfaces_over_loopback() {
        let mut settings = Settings::for_home("/home/owl".as_ref());
        assert_eq!(settings.server_url(), "http://127.0.0.1:13313");
        "0.0.0.0".clone_into(&mut settings.host);
        assert_eq!(settings.server_url(), "http://127.0.0.1:13313");
        "::".clone_into(&mut settings.host);
        assert_eq!(settings.server_url(), "http://[::1]:13313");
        assert_eq!(settings.address(), "[::]:13313");
        settings.url = Some("https://box.lan".to_owned());
        assert_eq!(settings.server_url(), "https://box.lan");
    }
}
