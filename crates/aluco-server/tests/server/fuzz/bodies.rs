//! Bodies: valid ones, and what is done to them.

use fastrand::Rng;
use serde_json::{Value, json};

/// Stands in a body where text goes that no serialiser would write.
const RAW: &str = "@raw@";

/// Fields of completion requests, to be given values that they do not take.
const FIELDS: [&str; 41] = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "resumable",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "truncation",
    "stop",
    "echo",
    "logprobs",
    "top_logprobs",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logit_bias",
    "ignore_eos",
    "chat_template_kwargs",
    "reasoning_effort",
    "tools",
    "functions",
    "response_format",
    "audio",
    "modalities",
    "tool_choice",
    "suffix",
    "best_of",
    "keep_alive",
    "pin",
    "dry_run",
    "filter",
    "text",
    "tokens",
];

/// JSON as nobody should send it, some of it broken.
const FRAGMENTS: [&str; 34] = [
    "NaN",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e-400",
    "0.1e1e1",
    "01",
    "-",
    "18446744073709551616",
    "-9223372036854775809",
    "4294967296",
    "-1",
    "-0.0",
    "1.5",
    "3.4028236e38",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\u0000\"",
    "\"\\x41\"",
    "\"\u{0}\"",
    "\"\u{202e}\u{feff}\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}e\u{301}\u{323}\"",
    "\"../../../../etc/passwd\"",
    "\"/dev/zero\"",
    "\"/proc/self/mem\"",
    "\"C:\\\\..\\\\x.gguf\"",
    "{\"__proto__\":{}}",
    "{\"\":{\"\":[]}}",
    "[[[[[[[[[]]]]]]]]]",
    "[null,1,\"x\",{}]",
    "{\"role\":\"user\"}",
    "'x'",
    "undefined",
    "true",
    "null",
];

/// A valid request: method, path and body.
pub(super) fn valid(rng: &mut Rng, model: &str) -> (&'static str, String, Option<Value>) {
    let chat = |rng: &mut Rng| {
        json!({
            "model": model,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            ],
            "stream": rng.bool(),
            "resumable": null,
            "max_tokens": rng.u32(1..9),
            "temperature": 0.5,
            "stop": ["x", "y"],
            "logit_bias": {"5": -1},
            "stream_options": {"include_usage": rng.bool()},
            "chat_template_kwargs": {"enable_thinking": false},
        })
    };
    let (method, path, body) = match rng.u32(0..40) {
        0..12 => ("POST", "/v1/chat/completions", Some(chat(rng))),
        12..20 => {
            let prompt = match rng.u32(0..3) {
                0 => json!("Once"),
                1 => json!([1, 2, 3]),
                _ => json!(["Once", "upon"]),
            };
            let body = json!({
                "model": model, "prompt": prompt, "stream": rng.bool(), "max_tokens": 4, "echo": false,
                "logprobs": null, "n": 1, "seed": 7, "top_p": 0.9, "top_k": 40, "frequency_penalty": 0.1,
            });
            ("POST", "/v1/completions", Some(body))
        }
        20..22 => {
            let body = json!({"model": model, "text": "Hello", "add_special": true});
            ("POST", "/aluco/v1/tokenize", Some(body))
        }
        22..24 => {
            let body = json!({"model": model, "tokens": [1, 2]});
            ("POST", "/aluco/v1/detokenize", Some(body))
        }
        24..26 => {
            let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
            ("POST", "/aluco/v1/render", Some(body))
        }
        26..28 => {
            let body =
                json!({"model": model, "stream": rng.bool(), "dry_run": false, "keep_alive": "5m"});
            ("POST", "/aluco/v1/load", Some(body))
        }
        28 => (
            "POST",
            "/aluco/v1/models/unload",
            Some(json!({"model": model})),
        ),
        29..31 => ("GET", "/v1/models", None),
        31 => {
            return ("GET", format!("/v1/models/{model}"), None);
        }
        32 => ("GET", "/aluco/v1/status", None),
        33 => ("GET", "/metrics", None),
        34 => ("GET", "/health", None),
        35 => ("GET", "/", None),
        36 => ("PUT", "/aluco/v1/log", Some(json!({"filter": "info"}))),
        37 => ("POST", "/aluco/v1/reload", None),
        _ => {
            let id = format!("{:032x}", rng.u128(..));
            let method = if rng.bool() { "GET" } else { "DELETE" };
            return (method, format!("/aluco/v1/streams/{id}"), None);
        }
    };
    (method, path.to_owned(), body)
}

