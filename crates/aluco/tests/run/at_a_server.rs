//! With a server that runs already.

use std::time::Instant;

use aluco_fake_worker::Script;
use aluco_fleet::{Fleet, FleetConfig};
use aluco_model::{Store, StoreConfig};
use aluco_server::ServerConfig;
use assert_cmd::assert::OutputAssertExt;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle, time::timeout};

use crate::home::{Home, PATIENCE, own_address};

/// A server in this process.
pub(crate) struct Server {
    runtime: Runtime,
    pub(crate) url: String,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) fn start(home: &Home, api_key: Option<&str>) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = Store::new(StoreConfig {
            hub_cache: home.path().join("hub"),
            models: home.path().join("models"),
        });
        let config = ServerConfig {
            api_keys: api_key.map(str::to_owned).into_iter().collect(),
            ..ServerConfig::default()
        };
        let (url, task) = runtime.block_on(async {
            let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let fleet = Fleet::new(FleetConfig {
                worker_binary: Some(aluco_fake_worker::binary()),
                memory_root: home.roomy_machine(),
                ..FleetConfig::new(store)
            });
            let never = std::future::pending();
            (
                url,
                tokio::spawn(aluco_server::serve(listener, fleet, config, never)),
            )
        });
        Self { runtime, url, task }
    }

    /// Comes back when it has ended.
    fn ended(self) {
        self.runtime
            .block_on(async { timeout(PATIENCE, self.task).await })
            .expect("the server ends")
            .unwrap()
            .unwrap();
    }
}

pub(crate) fn stdout(command: &mut std::process::Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn a_model_that_kills_its_worker_is_listed_with_how_it_is_run_since() {
    let home = Home::with(&Script {
        crash_on_load: true,
        micro_batch_safe: Some(128),
        ..Script::default()
    });
    let server = Server::start(&home, None);
    let aluco = |args: &[&str]| {
        let mut command = home.aluco(args);
        command.env("ALUCO_URL", &server.url);
        command
    };
    let answer = stdout(&mut aluco(&["run", "./model.gguf", "hello"]));
    assert_eq!(answer, "Hello, world!\n");
    let shown = stdout(&mut aluco(&["ps"]));
    let line = shown.lines().nth(2).unwrap();
    assert!(
        line.contains("model.gguf: micro-batch 128 since ") && line.contains("SIGABRT"),
        "{shown}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&mut aluco(&["ps", "--json"]))).unwrap();
    let fallback = &json["models"][0]["fallback"];
    assert_eq!(fallback["steps"][0]["micro_batch"], 128, "{json}");
    assert_eq!(json["mishaps"]["fallback_steps"], 1, "{json}");
}

#[test]
fn a_running_server_is_used_listed_freed_and_stopped() {
    let home = Home::with(&Script::default());
    let server = Server::start(&home, None);
    let aluco = |args: &[&str]| {
        let mut command = home.aluco(args);
        command.env("ALUCO_URL", &server.url);
        command
    };
    aluco(&["ps"])
        .assert()
        .success()
        .stdout("")
        .stderr(format!("no model is loaded at {}\n", server.url));

    // There is no `--worker`, and none beside `aluco`: only the server can answer. The path is relative to here, not to there.
    let answer = stdout(&mut aluco(&["run", "./model.gguf", "hello"]));
    assert_eq!(answer, "Hello, world!\n");

    let table = stdout(&mut aluco(&["ps"]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(lines[0].starts_with("MODEL"), "{table}");
    for part in ["model.gguf", "ready", "4,096"] {
        assert!(lines[1].contains(part), "{part}: {table}");
    }
    // The client has the answer a moment before the server has nothing to do for it any more.
    let begun = Instant::now();
    let json = loop {
        let json = stdout(&mut aluco(&["ps", "--json"]));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        if json["models"][0]["requests"] == 0 {
            break json;
        }
        assert!(begun.elapsed() < PATIENCE, "{json}");
    };
    assert_eq!(json["models"][0]["state"], "ready");
    assert_eq!(json["models"][0]["loaded"]["context_tokens"], 4096);
    let expires_at = json["models"][0]["expires_at"].as_str().unwrap();
    assert!(
        expires_at.ends_with('Z') && expires_at.contains('T'),
        "{expires_at}"
    );

    for expected in ["model.gguf is unloaded\n", "model.gguf was not loaded\n"] {
        aluco(&["stop", "model.gguf"])
            .assert()
            .success()
            .stderr(expected);
    }
    assert_eq!(stdout(&mut aluco(&["ps"])), "");

    let json = stdout(&mut aluco(&["stop", "model.gguf", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["unloaded"], false);

    aluco(&["stop"])
        .assert()
        .success()
        .stderr(format!("the server at {} has stopped\n", server.url));
    let url = server.url.clone();
    server.ended();
    for args in [
        &["ps"][..],
        &["ps", "--json"],
        &["stop"],
        &["stop", "x"],
        &["run", "x", "hello"],
    ] {
        home.aluco(args)
            .args(["--url", &url])
            .assert()
            .code(1)
            .stdout("")
            .stderr(format!(
                "error: no server at {url}\n  start it there, or name another with --url\n"
            ));
    }
}

#[test]
fn a_key_that_the_server_does_not_know_is_told() {
    let home = Home::with(&Script::default());
    let server = Server::start(&home, Some("owls-only"));
    let run = |key: &str| {
        let mut command = home.aluco(&["run", "./model.gguf", "hello", "--url", &server.url]);
        command.env("ALUCO_API_KEY", key);
        command
    };
    run("owls-only")
        .assert()
        .success()
        .stdout("Hello, world!\n");
    let refused = run("cats-only").assert().code(1).stdout("");
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("does not accept the API key"), "{said}");
    assert!(said.contains("ALUCO_API_KEY"), "{said}");
    assert!(!said.contains("cats-only"), "{said}");
}

#[test]
fn a_model_that_the_server_does_not_have_is_told_with_the_way_to_get_it() {
    let home = Home::with(&Script::default());
    let server = Server::start(&home, None);
    home.aluco(&["run", "smollm2:135m", "hello", "--url", &server.url])
        .assert()
        .code(1)
        .stdout("")
        .stderr("error: model smollm2:135m is not on this machine; get it with: aluco pull smollm2:135m\n");
}

#[test]
fn who_is_no_aluco_server_is_told_apart() {
    let home = Home::with(&Script::default());
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhoot!",
                )
                .await;
        }
    });
    for args in [
        &["run", "x", "hello"][..],
        &["ps"],
        &["ps", "--json"],
        &["stop"],
        &["stop", "x"],
    ] {
        home.aluco(args)
            .env_remove("ALUCO_PORT")
            .env("OLLAMA_HOST", format!("{url}/owl"))
            .assert()
            .code(1)
            .stdout("")
            .stderr(format!(
                "error: what answers at {url}/owl (from env OLLAMA_HOST) is not an Aluco server\n  name another with --url or ALUCO_URL\n"
            ));
    }
}
