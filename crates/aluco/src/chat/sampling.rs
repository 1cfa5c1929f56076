//! Sampling values by name: from flags, and from `/set`.

use std::str::FromStr;

use crate::{cli::SamplingArgs, client::wire::Sampling};

/// The names that `/set` takes.
pub(crate) const NAMES: [&str; 7] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "seed",
    "max_tokens",
];

impl From<&SamplingArgs> for Sampling {
    fn from(args: &SamplingArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
            repeat_penalty: None,
            seed: args.seed,
            max_tokens: args.max_tokens,
            stop: args.stop.clone(),
        }
    }
}

impl Sampling {
    /// Sets a value by its name; `default` leaves it to the server again. The server judges whether it is in its range.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "temperature" => put(&mut self.temperature, value, "a number"),
            "top_p" => put(&mut self.top_p, value, "a number"),
            "top_k" => put(&mut self.top_k, value, "a whole number"),
            "min_p" => put(&mut self.min_p, value, "a number"),
            "repeat_penalty" => put(&mut self.repeat_penalty, value, "a number"),
            "seed" => put(&mut self.seed, value, "a whole number"),
            "max_tokens" => put(&mut self.max_tokens, value, "a whole number"),
            _ => Err(format!("can be set: {}", NAMES.join(", "))),
        }
        .map_err(|reason| format!("cannot set {name}: {reason}"))
    }

    /// The values that are set, by name.
    pub(crate) fn values(&self) -> Vec<(&'static str, String)> {
        let number = |value: Option<f32>| value.map(|value| value.to_string());
        let count = |value: Option<u32>| value.map(|value| value.to_string());
        let values = [
            number(self.temperature),
            number(self.top_p),
            count(self.top_k),
            number(self.min_p),
            number(self.repeat_penalty),
            count(self.seed),
            count(self.max_tokens),
        ];
        NAMES
            .into_iter()
            .zip(values)
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

fn put<T: FromStr>(place: &mut Option<T>, value: &str, kind: &str) -> Result<(), String> {
    if value == "default" {
        *place = None;
        return Ok(());
    }
    let parsed = value
        .parse()
        .map_err(|_| format!("{value:?} is not {kind}"))?;
    *place = Some(parsed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_can_be_set_shown_and_left_to_the_server_again() {
        let mut sampling = Sampling::default();
        for name in NAMES {
            sampling.set(name, "2").unwrap();
        }
        let shown = sampling.values();
        assert_eq!(shown.len(), NAMES.len());
        assert!(shown.iter().all(|(_, value)| value == "2"), "{shown:?}");
        for name in NAMES {
            sampling.set(name, "default").unwrap();
        }
        assert_eq!(sampling, Sampling::default());
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_and_changes_nothing() {
        let mut sampling = Sampling::default();
        insta::assert_snapshot!(sampling.set("top_k", "1.5").unwrap_err(), @r#"cannot set top_k: "1.5" is not a whole number"#);
        insta::assert_snapshot!(sampling.set("heat", "1").unwrap_err(), @"cannot set heat: can be set: temperature, top_p, top_k, min_p, repeat_penalty, seed, max_tokens");
        assert_eq!(sampling, Sampling::default());
    }
}
