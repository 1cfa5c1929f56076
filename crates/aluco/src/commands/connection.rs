//! The server that the configuration names, and what is told if it cannot be talked to.

use crate::{
    client::{Client, ClientError},
    config::Config,
    failure::{Failure, Outcome},
};

/// A client of the server that the configuration names. Sends nothing yet.
pub(super) fn configured(config: &Config) -> Outcome<Client> {
    let settings = &config.settings;
    let key = settings.api_keys.first().map(String::as_str);
    Client::new(&settings.server_url(), key).map_err(|error| told(config, error))
}

/// The error, with what in the configuration led there and what to do.
pub(super) fn told(config: &Config, error: ClientError) -> Failure {
    let has_url = config.settings.url.is_some();
    let keys: &[&str] = if has_url { &["url"] } else { &["host", "port"] };
    let named = config.named_by(keys);
    let origin = named
        .as_ref()
        .map_or_else(String::new, |name| format!(" (from {name})"));
    match error {
        ClientError::NoServer { url, reason } => {
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let failure = Failure::new(format!("no server at {url}{origin}{reason}"));
            if has_url {
                failure.advise("start it there, or name another with --url")
            } else {
                failure.advise("start one with: aluco serve")
            }
        }
        ClientError::NotAluco { url } => Failure::new(format!(
            "what answers at {url}{origin} is not an Aluco server"
        ))
        .advise("name another with --url or ALUCO_URL"),
        ClientError::InvalidUrl { url } => {
            Failure::new(format!("{url:?}{origin} is not the URL of a server"))
                .advise("it looks like http://127.0.0.1:13313")
        }
        ClientError::InvalidKey => {
            let named = config.named_by(&["api_keys"]);
            let origin = named.map_or_else(String::new, |name| format!(" (from {name})"));
            Failure::new(format!("{}{origin}", ClientError::InvalidKey))
                .advise("a key is printable text on one line")
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Files, load};

    fn config(variable: (&str, &str)) -> Config {
        let environment = Environment::from([("HOME", "/nonexistent"), variable]);
        load(&environment, &Files::find(&environment, None), &[]).unwrap()
    }

    #[test]
    fn where_an_address_came_from_is_told() {
        let no_server = |config: &Config| {
            let url = config.settings.server_url();
            told(config, ClientError::NoServer { url, reason: None }).to_string()
        };
        for (variable, expected) in [
            (("X", ""), "no server at http://127.0.0.1:13313"),
            (
                ("OLLAMA_HOST", "127.0.0.1:80"),
                "no server at http://127.0.0.1:80 (from env OLLAMA_HOST)",
            ),
            (
                ("ALUCO_URL", "http://box.lan"),
                "no server at http://box.lan (from env ALUCO_URL)",
            ),
        ] {
            assert_eq!(no_server(&config(variable)), expected);
        }
    }

    #[test]
    fn a_key_that_cannot_be_sent_is_the_fault_not_the_url() {
        let failure = configured(&config(("ALUCO_API_KEY", "a\nb"))).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "the API key cannot be sent: it holds a character that no HTTP header takes (from env ALUCO_API_KEY)"
        );
    }
}
