//! A server with made-up models, and a client for it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use aluco_fake_worker::{Gate, Place, Script};
use aluco_fleet::{Fleet, FleetConfig, proto::GenerationSpec};
use aluco_model::{Store, StoreConfig};
use aluco_server::ServerConfig;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// Nothing in these tests may take longer: what does hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The memory of the machine that the models think they run on, in KiB. Nothing presses on it.
const MACHINE: &str = "MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\n";

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    /// Ends the server when it is sent or dropped.
    pub(crate) shutdown: Option<oneshot::Sender<()>>,
    pub(crate) server: JoinHandle<std::io::Result<()>>,
}

/// A server that no test has to hurry for.
pub(crate) fn config() -> ServerConfig {
    ServerConfig {
        accept_patience: PATIENCE,
        heartbeat_interval: PATIENCE,
        shutdown_limit: PATIENCE,
        ..ServerConfig::default()
    }
}

/// A fleet of fake workers on a made-up machine, with its files in that folder.
pub(crate) fn fleet_config(folder: &Path) -> FleetConfig {
    let store = Store::new(StoreConfig {
        hub_cache: folder.join("hub"),
        models: folder.join("models"),
    });
    let machine = folder.join("machine");
    std::fs::create_dir_all(machine.join("proc")).unwrap();
    std::fs::write(machine.join("proc/meminfo"), MACHINE).unwrap();
    FleetConfig {
        worker_binary: Some(aluco_fake_worker::binary()),
        memory_root: machine,
        restart_backoff: Duration::from_millis(20),
        ..FleetConfig::new(store)
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(config(), |_| {}).await
    }

    pub(crate) async fn with(config: ServerConfig, adjust: impl FnOnce(&mut FleetConfig)) -> Self {
        // Models are named by their real paths.
        let place = std::env::temp_dir().canonicalize().unwrap();
        let folder = tempfile::tempdir_in(place).unwrap();
        let mut fleet = fleet_config(folder.path());
        adjust(&mut fleet);
        let fleet = Fleet::new(fleet);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, ended) = oneshot::channel::<()>();
        let ended = async {
            let _ = ended.await;
        };
        let server = tokio::spawn(aluco_server::serve(listener, fleet, config, ended));
        Self {
            folder,
            address,
            client: client(),
            shutdown: Some(shutdown),
            server,
        }
    }

    /// Writes a model that does what the script says, and gives its name.
    pub(crate) fn model(&self, name: &str, script: &Script) -> String {
        let path = self.path(&format!("{name}.gguf"));
        let script = Script {
            journal: Some(self.path(&format!("{name}.journal"))),
            record: Some(self.path(&format!("{name}.record"))),
            ..script.clone()
        };
        script.write(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A gate that is shut, for a script.
    pub(crate) fn gate(&self, at: Place) -> Gate {
        let file = self.path(&format!("{at:?}.gate"));
        Gate { at, file }
    }

    /// What happened to a model so far, in the words of the worker.
    pub(crate) fn journal(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.journal"))).unwrap_or_default()
    }

    /// The generations that a model was asked for so far.
    pub(crate) fn specs(&self, name: &str) -> Vec<GenerationSpec> {
        let record = std::fs::read_to_string(self.path(&format!("{name}.record")));
        record
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                let mut asked: Value = serde_json::from_str(line).unwrap();
                let spec = asked.get_mut("generate")?.take();
                Some(serde_json::from_value(spec).unwrap())
            })
            .collect()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    /// What the server answers there.
    pub(crate) async fn get_json(&self, path: &str) -> Value {
        let reply = self.get(path).send().await.unwrap();
        reply.json().await.unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client
            .post(format!("http://{}{path}", self.address))
            .json(body)
    }

    /// Asks, hears the first of the answer and goes away. Comes back when the server has noticed.
    pub(crate) async fn ask_and_leave(&self, path: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.shutdown().await.unwrap();
        let hangs_up = async { while stream.read_u8().await.is_ok() {} };
        let noticed = tokio::time::timeout(PATIENCE, hangs_up).await;
        noticed.expect("the server hangs up");
    }

    /// A chat with one question, and further fields.
    pub(crate) async fn chat(&self, model: &str, fields: Value) -> Response {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
        merge(&mut body, fields);
        let request = self.post("/v1/chat/completions", &body);
        request.send().await.unwrap()
    }

    /// The same, which has to succeed.
    pub(crate) async fn chat_json(&self, model: &str, fields: Value) -> Value {
        let response = self.chat(model, fields).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// Sees that the server still does its work.
    pub(crate) async fn assert_unharmed(&self, model: &str) {
        let reply = self.chat_json(model, json!({})).await;
        assert_eq!(reply["choices"][0]["message"]["content"], "Hello, world!");
    }
}

/// One that asks this machine, whatever proxy its user has.
fn client() -> Client {
    let client = Client::builder().no_proxy().timeout(PATIENCE);
    client.build().unwrap()
}

pub(crate) fn merge(body: &mut Value, fields: Value) {
    let (Value::Object(body), Value::Object(fields)) = (body, fields) else {
        panic!("not an object");
    };
    body.extend(fields);
}

/// Status, code and field of an error in OpenAI's form.
pub(crate) async fn error(response: Response) -> (u16, String, Option<String>) {
    let status = response.status().as_u16();
    let json: Value = response.json().await.unwrap();
    let error = &json["error"];
    assert!(!error["message"].as_str().unwrap().is_empty(), "{json}");
    assert!(error["type"].is_string(), "{json}");
    (
        status,
        error["code"].as_str().unwrap().to_owned(),
        error["param"].as_str().map(str::to_owned),
    )
}

/// The lines of an event stream: comments with their colon, data without `data: `.
pub(crate) async fn lines(response: Response) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    split(&response.text().await.unwrap())
}

/// The same of what has come already.
pub(crate) fn split(text: &str) -> Vec<String> {
    text.split("\n\n")
        .filter(|line| !line.is_empty())
        .map(|line| line.strip_prefix("data: ").unwrap_or(line).to_owned())
        .collect()
}

/// Reads a stream until what has come is enough, and gives that.
pub(crate) async fn read_until(
    response: &mut Response,
    is_enough: impl Fn(&str) -> bool,
) -> String {
    let mut got = String::new();
    while !is_enough(&got) {
        let chunk = response.chunk().await.unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("the stream ends behind {got}"));
        got.push_str(str::from_utf8(&chunk).unwrap());
    }
    got
}

/// The chunks among the lines.
pub(crate) fn chunks(lines: &[String]) -> Vec<Value> {
    lines
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Looks until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("never happened: {what}"));
}
