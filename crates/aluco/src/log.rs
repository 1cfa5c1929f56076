//! The log of `aluco serve`: lines on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::{
    config::{LogFormat, Settings},
    failure::{Failure, Outcome},
};

/// Starts the log.
pub(crate) fn start(settings: &Settings) -> Outcome<()> {
    let filter = EnvFilter::try_new(&settings.log_level).map_err(|error| {
        Failure::usage(format!(
            "log_level {:?} cannot be read: {error}",
            settings.log_level
        ))
        .advise("levels are off, error, warn, info, debug and trace, also for single parts: info,aluco::worker=warn")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Otherwise a log that cannot be written, as on a full disk, is told on standard error too, and that panics.
        .log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
