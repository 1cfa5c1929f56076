//! The server's JSON, as far as the command line reads or writes it. Unknown fields are let through, so that an older `aluco`
//! understands a newer server.

use std::{fmt, time::SystemTime};

use aluco_fleet::KeepAlive;
use aluco_plan::{Fit, Refusal};
use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Instructions before the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Who speaks.
    pub(crate) role: Role,
    /// What is said.
    pub(crate) content: String,
}

/// How tokens are chosen; what is `None` is left to the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Sampling {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repeat_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) presence_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop: Vec<String>,
}

/// Body of `POST /v1/chat/completions`, always streamed.
#[derive(Debug, Serialize)]
pub(crate) struct ChatRequest<'a> {
    pub(crate) model: &'a str,
    pub(crate) messages: &'a [Message],
    #[serde(flatten)]
    pub(crate) sampling: &'a Sampling,
    pub(crate) stream: bool,
    pub(crate) stream_options: StreamOptions,
}

/// What the stream tells beside the text.
#[derive(Debug, Serialize)]
pub(crate) struct StreamOptions {
    pub(crate) include_usage: bool,
}

impl<'a> ChatRequest<'a> {
    /// A request that streams and ends in figures.
    pub(crate) fn new(model: &'a str, messages: &'a [Message], sampling: &'a Sampling) -> Self {
        Self {
            model,
            messages,
            sampling,
            stream: true,
            stream_options: StreamOptions {
                include_usage: true,
            },
        }
    }
}

/// One `data:` of the answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub(crate) choices: Vec<ChunkChoice>,
    pub(crate) usage: Option<Usage>,
    pub(crate) timings: Option<Timings>,
    pub(crate) error: Option<ErrorBody>,
}

/// The news of one choice.
#[derive(Debug, Deserialize)]
pub(crate) struct ChunkChoice {
    #[serde(default)]
    pub(crate) delta: Delta,
    pub(crate) finish_reason: Option<String>,
}

/// New text.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Delta {
    pub(crate) content: Option<String>,
}

/// Tokens of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) total_tokens: u64,
    pub(crate) prompt_tokens_details: PromptTokens,
}

/// Tokens of a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PromptTokens {
    /// Those that were not computed again.
    pub(crate) cached_tokens: u64,
}

/// Where the time of a request went. Times in milliseconds, speeds in tokens/s; a speed is `None` where nothing was computed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Timings {
    pub(crate) cache_n: u64,
    pub(crate) prompt_n: u64,
    pub(crate) prompt_ms: f64,
    pub(crate) prompt_per_second: Option<f64>,
    pub(crate) predicted_n: u64,
    pub(crate) predicted_ms: f64,
    pub(crate) predicted_per_second: Option<f64>,
    pub(crate) ttft_ms: Option<f64>,
    pub(crate) queue_ms: Option<f64>,
    /// Absent where another server answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<CacheReport>,
    pub(crate) draft_n: u64,
    pub(crate) draft_n_accepted: u64,
}

/// Where the cached tokens of a prompt came from, and why the one after them had to be computed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CacheReport {
    pub(crate) device_tokens: u64,
    pub(crate) ram_tokens: u64,
    pub(crate) disk_tokens: u64,
    pub(crate) miss: Option<String>,
    pub(crate) diverged_at: Option<u64>,
}

/// Answer of an endpoint that failed.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorAnswer {
    pub(crate) error: ErrorBody,
}

/// Why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) message: String,
    /// Such as `model_not_found`; some servers send numbers, which say nothing here.
    #[serde(default, deserialize_with = "text_or_nothing")]
    pub(crate) code: Option<String>,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(value.as_str().map(str::to_owned))
}

fn time_or_nothing<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SystemTime>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let time = text.map(|text| humantime::parse_rfc3339(&text));
    time.transpose().map_err(serde::de::Error::custom)
}

/// Answer of `/health`.
#[derive(Debug, Deserialize)]
pub(crate) struct Health {
    #[serde(default)]
    pub(crate) service: String,
}

/// Body of `POST /aluco/v1/load`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct LoadRequest<'a> {
    pub(crate) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive: Option<KeepAlive>,
    pub(crate) pin: bool,
}

/// What a load would do.
#[derive(Debug, Deserialize)]
pub(crate) struct LoadPlan {
    pub(crate) model: String,
    pub(crate) is_loaded: bool,
    pub(crate) file_bytes: u64,
    /// Models that would go.
    #[serde(default)]
    pub(crate) unloads: Vec<String>,
    /// Nothing would go in time.
    #[serde(default)]
    pub(crate) waits: bool,
    /// What it would take, if there is room now.
    #[serde(default)]
    pub(crate) fit: Option<Fit>,
    /// Why there is none.
    #[serde(default)]
    pub(crate) refusal: Option<Refusal>,
    /// There will be none.
    #[serde(default)]
    pub(crate) is_refused: bool,
}

/// Answer of `/aluco/v1/models/unload`.
#[derive(Debug, Deserialize)]
pub(crate) struct Unloaded {
    pub(crate) unloaded: bool,
}

/// Answer of `/aluco/v1/status`, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    #[serde(default)]
    pub(crate) workers: Vec<WorkerStatus>,
    pub(crate) models: Vec<ModelStatus>,
}

/// One worker process of the server.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkerStatus {
    /// How often it was started again after a death.
    #[serde(default)]
    pub(crate) restarts: u64,
}

