//! A streamed reply: what came, when, and that nothing of it is missing or there twice.

use std::time::{Duration, SystemTime};

use reqwest::Client;
use serde_json::{Value, json};

/// Something to say.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) question: String,
    /// 0: greedy.
    pub(super) temperature: f64,
    pub(super) seed: u64,
    pub(super) tokens_max: u64,
    /// Likeliest tokens that are told beside each token.
    pub(super) alternatives: u32,
}

/// One token of a reply.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn {
    pub(super) bytes: Vec<u8>,
    pub(super) logprob: f64,
    /// The likeliest tokens and their logprobs, best first.
    pub(super) best: Vec<(Vec<u8>, f64)>,
}

/// What came of a job.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) tokens: Vec<Drawn>,
    /// When each of them came.
    pub(super) heard: Vec<SystemTime>,
    pub(super) finish_reason: String,
    pub(super) prompt_tokens: u32,
    /// The workers that it lost, in order.
    pub(super) losses: Vec<Loss>,
}

/// A worker that died in the midst of a reply, as the reply itself tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// Tokens that there were.
    pub(super) at_token: usize,
    /// From when the next worker was given the rest of the reply until it had a token of it; `None` if there was none.
    pub(super) restored: Option<Duration>,
}

impl Job {
    /// Asks for it and reads the stream to its end; `news` hears of each event with tokens. Anything wrong with it is an error.
    pub(super) async fn ask(
        &self,
        client: &Client,
        url: &str,
        model: &str,
        news: impl Fn(SystemTime),
    ) -> Result<Reply, String> {
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": self.question}],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.tokens_max,
            "stream": true,
            "stream_options": {"include_usage": true},
            "logprobs": true,
            "top_logprobs": self.alternatives,
        });
        let request = client
            .post(format!("{url}/v1/chat/completions"))
            .json(&body);
        let mut response = request.send().await.map_err(|error| error.to_string())?;
        let mut events = Events::default();
        while let Some(bytes) = response.chunk().await.map_err(|error| error.to_string())? {
            let at = SystemTime::now();
            if events.add(&bytes, at)? {
                news(at);
            }
        }
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        events.reply(self)
    }
}

/// A stream so far.
#[derive(Default)]
struct Events {
    unread: Vec<u8>,
    text: String,
    tokens: Vec<Drawn>,
    heard: Vec<SystemTime>,
    finish_reasons: Vec<String>,
    prompt_tokens: u32,
    completion_tokens: Option<u64>,
    losses: Vec<Loss>,
    is_done: bool,
}

impl Events {
    /// True if there were tokens among it.
    fn add(&mut self, bytes: &[u8], at: SystemTime) -> Result<bool, String> {
        self.unread.extend_from_slice(bytes);
        let tokens = self.tokens.len();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(|error| error.to_string())?;
            match line.trim_end().strip_prefix("data: ") {
                Some("[DONE]") => self.is_done = true,
                Some(data) => self.event(data)?,
                None => {}
            }
        }
        self.heard.resize(self.tokens.len(), at);
        Ok(self.tokens.len() > tokens)
    }

    fn event(&mut self, data: &str) -> Result<(), String> {
        let event: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
        if !event["error"].is_null() || self.is_done {
            return Err(data.to_owned());
        }
        if let Some(tokens) = event["usage"]["completion_tokens"].as_u64() {
            self.completion_tokens = Some(tokens);
            self.prompt_tokens =
                event["usage"]["prompt_tokens"].as_u64().unwrap_or_default() as u32;
        }
        if let Some(places) = event["aluco"]["resumed_at_tokens"].as_array() {
            let restored = event["aluco"]["restored_ms"].as_array();
            let restored = restored.ok_or_else(|| data.to_owned())?;
            self.losses = places.iter().zip(restored).map(loss).collect();
        }
        let choice = &event["choices"][0];
        self.text += choice["delta"]["content"].as_str().unwrap_or_default();
        let tokens = choice["logprobs"]["content"].as_array();
        self.tokens.extend(tokens.into_iter().flatten().map(drawn));
        let reason = choice["finish_reason"].as_str();
        self.finish_reasons.extend(reason.map(str::to_owned));
        Ok(())
    }

    fn reply(self, job: &Job) -> Result<Reply, String> {
        let [finish_reason] = <[String; 1]>::try_from(self.finish_reasons)
            .map_err(|reasons| format!("it ended {} times", reasons.len()))?;
        let count = self.tokens.len() as u64;
        // The token that ends a reply is counted and not said.
        let is_stop = finish_reason == "stop";
        let told = self.completion_tokens;
        if !self.is_done || told != Some(count) && !(is_stop && told == Some(count + 1)) {
            return Err(format!("{count} tokens came, {told:?} were told of"));
        }
        if !is_stop && (finish_reason != "length" || count != job.tokens_max) {
            return Err(format!("it ended by {finish_reason} after {count} tokens"));
        }
        let bytes: Vec<u8> = self.tokens.iter().flat_map(|it| it.bytes.clone()).collect();
        if String::from_utf8_lossy(&bytes) != self.text {
            return Err(format!("its text is not that of its tokens: {}", self.text));
        }
        Ok(Reply {
            text: self.text,
            tokens: self.tokens,
            heard: self.heard,
            finish_reason,
            prompt_tokens: self.prompt_tokens,
            losses: self.losses,
        })
    }
}

fn loss((place, restored_ms): (&Value, &Value)) -> Loss {
    Loss {
        at_token: place.as_u64().unwrap() as usize,
        restored: restored_ms.as_u64().map(Duration::from_millis),
    }
}

fn drawn(token: &Value) -> Drawn {
    let bytes = |token: &Value| {
        let bytes = token["bytes"].as_array().unwrap().iter();
        bytes.map(|byte| byte.as_u64().unwrap() as u8).collect()
    };
    let logprob = |token: &Value| token["logprob"].as_f64().unwrap();
    let best = token["top_logprobs"].as_array().unwrap();
    Drawn {
        bytes: bytes(token),
        logprob: logprob(token),
        best: best.iter().map(|it| (bytes(it), logprob(it))).collect(),
    }
}
