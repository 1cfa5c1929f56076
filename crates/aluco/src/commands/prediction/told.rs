//! A prediction in words, of at most 80 columns.

use std::fmt;

use aluco_plan::speed::{Seconds, SpeedPlan};

use super::{Measured, Origin, Prediction};
use crate::render::{LongWord, thousands, wrapped};

const COLUMNS: usize = 80;

/// What measures.
const BENCH: &str = "`aluco machine bench`";

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(speeds) = &self.speeds {
            rows(speeds, f)?;
        }
        let mut texts = match &self.origin {
            Origin::NotMeasured => vec![format!("speed   not measured yet: run {BENCH}")],
            Origin::Unknown(reason) => vec![format!("speed   not predicted: {reason}")],
            Origin::Measured(measured) => self.remarks(measured),
        };
        texts.extend(self.decode_at_most.as_ref().map(|limit| {
            format!(
                "decode  at most {:.*} tok/s, the theoretical limit of memory with {:.0} GB/s ({})",
                usize::from(limit.tokens_per_second.0 < 10.0),
                limit.tokens_per_second.0,
                limit.bytes_per_second.0 / 1e9,
                limit.source
            )
        }));
        for text in &texts {
            for line in wrapped(text, COLUMNS, LongWord::Whole) {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

fn rows(speeds: &SpeedPlan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(decode) = speeds.decode {
        write!(f, "decode  about {decode} tok/s")?;
        if let Some(full) = speeds.decode_full {
            write!(f, " (at {}: {full})", depth(speeds.full_tokens))?;
        }
        writeln!(f)?;
    }
    if let Some(prefill) = speeds.prefill {
        writeln!(f, "prefill about {prefill} tok/s")?;
    }
    if let Some(load) = speeds.load {
        // A small model is read in no time, and the rest is known as a bound only.
        if load.band.low < Seconds(0.1) {
            let bound = load.band.high.0;
            writeln!(f, "load    less than {bound:.1} s")?;
        } else {
            writeln!(f, "load    about {load} s")?;
        }
    }
    Ok(())
}

impl Prediction {
    /// Where the figures come from, and what stands against them.
    fn remarks(&self, measured: &Measured) -> Vec<String> {
        let date = measured.at.split('T').next().unwrap_or(&measured.at);
        let origin = match &measured.device {
            Some(device) => format!("One stream, predicted from {BENCH} of {date} ({device})."),
            None => format!(
                "What the {} worker computes on was not measured on {date}: run {BENCH}.",
                self.backend
            ),
        };
        let mut remarks = vec![origin];
        let speeds = self.speeds.as_ref();
        if let Some(reason) = speeds.and_then(|speeds| speeds.unpredictable.as_ref()) {
            remarks.push(format!("Decoding and prefill are not predicted: {reason}."));
        }
        if let Some(reason) = &measured.no_load {
            remarks.push(format!("The time of a load is not predicted: {reason}."));
        }
        if !measured.changes.is_empty() {
            let changes: Vec<String> = measured.changes.iter().map(ToString::to_string).collect();
            remarks.push(format!(
                "Measured with {}: to be sure, run {BENCH} again.",
                changes.join("; ")
            ));
        }
        remarks
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
