//! How the server ends.

use std::time::Duration;

use aluco_fake_worker::{Place, Script};
use aluco_server::ServerConfig;
use serde_json::json;

use crate::world::{PATIENCE, World, chunks, config, eventually, lines};

#[tokio::test]
async fn a_running_stream_is_finished_before_the_end() {
    let mut world = World::new().await;
    let gate = world.gate(Place::Token(2));
    let script = Script {
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let response = world.chat(&model, json!({"stream": true})).await;
    world.shutdown.take();
    eventually("the server takes nobody any more", || {
        std::net::TcpStream::connect(world.address).is_err()
    })
    .await;
    gate.open().unwrap();
    let lines = lines(response).await;
    assert_eq!(lines.last().unwrap(), "[DONE]");
    let ended = tokio::time::timeout(PATIENCE, world.server).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_over_the_limit_ends_with_an_error() {
    let hasty = ServerConfig {
        shutdown_limit: Duration::from_millis(50),
        ..config()
    };
    let mut world = World::with(hasty, |_| {}).await;
    let endless = Script {
        endless: true,
        delay_ms: 50,
        context_tokens: 1_000_000,
        ..Script::default()
    };
    let model = world.model("m", &endless);
    let response = world.chat(&model, json!({"stream": true})).await;
    world.shutdown.take();
    let lines = lines(response).await;
    let last = chunks(&lines).pop().unwrap();
    assert_eq!(last["error"]["code"], "cancelled", "{lines:?}");
    let ended = tokio::time::timeout(PATIENCE, world.server).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_can_end_the_server() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    world.assert_unharmed(&model).await;
    let reply = world.post("/aluco/v1/shutdown", &json!({})).send().await;
    assert_eq!(reply.unwrap().status(), 202);
    let ended = tokio::time::timeout(PATIENCE, world.server).await;
    ended.expect("the server ends").unwrap().unwrap();
    let late = world.client.get(format!("http://{}/health", world.address));
    assert!(late.send().await.is_err());
}
