//! How many prompt tokens a step may compute beside decoding sequences, so that these keep their pace.
//!
//! A step in which a prompt is computed is as long for the streams beside it as for the prompt: its time is what these wait for their next
//! tokens. [`Pace`] measures steps and learns two lines: the time of a step that only decodes, by its rows, and what prompt tokens add to it.
//! The second one has an intercept, because on a GPU a small chunk costs nearly as much as a larger one: to halve the chunk there does not halve what
//! it costs. Both are learnt from the last few dozen steps, so they follow the depth of the context and the load of the machine.
//!
//! The budget is a time per step that the user states, or [`SLOWDOWN`] times a step that only decodes. Where that is too little for prompts to get on
//! (on CPUs a few prompt tokens cost as much each as a decoded one, many together cost a third), they go in bursts instead: a larger chunk now and
//! then, so seldom that fewer than one in twenty of a stream's tokens is late, and that prompts take no more than half of the time.

mod line;

use std::time::Duration;

use self::line::{Line, Prior};

/// How much slower streams may get while a prompt is computed, if no time is stated.
pub const SLOWDOWN: f64 = 1.5;

/// Steps that only decode between two bursts, at least: fewer than five per cent of the tokens of a stream wait for one.
const BURST_EVERY_STEPS: f64 = 21.0;

/// Time of a burst, in steps that only decode, and at most, in seconds.
const BURST_STEPS: f64 = 24.0;
const BURST_SECONDS_MAX: f64 = 1.0;

/// Tokens of a burst at least, however long it takes: below that neither attention nor matrix products work on whole tiles (measured on CPUs, at a
/// depth of 3,000 tokens: 40 tokens take as long as 64, and 128 are computed 1.2 times as fast as 64).
const BURST_TOKENS_MIN: u32 = 64;

/// How much slower streams may get on average by bursts.
const BURST_SLOWDOWN: f64 = 2.0;

/// The part of the budget that is aimed at: predictions err to both sides.
const HEADROOM: f64 = 0.95;

/// Prompt tokens in a step before anything was measured.
const PROBE_TOKENS: u32 = 32;

/// Prompt tokens that a step gets at least, whatever the budget: prompts must end some time. Few, since where every token costs the same, as on
/// CPUs, a small model's budget may be no more than that.
const FLOOR_TOKENS: u32 = 4;

/// Measurements before a line is believed.
const SAMPLES_MIN: u32 = 4;

/// Steps with prompt tokens in a row, after which one without is measured again. About one percent of a prompt's speed.
const MIXED_STEPS_MAX: u32 = 64;

/// The pace of one model's steps.
#[derive(Debug, Clone)]
pub struct Pace {
    tpot: Option<Duration>,
    micro_batch_tokens: u32,
    /// Seconds of a step that only decodes, by its rows.
    decode: Line,
    /// Seconds that prompt tokens add to it, by their number.
    prefill: Line,
    /// The most prompt tokens beside decoding that were measured lately; fades. Beyond twice that, lines are not trusted.
    reach_tokens: f64,
    mixed_steps: u32,
    /// Steps that are to go by without prompt tokens.
    rest_steps: u32,
}

impl Pace {
    /// Nothing is measured yet. `tpot` is the time per token that streams are to keep, if one was stated; `micro_batch_tokens` bounds a step's
    /// prompt tokens.
    pub fn new(tpot: Option<Duration>, micro_batch_tokens: u32) -> Self {
        Self {
            tpot,
            micro_batch_tokens,
            decode: Line::new(Prior::Flat),
            prefill: Line::new(Prior::Proportional),
            reach_tokens: f64::from(PROBE_TOKENS) / 2.0,
            mixed_steps: 0,
            rest_steps: 0,
        }
    }

