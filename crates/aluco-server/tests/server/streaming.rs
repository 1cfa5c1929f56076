//! Streams.

use std::time::Duration;

use aluco_fake_worker::{Place, Script};
use aluco_server::ServerConfig;
use serde_json::json;

use crate::world::{World, chunks, config, eventually, lines, read_until, split};

#[tokio::test]
async fn a_stream_brings_the_chunks_in_order_and_ends() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let lines = lines(world.chat(&model, fields).await).await;
    assert_eq!(lines.last().unwrap(), "[DONE]");
    let chunks = chunks(&lines);
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!(chunks[0]["object"], "chat.completion.chunk");
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "Hello, world!");
    let finish = chunks.last().unwrap();
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk["usage"].is_null()));
    assert!(chunks.iter().all(|chunk| chunk["id"] == last["id"]));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 5);
    assert!(last["timings"]["ttft_ms"].is_number());
}

#[tokio::test]
async fn usage_is_told_only_to_those_who_ask() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let lines = lines(world.chat(&model, json!({"stream": true})).await).await;
    let chunks = chunks(&lines);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    assert!(chunks.iter().all(|chunk| chunk["choices"] != json!([])));
}

#[tokio::test]
async fn several_choices_are_told_apart() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let fields = json!({"stream": true, "n": 2, "logprobs": true});
    let chunks = chunks(&lines(world.chat(&model, fields).await).await);
    for choice in 0..2 {
        let mine = || {
            let chunks = chunks.iter();
            chunks.filter(move |chunk| chunk["choices"][0]["index"] == choice)
        };
        let text: String = mine()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, "Hello, world!");
        assert!(
            mine().any(|chunk| chunk["choices"][0]["logprobs"]["content"][0]["token"] == " world")
        );
    }
}

#[tokio::test]
async fn a_long_prefill_and_a_long_load_send_comments() {
    let quick = ServerConfig {
        accept_patience: Duration::from_millis(20),
        heartbeat_interval: Duration::from_millis(20),
        ..config()
    };
    let world = World::with(quick, |_| {}).await;
    let [load, prefill] = [Place::Load(5), Place::Prefill(1)].map(|place| world.gate(place));
    let script = Script {
        prompt_tokens: Some(1000),
        prefill_events: 4,
        gates: vec![load.clone(), prefill.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let mut response = world.chat(&model, json!({"stream": true})).await;
    let mut heard = read_until(&mut response, |heard| heard.contains("\n\n")).await;
    assert!(heard.starts_with(": loading "), "{heard}");
    load.open().unwrap();
    // The step, and heartbeats while there is no other.
    let step = ": prefill 250/1000\n\n";
    heard += &read_until(&mut response, |heard| heard.matches(step).count() > 2).await;
    prefill.open().unwrap();
    heard += &response.text().await.unwrap();
    let lines = split(&heard);
    for step in [": prefill 500/1000", ": prefill 750/1000"] {
        assert!(lines.contains(&step.to_owned()), "{lines:?}");
    }
    assert_eq!(lines.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn an_error_after_the_stream_has_begun_is_an_event_of_it() {
    let world = World::new().await;
    let script = Script {
        crash_after: Some(2),
        ..Script::default()
    };
    let model = world.model("m", &script);
    let lines = lines(world.chat(&model, json!({"stream": true})).await).await;
    let last = chunks(&lines).pop().unwrap();
    assert_eq!(last["error"]["code"], "engine_error");
    assert!(!lines.contains(&"[DONE]".to_owned()));
}

#[tokio::test]
async fn an_error_after_a_long_wait_is_an_event_too() {
    let quick = ServerConfig {
        accept_patience: Duration::from_millis(10),
        ..config()
    };
    let world = World::with(quick, |_| {}).await;
    let gate = world.gate(Place::Load(5));
    let script = Script {
        load_error: Some("the file is bad".to_owned()),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let response = world.chat(&model, json!({"stream": true})).await;
    gate.open().unwrap();
    let lines = lines(response).await;
    let last = chunks(&lines).pop().unwrap();
    assert_eq!(last["error"]["code"], "model_unusable");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_generation() {
    let world = World::new().await;
    let script = Script {
        endless: true,
        delay_ms: 1,
        context_tokens: 1_000_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let mut response = world.chat(&model, json!({"stream": true})).await;
    response.chunk().await.unwrap().unwrap();
    drop(response);
    eventually("the stream's generation ends", || {
        world.journal("m").contains("finished")
    })
    .await;
    // The same for a client that waits for a reply in one piece.
    let waiting = tokio::spawn(
        world
            .post(
                "/v1/chat/completions",
                &json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}),
            )
            .send(),
    );
    eventually("the second request runs", || {
        world.journal("m").matches("generate").count() == 2
    })
    .await;
    waiting.abort();
    eventually("the second generation ends", || {
        world.journal("m").matches("finished").count() == 2
    })
    .await;
}
