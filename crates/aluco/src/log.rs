//! The log of `aluco serve`: lines on standard error, whose levels can be changed while it runs.

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, reload::Handle};

use crate::{
    config::{LogFormat, Raw, Settings},
    failure::{Failure, Outcome},
};

/// Puts a filter in the place of the one before.
type Exchange = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

/// The levels of the running log. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Levels {
    filter: Arc<Mutex<String>>,
    exchange: Arc<Exchange>,
}

impl Levels {
    fn new<S: 'static>(filter: &str, handle: Handle<EnvFilter, S>) -> Self {
        Self {
            filter: Arc::new(Mutex::new(filter.to_owned())),
            exchange: Arc::new(move |new| handle.reload(new).map_err(|error| error.to_string())),
        }
    }

    /// As in `info,aluco::worker=warn`.
    pub(crate) fn get(&self) -> String {
        let filter = self.filter.lock();
        filter.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes them; the error says what is wrong with the new ones.
    pub(crate) fn set(&self, filter: &str) -> Result<(), String> {
        let filter = Raw::Word(filter.to_owned()).log_levels()?;
        (self.exchange)(read(&filter)?)?;
        let mut place = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        *place = filter;
        Ok(())
    }
}

/// Starts the log.
pub(crate) fn start(settings: &Settings) -> Outcome<Levels> {
    let level = &settings.log_level;
    let filter = read(level).map_err(|reason| {
        Failure::usage(format!("log_level {level:?} cannot be read: {reason}"))
            .advise("levels are off, error, warn, info, debug and trace, also for single parts: info,aluco::worker=warn")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Otherwise a log that cannot be written, as on a full disk, is told on standard error too, and that panics.
        .log_internal_errors(false);
    Ok(match settings.log_format {
        LogFormat::Text => {
            let builder = builder.with_ansi(io::stderr().is_terminal());
            let builder = builder.with_filter_reloading();
            let levels = Levels::new(level, builder.reload_handle());
            builder.init();
            levels
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let levels = Levels::new(level, builder.reload_handle());
            builder.init();
            levels
        }
    })
}

fn read(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}
