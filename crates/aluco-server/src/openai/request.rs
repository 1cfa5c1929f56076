//! The body of a completion request, of both kinds: their fields overlap almost wholly.

use std::collections::BTreeMap;

use aluco_fleet::{
    KeepAlive, RequestOptions,
    proto::{Prompt, Sampling, Token},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Most stop strings of one request. Each is compared with the end of the text at every token.
const STOPS_MAX: usize = 64;

/// Longest stop string, in bytes. What could be its beginning is held back.
const STOP_BYTES_MAX: usize = 4096;

/// Most tokens that are made more or less likely: more than any vocabulary has. Each costs a little time at every token, of all streams.
const BIASES_MAX: usize = 1 << 18;

/// Most choices of one prompt; OpenAI's limit.
const CHOICES_MAX: u32 = 128;

/// Most alternatives of a token; OpenAI's limit.
const ALTERNATIVES_MAX: u32 = 20;

/// Fields that are not here change nothing in the answer and are skipped.
#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    pub(super) model: String,
    pub(super) messages: Option<Vec<Value>>,
    pub(super) prompt: Option<Prompts>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// The stream goes on for a while if its client goes away, and can be asked for again.
    pub(super) resumable: Option<bool>,
    pub(super) n: Option<u32>,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    truncation: Option<Truncation>,
    stop: Option<Stops>,
    pub(super) echo: Option<bool>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    #[serde(alias = "repetition_penalty")]
    repeat_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    logit_bias: Option<BTreeMap<String, f32>>,
    ignore_eos: Option<bool>,
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,
    pub(super) reasoning_effort: Option<String>,
    // What cannot be had yet and must not be passed over in silence.
    tools: Option<Value>,
    functions: Option<Value>,
    response_format: Option<Value>,
    audio: Option<Value>,
    modalities: Option<Vec<String>>,
    tool_choice: Option<Value>,
    suffix: Option<String>,
    best_of: Option<u32>,
    /// Ollama's: how long the model stays loaded after this.
    keep_alive: Option<KeepAlive>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object such as {\"include_usage\": true} is expected")]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// What happens to a prompt that does not fit the context; the words are those of OpenAI's Responses API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Truncation {
    /// It is refused.
    Disabled,
    /// Something is left out of it.
    Auto,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string or a list of strings is expected")]
enum Stops {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "true, false or a number is expected")]
enum Logprobs {
    Wanted(bool),
    Alternatives(u32),
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids or a list of such lists is expected"
)]
pub(crate) enum Prompts {
    Text(String),
    Tokens(Vec<Token>),
    Texts(Vec<String>),
    Lists(Vec<Vec<Token>>),
}

impl Prompts {
    pub(super) fn into_prompts(self) -> Vec<Prompt> {
        match self {
            Self::Text(text) => vec![Prompt::Text(text)],
            Self::Tokens(tokens) => vec![Prompt::Tokens(tokens)],
            Self::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Self::Lists(lists) => lists.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

impl Body {
    /// What goes to the fleet and no further.
    pub(super) fn options(&self) -> RequestOptions {
        RequestOptions {
            keep_alive: self.keep_alive,
        }
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// The stream ends with a chunk that tells the usage.
    pub(super) fn includes_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.and_then(|it| it.include_usage).unwrap_or(false)
    }

    pub(super) fn choices(&self) -> Result<u32, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=CHOICES_MAX => Ok(n),
            n => Err(ApiError::invalid_value(
                "n",
                format!("n is {n}; 1 to {CHOICES_MAX} choices can be had"),
            )),
        }
    }

    /// The longest answer. Clients of other servers write -1 for "no limit".
    pub(super) fn tokens_max(&self) -> Result<Option<u32>, ApiError> {
        let (param, given) = match self.max_completion_tokens {
            Some(given) => ("max_completion_tokens", given),
            None => match self.max_tokens {
                Some(given) => ("max_tokens", given),
                None => return Ok(None),
            },
        };
        match given {
            -1 => Ok(None),
            1.. => Ok(Some(u32::try_from(given).unwrap_or(u32::MAX))),
            _ => Err(ApiError::invalid_value(
                param,
                format!("{param} is {given}; it has to be at least 1"),
            )),
        }
    }

    /// Something may be left out of a prompt that does not fit the context.
    pub(super) fn may_truncate(&self) -> bool {
        self.truncation == Some(Truncation::Auto)
    }

    pub(super) fn stops(&mut self) -> Result<Vec<String>, ApiError> {
        let mut stops = match self.stop.take() {
            None => Vec::new(),
            Some(Stops::One(stop)) => vec![stop],
            Some(Stops::Many(stops)) => stops,
        };
        stops.retain(|stop| !stop.is_empty());
        if stops.len() > STOPS_MAX {
            return Err(ApiError::invalid_value(
                "stop",
                format!(
                    "{} stop strings are over the limit of {STOPS_MAX}",
                    stops.len()
                ),
            ));
        }
        if let Some(stop) = stops.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
            return Err(ApiError::invalid_value(
                "stop",
                format!(
                    "a stop string of {} bytes is over the limit of {STOP_BYTES_MAX}",
                    stop.len()
                ),
            ));
        }
        Ok(stops)
    }

