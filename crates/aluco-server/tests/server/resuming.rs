//! Streams that outlive their connections.

use std::time::{Duration, Instant};

use aluco_fake_worker::{Place, Script};
use aluco_server::{ResumableStreams, ResumeConfig, ServerConfig};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{PATIENCE, World, config, error, eventually, merge, read_until};

fn with(resume: ResumeConfig) -> ServerConfig {
    ServerConfig { resume, ..config() }
}

fn endless() -> Script {
    Script {
        endless: true,
        delay_ms: 1,
        context_tokens: 1_000_000,
        ..Script::default()
    }
}

/// A stream that can be resumed, and its id.
async fn begin(world: &World, model: &str, fields: Value) -> (Response, String) {
    let mut all = json!({"stream": true, "resumable": true});
    merge(&mut all, fields);
    let response = world.chat(model, all).await;
    assert_eq!(response.status(), StatusCode::OK);
    let id = response.headers()["x-aluco-stream-id"].to_str().unwrap();
    let id = id.to_owned();
    (response, id)
}

/// Reads a stream until so many events have come, and gives what came.
async fn read(response: &mut Response, events: u64) -> String {
    read_until(response, |got| arrived(got).0 >= events).await
}

/// Begins a stream and leaves it when it runs; gives its id, and what has come.
async fn leave(world: &World, model: &str) -> (String, String) {
    let (mut response, id) = begin(world, model, json!({"seed": 1})).await;
    (id, read(&mut response, 3).await)
}

async fn resume(world: &World, id: &str, after: u64) -> Response {
    let request = world.get(&format!("/aluco/v1/streams/{id}"));
    let request = request.header("last-event-id", after);
    request.send().await.unwrap()
}

/// The events of a stream without the comments between them.
fn events(text: &str) -> String {
    let frames = text.split_inclusive("\n\n");
    frames.filter(|frame| !frame.starts_with(':')).collect()
}

/// The number of the last event that arrived whole, and all bytes up to its end.
fn arrived(text: &str) -> (u64, &str) {
    let whole = text.rfind("\n\n").map_or("", |at| &text[..at + 2]);
    let mut ids = whole.lines().filter_map(|line| line.strip_prefix("id: "));
    (ids.next_back().map_or(0, |id| id.parse().unwrap()), whole)
}

/// The text of the first choice.
fn said(text: &str) -> String {
    text.lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk: Value| {
            let content = &chunk["choices"][0]["delta"]["content"];
            Some(content.as_str()?.to_owned())
        })
        .collect()
}

/// Reads that many bytes of the reply to a raw request and hangs up.
async fn cut(world: &World, request: &str, bytes: usize) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    while reply.len() < bytes {
        let mut buffer = vec![0; (bytes - reply.len()).min(4096)];
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            break;
        }
        reply.push_str(str::from_utf8(&buffer[..read]).unwrap());
    }
    reply
}

