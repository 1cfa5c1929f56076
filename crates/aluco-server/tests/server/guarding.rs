//! Who may ask, and who it is.

use std::collections::BTreeSet;

use aluco_fake_worker::Script;
use aluco_server::{Isolation, ServerConfig};
use serde_json::json;

use crate::world::{World, config, error};

#[tokio::test]
async fn a_key_is_asked_for_everywhere_but_for_the_health() {
    let keyed = ServerConfig {
        api_keys: vec!["first".to_owned(), "second".to_owned()],
        ..config()
    };
    let world = World::with(keyed, |_| {}).await;
    assert_eq!(world.get("/health").send().await.unwrap().status(), 200);
    for path in ["/v1/models", "/metrics", "/aluco/v1/status", "/nothing"] {
        let (status, code, _) = error(world.get(path).send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (401, "missing_api_key"), "{path}");
    }
    let wrong = world.get("/v1/models").bearer_auth("third");
    let (status, code, _) = error(wrong.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (401, "invalid_api_key"));
    let right = world.get("/v1/models").bearer_auth("second");
    assert_eq!(right.send().await.unwrap().status(), 200);
    let header = world.get("/v1/models").header("x-api-key", "first");
    assert_eq!(header.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn web_pages_of_other_sites_are_refused_without_a_key() {
    let world = World::new().await;
    let origin = |origin| world.get("/v1/models").header("origin", origin).send();
    for (from, status) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost.evil.example", 403),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
    ] {
        assert_eq!(origin(from).await.unwrap().status(), status, "{from}");
    }
    let rebound = world.get("/v1/models").header("host", "evil.example");
    let (status, code, _) = error(rebound.send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (403, "host_not_allowed"));
}

#[tokio::test]
async fn browsers_are_told_which_pages_may_ask() {
    let ask_first = |world: &World, origin: &str| {
        let url = format!("http://{}/v1/chat/completions", world.address);
        let request = world.client.request(reqwest::Method::OPTIONS, url);
        request
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            )
            .send()
    };
    let allowed = "access-control-allow-origin";
    let open = World::new().await;
    let here = ask_first(&open, "http://localhost:3000").await.unwrap();
    assert_eq!(here.status(), 200);
    assert_eq!(here.headers()[allowed], "http://localhost:3000");
    let elsewhere = ask_first(&open, "https://evil.example").await.unwrap();
    assert!(!elsewhere.headers().contains_key(allowed));
    let keyed = ServerConfig {
        api_keys: vec!["key".to_owned()],
        ..config()
    };
    let keyed = World::with(keyed, |_| {}).await;
    let anywhere = ask_first(&keyed, "https://chat.example").await.unwrap();
    assert_eq!(anywhere.headers()[allowed], "https://chat.example");
    let request = keyed.get("/v1/models").bearer_auth("key");
    let reply = request
        .header("origin", "https://chat.example")
        .send()
        .await;
    assert_eq!(reply.unwrap().headers()[allowed], "https://chat.example");
}

#[tokio::test]
async fn every_reply_carries_the_id_of_its_request() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let reply = world.get("/health").header("x-request-id", "abc");
    assert_eq!(reply.send().await.unwrap().headers()["x-request-id"], "abc");
    let reply = world.chat(&model, json!({})).await;
    let id = reply.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(id.starts_with("req-"), "{id}");
    let missing = world.get("/nothing").send().await.unwrap();
    assert!(missing.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn the_worker_learns_who_asks_and_never_by_which_key() {
    let body = |model: &str| json!({"model": model, "prompt": ["a", "b"]});
    for (isolation, namespaces) in [(Isolation::Shared, 1), (Isolation::Key, 2)] {
        let keyed = ServerConfig {
            api_keys: vec!["first".to_owned(), "second".to_owned()],
            isolation,
            ..config()
        };
        let world = World::with(keyed, |_| {}).await;
        let model = world.model("m", &Script::default());
        for key in ["first", "second", "first"] {
            let asked = world.post("/v1/completions", &body(&model));
            let reply = asked.bearer_auth(key).send().await.unwrap();
            assert_eq!(reply.status(), 200);
        }
        let specs = world.specs("m");
        let clients: Vec<_> = specs.iter().map(|spec| &*spec.client).collect();
        assert_eq!(clients.len(), 6);
        assert_eq!(clients[..2], clients[4..], "the same key");
        assert_ne!(clients[0], clients[2], "another key");
        let shown = format!("{specs:?}");
        assert!(!shown.contains("first"), "{shown}");
        let distinct: BTreeSet<_> = specs.iter().map(|spec| &*spec.namespace).collect();
        assert_eq!(distinct.len(), namespaces, "{distinct:?}");
        assert_eq!(distinct.contains(""), isolation == Isolation::Shared);
    }
    let open = World::with(
        ServerConfig {
            isolation: Isolation::Key,
            ..config()
        },
        |_| {},
    )
    .await;
    let model = open.model("m", &Script::default());
    open.assert_unharmed(&model).await;
    let spec = open.specs("m").remove(0);
    assert_eq!((&*spec.client, &*spec.namespace), ("local", ""));
}