    /// How many alternatives of each token are wanted, for chats: `logprobs` says whether, `top_logprobs` how many.
    pub(super) fn chat_logprobs(&self) -> Result<Option<u32>, ApiError> {
        match (self.logprobs, self.top_logprobs) {
            (Some(Logprobs::Wanted(true)), top) => {
                alternatives("top_logprobs", top.unwrap_or(0)).map(Some)
            }
            (Some(Logprobs::Alternatives(_)), _) => Err(ApiError::invalid_value(
                "logprobs",
                "logprobs is true or false here; top_logprobs says how many",
            )),
            (_, Some(1..)) => Err(ApiError::invalid_value(
                "top_logprobs",
                "top_logprobs needs logprobs to be true",
            )),
            _ => Ok(None),
        }
    }

    /// The same for plain completions: `logprobs` says how many.
    pub(super) fn text_logprobs(&self) -> Result<Option<u32>, ApiError> {
        match self.logprobs {
            None | Some(Logprobs::Wanted(false)) => Ok(None),
            Some(Logprobs::Wanted(true)) => Ok(Some(0)),
            Some(Logprobs::Alternatives(count)) => alternatives("logprobs", count).map(Some),
        }
    }

    /// Says which field asks for something that this server does not do.
    pub(super) fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let is_given = |field: &Option<Value>| match field {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if is_given(&self.tools) {
            return Err(ApiError::unsupported(
                "tools",
                "tools are not supported yet",
            ));
        }
        if is_given(&self.functions) {
            return Err(ApiError::unsupported(
                "functions",
                "functions are not supported",
            ));
        }
        let tool_choice = self.tool_choice.as_ref().filter(|it| !it.is_null());
        if tool_choice.is_some_and(|choice| choice != "auto" && choice != "none") {
            return Err(ApiError::unsupported(
                "tool_choice",
                "tools are not supported yet",
            ));
        }
        if self.resumable == Some(true) && !self.is_streamed() {
            return Err(ApiError::unsupported(
                "resumable",
                "only a stream can be resumed; ask for one with \"stream\": true",
            ));
        }
        if self.modalities.iter().flatten().any(|it| it != "text") {
            return Err(ApiError::unsupported(
                "modalities",
                "only text is supported",
            ));
        }
        if is_given(&self.audio) {
            return Err(ApiError::unsupported("audio", "audio is not supported"));
        }
        let format = self.response_format.as_ref().filter(|it| !it.is_null());
        if format.is_some_and(|format| format["type"] != "text") {
            return Err(ApiError::unsupported(
                "response_format",
                "only text is supported as response_format yet",
            ));
        }
        if self
            .suffix
            .as_ref()
            .is_some_and(|suffix| !suffix.is_empty())
        {
            return Err(ApiError::unsupported("suffix", "suffix is not supported"));
        }
        if self.best_of.is_some_and(|best| best > self.n.unwrap_or(1)) {
            return Err(ApiError::unsupported(
                "best_of",
                "best_of above n is not supported",
            ));
        }
        Ok(())
    }

