//! The closing line of figures.

use crate::{
    client::wire::{Timings, Usage},
    render::thousands,
};

/// What an answer took, in one line. A speed is left out where nothing was computed.
pub(crate) fn line(usage: &Usage, timings: Option<&Timings>) -> String {
    let mut prompt = format!(
        "{} prompt {} ({} cached)",
        thousands(usage.prompt_tokens),
        if usage.prompt_tokens == 1 {
            "token"
        } else {
            "tokens"
        },
        thousands(usage.prompt_tokens_details.cached_tokens)
    );
    let mut generated = format!("{} generated", thousands(usage.completion_tokens));
    let mut parts = Vec::new();
    if let Some(timings) = timings {
        for (text, speed) in [
            (&mut prompt, timings.prompt_per_second),
            (&mut generated, timings.predicted_per_second),
        ] {
            if let Some(speed) = speed.filter(|speed| speed.is_finite() && *speed > 0.0) {
                text.push_str(" at ");
                text.push_str(&three_digits(speed));
                text.push_str(" tok/s");
            }
        }
        parts.extend(
            timings
                .ttft_ms
                .map(|ms| format!("first token after {}", time(ms))),
        );
    }
    parts.splice(0..0, [prompt, generated]);
    parts.join(" · ")
}

/// At least three digits that mean something.
fn three_digits(number: f64) -> String {
    match number {
        ..9.995 => format!("{number:.2}"),
        ..99.95 => format!("{number:.1}"),
        _ => thousands(number.round() as u64),
    }
}

fn time(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        _ => format!("{} s", three_digits(ms / 1e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::wire::PromptTokens;

    fn usage(prompt: u64, cached: u64, generated: u64) -> Usage {
        Usage {
            prompt_tokens: prompt,
            completion_tokens: generated,
            total_tokens: prompt + generated,
            prompt_tokens_details: PromptTokens {
                cached_tokens: cached,
            },
        }
    }

    fn timings(prompt: Option<f64>, predicted: Option<f64>, ttft_ms: f64) -> Timings {
        Timings {
            prompt_per_second: prompt,
            predicted_per_second: predicted,
            ttft_ms: Some(ttft_ms),
            ..Timings::default()
        }
    }

    #[test]
    fn an_answer_is_told_in_one_line() {
        let fast = line(
            &usage(14, 0, 87),
            Some(&timings(Some(310.2), Some(120.6), 52.3)),
        );
        insta::assert_snapshot!(fast, @"14 prompt tokens (0 cached) at 310 tok/s · 87 generated at 121 tok/s · first token after 52 ms");
        let slow = line(
            &usage(12_345, 12_000, 1),
            Some(&timings(Some(9.994), None, 34_500.0)),
        );
        insta::assert_snapshot!(slow, @"12,345 prompt tokens (12,000 cached) at 9.99 tok/s · 1 generated · first token after 34.5 s");
        let cached = line(&usage(1, 1, 2), Some(&timings(None, Some(12.34), 1.04)));
        insta::assert_snapshot!(cached, @"1 prompt token (1 cached) · 2 generated at 12.3 tok/s · first token after 1.0 ms");
    }

    #[test]
    fn tokens_are_told_without_timings() {
        insta::assert_snapshot!(line(&usage(3, 0, 4), None), @"3 prompt tokens (0 cached) · 4 generated");
    }
}
