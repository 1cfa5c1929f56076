//! `aluco load`, and what `aluco ps` says of it.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Instant,
};

use aluco_fake_worker::Script;
use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::{
    at_a_server::{Server, stdout},
    home::{Home, PATIENCE},
    serving::Guard,
};

fn slow() -> Script {
    Script {
        load_ms: 500,
        ..Script::default()
    }
}

fn said(command: &mut std::process::Command) -> String {
    let assert = command.assert().success();
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_load_is_planned_followed_and_kept_as_asked() {
    let home = Home::with(&slow());
    let server = Server::start(&home, None);
    let aluco = |args: &[&str]| {
        let mut command = home.aluco(args);
        command.env("ALUCO_URL", &server.url);
        command
    };
    let planned = stdout(&mut aluco(&["load", "model.gguf", "--dry-run"]));
    assert!(
        planned.contains("model.gguf would be loaded ("),
        "{planned}"
    );
    assert_eq!(stdout(&mut aluco(&["ps"])), "");
    let lines = stdout(&mut aluco(&[
        "load",
        "model.gguf",
        "--json",
        "--keep-alive",
        "90m",
    ]));
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (last, progress) = events.split_last().unwrap();
    assert_eq!(last["event"], "loaded");
    assert_eq!(last["loaded"]["architecture"], "fake");
    assert!(!progress.is_empty(), "{lines}");
    for event in progress {
        assert_eq!(event["event"], "progress");
    }
    let shown = stdout(&mut aluco(&["ps", "--json"]));
    let status: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(status["models"][0]["keep_alive"], "90m");
    assert_eq!(status["models"][0]["pinned"], false);
    let said_again = said(&mut aluco(&["load", "model.gguf", "--pin"]));
    assert!(said_again.contains("model.gguf is loaded"), "{said_again}");
    let table = stdout(&mut aluco(&["ps"]));
    assert!(table.contains("pinned"), "{table}");
    let plan = stdout(&mut aluco(&["load", "model.gguf", "--dry-run"]));
    assert!(plan.ends_with("is loaded already\n"), "{plan}");
    let plan = stdout(&mut aluco(&["load", "model.gguf", "--dry-run", "--json"]));
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["is_loaded"], true);
}

#[test]
fn a_load_that_fails_says_why_and_a_keep_alive_that_is_none_is_refused() {
    let home = Home::with(&slow());
    std::fs::write(home.model(), "no model at all").unwrap();
    let server = Server::start(&home, None);
    let load = |args: &[&str]| {
        let mut command = home.aluco(&["load", "model.gguf"]);
        command.env("ALUCO_URL", &server.url).args(args).assert()
    };
    for form in [&[][..], &["--json"]] {
        let failed = load(form).code(1).stdout("");
        let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
        assert!(said.contains("model.gguf"), "{said}");
    }
    let refused = load(&["--keep-alive", "soon"]).code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("expected a duration"), "{said}");
}

#[test]
fn models_of_the_configuration_are_loaded_at_the_start_and_stay_as_it_says() {
    let home = Home::with(&slow());
    let other = home.path().join("other.gguf");
    Script::default().write(&other).unwrap();
    let model = home.model();
    let config = home.path().join("config.toml");
    let written = format!(
        "preload = [{model:?}, {other:?}]\npin = [{model:?}]\n\n[models.{other:?}]\nkeep_alive = \"1h30m\"\n"
    );
    std::fs::write(&config, written).unwrap();
    let shown = stdout(
        home.aluco(&["config", "--json"])
            .env("ALUCO_CONFIG", &config),
    );
    assert!(shown.contains("90m"), "{shown}");
    let mut server = Guard(
        home.aluco(&["serve", "--port", "0", "--worker"])
            .arg(aluco_fake_worker::binary())
            .env("ALUCO_CONFIG", &config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    let url = first
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap_or_else(|| panic!("the server did not start: {first}"));
    let begun = Instant::now();
    let models = loop {
        let status = stdout(home.aluco(&["ps", "--json"]).env("ALUCO_URL", url));
        let status: Value = serde_json::from_str(&status).unwrap();
        let models = status["models"].as_array().unwrap().clone();
        if models.len() == 2 && models.iter().all(|model| model["state"] == "ready") {
            break models;
        }
        assert!(begun.elapsed() < PATIENCE, "{status}");
    };
    // In the order of their names.
    assert_eq!(models[0]["name"], model.to_str().unwrap());
    assert_eq!(models[0]["pinned"], true);
    assert_eq!(models[1]["pinned"], false);
    assert_eq!(models[1]["keep_alive"], "90m");
}
