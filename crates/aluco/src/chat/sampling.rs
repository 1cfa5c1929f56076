//! Sampling values by name: from flags, and from `/set`.

use crate::{
    cli::{SamplingArgs, finite},
    client::wire::Sampling,
};

/// Leaves a value to the server.
const DEFAULT: &str = "default";

/// The names that `/set` takes.
pub(crate) const NAMES: [&str; 9] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
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
            repeat_penalty: args.repeat_penalty,
            presence_penalty: args.presence_penalty,
            frequency_penalty: args.frequency_penalty,
            // -1 stands for the server's own choice, another each time.
            seed: args.seed.and_then(|seed| u32::try_from(seed).ok()),
            max_tokens: args.max_tokens,
            stop: args.stop.clone(),
        }
    }
}

impl Sampling {
    /// Sets a value by its name; `default` leaves it to the server again. The server judges whether it is in its range.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "temperature" => put_number(&mut self.temperature, value),
            "top_p" => put_number(&mut self.top_p, value),
            "top_k" => put_count(&mut self.top_k, value),
            "min_p" => put_number(&mut self.min_p, value),
            "repeat_penalty" => put_number(&mut self.repeat_penalty, value),
            "presence_penalty" => put_number(&mut self.presence_penalty, value),
            "frequency_penalty" => put_number(&mut self.frequency_penalty, value),
            "seed" if value == "-1" => put_count(&mut self.seed, DEFAULT),
            "seed" => put_count(&mut self.seed, value),
            "max_tokens" => put_count(&mut self.max_tokens, value),
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
            number(self.presence_penalty),
            number(self.frequency_penalty),
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

fn put_number(place: &mut Option<f32>, value: &str) -> Result<(), String> {
    *place = match value {
        DEFAULT => None,
        value => Some(finite(value)?),
    };
    Ok(())
}

fn put_count(place: &mut Option<u32>, value: &str) -> Result<(), String> {
    *place = match value {
        DEFAULT => None,
        value => {
            let wrong = |_| format!("{value:?} is not a whole number");
            Some(value.parse().map_err(wrong)?)
        }
    };
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
        insta::assert_snapshot!(sampling.set("heat", "1").unwrap_err(), @"cannot set heat: can be set: temperature, top_p, top_k, min_p, repeat_penalty, presence_penalty, frequency_penalty, seed, max_tokens");
        for value in ["NaN", "inf", "-inf", "1e99"] {
            assert!(sampling.set("temperature", value).is_err(), "{value}");
        }
        sampling.set("seed", "-1").unwrap();
        assert_eq!(sampling, Sampling::default());
    }
}