    pub(super) fn sampling(&self) -> Result<Sampling, ApiError> {
        let defaults = Sampling::default();
        Ok(Sampling {
            temperature: within("temperature", self.temperature, 0.0, 100.0)?
                .unwrap_or(defaults.temperature),
            top_p: within("top_p", self.top_p, 0.0, 1.0)?.unwrap_or(defaults.top_p),
            // Other servers write -1 for "all".
            top_k: self.top_k.map_or(defaults.top_k, |k| {
                u32::try_from(k.max(0)).unwrap_or(u32::MAX)
            }),
            min_p: within("min_p", self.min_p, 0.0, 1.0)?.unwrap_or(defaults.min_p),
            repeat_penalty: within("repeat_penalty", self.repeat_penalty, 0.01, 100.0)?
                .unwrap_or(defaults.repeat_penalty),
            presence_penalty: within("presence_penalty", self.presence_penalty, -100.0, 100.0)?
                .unwrap_or(defaults.presence_penalty),
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?
                .unwrap_or(defaults.frequency_penalty),
            penalty_tokens: defaults.penalty_tokens,
            seed: self.seed.filter(|seed| *seed != -1).map(folded),
            logit_bias: self.biases()?,
            ignore_end: self.ignore_eos.unwrap_or(false),
        })
    }

    fn biases(&self) -> Result<Vec<(Token, f32)>, ApiError> {
        let count = self.logit_bias.as_ref().map_or(0, BTreeMap::len);
        if count > BIASES_MAX {
            return Err(ApiError::invalid_value(
                "logit_bias",
                format!("biases for {count} tokens are over the limit of {BIASES_MAX}"),
            ));
        }
        let biases = self.logit_bias.iter().flatten();
        biases
            .map(|(token, bias)| {
                let param = format!("logit_bias.{token}");
                let id = token.parse().map_err(|_| {
                    ApiError::invalid_value(&param, format!("{token:?} is not a token id"))
                })?;
                if bias.is_finite() {
                    Ok((id, *bias))
                } else {
                    Err(ApiError::invalid_value(&param, "the bias is not a number"))
                }
            })
            .collect()
    }
}

fn alternatives(param: &str, count: u32) -> Result<u32, ApiError> {
    if count <= ALTERNATIVES_MAX {
        return Ok(count);
    }
    Err(ApiError::invalid_value(
        param,
        format!("{count} alternatives are over the limit of {ALTERNATIVES_MAX}"),
    ))
}

fn within(param: &str, value: Option<f32>, least: f32, most: f32) -> Result<Option<f32>, ApiError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(ApiError::invalid_value(
            param,
            format!("{param} is {value}; it has to be between {least} and {most}"),
        )),
        value => Ok(value),
    }
}

