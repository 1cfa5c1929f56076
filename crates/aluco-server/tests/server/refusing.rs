//! What clients are told of a model for which there is no memory.

use aluco_fake_worker::Script;
use aluco_fleet::plan::Refusal;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::world::{World, config};

const MIB: u64 = 1 << 20;

async fn world() -> World {
    World::with(config(), |fleet| {
        fleet.memory_limit = Some(300 * MIB);
        fleet.load_options.cache.ram_bytes = Some(0);
    })
    .await
}

fn weighs(mib: u64) -> Script {
    Script {
        weights_bytes: mib * MIB,
        ..Script::default()
    }
}

#[tokio::test]
async fn what_never_fits_is_refused_with_the_table() {
    let world = world().await;
    let model = world.model("large", &weighs(500));
    let body = json!({"model": model, "messages": [{"role": "user", "content": "x"}]});
    let reply = world
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(reply.headers()["x-should-retry"], "false");
    let error = &reply.json::<Value>().await.unwrap()["error"];
    assert_eq!(error["code"], "insufficient_memory");
    assert_eq!(error["type"], "server_error");
    assert_eq!(error["param"], "model");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("NEEDED") && message.contains("500.0 MiB"),
        "{message}"
    );
    let refusal: Refusal = serde_json::from_value(error["refusal"].clone()).unwrap();
    assert_eq!(refusal.free_bytes.0, 300 * MIB);
    assert_eq!(world.journal("large"), "");
}

#[tokio::test]
async fn what_would_be_refused_is_told_without_a_load() {
    let world = world().await;
    for (mib, fits) in [(100, true), (500, false)] {
        let name = format!("{mib}");
        let model = world.model(&name, &weighs(mib));
        let body = json!({"model": model, "dry_run": true});
        let reply = world.post("/aluco/v1/load", &body).send().await.unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
        let plan: Value = reply.json().await.unwrap();
        assert_eq!(plan["is_refused"], !fits);
        assert_eq!(plan["fit"].is_object(), fits);
        assert_eq!(plan["refusal"].is_object(), !fits);
        assert_eq!(world.journal(&name), "");
    }
}

#[tokio::test]
async fn the_status_has_the_ledger() {
    let world = world().await;
    let model = world.model("model", &weighs(100));
    let reply = world
        .post("/aluco/v1/load", &json!({"model": model}))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.status(), StatusCode::OK);
    let status: Value = world.get_json("/aluco/v1/status").await;
    let ledger = &status["ledger"];
    assert_eq!(ledger["budget"]["together"], 300 * MIB);
    assert_eq!(ledger["holders"][0]["model"], model);
    assert_eq!(ledger["pressure"], "calm");
}
