//! Loading models, and what is told meanwhile.

use std::time::Duration;

use aluco_fake_worker::{Gate, Place, Script};
use aluco_fleet::KeepAlive;
use serde_json::{Value, json};

use crate::world::{World, config, error, eventually, read_until, split};

/// Its load stops at these gates.
fn gated(gates: &[Gate]) -> Script {
    Script {
        gates: gates.to_vec(),
        ..Script::default()
    }
}

/// Names and data of a stream of named events.
fn named(text: &str) -> Vec<(String, Value)> {
    text.split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            (
                name.strip_prefix("event: ").unwrap().to_owned(),
                serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn who_follows_a_load_sees_its_progress_and_its_end() {
    let world = World::new().await;
    let gates = [Place::Load(3), Place::Load(6)].map(|place| world.gate(place));
    let model = world.model("m", &gated(&gates));
    let request = world.post("/aluco/v1/load", &json!({"model": model}));
    let request = request.header("accept", "text/event-stream");
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    for (gate, progress) in gates.iter().zip(["\"progress\":0.3", "\"progress\":0.6"]) {
        text += &read_until(&mut response, |text| text.contains(progress)).await;
        gate.open().unwrap();
    }
    text += &response.text().await.unwrap();
    let events = named(&text);
    let (last, progress) = events.split_last().unwrap();
    assert_eq!(last.0, "loaded");
    assert_eq!(last.1["architecture"], "fake");
    assert!(progress.len() >= 2, "{events:?}");
    let shares = progress.iter().map(|(name, data)| {
        assert_eq!((name.as_str(), &data["model"]), ("progress", &json!(model)));
        data["progress"].as_f64().unwrap()
    });
    assert!(shares.is_sorted(), "{events:?}");
    // Loaded already: nothing to tell but that.
    let body = json!({"model": model, "stream": true});
    let again = world.post("/aluco/v1/load", &body).send().await.unwrap();
    assert_eq!(again.headers()["content-type"], "text/event-stream");
    let again = named(&again.text().await.unwrap());
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].0, "loaded");
}

#[tokio::test]
async fn who_follows_a_load_hears_something_while_it_gets_no_further() {
    let quick = aluco_server::ServerConfig {
        heartbeat_interval: Duration::from_millis(20),
        ..config()
    };
    let world = World::with(quick, |_| {}).await;
    let gate = world.gate(Place::Load(1));
    let model = world.model("m", &gated(std::slice::from_ref(&gate)));
    let body = json!({"model": model, "stream": true});
    let mut response = world.post("/aluco/v1/load", &body).send().await.unwrap();
    let comment = ": loading or waiting\n\n";
    read_until(&mut response, |text| text.contains("\"progress\":0.1")).await;
    read_until(&mut response, |text| text.matches(comment).count() > 5).await;
    gate.open().unwrap();
    let lines = split(&response.text().await.unwrap());
    assert!(lines.last().unwrap().starts_with("event: loaded"));
}

#[tokio::test]
async fn a_load_that_fails_ends_its_stream_in_an_error() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    std::fs::write(&model, "no model at all").unwrap();
    let body = json!({"model": model, "stream": true});
    let response = world.post("/aluco/v1/load", &body).send().await.unwrap();
    let events = named(&response.text().await.unwrap());
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "error");
    assert!(
        data["error"]["message"]
            .as_str()
            .unwrap()
            .contains("m.gguf")
    );
}

#[tokio::test]
async fn a_load_goes_on_when_nobody_follows_it_any_more() {
    let world = World::new().await;
    let gate = world.gate(Place::Load(5));
    let model = world.model("m", &gated(std::slice::from_ref(&gate)));
    let body = json!({"model": model, "stream": true});
    world.ask_and_leave("/aluco/v1/load", &body).await;
    gate.open().unwrap();
    assert_eq!(
        world.chat_json(&model, json!({})).await["object"],
        "chat.completion"
    );
    assert_eq!(world.journal("m").matches("load").count(), 1);
}

#[tokio::test]
async fn a_load_says_how_long_the_model_stays() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let load = async |fields: Value| {
        let mut body = json!({"model": model});
        crate::world::merge(&mut body, fields);
        world.post("/aluco/v1/load", &body).send().await.unwrap()
    };
    let shown = async || {
        let reply = world.get("/aluco/v1/status").send().await.unwrap();
        let status: Value = reply.json().await.unwrap();
        status["models"][0].clone()
    };
    let plan: Value = load(json!({"dry_run": true})).await.json().await.unwrap();
    assert_eq!(plan["is_loaded"], false);
    assert_eq!(shown().await, Value::Null);
    assert!(
        load(json!({"keep_alive": "1h30m"}))
            .await
            .status()
            .is_success()
    );
    assert_eq!(shown().await["keep_alive"], "90m");
    assert_eq!(shown().await["pinned"], false);
    load(json!({"pin": true, "keep_alive": -1})).await;
    assert_eq!(shown().await["keep_alive"], "forever");
    assert_eq!(shown().await["pinned"], true);
    let refused = error(load(json!({"keep_alive": "soon"})).await).await;
    assert_eq!(
        refused,
        (400, "invalid_value".into(), Some("keep_alive".into()))
    );
}

#[tokio::test]
async fn a_request_says_how_long_its_model_stays() {
    let world = World::with(config(), |fleet| fleet.keep_alive = KeepAlive::Forever).await;
    let model = world.model("m", &Script::default());
    world.chat_json(&model, json!({})).await;
    assert!(!world.journal("m").contains("unload"));
    world.chat_json(&model, json!({"keep_alive": 0})).await;
    eventually("it is unloaded", || world.journal("m").contains("unload")).await;
    let body = json!({"model": model, "prompt": "x", "keep_alive": "0s"});
    let reply = world.post("/v1/completions", &body).send().await.unwrap();
    assert!(reply.status().is_success());
    eventually("it is unloaded again", || {
        world.journal("m").matches("unload").count() == 2
    })
    .await;
    let refused = error(world.chat(&model, json!({"keep_alive": true})).await).await;
    assert_eq!(refused.0, 400);
    assert_eq!(refused.2.as_deref(), Some("keep_alive"));
}

#[tokio::test]
async fn a_stream_says_how_far_its_model_is_loaded() {
    let config = aluco_server::ServerConfig {
        accept_patience: Duration::from_millis(50),
        heartbeat_interval: Duration::from_millis(50),
        ..config()
    };
    for resumable in [false, true] {
        let world = World::with(config.clone(), |_| {}).await;
        let gate = world.gate(Place::Load(5));
        let model = world.model("m", &gated(std::slice::from_ref(&gate)));
        let fields = json!({"stream": true, "resumable": resumable});
        let mut response = world.chat(&model, fields).await;
        let heard = read_until(&mut response, |text| text.contains(": loading 50%\n\n")).await;
        gate.open().unwrap();
        let lines = split(&(heard + &response.text().await.unwrap()));
        let loading: Vec<u32> = lines
            .iter()
            .filter_map(|line| {
                line.strip_prefix(": loading ")?
                    .strip_suffix('%')?
                    .parse()
                    .ok()
            })
            .collect();
        assert!(loading.is_sorted(), "{lines:?}");
        assert!(lines.last().unwrap().ends_with("[DONE]"), "{lines:?}");
    }
}
