//! How many tokens to draft for each decoding sequence: none, unless it is measured to be faster.
//!
//! A step that computes a draft beside the last token takes longer than a plain one, and yields as many tokens more as are accepted. Both differ
//! by machine, model and text, so both are measured: the cost of drafted rows in plain steps, and the chance that the token at each place of
//! a draft is accepted, per stream and per model. A draft is computed where the expected tokens per time beat plain decoding by
//! [`MARGIN`]; with two streams, where the mean of both gains does, so that none drafts at the cost of the other.
//!
//! To find out at all, a short draft is computed now and then as a probe. Probes may cost no more than [`PROBE_SHARE`] of the time, and a
//! stream whose probes lose is probed ever more rarely. While drafting is on, a plain step is measured now and then in turn.
//!
//! Drafting is off when more than [`STREAMS_MAX`] sequences decode or when a prompt is computed: then others need the rows.

mod acceptance;
mod cost;

use std::time::Duration;

use self::{
    acceptance::{Acceptance, tokens_by_draft},
    cost::Cost,
};

/// Most tokens of a draft.
pub const DRAFT_TOKENS_MAX: u32 = 8;

/// Most decoding sequences beside which drafts are computed.
pub const STREAMS_MAX: u32 = 2;

/// How much faster than plain decoding a draft has to promise to be.
pub const MARGIN: f64 = 0.05;

/// The part of the time that probes may cost.
pub const PROBE_SHARE: f64 = 0.01;

/// Plain steps of a stream between two probes, at first. Doubled by each that loses.
const PROBE_STEPS: u32 = 64;

/// Plain steps between two probes at most.
const PROBE_STEPS_MAX: u32 = 4096;

/// Tokens of a probe: to begin with, and once one was accepted in full.
const PROBE_TOKENS: (u32, u32) = (2, 4);

/// What probes may cost at once, in plain steps. Also what they may cost in the beginning, before time was saved up for them.
const PROBE_CREDIT_MAX: f64 = 4.0;

/// Steps with drafts in a row, after which a plain one is measured.
const DRAFTING_STEPS_MAX: u32 = 64;

/// What is known of one stream. Starts with nothing ([`Default`]); the loop keeps it with the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DraftHistory {
    acceptance: Acceptance,
    steps_since_probe: u32,
    probes_lost: u32,
    last_probe_won: bool,
}

impl DraftHistory {
    fn probe_is_due(&self) -> bool {
        // Sooner for the first, so that short answers are probed too, and where the last one was worth it.
        let steps = if self.last_probe_won || self.acceptance == Acceptance::default() {
            PROBE_STEPS / 4
        } else {
            PROBE_STEPS << self.probes_lost.min(PROBE_STEPS_MAX.ilog2())
        };
        self.steps_since_probe >= steps.min(PROBE_STEPS_MAX)
    }
}

/// A decoding sequence that could be given a draft.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// What is known of it.
    pub history: DraftHistory,
    /// Tokens that can be drafted: what the lookup found, bounded by the room that is left for the sequence.
    pub available: u32,
}

/// What came of one sequence in a step.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// What is known of it.
    pub history: &'a mut DraftHistory,
    /// Drafted tokens that were computed and judged. Those behind the end of an answer are not.
    pub drafted: u32,
    /// How many of them were accepted.
    pub accepted: u32,
}

/// Decides for one model how many tokens to draft.
#[derive(Debug, Clone)]
pub struct Speculation {
    /// By number of decoding streams, less one.
    costs: [Cost; STREAMS_MAX as usize],
    acceptance: Acceptance,
    /// What probes may cost now, in plain steps.
    probe_credit: f64,
}

impl Default for Speculation {
    fn default() -> Self {
        Self {
            costs: Default::default(),
            acceptance: Acceptance::default(),
            probe_credit: PROBE_CREDIT_MAX,
        }
    }
}

