//! What is shown of made-up servers, at several sizes.

use std::time::{Duration, SystemTime};

use aluco_machine::{
    facts::{Facts, Request},
    fixture,
    telemetry::Sampler,
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::{Value, json};

use super::{
    look::Look,
    screen::{Dialog, Screen, Sort, Wish},
    theme::Theme,
    view,
};

const PLAIN: Theme = Theme {
    colour: false,
    unicode: false,
};

const RICH: Theme = Theme {
    colour: true,
    unicode: true,
};

const GIB: u64 = 1 << 30;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn rfc3339(seconds: u64) -> String {
    humantime::format_rfc3339(at(seconds)).to_string()
}

/// The sample of a machine that is kept for tests.
fn telemetry(machine: &str, busy_percent: u64) -> Value {
    let root = fixture::root(machine);
    let facts = Facts::collect(&root, &Request::default());
    let mut sample = serde_json::to_value(Sampler::new(&root, &facts).sample()).unwrap();
    sample["cpu_busy_percent"] = json!({ "value": 12.4, "source": "/proc/stat" });
    if sample["gpu"].is_object() {
        sample["gpu"]["busy_percent"] = json!({ "value": busy_percent, "source": "sysfs" });
    }
    json!({
        "machine": {
            "product": facts.board.product.get(),
            "cpu": facts.cpu.model.get(),
            "gpu": facts.identity.gpu_name.get(),
        },
        "sample": sample,
        "kernel": { "warnings": 2, "events": [{
            "at": "1970-01-12T13:44:40.000Z",
            "kind": { "kind": "mes-failure" }, "pid": null, "process": null,
            "line": "amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE" }] },
        "uptime_ms": 8_040_000,
    })
}

fn ledger() -> Value {
    let entry = |consumer, bytes: u64| json!({ "place": "device", "consumer": consumer, "bytes": bytes, "origin": "measured" });
    json!({
        "budget": { "host": 110 * GIB, "device": 108 * GIB, "together": 104 * GIB },
        "machine_bytes": 124 * GIB, "unified": true,
        "held_bytes": 75 * GIB, "free_bytes": 29 * GIB, "excess_bytes": 0, "pressure": "calm",
        "holders": [
            { "model": "gpt-oss:120b", "bytes": 75 * GIB, "entries": [
                entry("weights", 60 * GIB), entry("kv_cache", 9 * GIB), entry("compute", 2 * GIB),
                entry("prefix_store", 4 * GIB)] },
            { "model": null, "consumer": "other_programs", "bytes": 8 * GIB },
            { "model": null, "consumer": "reserve", "bytes": 5 * GIB },
        ],
        "host_limits": [], "device_limits": [],
    })
}

fn status() -> Value {
    let memory = |weights: u64| json!([{ "device": "Vulkan0", "weights_bytes": weights, "context_bytes": 9 * GIB, "compute_bytes": 2 * GIB }]);
    json!({
        "workers": [{ "hello": { "backend": "vulkan", "pid": 4711, "engine_build": "b12032 (0a1b2c3)" }, "restarts": 1 }],
        "mishaps": { "worker_deaths": { "device_lost": 1 }, "streams_resumed": 3 },
        "ledger": ledger(),
        "models": [
            { "name": "gpt-oss:120b", "state": "ready", "requests": 3,
              "loaded": { "context_tokens": 131_072, "sequences_max": 4, "memory": memory(60 * GIB) },
              "activity": { "sequences_running": 2, "requests_waiting": 1, "prefill_tokens": 1000, "memory": [],
                "cache": { "device_hit_tokens": 9000 } },
              "speed": { "decode_per_second": 47.8, "prefill_per_second": 612.0 },
              "fallback": { "steps": [{ "micro_batch": 128 }], "cause": "the device was lost" } },
            { "name": "qwen3-coder:30b-a3b-with-quite-a-long-name", "state": { "loading": { "progress": 0.42 } }, "requests": 1 },
            { "name": "smollm2:135m", "state": "ready", "expires_at": rfc3339(240),
              "loaded": { "context_tokens": 8192, "sequences_max": 2, "memory": memory(GIB) },
              "activity": { "sequences_running": 0, "prefill_tokens": 0, "memory": [] },
              "speed": { "decode_per_second": 0.0, "prefill_per_second": 0.0 } },
        ],
    })
}

fn look(status: Value, telemetry: Option<Value>) -> Look {
    let parts = [
        ("status".to_owned(), status),
        ("telemetry".to_owned(), telemetry.unwrap_or_default()),
    ];
    Look::read(Value::Object(parts.into_iter().collect())).unwrap()
}

/// A Strix Halo with a server that has been watched for some seconds.
fn strix_halo(theme: Theme) -> Screen {
    let mut screen = Screen::new("http://127.0.0.1:13313", theme);
    let machine = "strix-halo-fedora-healthy-128g";
    let mut before = status();
    before["mishaps"]["worker_deaths"] = json!({});
    before["mishaps"]["streams_resumed"] = json!(0);
    before["workers"][0]["hello"]["pid"] = json!(4000);
    before["models"].as_array_mut().unwrap().truncate(1);
    before["models"][0]["fallback"] = Value::Null;
    for (second, busy) in [(0, 0), (1, 14), (2, 29), (3, 57), (4, 86)] {
        let look = look(before.clone(), Some(telemetry(machine, busy)));
        screen.take(Ok(look), at(second));
    }
    screen.take(Ok(look(status(), Some(telemetry(machine, 100)))), at(5));
    screen
}

fn shown(screen: &Screen, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal
        .draw(|frame| view::draw(screen, at(10), frame.area(), frame.buffer_mut()))
        .unwrap();
    terminal.backend().to_string()
}

fn press(screen: &mut Screen, letter: char) -> Wish {
    screen.press(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::NONE))
}

