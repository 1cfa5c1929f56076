//! A request that ends its worker whenever it comes to one place, beside seven that do not.

use std::sync::Arc;

use aluco_fake_worker::Script;
use serde_json::json;

use super::crowd::STREAMS;
use crate::served::{Served, chunks};

const TOKENS: usize = 300;

/// Asks, and reads to the end: the status and the text.
async fn stream(served: &Served, model: &str, question: &str) -> (u16, String) {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": TOKENS,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let reply = served.post("/v1/chat/completions", &body).await;
    (reply.status().as_u16(), reply.text().await.unwrap())
}

fn assert_is_whole(text: &str) {
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let events = chunks(text);
    let said: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    let words: Vec<usize> = said
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    let expected: Vec<usize> = (0..TOKENS).map(|n| n % 7).collect();
    assert_eq!(words, expected);
    let last = events.last().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], TOKENS);
    let reasons = events
        .iter()
        .filter_map(|event| event["choices"][0]["finish_reason"].as_str());
    assert_eq!(reasons.collect::<Vec<_>>(), ["length"]);
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_request_that_kills_its_worker_every_time_ends_in_an_error_while_seven_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let script = Script {
        tokens: (0..7).map(|n| format!("{n} ")).collect(),
        endless: true,
        delay_ms: 2,
        crash_after: Some(120),
        culprit: Some("Kill your worker".to_owned()),
        ..Script::default()
    };
    script.write(&path).unwrap();
    let model = path.to_str().unwrap();
    let worker = aluco_fake_worker::binary();
    let served = Served::start(&["--worker", worker.to_str().unwrap(), "--parallel", "8"]);
    let others = (1..STREAMS).map(|n| format!("Say the numbers, the {n}th time."));
    let served = Arc::new(served);
    let ask = |question: String| {
        let (served, model) = (served.clone(), model.to_owned());
        tokio::spawn(async move { stream(&served, &model, &question).await })
    };
    let innocents: Vec<_> = others.map(ask).collect();
    let (status, text) = ask("Kill your worker.".to_owned()).await.unwrap();
    let mut replies = Vec::new();
    for innocent in innocents {
        replies.push(innocent.await.unwrap());
    }
    assert_eq!(replies.len(), STREAMS - 1);
    for (status, text) in &replies {
        assert_eq!(*status, 200);
        assert_is_whole(text);
    }
    // It had begun, so the error comes as its last event.
    assert_eq!(status, 200);
    let last = chunks(&text).pop().unwrap();
    let message = last["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("this request has ended"), "{text}");

    // The very same is refused at once from now on, and another is not.
    let restarts = restarts(&served).await;
    let (status, text) = stream(&served, model, "Kill your worker.").await;
    assert!(status >= 400, "{status}: {text}");
    assert!(text.contains("has ended workers before"), "{text}");
    let (status, text) = stream(&served, model, "Say the numbers again.").await;
    assert_eq!(status, 200);
    assert_is_whole(&text);
    assert_eq!(self::restarts(&served).await, restarts);
}

async fn restarts(served: &Served) -> u64 {
    served.status().await["workers"][0]["restarts"]
        .as_u64()
        .unwrap()
}
