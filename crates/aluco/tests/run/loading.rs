//! `aluco load`, and what `aluco ps` says of it.

use std::{
    fs,
    io::{BufRead, BufReader, read_to_string},
    process::Stdio,
    time::Instant,
};

use aluco_fake_worker::{Gate, Place, Script};
use aluco_tiny_models::Kind;
use assert_cmd::assert::OutputAssertExt;
use serde_json::Value;

use crate::{
    at_a_server::{Server, stdout},
    home::{Home, PATIENCE, measured_before},
    serving::Guard,
};

fn said(command: &mut std::process::Command) -> String {
    let assert = command.assert().success();
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_load_is_planned_followed_and_kept_as_asked() {
    let home = Home::with(&Script::default());
    let gate = Gate {
        at: Place::Load(5),
        file: home.path().join("gate"),
    };
    let script = Script {
        gates: vec![gate.clone()],
        ..Script::default()
    };
    script.write(&home.model()).unwrap();
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
    let mut loading = aluco(&["load", "model.gguf", "--json", "--keep-alive", "90m"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(loading.stdout.take().unwrap());
    let mut lines = String::new();
    output.read_line(&mut lines).unwrap();
    // It cannot have come to its end before it was told how far it is.
    gate.open().unwrap();
    lines += &read_to_string(output).unwrap();
    assert!(loading.wait().unwrap().success(), "{lines}");
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
    let home = Home::with(&Script::default());
    fs::write(home.model(), "no model at all").unwrap();
    let server = Server::start(&home, None);
    let load = |args: &[&str]| {
        let mut command = home.aluco(&["load", "model.gguf"]);
        command.env("ALUCO_URL", &server.url).args(args).assert()
    };
    for form in [&[][..], &["--json"]] {
        let failed = load(form).code(1);
        let output = failed.get_output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("model.gguf"), "{said}");
        // It may have been asked while it was on its way.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["event"], "progress", "{form:?}: {event}");
        }
    }
    let refused = load(&["--keep-alive", "soon"]).code(2);
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("expected a duration"), "{said}");
}

/// A server process with these variables, and where it listens.
fn serving(home: &Home, variables: &[(&str, &str)]) -> (Guard, String) {
    let mut server = Guard(
        home.serve()
            .arg("--worker")
            .arg(aluco_fake_worker::binary())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(server.0.stderr.take().unwrap());
    let mut said = String::new();
    // What it has to say of this machine may come before.
    let url = loop {
        let length = log.read_line(&mut said).unwrap();
        assert!(length > 0, "the server did not start: {said}");
        let mut words = said.split_whitespace();
        if let Some(url) = words.find(|word| word.starts_with("http://")) {
            break url.to_owned();
        }
    };
    // What follows must not fill the pipe.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    (server, url)
}

/// A home with the header of a real model, and a server process that may hold so much.
fn with_header(memory_limit: &str) -> (Home, Guard, String) {
    let home = Home::with(&Script::default());
    aluco_tiny_models::write(Kind::Moe, &home.model()).unwrap();
    let (server, url) = serving(&home, &[("ALUCO_MEMORY_LIMIT", memory_limit)]);
    (home, server, url)
}

/// What `aluco load … --dry-run` says on standard output and error when it ends with this status.
fn dry_run(home: &Home, url: &str, args: &[&str], status: i32) -> (String, String) {
    let mut command = home.aluco(&["load", "--dry-run"]);
    command.args(args).env("ALUCO_URL", url);
    let assert = command.assert().code(status);
    let output = assert.get_output();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_dry_run_tells_what_fits_and_how_fast_it_would_be_and_loads_nothing() {
    let (home, _server, url) = with_header("1GiB");
    let (text, _) = dry_run(&home, &url, &["model.gguf"], 0);
    assert!(text.contains("model.gguf would be loaded ("), "{text}");
    assert!(text.contains("fits: it needs"), "{text}");
    assert!(
        text.ends_with("\nspeed   not measured yet: run `aluco machine bench`\n"),
        "{text}"
    );
    measured_before(&home);
    let (text, _) = dry_run(&home, &url, &["model.gguf"], 0);
    for part in [
        "\ndecode  about ",
        " tok/s (at 8k: ",
        "\nprefill about ",
        "\nload    less than 2.0 s\n",
        "`aluco machine bench` of 2026-11-20 (16 threads).",
        "Measured with kernel 0.0.1, now ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let (json, _) = dry_run(&home, &url, &["model.gguf", "--json"], 0);
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["is_refused"], false);
    assert!(plan["fit"]["free_bytes"].as_u64() > Some(0), "{json}");
    let speed = &plan["speed"];
    assert_eq!(speed["backend"], "cpu");
    assert_eq!(speed["full_tokens"], 8192);
    let band = &speed["decode"]["band"];
    assert!(band["low"].as_f64() > Some(0.0) && band["low"].as_f64() <= band["high"].as_f64());
    let measured = &speed["origin"]["measured"];
    assert_eq!(measured["at"], "2026-11-20T00:00:00Z");
    assert_eq!(measured["changes"][0]["what"], "kernel");
    let loaded = stdout(home.aluco(&["ps"]).env("ALUCO_URL", &url));
    assert_eq!(loaded, "", "nothing is loaded");
}

#[test]
fn a_dry_run_of_what_does_not_fit_fails_with_the_table_and_predicts_no_speed() {
    let (home, _server, url) = with_header("32MiB");
    measured_before(&home);
    let (text, _) = dry_run(&home, &url, &["model.gguf"], 1);
    assert!(text.contains("does not fit"), "{text}");
    assert!(
        text.contains("of 32.0 MiB (limit for all models, memory_limit"),
        "{text}"
    );
    assert!(!text.contains("tok/s"), "{text}");
    let (json, _) = dry_run(&home, &url, &["model.gguf", "--json"], 1);
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["is_refused"], true);
    let refusal = &plan["refusal"];
    assert!(refusal["needed_bytes"].as_u64() > refusal["free_bytes"].as_u64());
    assert_eq!(plan.get("speed"), None);
}

#[test]
fn a_dry_run_of_an_unknown_model_fails_with_its_name_and_writes_nothing() {
    let (home, _server, url) = with_header("1GiB");
    for form in [&["./none.gguf"][..], &["./none.gguf", "--json"]] {
        let (text, said) = dry_run(&home, &url, form, 1);
        assert_eq!(text, "");
        assert!(said.contains("none.gguf"), "{said}");
    }
    let (_, said) = dry_run(&home, "http://127.0.0.1:1", &["model.gguf"], 1);
    assert!(said.contains("no server at"), "{said}");
}

#[test]
fn models_of_the_configuration_are_loaded_at_the_start_and_stay_as_it_says() {
    let home = Home::with(&Script {
        load_ms: 500,
        ..Script::default()
    });
    let other = home.path().join("other.gguf");
    Script::default().write(&other).unwrap();
    let model = home.model();
    let config = home.path().join("config.toml");
    let written = format!(
        "preload = [{model:?}, {other:?}]\npin = [{model:?}]\n\n[models.{other:?}]\nkeep_alive = \"1h30m\"\n"
    );
    fs::write(&config, written).unwrap();
    let shown = stdout(
        home.aluco(&["config", "--json"])
            .env("ALUCO_CONFIG", &config),
    );
    assert!(shown.contains("90m"), "{shown}");
    let (_server, url) = serving(&home, &[("ALUCO_CONFIG", config.to_str().unwrap())]);
    let begun = Instant::now();
    let models = loop {
        let status = stdout(home.aluco(&["ps", "--json"]).env("ALUCO_URL", &url));
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
