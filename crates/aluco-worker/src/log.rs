//! `tracing` events, llama.cpp's lines among them, become log frames for the supervisor.

use std::fmt::{self, Write};

use aluco_proto::{Event, LogLevel};
use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, layer::Context, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::outbox::Outbox;

/// Sends log lines up from now on. `ALUCO_LOG` filters them, as in `llama.cpp=debug,info`.
pub(crate) fn to_supervisor(outbox: Outbox) {
    let filter = EnvFilter::try_from_env("ALUCO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry()
        .with(SupervisorLayer { outbox })
        .with(filter)
        .init();
}

struct SupervisorLayer {
    outbox: Outbox,
}

impl<S: Subscriber> Layer<S> for SupervisorLayer {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => LogLevel::Trace,
        };
        self.outbox.send(&Event::Log {
            level,
            target: event.metadata().target().to_owned(),
            message: line.message + &line.fields,
        });
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
