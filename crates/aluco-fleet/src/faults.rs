//! What a fleet remembers of deaths: refused requests, and how models are run since.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use aluco_proto::{Failure, FailureKind, GenerationSpec, LoadOptions};

use crate::{
    Fallback, FallbackStep,
    connection::Death,
    ladder::{Choices, Ladder},
    prefill_speed::PrefillSpeed,
    quarantine::{Quarantine, RequestPrint},
    shared::Shared,
};

/// What is remembered. Held for moments only, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) quarantine: Quarantine,
    /// By canonical name.
    ladders: HashMap<Arc<str>, Ladder>,
    prefill_speeds: HashMap<Arc<str>, PrefillSpeed>,
}

impl Faults {
    /// How fast a model's prompts were computed.
    pub(crate) fn prefill_speed(&mut self, model: &Arc<str>) -> &mut PrefillSpeed {
        self.prefill_speeds.entry(model.clone()).or_default()
    }

    /// How a model is run otherwise than configured.
    pub(crate) fn fallback(&self, model: &str) -> Option<Fallback> {
        self.ladders.get(model)?.fallback()
    }

    /// Puts what was changed about a model into the options of its load.
    pub(crate) fn apply(&self, model: &str, options: &mut LoadOptions) {
        if let Some(ladder) = self.ladders.get(model) {
            ladder.apply(options);
        }
    }

    /// Why a request is refused.
    pub(crate) fn refusal(&self, model: &str, spec: &GenerationSpec) -> Option<Failure> {
        if self.quarantine.is_empty() {
            return None;
        }
        let print = RequestPrint::of(model, spec);
        let (reason, left) = self.quarantine.refusal(print, Instant::now())?;
        Some(Failure {
            kind: FailureKind::Engine,
            message: format!(
                "this very request has ended workers before and is refused for another {} s; the last one: {reason}",
                left.as_secs() + 1
            ),
        })
    }
}

impl Shared {
    /// A worker died while a model computed, and not by a cause from outside.
    pub(crate) fn fall_back_after_death(&self, model: &Arc<str>, death: &Death) {
        self.fall_back(model, death, |ladder, deaths_max, choices| {
            ladder.died(death.at, &death.cause, deaths_max, choices)
        });
    }

    /// A worker died where one of its requests had been at a death before. That counts if it turns out not to be that one's fault.
    pub(crate) fn suspect_requests(&self, model: &Arc<str>, death: &Death) {
        let mut faults = self.faults();
        let ladder = faults.ladders.entry(model.clone()).or_default();
        ladder.withhold(death.at);
    }

    /// Numbers the ways in which a model is run.
    pub(crate) fn configuration(&self, model: &str) -> usize {
        let fallback = self.faults().fallback(model);
        fallback.map_or(0, |fallback| fallback.steps.len())
    }

    /// A request was found to be at fault.
    pub(crate) fn fall_back_after_conviction(&self, model: &Arc<str>, death: &Death) {
        self.fall_back(model, death, |ladder, _, choices| {
            ladder.convicted(death.at, &death.cause, choices)
        });
    }

    /// A worker died while it loaded a model; true if it is to be tried in another way.
    pub(crate) fn fall_back_after_load(
        &self,
        model: &Arc<str>,
        death: &Death,
        is_read: bool,
    ) -> bool {
        self.fall_back(model, death, |ladder, _, choices| {
            let choices = Choices {
                only_backends: !is_read,
                ..choices
            };
            ladder.died_at_load(&death.cause, choices)
        })
    }

    /// Nothing has helped a model to load: it begins anew when it is asked for again.
    pub(crate) fn forget_fallback(&self, model: &str) {
        self.faults().ladders.remove(model);
    }

    fn fall_back(
        &self,
        model: &Arc<str>,
        death: &Death,
        step: impl FnOnce(&mut Ladder, u32, Choices<'_>) -> Option<FallbackStep>,
    ) -> bool {
        let Some(deaths_max) = self.config.fallback_after_deaths else {
            return false;
        };
        let backends = self.slot.backends();
        let settings = self.settings();
        let choices = Choices {
            options: &settings.load_options,
            backend: self.slot.last().map(|worker| worker.hello.backend),
            backends: &backends,
            only_backends: false,
        };
        let mut faults = self.faults();
        let ladder = faults.ladders.entry(model.clone()).or_default();
        let Some(taken) = step(ladder, deaths_max, choices) else {
            return false;
        };
        ladder.since = Some(SystemTime::now());
        // Whoever seemed to be at fault may not have been.
        faults.quarantine.clear();
        drop(faults);
        self.nursery.tally.fell_back();
        tracing::warn!(
            model = &**model,
            step = %taken,
            cause = death.cause,
            "workers keep dying with this model, so it is run otherwise from now on"
        );
        if let FallbackStep::Backend(backend) = taken {
            self.slot.move_to(backend);
        }
        true
    }
}