/// The body of a reply in HTTP/1.0's form, which has no chunks around it.
fn body(reply: &str) -> &str {
    reply.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn a_stream_that_is_cut_anywhere_is_completed_byte_for_byte() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let fields = json!({"stream_options": {"include_usage": true}, "logprobs": true});
    let (response, id) = begin(&world, &model, fields).await;
    let whole = response.text().await.unwrap();
    assert!(whole.ends_with("data: [DONE]\n\n"), "{whole}");
    assert!(whole.starts_with("id: 1\ndata: {"), "{whole}");
    let (last, _) = arrived(&whole);
    let replay = resume(&world, &id, 0).await;
    assert_eq!(replay.headers()["x-aluco-stream-id"], id.as_str());
    assert_eq!(events(&replay.text().await.unwrap()), events(&whole));
    let request = format!("GET /aluco/v1/streams/{id} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    let head = cut(&world, &request, usize::MAX >> 1).await;
    let head = head.len() - body(&head).len();
    let step = 7;
    let borders = whole.match_indices("\n\n").map(|(at, _)| at + 2);
    let places: Vec<usize> = borders.chain((0..whole.len()).step_by(step)).collect();
    assert!(places.len() > 100, "{}", places.len());
    for place in places {
        let got = cut(&world, &request, head + place).await;
        let (after, got) = arrived(body(&got));
        assert!(after <= last);
        let rest = resume(&world, &id, after).await.text().await.unwrap();
        assert_eq!(
            events(&format!("{got}{rest}")),
            events(&whole),
            "at {place}"
        );
    }
}

#[tokio::test]
async fn a_running_stream_goes_on_without_its_client_and_is_resumed_live() {
    let world = World::new().await;
    let gate = world.gate(Place::Token(40));
    let script = Script {
        tokens: (0..60).map(|number| format!("{number} ")).collect(),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let (id, mut got) = leave(&world, &world.model("m", &script)).await;
    // It is cut again and again, and runs at least until half of it has come.
    loop {
        let (after, whole) = arrived(&got);
        if after >= 30 {
            gate.open().unwrap();
        }
        let whole = whole.to_owned();
        let mut rest = resume(&world, &id, after).await;
        got = whole;
        while arrived(&got).0 < after + 9
            && let Some(chunk) = rest.chunk().await.unwrap()
        {
            got.push_str(str::from_utf8(&chunk).unwrap());
        }
        if got.ends_with("[DONE]\n\n") {
            break;
        }
    }
    let replay = resume(&world, &id, 0).await.text().await.unwrap();
    assert_eq!(events(&got), events(&replay));
    assert_eq!(said(&replay), script.tokens.concat());
    assert!(!world.journal("m").contains("cancel"));
}

#[tokio::test]
async fn a_stream_goes_on_over_a_lost_connection_and_a_dead_worker() {
    let world = World::new().await;
    let gate = world.gate(Place::Token(20));
    let script = Script {
        tokens: (0..60).map(|number| format!("{number} ")).collect(),
        crash_after: Some(20),
        accidents_max: Some(1),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let (id, got) = leave(&world, &world.model("m", &script)).await;
    gate.open().unwrap();
    eventually("another worker takes over", || {
        world.journal("m").matches("load").count() == 2
    })
    .await;
    let (after, whole) = arrived(&got);
    let rest = resume(&world, &id, after).await.text().await.unwrap();
    let text = said(&format!("{whole}{rest}"));
    assert_eq!(text, script.tokens.concat());
}

#[tokio::test]
async fn several_read_one_stream_at_once() {
    let world = World::new().await;
    let gate = world.gate(Place::Token(20));
    let script = Script {
        tokens: (0..40).map(|number| format!("{number} ")).collect(),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let (mut response, id) = begin(&world, &model, json!({})).await;
    let mut whole = read(&mut response, 5).await;
    let mut readers = Vec::new();
    for after in 0..5 {
        let request = world.get(&format!("/aluco/v1/streams/{id}?after={after}"));
        let response = request.send().await.unwrap();
        readers.push(tokio::spawn(response.text()));
    }
    gate.open().unwrap();
    whole.push_str(&response.text().await.unwrap());
    let whole = events(&whole);
    let frames: Vec<&str> = whole.split_inclusive("\n\n").collect();
    for (after, reader) in readers.into_iter().enumerate() {
        let read = reader.await.unwrap().unwrap();
        assert_eq!(events(&read), frames[after..].concat());
    }
    assert_eq!(world.journal("m").matches("generate").count(), 1);
}

#[tokio::test]
async fn a_stream_without_a_reader_is_cancelled_after_the_grace() {
    let grace = Duration::from_millis(150);
    let quick = with(ResumeConfig {
        grace,
        ..ResumeConfig::default()
    });
    let world = World::with(quick, |_| {}).await;
    let model = world.model("m", &endless());
    let (mut response, id) = begin(&world, &model, json!({})).await;
    response.chunk().await.unwrap().unwrap();
    let left = Instant::now();
    drop(response);
    eventually("the generation ends", || {
        world.journal("m").contains("finished")
    })
    .await;
    assert!(left.elapsed() >= grace, "it is cancelled too early");
    assert!(world.journal("m").contains("cancel"));
    let text = resume(&world, &id, 0).await.text().await.unwrap();
    assert!(text.contains("stream_cancelled"), "{text}");
    assert!(!text.contains("[DONE]"));
}

#[tokio::test]
async fn a_client_can_cancel_its_stream() {
    let world = World::new().await;
    let model = world.model("m", &endless());
    let (response, id) = begin(&world, &model, json!({})).await;
    let url = format!("http://{}/aluco/v1/streams/{id}", world.address);
    let deleted = world.client.delete(&url).send().await.unwrap();
    let deleted: Value = deleted.json().await.unwrap();
    assert_eq!(deleted, json!({"cancelled": true}));
    let text = response.text().await.unwrap();
    assert!(text.contains("stream_cancelled"), "{text}");
    eventually("the generation ends", || {
        world.journal("m").contains("finished")
    })
    .await;
    let (status, code, _) = error(resume(&world, &id, 0).await).await;
    assert_eq!((status, code.as_str()), (404, "stream_not_found"));
}

#[tokio::test]
async fn what_was_ended_is_kept_within_bounds() {
    let tight = with(ResumeConfig {
        bytes_max: 9_000,
        ..ResumeConfig::default()
    });
    let world = World::with(tight, |_| {}).await;
    let model = world.model("m", &Script::default());
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (response, id) = begin(&world, &model, json!({})).await;
        response.text().await.unwrap();
        ids.push(id);
    }
    // One costs more than a third of the bound, so the oldest have gone.
    assert_eq!(resume(&world, &ids[0], 0).await.status(), 404);
    assert_eq!(resume(&world, &ids[3], 0).await.status(), 200);
}

#[tokio::test]
async fn what_was_ended_is_kept_for_a_while() {
    let keep = Duration::from_millis(300);
    let brief = with(ResumeConfig {
        keep,
        ..ResumeConfig::default()
    });
    let world = World::with(brief, |_| {}).await;
    let gate = world.gate(Place::Token(2));
    let script = Script {
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let (response, id) = begin(&world, &model, json!({})).await;
    let running = Instant::now();
    gate.open().unwrap();
    response.text().await.unwrap();
    let forgotten = async { while resume(&world, &id, 0).await.status() == 200 {} };
    let forgotten = tokio::time::timeout(PATIENCE, forgotten).await;
    forgotten.expect("the stream is forgotten");
    assert_eq!(resume(&world, &id, 0).await.status(), 404);
    assert!(running.elapsed() >= keep, "it is forgotten too early");
}

#[tokio::test]
async fn a_stream_over_its_bound_loses_its_beginning_and_says_so() {
    let tight = with(ResumeConfig {
        stream_bytes_max: 10_000,
        ..ResumeConfig::default()
    });
    let world = World::with(tight, |_| {}).await;
    let script = Script {
        tokens: (0..300).map(|number| format!("{number} ")).collect(),
        ..Script::default()
    };
    let model = world.model("m", &script);
    let (response, id) = begin(&world, &model, json!({})).await;
    // Who keeps up, or asks for what is left, gets it.
    let text = response.text().await.unwrap();
    assert!(
        text.ends_with("[DONE]\n\n") || text.contains("stream_truncated"),
        "{text}"
    );
    // While it runs, what is left moves on.
    let latest = async {
        loop {
            let refused = resume(&world, &id, 0).await;
            assert_eq!(refused.status(), StatusCode::GONE);
            let refused: Value = refused.json().await.unwrap();
            assert_eq!(refused["error"]["code"], "stream_truncated");
            let message = refused["error"]["message"].as_str().unwrap();
            let oldest = message
                .split_whitespace()
                .find_map(|word| word.parse().ok());
            let oldest: u64 = oldest.unwrap();
            let latest = resume(&world, &id, oldest - 1).await.text().await.unwrap();
            if latest.starts_with(&format!("id: {oldest}\n")) && latest.ends_with("[DONE]\n\n") {
                return;
            }
        }
    };
    let latest = tokio::time::timeout(PATIENCE, latest).await;
    latest.expect("what is left can be read to the end");
    let (status, code, param) = error(resume(&world, &id, 10_000).await).await;
    assert_eq!((status, code.as_str()), (400, "invalid_value"));
    assert_eq!(param.as_deref(), Some("after"));
}

#[tokio::test]
async fn nobody_else_can_read_or_cancel_a_stream() {
    let keys = ServerConfig {
        api_keys: vec!["mine".to_owned(), "theirs".to_owned()],
        ..config()
    };
    let world = World::with(keys, |_| {}).await;
    let model = world.model("m", &endless());
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": true,
    });
    let request = world
        .post("/v1/chat/completions", &body)
        .bearer_auth("mine");
    let request = request.header("x-aluco-resumable", "true");
    let response = request.send().await.unwrap();
    let id = response.headers()["x-aluco-stream-id"].to_str().unwrap();
    let path = format!("/aluco/v1/streams/{id}");
    let theirs = world.get(&path).bearer_auth("theirs").send().await.unwrap();
    assert_eq!(error(theirs).await.0, 404);
    let url = format!("http://{}{path}", world.address);
    let theirs = world.client.delete(&url).bearer_auth("theirs");
    assert_eq!(error(theirs.send().await.unwrap()).await.0, 404);
    let mut mine = world.get(&path).bearer_auth("mine").send().await.unwrap();
    assert_eq!(mine.status(), 200);
    assert!(mine.chunk().await.unwrap().is_some());
}

#[tokio::test]
async fn streams_are_resumable_as_the_server_and_the_request_say() {
    for (streams, field, header, expected) in [
        (ResumableStreams::OnRequest, None, None, false),
        (ResumableStreams::OnRequest, None, Some("TRUE"), true),
        (
            ResumableStreams::OnRequest,
            Some(false),
            Some("true"),
            false,
        ),
        (ResumableStreams::Always, None, None, true),
        (ResumableStreams::Always, None, Some("false"), false),
        (ResumableStreams::Off, Some(true), None, false),
    ] {
        let resume = ResumeConfig {
            streams,
            ..ResumeConfig::default()
        };
        let world = World::with(with(resume), |_| {}).await;
        let model = world.model("m", &Script::default());
        let mut body = json!({"model": model, "prompt": "hi", "stream": true});
        if let Some(field) = field {
            body["resumable"] = field.into();
        }
        let mut request = world.post("/v1/completions", &body);
        if let Some(header) = header {
            request = request.header("x-aluco-resumable", header);
        }
        let response = request.send().await.unwrap();
        let has_id = response.headers().contains_key("x-aluco-stream-id");
        let case = format!("{streams:?} {field:?} {header:?}");
        assert_eq!(has_id, expected, "{case}");
        let text = response.text().await.unwrap();
        assert_eq!(text.contains("id: 1\n"), expected, "{case}");
    }
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let (status, _, param) = error(world.chat(&model, json!({"resumable": true})).await).await;
    assert_eq!((status, param.as_deref()), (400, Some("resumable")));
}

#[tokio::test]
async fn a_server_that_stops_ends_the_streams_that_nobody_reads() {
    let patient = ServerConfig {
        shutdown_limit: PATIENCE,
        ..config()
    };
    let mut world = World::with(patient, |_| {}).await;
    let model = world.model("m", &endless());
    let (mut response, _) = begin(&world, &model, json!({})).await;
    response.chunk().await.unwrap().unwrap();
    drop(response);
    world.shutdown.take();
    let ended = tokio::time::timeout(PATIENCE / 2, world.server).await;
    ended.expect("it does not wait for them").unwrap().unwrap();
}
