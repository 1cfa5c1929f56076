//! Requests that mean harm, or are broken.

use std::{io::Write, time::Duration};

use aluco_fake_worker::Script;
use aluco_server::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{PATIENCE, World, config, error};

#[tokio::test]
async fn broken_bodies_are_refused_in_openais_form() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let deep = format!("{{\"messages\":{}", "[".repeat(1_000_000));
    for (body, code) in [
        ("", "invalid_request"),
        ("{", "invalid_json"),
        ("null", "invalid_value"),
        ("[1]", "invalid_value"),
        ("{\"model\":1}", "invalid_value"),
        ("{\"model\":\"m\",\"model\":\"m\"}", "invalid_value"),
        ("{} {}", "invalid_value"),
        ("\u{0}\u{1}", "invalid_json"),
        (deep.as_str(), "invalid_json"),
    ] {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let url = format!("http://{}{path}", world.address);
            let response = world.client.post(url).body(body.to_owned()).send().await;
            let (status, found, _) = error(response.unwrap()).await;
            let shown: String = body.chars().take(40).collect();
            assert_eq!((status, found.as_str()), (400, code), "{shown:?}");
        }
    }
    let url = format!("http://{}/v1/chat/completions", world.address);
    let not_text = world.client.post(url).body(vec![0xff_u8; 64]).send().await;
    assert_eq!(error(not_text.unwrap()).await.1, "invalid_json");
    world.assert_unharmed(&model).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let small = ServerConfig {
        body_bytes_max: 10_000,
        ..config()
    };
    let world = World::with(small, |_| {}).await;
    let model = world.model("m", &Script::default());
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(20_000)}]});
    let (status, code, _) = error(world.chat(&model, long).await).await;
    assert_eq!((status, code.as_str()), (413, "request_too_large"));
    world.assert_unharmed(&model).await;
}

#[tokio::test]
async fn all_bodies_together_are_bounded_as_long_as_their_requests_run() {
    let small = ServerConfig {
        body_bytes_max: 10_000,
        ..config()
    };
    // As many as fit run at once: who waits for its turn would hold up the next one.
    let world = World::with(small, |fleet| fleet.load_options.sequences_max = 8).await;
    let script = Script {
        endless: true,
        delay_ms: 5,
        context_tokens: 1_000_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fields = json!({
        "messages": [{"role": "user", "content": "x".repeat(9_000)}],
        "stream": true,
    });
    let mut running = Vec::new();
    loop {
        let reply = world.chat(&model, fields.clone()).await;
        if reply.status() != 200 {
            let (status, code, _) = error(reply).await;
            assert_eq!((status, code.as_str()), (503, "overloaded"));
            break;
        }
        running.push(reply);
    }
    assert_eq!(running.len(), 8);
    drop(running);
    let room = async { while world.chat(&model, fields.clone()).await.status() != 200 {} };
    let room = tokio::time::timeout(PATIENCE, room).await;
    room.expect("those that have ended make room");
}

#[tokio::test]
async fn wrong_paths_and_methods_are_told_apart() {
    let world = World::new().await;
    let missing = world.get("/v1/chat/completion").send().await.unwrap();
    assert_eq!(error(missing).await.1, "unknown_path");
    let wrong = world.get("/v1/chat/completions").send().await.unwrap();
    let allowed = wrong.headers()["allow"].to_str().unwrap().to_owned();
    assert_eq!(allowed, "POST");
    let (status, code, _) = error(wrong).await;
    assert_eq!((status, code.as_str()), (405, "method_not_allowed"));
}

#[tokio::test]
async fn a_client_that_is_slow_to_ask_is_cut_off() {
    let hasty = ServerConfig {
        read_timeout: Duration::from_millis(500),
        ..config()
    };
    let world = World::with(hasty, |_| {}).await;
    for (sent, expected) in [
        ("GET /health HT", ""),
        (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{",
            "HTTP/1.1 408",
        ),
    ] {
        // The server runs on this thread, so what is sent is there when it looks for the first time.
        let mut stream = std::net::TcpStream::connect(world.address).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        let mut reply = String::new();
        let reading = stream.read_to_string(&mut reply);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.expect("the server hangs up").unwrap();
        assert!(reply.starts_with(expected), "{reply}");
    }
    assert_eq!(world.get("/health").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn bytes_that_are_no_http_disturb_nobody() {
    let world = World::new().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
    }
    let health = world.get("/health").send().await.unwrap();
    let health: Value = health.json().await.unwrap();
    assert_eq!(health["status"], "ok");
}
