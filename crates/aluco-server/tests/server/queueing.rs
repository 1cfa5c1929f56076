//! A queue that is full.

use aluco_fake_worker::Script;
use reqwest::Response;
use serde_json::json;

use crate::world::{World, config, error, eventually};

async fn assert_turned_away(response: Response) {
    let wait = response.headers()["retry-after"].to_str().unwrap();
    assert!(wait.parse::<u32>().unwrap() > 0, "{wait}");
    let (status, code, _) = error(response).await;
    assert_eq!((status, code.as_str()), (503, "overloaded"));
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_when_to_come_back_and_then_served() {
    let world = World::with(config(), |fleet| {
        fleet.load_options.sequences_max = 1;
        fleet.queue_max = 1;
    })
    .await;
    let script = Script {
        endless: true,
        delay_ms: 5,
        context_tokens: 1_000_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let running = world.chat(&model, json!({"stream": true})).await;
    assert_eq!(running.status(), 200);
    let waiting = tokio::spawn({
        let body = json!({"model": model, "prompt": "hi", "max_tokens": 2});
        world.post("/v1/completions", &body).send()
    });
    eventually("one runs and one waits", || {
        world.journal("m").matches("generate").count() == 2
    })
    .await;
    for stream in [false, true] {
        assert_turned_away(world.chat(&model, json!({"stream": stream})).await).await;
    }
    let body = json!({"model": model, "text": "hi"});
    let tokenized = world.post("/aluco/v1/tokenize", &body).send().await;
    assert_turned_away(tokenized.unwrap()).await;
    drop(running);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    let reply = world.chat_json(&model, json!({"max_tokens": 1})).await;
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}
