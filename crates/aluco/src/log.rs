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
        .advise("levels are error, warn, info, debug and trace, also for single parts: info,llama.cpp=warn")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
