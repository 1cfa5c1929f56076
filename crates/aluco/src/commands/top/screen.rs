//! What is on the screen: the last look, what was seen before, and what the keys have chosen.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Instant, SystemTime},
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    events::{self, Happening, Weight},
    look::Look,
    theme::Theme,
};
use crate::{client::wire::ModelStatus, commands::ps};

/// Seconds that sparklines reach back.
const HISTORY_MAX: usize = 240;

/// Happenings that are kept.
const HAPPENINGS_MAX: usize = 200;

/// What is on the screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) url: String,
    pub(super) theme: Theme,
    /// The last one; stays while the server is gone.
    pub(super) look: Option<Look>,
    /// Why there is no newer look, and since when.
    pub(super) lost: Option<(String, Instant)>,
    pub(super) gpu_busy: VecDeque<Option<f64>>,
    pub(super) cpu_busy: VecDeque<Option<f64>>,
    /// Oldest first.
    pub(super) happenings: VecDeque<Happening>,
    pub(super) is_paused: bool,
    pub(super) sort: Sort,
    /// The model that is marked.
    pub(super) marked: Option<String>,
    pub(super) dialog: Dialog,
    /// What the last key came to.
    pub(super) notice: Option<String>,
    /// Nobody presses keys.
    pub(super) is_still: bool,
}

/// What stands before the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dialog {
    None,
    Help,
    /// Whether to unload this model.
    Unload(String),
}

/// What the models are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Name,
    Memory,
    Decode,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Memory => "memory",
            Self::Decode => "decode",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Name => Self::Memory,
            Self::Memory => Self::Decode,
            Self::Decode => Self::Name,
        }
    }
}

/// What a key asks of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing but to show what has changed.
    Nothing,
    Quit,
    Unload(String),
}

impl Screen {
    pub(super) fn new(url: &str, theme: Theme) -> Self {
        Self {
            url: url.to_owned(),
            theme,
            look: None,
            lost: None,
            gpu_busy: VecDeque::new(),
            cpu_busy: VecDeque::new(),
            happenings: VecDeque::new(),
            is_paused: false,
            sort: Sort::Name,
            marked: None,
            dialog: Dialog::None,
            notice: None,
            is_still: false,
        }
    }

    /// Takes what the server showed, or why it did not.
    pub(super) fn take(&mut self, look: Result<Look, String>, now: SystemTime) {
        if self.is_paused {
            return;
        }
        match look {
            Ok(look) => self.seen(look, now),
            Err(reason) => {
                if self.lost.is_none() && self.look.is_some() {
                    self.happened(now, Weight::Bad, format!("the server is gone: {reason}"));
                }
                let since = self
                    .lost
                    .take()
                    .map_or_else(Instant::now, |(_, since)| since);
                self.lost = Some((reason, since));
                remember(&mut self.gpu_busy, None);
                remember(&mut self.cpu_busy, None);
            }
        }
    }

    fn seen(&mut self, look: Look, now: SystemTime) {
        if self.lost.take().is_some() && self.look.is_some() {
            self.happened(now, Weight::News, "the server is back".to_owned());
        }
        let sample = look.machine.as_ref().map(|machine| &machine.sample);
        let gpu = sample.and_then(|sample| sample.gpu.as_ref()?.busy_percent.copied());
        remember(&mut self.gpu_busy, gpu.map(f64::from));
        remember(
            &mut self.cpu_busy,
            sample.and_then(|sample| sample.cpu_busy_percent.copied()),
        );
        for happening in events::since(self.look.as_ref(), &look, now) {
            self.remember(happening);
        }
        self.look = Some(look);
        // Rows come and go; the mark stays at a model that is there.
        let is_there = |marked: &String| self.models().iter().any(|it| it.name == *marked);
        if !self.marked.as_ref().is_some_and(is_there) {
            self.marked = self.models().first().map(|model| model.name.clone());
        }
    }

    pub(super) fn happened(&mut self, at: SystemTime, weight: Weight, text: String) {
        self.remember(Happening { at, weight, text });
    }

    fn remember(&mut self, happening: Happening) {
        if self.happenings.len() == HAPPENINGS_MAX {
            self.happenings.pop_front();
        }
        self.happenings.push_back(happening);
    }

    /// The models in the order in which they are shown.
    pub(super) fn models(&self) -> Vec<&ModelStatus> {
        let mut models: Vec<&ModelStatus> =
            self.look.iter().flat_map(|look| &look.models).collect();
        match self.sort {
            Sort::Name => models.sort_by(|one, other| one.name.cmp(&other.name)),
            Sort::Memory => models.sort_by_key(|model| {
                Reverse(
                    ps::held(model)
                        .map(crate::client::wire::Memory::bytes)
                        .sum::<u64>(),
                )
            }),
            Sort::Decode => models.sort_by(|one, other| {
                let speed = |model: &ModelStatus| {
                    model.speed.as_ref().map_or(0.0, |it| it.decode_per_second)
                };
                speed(other).total_cmp(&speed(one))
            }),
        }
        models
    }

    /// Does what a key means.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Wish::Quit,
                _ => Wish::Nothing,
            };
        }
        self.notice = None;
        match std::mem::replace(&mut self.dialog, Dialog::None) {
            Dialog::Help => return Wish::Nothing,
            Dialog::Unload(model) => {
                return match key.code {
                    KeyCode::Char('y' | 'Y') => Wish::Unload(model),
                    _ => Wish::Nothing,
                };
            }
            Dialog::None => {}
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('?' | 'h') => self.dialog = Dialog::Help,
            KeyCode::Char('u') => match &self.marked {
                Some(model) => self.dialog = Dialog::Unload(model.clone()),
                None => self.notice = Some("no model is loaded".to_owned()),
            },
            KeyCode::Up | KeyCode::Char('k') => self.move_mark(-1),
            KeyCode::Down | KeyCode::Char('j') => self.move_mark(1),
            _ => {}
        }
        Wish::Nothing
    }

    fn move_mark(&mut self, by: isize) {
        let models = self.models();
        let place = models
            .iter()
            .position(|model| Some(&model.name) == self.marked.as_ref());
        let last = models.len().saturating_sub(1);
        let place = place.map_or(0, |place| place.saturating_add_signed(by).min(last));
        self.marked = models.get(place).map(|model| model.name.clone());
    }
}

fn remember(history: &mut VecDeque<Option<f64>>, percent: Option<f64>) {
    if history.len() == HISTORY_MAX {
        history.pop_front();
    }
    history.push_back(percent);
}