/// One model of the server.
#[derive(Debug, Deserialize)]
pub(crate) struct ModelStatus {
    pub(crate) name: String,
    pub(crate) state: ModelState,
    pub(crate) loaded: Option<Loaded>,
    pub(crate) activity: Option<Activity>,
    #[serde(default)]
    pub(crate) requests: u64,
    /// Absent if nobody has looked lately.
    #[serde(default)]
    pub(crate) speed: Option<Speed>,
    /// Absent if it is run as configured.
    #[serde(default)]
    pub(crate) fallback: Option<Fallback>,
    /// It stays.
    #[serde(default)]
    pub(crate) pinned: bool,
    /// Absent: not by time.
    #[serde(default, deserialize_with = "time_or_nothing")]
    pub(crate) expires_at: Option<SystemTime>,
}

/// How a model is run otherwise than configured, since its worker kept dying.
#[derive(Debug, Deserialize)]
pub(crate) struct Fallback {
    pub(crate) steps: Vec<FallbackStep>,
    pub(crate) cause: String,
    #[serde(default)]
    pub(crate) deaths: u64,
    #[serde(default, deserialize_with = "time_or_nothing")]
    pub(crate) since: Option<SystemTime>,
}

/// What was changed about it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FallbackStep {
    /// At most so many tokens in one device step.
    MicroBatch(u64),
    FlashAttentionOff,
    Backend(String),
    /// Of a newer server.
    #[serde(untagged)]
    Other(serde_json::Value),
}

impl fmt::Display for FallbackStep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MicroBatch(tokens) => write!(formatter, "micro-batch {tokens}"),
            Self::FlashAttentionOff => formatter.write_str("flash attention off"),
            Self::Backend(backend) => write!(formatter, "backend {backend}"),
            Self::Other(step) => write!(formatter, "{step}"),
        }
    }
}

/// How fast a model computed in the last seconds, in tokens/s.
#[derive(Debug, Deserialize)]
pub(crate) struct Speed {
    pub(crate) prefill_per_second: f64,
    pub(crate) decode_per_second: f64,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ModelState {
    /// Its weights are being read.
    Loading {
        /// Share done, 0 to 1.
        progress: f32,
    },
    /// It takes requests.
    Ready,
}

/// A loaded model.
#[derive(Debug, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) context_tokens: u64,
    pub(crate) sequences_max: u64,
    #[serde(default)]
    pub(crate) memory: Vec<Memory>,
}

/// What a loaded model does.
#[derive(Debug, Deserialize)]
pub(crate) struct Activity {
    pub(crate) sequences_running: u64,
    #[serde(default)]
    pub(crate) requests_waiting: u64,
    #[serde(default)]
    pub(crate) prefill_tokens: u64,
    #[serde(default)]
    pub(crate) cache: CacheActivity,
    #[serde(default)]
    pub(crate) memory: Vec<Memory>,
}

impl Activity {
    /// Share of the prompt tokens since the load that were not computed; `None` before the first prompt.
    pub(crate) fn cached_share(&self) -> Option<f64> {
        let cache = &self.cache;
        let cached = cache.device + cache.ram + cache.disk;
        let all = cached + self.prefill_tokens;
        (all > 0).then(|| cached as f64 / all as f64)
    }
}

/// Prompt tokens that the prefix store has spared.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CacheActivity {
    #[serde(rename = "device_hit_tokens")]
    device: u64,
    #[serde(rename = "ram_hit_tokens")]
    ram: u64,
    #[serde(rename = "disk_hit_tokens")]
    disk: u64,
}

/// Memory that a model holds on one device.
#[derive(Debug, Deserialize)]
pub(crate) struct Memory {
    pub(crate) device: String,
    #[serde(default)]
    pub(crate) weights_bytes: u64,
    #[serde(default)]
    pub(crate) context_bytes: u64,
    #[serde(default)]
    pub(crate) compute_bytes: u64,
}

impl Memory {
    /// All of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.weights_bytes + self.context_bytes + self.compute_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sampling_that_was_not_asked_for_is_not_sent() {
        let messages = [Message {
            role: Role::User,
            content: "Hi".to_owned(),
        }];
        let sampling = Sampling {
            top_k: Some(40),
            ..Sampling::default()
        };
        let request = ChatRequest::new("owl", &messages, &sampling);
        assert_eq!(
            serde_json::to_value(&request).unwrap(),
            serde_json::json!({
                "model": "owl",
                "messages": [{ "role": "user", "content": "Hi" }],
                "top_k": 40,
                "stream": true,
                "stream_options": { "include_usage": true },
            })
        );
    }

    #[test]
    fn the_status_of_a_fleet_is_understood() {
        let status: Status = serde_json::from_value(serde_json::json!({
            "workers": [],
            "models": [
                { "name": "a", "state": { "loading": { "progress": 0.5 } }, "loaded": null, "activity": null,
                  "requests": 1, "expires_at": null },
                { "name": "b", "state": "ready", "loaded": null, "activity": null, "requests": 0,
                  "expires_at": "1970-01-01T00:00:05Z" },
            ],
        }))
        .unwrap();
        assert_eq!(
            status.models[0].state,
            ModelState::Loading { progress: 0.5 }
        );
        assert_eq!(status.models[1].state, ModelState::Ready);
        let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(status.models[1].expires_at, Some(expires_at));
    }
}