/// The body's text after one to three changes to its values, and perhaps one to its bytes.
pub(super) fn spoil(rng: &mut Rng, mut body: Value) -> Vec<u8> {
    let mut raws = Vec::new();
    for _ in 0..rng.u32(0..4) {
        let raw = hostile(rng);
        let place = if rng.u32(0..3) == 0 {
            let field = FIELDS[rng.usize(..FIELDS.len())];
            body.as_object_mut()
                .map(|fields| fields.entry(field).or_insert(Value::Null))
        } else {
            Some(somewhere(rng, &mut body))
        };
        if let Some(place) = place {
            *place = format!("{RAW}{}", raws.len()).into();
            raws.push(raw);
        }
    }
    let mut text = body.to_string();
    for (number, raw) in raws.iter().enumerate() {
        text = text.replace(&format!("\"{RAW}{number}\""), raw);
    }
    match rng.u32(0..12) {
        0 => {
            // The same field twice, the second time perhaps as another type.
            let field = FIELDS[rng.usize(..FIELDS.len())];
            let twice = format!("{{\"{field}\":{},", hostile(rng));
            text = text.replacen('{', &twice, 1);
        }
        1 => text.truncate(floor(&text, rng.usize(..=text.len()))),
        2 => text.push_str(&hostile(rng)),
        3 => text.insert(0, '\u{feff}'),
        _ => {}
    }
    let mut bytes = text.into_bytes();
    if rng.u32(0..4) == 0 && !bytes.is_empty() {
        for _ in 0..rng.u32(1..4) {
            let at = rng.usize(..bytes.len());
            match rng.u32(0..4) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes.insert(at, rng.u8(128..)),
                2 => drop(bytes.drain(at..(at + rng.usize(1..9)).min(bytes.len()))),
                _ => {
                    let end = (at + rng.usize(1..40)).min(bytes.len());
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
    }
    bytes
}

/// A value somewhere in the body.
fn somewhere<'a>(rng: &mut Rng, value: &'a mut Value) -> &'a mut Value {
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if count == 0 || rng.u32(0..6) == 0 {
        return value;
    }
    let index = rng.usize(..count);
    let inner = match value {
        Value::Array(items) => items.get_mut(index),
        Value::Object(fields) => fields.values_mut().nth(index),
        _ => None,
    };
    somewhere(rng, inner.expect("the index is below the count"))
}

fn hostile(rng: &mut Rng) -> String {
    match rng.u32(0..20) {
        0 => {
            let depth = [10, 100, 127, 128, 129, 5_000][rng.usize(..6)];
            format!("{}{}", "[".repeat(depth), "]".repeat(depth))
        }
        1 => {
            let depth = [10, 126, 127, 128, 3_000][rng.usize(..5)];
            format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth))
        }
        2 => format!("\"{}\"", "x".repeat(rng.usize(1..60_000))),
        3 => format!("[{}0]", "0,".repeat(rng.usize(1..20_000))),
        4 => format!("[{}\"\"]", "\"\",".repeat(rng.usize(1..400))),
        5 => format!("{}", f64::from_bits(rng.u64(..))),
        6 => rng.i64(..).to_string(),
        7 => format!("\"{}\"", "\u{1f989}".repeat(rng.usize(1..2_000))),
        _ => FRAGMENTS[rng.usize(..FRAGMENTS.len())].to_owned(),
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
