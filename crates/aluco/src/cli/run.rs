//! Flags of `aluco run`.

use clap::Args;

use super::{Overrides, Running};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  aluco run smollm2:135m                            a conversation
  aluco run smollm2:135m \"why is the sky blue?\"     one answer
  git diff | aluco run smollm2:135m \"review this\"   about what is piped in")]
pub(crate) struct RunArgs {
    /// Model: a name, a Hugging Face repository, or a file
    pub(crate) model: String,
    /// What to ask; without it, and on a terminal, a conversation begins
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Vec<String>,
    /// Instructions that stand before the conversation
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Always write the line of figures, also where standard error is no terminal
    #[arg(long, overrides_with = "no_stats")]
    pub(crate) stats: bool,
    /// Never write the line of figures
    #[arg(long, overrides_with = "stats")]
    pub(crate) no_stats: bool,
    /// Write the answer and its figures as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) overrides: Overrides<Running>,
}

const SEED_MAX: i64 = u32::MAX as i64;

/// A number that JSON can carry: neither infinite nor none at all.
pub(crate) fn finite(text: &str) -> Result<f32, String> {
    text.trim()
        .parse()
        .ok()
        .filter(|number: &f32| number.is_finite())
        .ok_or_else(|| format!("{text:?} is not a number"))
}

/// How tokens are chosen. What is not given is left to the server.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Randomness; 0 always takes the likeliest token
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Keep the likeliest tokens whose probabilities sum to this
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Keep this many of the likeliest tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) top_k: Option<u32>,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens that came already less likely; 1 does not
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,
    /// The same by subtraction, once for each token that came; 0 does not
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// The same by subtraction, as often as the token came; 0 does not
    #[arg(long, value_name = "NUMBER", value_parser = finite, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Makes the answer repeatable; -1 takes another seed each time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(-1..=SEED_MAX), allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<u32>,
    /// Text that ends the answer; may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}
