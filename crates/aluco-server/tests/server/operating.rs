//! What can be changed while the server runs.

use std::sync::{Arc, Mutex};

use aluco_fake_worker::{Place, Script};
use aluco_fleet::Fleet;
use aluco_server::{Acceptance, Operator, Reload, Reloaded, Server, ServerConfig};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

use crate::world::{World, config, error, fleet_config, lines};

/// A program with a configuration that the test writes.
struct Program {
    next: Mutex<Result<ServerConfig, String>>,
    filter: Mutex<String>,
}

impl Operator for Program {
    fn reload(&self, accept: &Acceptance<'_>) -> Result<Reload, String> {
        let config = self.next.lock().unwrap().clone()?;
        accept(&config)?;
        let outcome = Reloaded {
            changed: vec!["api_keys".to_owned()],
            next_load: Vec::new(),
            needs_restart: vec!["port".to_owned()],
        };
        Ok(Reload { config, outcome })
    }

    fn log_filter(&self) -> String {
        self.filter.lock().unwrap().clone()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        if filter.contains(' ') {
            return Err("expected a level".to_owned());
        }
        filter.clone_into(&mut self.filter.lock().unwrap());
        Ok(())
    }
}

/// A world whose server has a program around it, and a way to tell that server things.
async fn operated(keys: &[&str]) -> (World, Server, Arc<Program>) {
    let keyed = with_keys(keys);
    let program = Arc::new(Program {
        next: Mutex::new(Ok(keyed.clone())),
        filter: Mutex::new("info".to_owned()),
    });
    let mut world = World::new().await;
    world.shutdown.take();
    (&mut world.server).await.unwrap().unwrap();
    let fleet = Fleet::new(fleet_config(world.folder.path()));
    let server = Server::new(fleet, keyed, program.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.address = listener.local_addr().unwrap();
    let (shutdown, ended) = oneshot::channel::<()>();
    let ended = async {
        let _ = ended.await;
    };
    world.server = tokio::spawn(server.clone().run(listener, ended));
    world.shutdown = Some(shutdown);
    (world, server, program)
}

fn with_keys(keys: &[&str]) -> ServerConfig {
    ServerConfig {
        api_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..config()
    }
}

#[tokio::test]
async fn a_reload_changes_the_keys_while_a_stream_goes_on() {
    let (world, _, program) = operated(&["old"]).await;
    let gate = world.gate(Place::Token(50));
    let script = Script {
        tokens: (0..100).map(|number| format!("{number} ")).collect(),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": true,
    });
    let request = world.post("/v1/chat/completions", &body);
    let stream = request.bearer_auth("old").send().await.unwrap();
    *program.next.lock().unwrap() = Ok(with_keys(&["new"]));
    let reload = || world.post("/aluco/v1/reload", &json!({}));
    let reloaded = reload().bearer_auth("old").send().await.unwrap();
    let reloaded: Value = reloaded.json().await.unwrap();
    let expected = json!({"changed": ["api_keys"], "next_load": [], "needs_restart": ["port"]});
    assert_eq!(reloaded, expected);
    let (status, code, _) = error(reload().bearer_auth("old").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (401, "invalid_api_key"));
    let accepted = reload().bearer_auth("new").send().await.unwrap();
    assert_eq!(accepted.status(), 200);
    gate.open().unwrap();
    let lines = lines(stream).await;
    assert_eq!(lines.last().unwrap(), "[DONE]");
    assert!(lines.len() > 100, "{lines:?}");
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let (world, server, program) = operated(&["key"]).await;
    *program.next.lock().unwrap() = Err("config.toml:1: unknown key `x`".to_owned());
    let request = world.post("/aluco/v1/reload", &json!({}));
    let refused = request.bearer_auth("key").send().await.unwrap();
    let (status, code, _) = error(refused).await;
    assert_eq!((status, code.as_str()), (400, "invalid_configuration"));
    assert!(server.reload().await.unwrap_err().contains("unknown key"));
    let models = world.get("/v1/models").bearer_auth("key");
    assert_eq!(models.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_log_is_changed_over_http() {
    let (world, _, program) = operated(&[]).await;
    let url = format!("http://{}/aluco/v1/log", world.address);
    let put = |filter: &str| world.client.put(&url).json(&json!({"filter": filter}));
    let told: Value = put("debug").send().await.unwrap().json().await.unwrap();
    assert_eq!(told, json!({"filter": "debug"}));
    assert_eq!(program.log_filter(), "debug");
    let told: Value = world.get_json("/aluco/v1/log").await;
    assert_eq!(told, json!({"filter": "debug"}));
    let (status, _, param) = error(put("no level").send().await.unwrap()).await;
    assert_eq!((status, param.as_deref()), (400, Some("filter")));
    assert_eq!(program.log_filter(), "debug");
}

#[tokio::test]
async fn a_server_within_another_program_is_not_operated_over_http() {
    let world = World::new().await;
    for request in [
        world.post("/aluco/v1/reload", &json!({})),
        world.get("/aluco/v1/log"),
    ] {
        let (status, code, _) = error(request.send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (409, "not_operated"));
    }
}

#[tokio::test]
async fn a_probe_comes_back_while_the_server_is_well() {
    let (world, server, _) = operated(&["key"]).await;
    let model = world.model("m", &Script::default());
    let body = json!({"model": model, "prompt": "hi"});
    let request = world.post("/v1/completions", &body).bearer_auth("key");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let probe = tokio::time::timeout(crate::world::PATIENCE, server.probe());
    probe.await.expect("the server is well");
}
