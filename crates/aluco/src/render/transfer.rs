//! The bar of a transfer of bytes. On a terminal it moves; elsewhere a line appears now and then, for logs.

use std::{
    io::{self, IsTerminal},
    sync::Mutex,
    time::{Duration, Instant},
};

use aluco_model::Size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::say;

/// Time between lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

/// What is shown while bytes move.
pub(crate) struct Transfer {
    bar: ProgressBar,
    spinner: ProgressStyle,
    counter: ProgressStyle,
    /// When the last line was written, if there is no terminal.
    last_line: Option<Mutex<Instant>>,
}

impl Transfer {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("the template is well-formed")
        };
        Self {
            bar: ProgressBar::with_draw_target(None, target),
            spinner: style("{spinner:.dim} {msg}"),
            counter: style(
                "{msg}  {wide_bar:.dim}  {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta}",
            ),
            last_line: (!is_terminal).then(|| Mutex::new(Instant::now())),
        }
    }

    /// Something of unknown length goes on.
    pub(crate) fn wait(&self, what: &str) {
        self.bar.set_style(self.spinner.clone());
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    /// So many bytes of so many.
    pub(crate) fn show(&self, what: &str, done: u64, total: u64) {
        if let Some(last_line) = &self.last_line {
            let mut last_line = last_line.lock().expect("no panic while it is held");
            if last_line.elapsed() >= LINE_INTERVAL {
                *last_line = Instant::now();
                say(&format!("{what}: {} of {}", Size(done), Size(total)));
            }
            return;
        }
        if self.bar.length() != Some(total) || self.bar.message() != what {
            self.bar.set_style(self.counter.clone());
            self.bar.set_length(total);
            self.bar.set_message(what.to_owned());
            // What was here before must not count as speed.
            self.bar.set_position(done);
            self.bar.reset_eta();
        }
        self.bar.set_position(done);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