#[test]
fn a_busy_strix_halo_in_a_usual_terminal() {
    insta::assert_snapshot!(shown(&strix_halo(RICH), 80, 24));
}

#[test]
fn a_busy_strix_halo_in_a_wide_terminal() {
    insta::assert_snapshot!(shown(&strix_halo(RICH), 160, 50));
}

#[test]
fn without_colours_and_unicode_letters_tell_the_same() {
    let text = shown(&strix_halo(PLAIN), 80, 24);
    assert!(text.replace('"', "").is_ascii(), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_server_that_tells_little_of_a_machine_without_a_gpu() {
    let mut screen = Screen::new("http://127.0.0.1:13313", RICH);
    let mut machine = telemetry("server-x86-no-gpu", 0);
    machine["kernel"] = Value::Null;
    machine["sample"]["cpu_busy_percent"] =
        json!({ "unknown": "no time has passed", "because": "not_collected" });
    let status = json!({ "models": [{ "name": "owl", "state": "ready" }] });
    screen.take(Ok(look(status, Some(machine))), at(0));
    insta::assert_snapshot!(shown(&screen, 80, 24));
    let mut screen = Screen::new("http://127.0.0.1:13313", RICH);
    screen.take(Ok(look(json!({ "models": [] }), None)), at(0));
    insta::assert_snapshot!(shown(&screen, 60, 8));
}

#[test]
fn any_size_shows_something_and_none_panics() {
    for theme in [PLAIN, RICH] {
        let mut screen = strix_halo(theme);
        for dialog in [Dialog::None, Dialog::Help, Dialog::Unload("owl".to_owned())] {
            screen.dialog = dialog;
            for columns in [1, 2, 3, 7, 20, 30, 39, 80, 300] {
                for rows in (1..=14).chain([19, 20, 32, 100]) {
                    shown(&screen, columns, rows);
                }
            }
        }
    }
    insta::assert_snapshot!(shown(&strix_halo(RICH), 30, 5));
}

#[test]
fn of_a_path_the_file_is_seen() {
    let mut screen = Screen::new("http://127.0.0.1:1", RICH);
    let name = format!("/home/owl/{}/model.gguf", "folder/".repeat(20));
    let status = json!({ "models": [{ "name": name, "state": "ready" }] });
    screen.take(Ok(look(status, None)), at(0));
    let text = shown(&screen, 80, 24);
    assert!(
        text.contains("…") && text.contains("/model.gguf  ready"),
        "{text}"
    );
}

#[test]
fn the_text_for_no_terminal_holds_everything() {
    let text = view::text(&strix_halo(PLAIN), at(10), 100);
    insta::assert_snapshot!(text);
}

#[test]
fn a_server_that_goes_away_is_told_and_waited_for() {
    let mut screen = Screen::new("http://box:1", RICH);
    screen.take(Err("no server at http://box:1".to_owned()), at(0));
    let text = shown(&screen, 80, 24);
    assert!(
        text.contains("no server at http://box:1, retrying"),
        "{text}"
    );
    screen.take(Ok(look(status(), None)), at(1));
    assert!(!shown(&screen, 80, 24).contains("retrying"));
    screen.take(Err("no server at http://box:1".to_owned()), at(2));
    let text = shown(&screen, 80, 24);
    assert!(
        text.contains("retrying") && text.contains("gpt-oss:120b"),
        "{text}"
    );
    screen.take(Ok(look(status(), None)), at(3));
    let told: Vec<&str> = screen
        .happenings
        .iter()
        .map(|it| it.text.as_str())
        .collect();
    assert_eq!(
        told,
        [
            "the server is gone: no server at http://box:1",
            "the server is back"
        ]
    );
}

#[test]
fn text_from_outside_cannot_reach_the_terminal_as_commands() {
    let mut screen = Screen::new("http://127.0.0.1:1", RICH);
    let mut status = status();
    let evil = "owl\u{1b}[2J\u{9b}31m\r\n";
    status["models"][0]["name"] = json!(evil);
    status["workers"][0]["hello"]["engine_build"] = json!(evil);
    let mut machine = telemetry("strix-halo-fedora-healthy-128g", 1);
    machine["machine"]["product"] = json!(evil);
    screen.take(Ok(look(status, Some(machine))), at(0));
    screen.happened(at(0), super::Weight::Bad, evil.to_owned());
    press(&mut screen, 'u');
    let text = shown(&screen, 120, 40) + &view::text(&screen, at(0), 120);
    let letters = text.chars().filter(|letter| letter.is_control());
    assert!(letters.into_iter().all(|letter| letter == '\n'), "{text:?}");
}

#[test]
fn keys_sort_mark_pause_and_ask_before_they_unload() {
    let mut screen = strix_halo(RICH);
    let order = |screen: &Screen| -> Vec<String> {
        let models = screen.models();
        models
            .iter()
            .map(|it| it.name.chars().take(4).collect())
            .collect()
    };
    assert_eq!(order(&screen), ["gpt-", "qwen", "smol"]);
    assert_eq!(press(&mut screen, 's'), Wish::Nothing);
    assert_eq!((screen.sort, &*order(&screen)[1]), (Sort::Memory, "smol"));
    assert_eq!(screen.marked.as_deref(), Some("gpt-oss:120b"));
    press(&mut screen, 'j');
    assert_eq!(screen.marked.as_deref(), Some("smollm2:135m"));
    press(&mut screen, 'u');
    let text = shown(&screen, 80, 24);
    assert!(text.contains("unload smollm2:135m? y to do it"), "{text}");
    assert_eq!(press(&mut screen, 'n'), Wish::Nothing);
    press(&mut screen, 'u');
    assert_eq!(
        press(&mut screen, 'y'),
        Wish::Unload("smollm2:135m".to_owned())
    );
    press(&mut screen, 'p');
    assert!(shown(&screen, 80, 24).contains("PAUSED"));
    screen.take(Ok(look(json!({ "models": [] }), None)), at(20));
    assert_eq!(screen.models().len(), 3);
    press(&mut screen, 'p');
    screen.take(Ok(look(json!({ "models": [] }), None)), at(21));
    assert!(screen.models().is_empty() && screen.marked.is_none());
    assert_eq!(press(&mut screen, 'u'), Wish::Nothing);
    assert!(shown(&screen, 80, 24).contains("no model is loaded"));
    press(&mut screen, '?');
    assert_eq!(screen.dialog, Dialog::Help);
    assert_eq!(
        press(&mut screen, 'q'),
        Wish::Nothing,
        "any key ends the help"
    );
    assert_eq!(press(&mut screen, 'q'), Wish::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(screen.press(interrupt), Wish::Quit);
}
