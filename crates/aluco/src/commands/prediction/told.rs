//! A prediction in words, of at most 80 columns.

use std::fmt;

use aluco_plan::speed::SpeedPlan;

use super::{Measured, Origin, Prediction};
use crate::render::{LongWord, thousands, wrapped};

const COLUMNS: usize = 80;

/// What measures.
const BENCH: &str = "`aluco machine bench`";

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(speeds) = &self.speeds {
            write!(f, "{}", rows(speeds))?;
        }
        let mut text = match &self.origin {
            Origin::NotMeasured => format!("speed   not measured yet: run {BENCH}"),
            Origin::Unknown(reason) => format!("speed   not predicted: {reason}"),
            Origin::Measured(measured) => self.origin(measured),
        };
        if let Some(limit) = &self.decode_at_most {
            text += &format!(
                "\ndecode  at most {:.*} tok/s, the theoretical limit of memory with {:.0} GB/s ({})",
                usize::from(limit.tokens_per_second.0 < 10.0),
                limit.tokens_per_second.0,
                limit.bytes_per_second.0 / 1e9,
                limit.source
            );
        }
        for line in wrapped(&text, COLUMNS, LongWord::Whole) {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

fn rows(speeds: &SpeedPlan) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        text += &format!("{name:<8}{value}\n");
    };
    if let Some(decode) = speeds.decode {
        let full = speeds.decode_full.map_or_else(String::new, |full| {
            format!(" (at {}: {full})", depth(speeds.full_tokens))
        });
        row("decode", format!("about {decode} tok/s{full}"));
    }
    if let Some(prefill) = speeds.prefill {
        row("prefill", format!("about {prefill} tok/s"));
    }
    if let Some(load) = speeds.load {
        row("load", format!("about {load} s"));
    }
    text
}

impl Prediction {
    /// Where the figures come from, and what stands against them.
    fn origin(&self, measured: &Measured) -> String {
        let date = measured.at.split('T').next().unwrap_or(&measured.at);
        let mut text = match &measured.device {
            Some(device) => {
                format!("One stream, predicted from {BENCH} of {date} ({device}).")
            }
            None => format!(
                "What the {} worker computes on was not measured on {date}: run {BENCH}.",
                self.backend
            ),
        };
        let unpredictable = self
            .speeds
            .as_ref()
            .and_then(|it| it.unpredictable.as_ref());
        if let Some(reason) = unpredictable {
            text += &format!("\nDecoding and prefill are not predicted: {reason}.");
        }
        if let Some(reason) = &measured.no_load {
            text += &format!("\nThe time of a load is not predicted: {reason}.");
        }
        if !measured.changes.is_empty() {
            let changes: Vec<String> = measured.changes.iter().map(ToString::to_string).collect();
            text += &format!(
                "\nMeasured with {}: to be sure, run {BENCH} again.",
                changes.join("; ")
            );
        }
        text
    }
}

/// Tokens in the usual unit of contexts: `32k`.
fn depth(tokens: u64) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) {
        format!("{}k", thousands(tokens / 1024))
    } else {
        thousands(tokens)
    }
}
