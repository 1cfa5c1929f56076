//! What moves on standard error while there is nothing to read yet. Nothing at all if it is no terminal.

use std::{cell::Cell, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::wire::{ModelState, Status};

/// Waits that are shorter show nothing: a flicker tells nobody anything.
pub(super) const PATIENCE: Duration = Duration::from_millis(150);

/// A line that shows what is being waited for.
pub(super) struct Progress {
    bar: ProgressBar,
    spinner: ProgressStyle,
    counter: ProgressStyle,
    is_wanted: bool,
    /// The prompt is being computed, so the model is loaded.
    has_prompt: Cell<bool>,
}

impl Progress {
    /// Draws nothing before [`Self::reveal`], and nothing at all unless it is wanted.
    pub(super) fn new(is_wanted: bool) -> Self {
        let style = |template: &str| {
            ProgressStyle::with_template(template).expect("the template is well-formed")
        };
        Self {
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            spinner: style("{spinner:.dim} {msg:.dim}"),
            counter: style("{spinner:.dim} {msg:.dim} {bar:24} {percent:>3} %"),
            is_wanted,
            has_prompt: Cell::new(false),
        }
    }

    /// False if nobody is to see it.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Begins to draw, if there is still something to wait for.
    pub(super) fn reveal(&self) {
        if !self.is_wanted || self.is_over() {
            return;
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        if self.bar.message().is_empty() {
            self.bar.set_style(self.spinner.clone());
            self.bar.set_message("waiting for the model");
        }
        self.bar.tick();
    }

    /// True once it was taken away.
    pub(super) fn is_over(&self) -> bool {
        self.bar.is_finished()
    }

    /// A part of the prompt is computed.
    pub(super) fn count_prompt(&self, processed: u64, total: u64) {
        self.has_prompt.set(true);
        self.count("reading the prompt", processed, total);
    }

    /// True as long as the server's state may tell more than is known here.
    pub(super) fn needs_state(&self) -> bool {
        !self.has_prompt.get() && !self.is_over()
    }

    /// Turns the wheel.
    pub(super) fn tick(&self) {
        if !self.is_over() {
            self.bar.tick();
        }
    }

    fn count(&self, what: &str, done: u64, total: u64) {
        self.bar.set_style(self.counter.clone());
        self.bar.set_message(what.to_owned());
        self.bar.set_length(total);
        self.bar.set_position(done.min(total));
        self.bar.tick();
    }

    /// Shows the model that loads, if one does.
    pub(super) fn show_loading(&self, status: &Status) {
        let loading = status.models.iter().find_map(|model| match model.state {
            ModelState::Loading { progress } => Some((model, progress)),
            ModelState::Ready => None,
        });
        match loading {
            Some((model, progress)) => {
                let percent = (progress.clamp(0.0, 1.0) * 100.0) as u64;
                self.count(&format!("loading {}", last_part(&model.name)), percent, 100);
            }
            None => self.bar.tick(),
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// A path without its folders: the line has to fit.
pub(super) fn last_part(name: &str) -> String {
    let last = if name.starts_with('/') {
        name.rsplit('/').next().unwrap_or(name)
    } else {
        name
    };
    crate::render::printable(last).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_is_shown_without_its_folders() {
        assert_eq!(last_part("/home/owl/models/a.gguf"), "a.gguf");
        assert_eq!(last_part("org/repo:tag"), "org/repo:tag");
    }

    #[test]
    fn the_state_is_of_no_use_once_the_prompt_is_read() {
        let progress = Progress::new(true);
        assert!(progress.needs_state());
        progress.count_prompt(1, 2);
        assert!(!progress.needs_state());
    }

    #[test]
    fn nothing_is_drawn_where_nobody_looks() {
        let progress = Progress::new(false);
        progress.count("prompt", 1, 2);
        progress.reveal();
        assert!(progress.bar.is_hidden());
    }
}