    /// Notes how long a step took, from its planning to the last sampled token. A step without decode rows tells nothing about the others and
    /// is not used.
    pub fn observe(&mut self, prefill_tokens: u32, decode_rows: u32, took: Duration) {
        let seconds = took.as_secs_f64();
        if decode_rows == 0 {
            return;
        }
        if prefill_tokens == 0 {
            self.mixed_steps = 0;
            self.rest_steps = self.rest_steps.saturating_sub(1);
            self.decode.observe(f64::from(decode_rows), seconds, 0.0);
            return;
        }
        self.mixed_steps += 1;
        self.decode.fade();
        if self.decode.samples() < SAMPLES_MIN {
            return;
        }
        let tokens = f64::from(prefill_tokens);
        self.reach_tokens = tokens.max(0.98 * self.reach_tokens);
        let decode = self.decode.at(f64::from(decode_rows));
        // One by one, as decoded ones, prompt tokens would take so long, and together they take less. A hiccup is told by this before
        // anything is known of prompts: else thousands of steps without them may follow from it.
        let most = tokens.max(f64::from(PROBE_TOKENS)) * decode;
        self.prefill
            .observe(tokens, (seconds - decode).min(most), decode);
        if self.tpot.is_none() {
            // By what such a chunk usually takes: a hiccup is not held against the prompt.
            self.rest_steps = rest_steps(self.prefill.at(tokens), decode) as u32;
        }
    }

    /// Predicted time of a step that only decodes so many rows; `None` before enough was measured.
    pub fn decode_step(&self, rows: u32) -> Option<Duration> {
        (self.decode.samples() >= SAMPLES_MIN)
            .then(|| Duration::from_secs_f64(self.decode.at(f64::from(rows))))
    }

    /// Predicted time of a step; `None` before enough was measured.
    pub fn step(&self, prefill_tokens: u32, decode_rows: u32) -> Option<Duration> {
        let decode = self.decode_step(decode_rows)?;
        if prefill_tokens == 0 {
            return Some(decode);
        }
        (self.prefill.samples() >= SAMPLES_MIN)
            .then(|| decode + Duration::from_secs_f64(self.prefill.at(f64::from(prefill_tokens))))
    }

    /// The most prompt tokens for a step beside so many decode rows.
    ///
    /// 0 between two bursts, and now and then when a step is needed to learn how long one takes that only decodes. Otherwise between 4 and a
    /// micro-batch, in multiples of 8 above 16.
    pub fn prefill_beside_decode_tokens(&self, decode_rows: u32) -> u32 {
        if decode_rows == 0 {
            return self.micro_batch_tokens;
        }
        let Some(decode) = self.decode_step(decode_rows) else {
            // A first prompt beside streams that never ran alone: look at both in turn.
            return if self.mixed_steps < 2 {
                self.bounded(f64::from(PROBE_TOKENS))
            } else {
                0
            };
        };
        if self.mixed_steps >= MIXED_STEPS_MAX || self.rest_steps > 0 {
            return 0;
        }
        if self.prefill.samples() < SAMPLES_MIN {
            return self.bounded(f64::from(PROBE_TOKENS));
        }
        let decode = decode.as_secs_f64();
        let within = |seconds: f64| self.prefill.reaches(seconds).min(2.0 * self.reach_tokens);
        if let Some(tpot) = self.tpot {
            return self.bounded(within(HEADROOM * tpot.as_secs_f64() - decode));
        }
        let steady = within((HEADROOM * SLOWDOWN - 1.0) * decode);
        let burst = within(BURST_SECONDS_MAX.min(BURST_STEPS * decode));
        let burst = self.bounded(burst.max(f64::from(BURST_TOKENS_MIN)));
        let cost = self.prefill.at(f64::from(burst));
        let steady_speed = steady / (SLOWDOWN * decode);
        let burst_speed = f64::from(burst) / (decode + cost + rest_steps(cost, decode) * decode);
        if steady >= f64::from(FLOOR_TOKENS) && steady_speed >= burst_speed {
            self.bounded(steady)
        } else {
            burst
        }
    }

    fn bounded(&self, tokens: f64) -> u32 {
        let tokens = (tokens.max(0.0) as u32)
            .max(FLOOR_TOKENS)
            .min(self.micro_batch_tokens);
        if tokens > 16 { tokens / 8 * 8 } else { tokens }
    }
}

/// Steps without prompt tokens that make up for one in which these took `cost`, where a step without takes `decode`, both in seconds.
fn rest_steps(cost: f64, decode: f64) -> f64 {
    // Predictions err: what is a little over is not a burst.
    if cost <= 1.3 * (SLOWDOWN - 1.0) * decode {
        return 0.0;
    }
    (cost / ((BURST_SLOWDOWN - 1.0) * decode))
        .ceil()
        .max(BURST_EVERY_STEPS)
}

#[cfg(test)]
mod tests;
