//! Replies whose worker died on the way say so, in a field that other replies do not have.

use aluco_fake_worker::Script;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::world::{World, chunks, config, lines};

/// Kills its worker once, behind the second token.
fn once() -> Script {
    Script {
        crash_after: Some(2),
        accidents_max: Some(1),
        ..Script::default()
    }
}

#[tokio::test]
async fn a_whole_reply_tells_where_it_went_on() {
    let world = World::new().await;
    let model = world.model("m", &once());
    let reply = world.chat_json(&model, json!({})).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello, world!");
    let told = &reply["aluco"];
    assert_eq!(told["restarts"], 1, "{told}");
    assert_eq!(told["resumed_at_tokens"], json!([2]), "{told}");
    let [Value::Number(_)] = told["restored_ms"].as_array().unwrap()[..] else {
        panic!("{told}");
    };
    // Nothing happens to the next one, so it has nothing to tell.
    let reply = world.chat_json(&model, json!({})).await;
    assert_eq!(reply.get("aluco"), None);
}

#[tokio::test]
async fn only_the_last_chunk_of_a_stream_tells_where_it_went_on() {
    for includes_usage in [false, true] {
        let world = World::new().await;
        let model = world.model("m", &once());
        let fields = json!({
            "stream": true,
            "stream_options": {"include_usage": includes_usage},
        });
        let chunks = chunks(&lines(world.chat(&model, fields).await).await);
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(last["aluco"]["restarts"], 1, "{last}");
        assert_eq!(last["choices"] == json!([]), includes_usage);
        assert!(others.iter().all(|chunk| chunk.get("aluco").is_none()));
    }
}

#[tokio::test]
async fn a_completion_of_several_prompts_tells_all_places() {
    let world = World::new().await;
    let model = world.model("m", &once());
    let body = json!({"model": model, "prompt": ["one", "two"]});
    let reply = world.post("/v1/completions", &body).send().await.unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["choices"][1]["text"], "Hello, world!");
    assert_eq!(reply["aluco"]["restarts"], 1, "{reply}");
    let places = reply["aluco"]["resumed_at_tokens"].as_array().unwrap();
    assert!(places.contains(&json!(2)), "{reply}");
}

#[tokio::test]
async fn replies_status_and_metrics_tell_that_a_model_is_run_otherwise() {
    let world = World::with(config(), |fleet| fleet.fallback_after_deaths = Some(1)).await;
    let model = world.model("m", &once());
    for restarts in [1, 0] {
        let reply = world.chat_json(&model, json!({})).await;
        assert_eq!(reply["aluco"]["restarts"], restarts);
        let fallback = &reply["aluco"]["fallback"];
        assert_eq!(fallback["steps"], json!([{"micro_batch": 128}]), "{reply}");
        assert_eq!(fallback["deaths"], 1);
        assert!(fallback["since"].as_str().unwrap().ends_with('Z'));
        let cause = fallback["cause"].as_str().unwrap();
        assert!(cause.contains("SIGABRT"), "{cause}");
    }
    let status = world.get("/aluco/v1/status").send().await.unwrap();
    let status: Value = status.json().await.unwrap();
    assert_eq!(
        status["models"][0]["fallback"]["steps"],
        json!([{"micro_batch": 128}])
    );
    assert_eq!(
        status["mishaps"],
        json!({"worker_deaths": {"assertion": 1}, "streams_resumed": 1, "fallback_steps": 1})
    );
    let metrics = world.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "aluco_worker_deaths_total{cause=\"assertion\"} 1",
        "aluco_streams_resumed_total 1",
        "aluco_fallback_steps_total 1",
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line} in\n{metrics}");
    }
}