/// A seed of 64 bits as one of 32; small ones stay as they are.
fn folded(seed: i64) -> u32 {
    let seed = seed as u64;
    (seed ^ (seed >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(fields: Value) -> Body {
        let mut body = json!({"model": "m"});
        let (Value::Object(body_fields), Value::Object(fields)) = (&mut body, fields) else {
            panic!("not an object");
        };
        body_fields.extend(fields);
        serde_json::from_value(body).unwrap()
    }

    fn param<T>(result: Result<T, ApiError>) -> Option<String> {
        let error = result.err()?.to_json();
        error["error"]["param"].as_str().map(str::to_owned)
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let mut body = body(json!({"temperature": null, "stop": null, "seed": null}));
        assert_eq!(body.sampling().unwrap(), Sampling::default());
        assert_eq!(body.choices().unwrap(), 1);
        assert_eq!(body.tokens_max().unwrap(), None);
        assert!(body.stops().unwrap().is_empty());
        assert!(!body.may_truncate());
        assert_eq!(body.chat_logprobs().unwrap(), None);
        assert!(body.refuse_unsupported().is_ok());
    }

    #[test]
    fn what_is_given_arrives() {
        let mut body = body(json!({
            "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.5,
            "presence_penalty": 1, "frequency_penalty": -1, "seed": 42, "logit_bias": {"5": -100},
            "stop": ["a", ""], "truncation": "auto", "max_tokens": 5, "max_completion_tokens": 7, "n": 3,
        }));
        let sampling = body.sampling().unwrap();
        assert_eq!(
            sampling,
            Sampling {
                temperature: 0.0,
                top_k: 0,
                top_p: 0.5,
                min_p: 0.1,
                repeat_penalty: 1.5,
                presence_penalty: 1.0,
                frequency_penalty: -1.0,
                seed: Some(42),
                logit_bias: vec![(5, -100.0)],
                ..Sampling::default()
            }
        );
        assert_eq!(body.stops().unwrap(), ["a"]);
        assert!(body.may_truncate());
        assert_eq!(body.tokens_max().unwrap(), Some(7));
        assert_eq!(body.choices().unwrap(), 3);
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (fields, at) in [
            (json!({"temperature": -1}), "temperature"),
            (json!({"temperature": 1e30}), "temperature"),
            (json!({"top_p": 1.5}), "top_p"),
            (json!({"min_p": -0.5}), "min_p"),
            (json!({"repeat_penalty": 0}), "repeat_penalty"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias.x"),
        ] {
            assert_eq!(param(body(fields).sampling()).as_deref(), Some(at));
        }
        assert_eq!(param(body(json!({"n": 0})).choices()).as_deref(), Some("n"));
        let none = body(json!({"max_tokens": 0}));
        assert_eq!(param(none.tokens_max()).as_deref(), Some("max_tokens"));
        for stop in [json!(vec!["x"; 65]), json!("x".repeat(4097))] {
            let stops = body(json!({"stop": stop})).stops();
            assert_eq!(param(stops).as_deref(), Some("stop"));
        }
        let biases: Map<_, _> = (0..=BIASES_MAX)
            .map(|token| (token.to_string(), json!(1)))
            .collect();
        let sampling = body(json!({"logit_bias": biases})).sampling();
        assert_eq!(param(sampling).as_deref(), Some("logit_bias"));
    }

    #[test]
    fn log_probabilities_are_asked_for_in_two_ways() {
        let chat = |fields| body(fields).chat_logprobs();
        assert_eq!(chat(json!({"logprobs": true})).unwrap(), Some(0));
        let three = json!({"logprobs": true, "top_logprobs": 3});
        assert_eq!(chat(three).unwrap(), Some(3));
        assert!(chat(json!({"top_logprobs": 3})).is_err());
        assert!(chat(json!({"logprobs": true, "top_logprobs": 21})).is_err());
        assert!(chat(json!({"logprobs": 3})).is_err());
        let text = |fields| body(fields).text_logprobs();
        assert_eq!(text(json!({"logprobs": 3})).unwrap(), Some(3));
        assert!(text(json!({"logprobs": 21})).is_err());
    }

    #[test]
    fn what_would_be_ignored_is_refused_instead() {
        for (fields, at) in [
            (json!({"tools": [{"type": "function"}]}), Some("tools")),
            (json!({"tools": []}), None),
            (json!({"tool_choice": "required"}), Some("tool_choice")),
            (json!({"tool_choice": "none"}), None),
            (json!({"modalities": ["text", "audio"]}), Some("modalities")),
            (
                json!({"response_format": {"type": "json_object"}}),
                Some("response_format"),
            ),
            (json!({"response_format": {"type": "text"}}), None),
            (json!({"suffix": "x"}), Some("suffix")),
            (json!({"best_of": 2}), Some("best_of")),
            (json!({"best_of": 2, "n": 2}), None),
        ] {
            assert_eq!(param(body(fields).refuse_unsupported()).as_deref(), at);
        }
    }

    #[test]
    fn prompts_come_in_four_forms() {
        for (prompt, count) in [
            (json!("text"), 1),
            (json!([1, 2, 3]), 1),
            (json!(["a", "b"]), 2),
            (json!([[1], [2], [3]]), 3),
        ] {
            let prompts = body(json!({"prompt": prompt})).prompt.unwrap();
            assert_eq!(prompts.into_prompts().len(), count);
        }
    }

    #[test]
    fn small_seeds_stay_as_they_are_and_large_ones_differ() {
        assert_eq!(folded(42), 42);
        assert_ne!(folded(1 << 40), 0);
        assert_ne!(folded(-2), folded(-3));
    }
}