impl Speculation {
    /// How many tokens to draft for each of `decoding`, which are all sequences that decode in this step; `prefilling` tells whether
    /// a prompt is computed beside them.
    pub fn plan(&self, decoding: &[Candidate], prefilling: bool) -> Vec<u32> {
        let none = vec![0; decoding.len()];
        let possible = !decoding.is_empty()
            && decoding.len() <= STREAMS_MAX as usize
            && !prefilling
            && decoding.iter().any(|candidate| candidate.available > 0);
        if !possible {
            return none;
        }
        let cost = &self.costs[decoding.len() - 1];
        if !cost.knows_plain() || cost.plain_age() >= DRAFTING_STEPS_MAX {
            return none;
        }
        self.best(decoding, cost)
            .or_else(|| self.probe(decoding, cost))
            .unwrap_or(none)
    }

    /// The drafts that promise most, if they promise enough.
    fn best(&self, decoding: &[Candidate], cost: &Cost) -> Option<Vec<u32>> {
        let gains: Vec<_> = decoding
            .iter()
            .map(|candidate| {
                let stream = &candidate.history.acceptance;
                tokens_by_draft(&Acceptance::chances(stream, &self.acceptance)).map(f64::ln)
            })
            .collect();
        let most = |index: usize| {
            decoding
                .get(index)
                .map_or(0, |candidate| candidate.available.min(DRAFT_TOKENS_MAX))
        };
        let mut best = (MARGIN.ln_1p(), None);
        for first in 0..=most(0) {
            for second in 0..=most(1) {
                let drafts = [first, second];
                let Some(ratio) = cost.ratio(first + second) else {
                    continue;
                };
                // The mean of the logarithms: what a stream gains may not be what the other loses.
                let sum: f64 = gains
                    .iter()
                    .zip(drafts)
                    .map(|(gains, draft)| gains[draft as usize])
                    .sum();
                let gain = sum / decoding.len() as f64 - ratio.ln();
                if gain > best.0 {
                    best = (gain, Some(drafts[..decoding.len()].to_vec()));
                }
            }
        }
        best.1
    }

    /// A short draft for the stream that waited longest for a probe, if one is due and paid for.
    fn probe(&self, decoding: &[Candidate], cost: &Cost) -> Option<Vec<u32>> {
        let (index, candidate) = decoding
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.available > 0 && candidate.history.probe_is_due())
            .max_by_key(|(_, candidate)| candidate.history.steps_since_probe)?;
        let wanted = if candidate.history.last_probe_won {
            PROBE_TOKENS.1
        } else {
            PROBE_TOKENS.0
        };
        let tokens = wanted.min(candidate.available);
        let price = cost.ratio_at_worst(decoding.len() as u32, tokens) - 1.0;
        (price <= self.probe_credit).then(|| {
            let mut drafts = vec![0; decoding.len()];
            drafts[index] = tokens;
            drafts
        })
    }

    /// Notes a step: what came of all sequences that decoded in it, and how long it took. Steps with prefill tell nothing and are not
    /// to be noted.
    pub fn observe(&mut self, outcomes: &mut [Outcome<'_>], took: Duration) {
        let streams = outcomes.len() as u32;
        if streams == 0 || streams > STREAMS_MAX {
            return;
        }
        let extra_rows = outcomes.iter().map(|outcome| outcome.drafted).sum();
        let cost = &mut self.costs[outcomes.len() - 1];
        cost.observe(streams, extra_rows, took);
        let ratio = cost.ratio(extra_rows).unwrap_or(1.0);
        let mut tokens = 0;
        for outcome in outcomes.iter_mut() {
            tokens += 1 + outcome.accepted;
            let history = &mut *outcome.history;
            if outcome.drafted == 0 {
                history.steps_since_probe = history.steps_since_probe.saturating_add(1);
                continue;
            }
            let probed = history.probe_is_due();
            history.steps_since_probe = 0;
            history
                .acceptance
                .observe(outcome.drafted, outcome.accepted);
            self.acceptance.observe(outcome.drafted, outcome.accepted);
            history.last_probe_won = f64::from(1 + outcome.accepted) > ratio;
            if history.last_probe_won {
                history.probes_lost = 0;
            } else if probed {
                history.probes_lost = history.probes_lost.saturating_add(1);
            }
        }
        // Whatever a draft was meant for, what it lost was lost; what drafts gain pays for probes too.
        let gained = f64::from(tokens) / f64::from(streams) - ratio;
        self.probe_credit =
            (self.probe_credit + PROBE_SHARE + gained).clamp(-PROBE_CREDIT_MAX, PROBE_CREDIT_MAX);
    }
}

#[cfg(test)]
mod tests;
