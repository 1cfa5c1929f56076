//! When to try again, and when to give up.

use std::time::Duration;

use crate::ModelError;

const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a request failed.
pub(super) enum Failure {
    /// The next try may succeed.
    Transient {
        reason: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
    },
    /// The next try will fail as well.
    Final(ModelError),
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::Final(error)
    }
}

/// Waits longer after every failure, and gives up in the end.
pub(super) struct Backoff {
    what: String,
    tries: u32,
    retries: u32,
    first_wait: Duration,
}

impl Backoff {
    /// `what` is tried, named for the error message.
    pub(super) fn new(what: String, retries: u32, first_wait: Duration) -> Self {
        Self {
            what,
            tries: 0,
            retries,
            first_wait,
        }
    }

    /// Allows at most this many repetitions.
    pub(super) fn limit(&mut self, retries_max: u32) {
        self.retries = self.retries.min(retries_max);
    }

    /// After progress, failures count anew.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// Returns when it is time for the next try; with the error if there shall be none.
    pub(super) async fn wait(&mut self, failure: Failure) -> Result<(), ModelError> {
        let (reason, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Transient { reason, wait } => (reason, wait),
        };
        self.tries += 1;
        if self.tries > self.retries {
            return Err(ModelError::Network {
                what: self.what.clone(),
                tries: self.tries,
                reason,
            });
        }
        let own = self
            .first_wait
            .saturating_mul(1 << (self.tries - 1).min(16))
            .min(RETRY_WAIT_MAX);
        tokio::time::sleep(asked.unwrap_or(own)).await;
        Ok(())
    }
}
