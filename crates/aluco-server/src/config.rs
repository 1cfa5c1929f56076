//! How the server works, and where it may listen.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{PromptRules, ResumeConfig};

/// How the server works. The default is open to every program of this machine and to nobody else.
#[derive(Clone)]
pub struct ServerConfig {
    /// Keys of which a request has to bring one (`Authorization: Bearer` or `X-API-Key`). Empty: none is asked for, and then requests
    /// are answered only if their `Host` names this machine itself, so that no web page can reach the server by a name of its own.
    pub api_keys: Vec<String>,
    /// Whose computed prompts a request may use.
    pub isolation: Isolation,
    /// Changes to the messages of conversations; none by default.
    pub prompt_rules: PromptRules,
    /// Streams that can be resumed.
    pub resume: ResumeConfig,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// How long a client may take to send a request's head, and again its body.
    pub read_timeout: Duration,
    /// How long a streamed request may take to be accepted before its status is sent without knowing. What goes wrong later comes as
    /// an event of the stream.
    pub accept_patience: Duration,
    /// A stream that has nothing to say for this long sends a comment, so that no proxy takes it for dead.
    pub heartbeat_interval: Duration,
    /// How long running requests may go on after the server was told to stop.
    pub shutdown_limit: Duration,
    /// Version that is reported.
    pub version: &'static str,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            isolation: Isolation::default(),
            prompt_rules: PromptRules::default(),
            resume: ResumeConfig::default(),
            body_bytes_max: 64 << 20,
            read_timeout: Duration::from_secs(60),
            accept_patience: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(5),
            shutdown_limit: Duration::from_secs(10),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("api_keys", &self.api_keys.len())
            .field("isolation", &self.isolation)
            .field("prompt_rules", &self.prompt_rules.len())
            .field("resume", &self.resume)
            .field("body_bytes_max", &self.body_bytes_max)
            .field("read_timeout", &self.read_timeout)
            .field("accept_patience", &self.accept_patience)
            .field("heartbeat_interval", &self.heartbeat_interval)
            .field("shutdown_limit", &self.shutdown_limit)
            .field("version", &self.version)
            .finish()
    }
}

/// Whose computed prompts a request may use. A prompt that another has asked before is answered faster, which shows that it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Everybody's.
    #[default]
    Shared,
    /// Those of requests with the same API key. Without keys there is nothing to tell clients apart by, and all share.
    Key,
}

/// Why the server must not listen there, or `None` if it may: whoever reaches the address can use the machine.
pub fn bind_refusal(address: &SocketAddr, api_keys: &[String]) -> Option<String> {
    if address.ip().to_canonical().is_loopback() || !api_keys.is_empty() {
        return None;
    }
    Some(format!(
        "{address} can be reached from other machines, and no API key is set: everyone there could use this one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_goes_without_a_key() {
        let key = ["secret".to_owned()];
        for (address, keys, allowed) in [
            ("127.0.0.1:1", &[][..], true),
            ("127.9.9.9:1", &[], true),
            ("[::1]:1", &[], true),
            ("[::ffff:127.0.0.1]:1", &[], true),
            ("0.0.0.0:1", &[], false),
            ("[::]:1", &[], false),
            ("192.168.1.5:1", &[], false),
            ("0.0.0.0:1", &key, true),
        ] {
            let refusal = bind_refusal(&address.parse().unwrap(), keys);
            assert_eq!(refusal.is_none(), allowed, "{address} {refusal:?}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let config = ServerConfig {
            api_keys: vec!["secret".to_owned()],
            ..ServerConfig::default()
        };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
