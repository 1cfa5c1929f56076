//! A request that ends its worker whenever it comes to one place, beside seven that do not.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aluco_fake_worker::{Gate, Place, Script};
use serde_json::json;
use tokio::time::Instant;

use super::{crowd::STREAMS, journal};
use crate::served::{PATIENCE, Served, chunks};

const TOKENS: usize = 300;

/// Where the culprit ends its worker.
const PLACE: u32 = 120;

/// Where the others wait until that has happened.
const PLACE_BEYOND: u32 = 200;

/// So many events of a stream are some that tell of tokens.
const EVENTS: usize = 10;

/// Asks, and reads to the end: the status and the text. Tells how many events there are while they come.
async fn stream(
    served: &Served,
    model: &str,
    question: &str,
    events: &AtomicUsize,
) -> (u16, String) {
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": TOKENS,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let mut reply = served.post("/v1/chat/completions", &body).await;
    let mut bytes = Vec::new();
    while let Some(more) = reply.chunk().await.unwrap() {
        let ends = more.windows(2).filter(|pair| pair == b"\n\n").count();
        events.fetch_add(ends, Ordering::Relaxed);
        bytes.extend_from_slice(&more);
    }
    (reply.status().as_u16(), String::from_utf8(bytes).unwrap())
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

fn gate(folder: &Path, at: u32) -> Gate {
    Gate {
        at: Place::Token(at),
        file: folder.join(format!("gate-{at}")),
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_request_that_kills_its_worker_every_time_ends_in_an_error_while_seven_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let [before, beyond] = [PLACE, PLACE_BEYOND].map(|at| gate(folder.path(), at));
    let script = Script {
        tokens: (0..7).map(|n| format!("{n} ")).collect(),
        endless: true,
        delay_ms: 2,
        crash_after: Some(PLACE),
        culprit: Some("Kill your worker".to_owned()),
        gates: vec![before.clone(), beyond.clone()],
        ..Script::default()
    };
    script.write(&path).unwrap();
    let model = path.to_str().unwrap();
    let worker = aluco_fake_worker::binary();
    let served = Served::start(&["--worker", worker.to_str().unwrap(), "--parallel", "8"]);
    let others = (1..STREAMS).map(|n| format!("Say the numbers, the {n}th time."));
    let served = Arc::new(served);
    let mut begun = Vec::new();
    let mut ask = |question: String| {
        let (served, model) = (served.clone(), model.to_owned());
        let events = Arc::new(AtomicUsize::new(0));
        begun.push(events.clone());
        tokio::spawn(async move { stream(&served, &model, &question, &events).await })
    };
    let innocents: Vec<_> = others.map(&mut ask).collect();
    let culprit = ask("Kill your worker.".to_owned());
    // All are in the midst of their replies when the first worker dies.
    let asked = Instant::now();
    while begun.iter().any(|it| it.load(Ordering::Relaxed) < EVENTS) {
        assert!(asked.elapsed() < PATIENCE, "{begun:?}\n{}", served.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    before.open().unwrap();
    journal::told(&served, "death", |lives| lives.first()?.ended).await;
    beyond.open().unwrap();
    let (status, text) = culprit.await.unwrap();
    let mut replies = Vec::new();
    for innocent in innocents {
        replies.push(innocent.await.unwrap());
    }
    assert_eq!(replies.len(), STREAMS - 1);
    for (status, text) in &replies {
        assert_eq!(*status, 200);
        assert_is_whole(text);
        let last = chunks(text).pop().unwrap();
        assert!(last["aluco"]["restarts"].as_u64() > Some(0), "{last}");
    }
    // It had begun, so the error comes as its last event.
    assert_eq!(status, 200);
    let last = chunks(&text).pop().unwrap();
    let message = last["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("this request has ended"), "{text}");

    // The very same is refused at once from now on, and others are not.
    let events = AtomicUsize::new(0);
    let (status, text) = stream(&served, model, "Say the numbers again.", &events).await;
    assert_eq!(status, 200);
    assert_is_whole(&text);
    let restarts = restarts(&served).await;
    let (status, text) = stream(&served, model, "Kill your worker.", &events).await;
    assert!(status >= 400, "{status}: {text}");
    assert!(text.contains("has ended workers before"), "{text}");
    let (status, text) = stream(
        &served,
        model,
        "Say the numbers for the last time.",
        &events,
    )
    .await;
    assert_eq!(status, 200);
    assert_is_whole(&text);
    assert_eq!(self::restarts(&served).await, restarts);
}

/// How often the worker was started again, of which one has to run.
async fn restarts(served: &Served) -> u64 {
    let restarts = served.number_in_status("/workers/0/restarts", |_| true);
    restarts.await
}
