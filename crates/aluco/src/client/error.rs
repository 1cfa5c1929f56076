//! What can go wrong between this program and a server.

use crate::failure::{Failure, NO_WORKER_ADVICE, chain};

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens there.
    #[error("no server at {url}")]
    NoServer {
        /// The server's base URL.
        url: String,
        /// What the network said, if it is more than a refused connection.
        reason: Option<String>,
    },
    /// Somebody listens there who is not Aluco.
    #[error("what answers at {url} is not an Aluco server")]
    NotAluco {
        /// The server's base URL.
        url: String,
    },
    /// The URL of the server cannot be one.
    #[error("{url:?} is not the URL of a server")]
    InvalidUrl {
        /// As it was given.
        url: String,
    },
    /// The key cannot be put into a request.
    #[error("the API key cannot be sent: it holds a character that no HTTP header takes")]
    InvalidKey,
    /// The key is missing or wrong.
    #[error("the server at {url} does not accept the API key: {message}")]
    Key {
        /// The server's base URL.
        url: String,
        /// What it said.
        message: String,
    },
    /// The server refused or failed, and said why.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
        /// Its name for the reason.
        code: Option<String>,
    },
    /// The connection broke, or what came makes no sense.
    #[error("the connection to {url} broke: {reason}")]
    Broken {
        /// The server's base URL.
        url: String,
        /// How.
        reason: String,
    },
}

impl ClientError {
    /// An error of the network.
    pub(super) fn network(url: &str, error: &reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::InvalidUrl {
                url: url.to_owned(),
            };
        }
        // The error names the URL again, and its causes are what says something.
        let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), chain);
        if error.is_connect() || error.is_timeout() {
            Self::NoServer {
                url: url.to_owned(),
                reason: (!reason.contains("Connection refused")).then_some(reason),
            }
        } else {
            Self::Broken {
                url: url.to_owned(),
                reason,
            }
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::NoServer { reason, .. } => {
                let message = match reason {
                    Some(reason) => format!("{message}: {reason}"),
                    None => message,
                };
                Self::new(message)
            }
            ClientError::Key { .. } => {
                Self::new(message).advise("set ALUCO_API_KEY to a key that the server knows")
            }
            ClientError::Refused { code, .. } => match code.as_deref() {
                // What was asked for cannot be, whoever is asked.
                Some("invalid_value") => Self::usage(message),
                Some("model_unusable") => Self::new(message).advise(
                    "`aluco show` with the same name tells whether the file is whole; if not, fetch or copy it again",
                ),
                Some("no_worker") => Self::new(message).advise(NO_WORKER_ADVICE),
                _ => Self::new(message),
            },
            ClientError::NotAluco { .. }
            | ClientError::InvalidUrl { .. }
            | ClientError::InvalidKey
            | ClientError::Broken { .. } => Self::new(message),
        }
    }
}
