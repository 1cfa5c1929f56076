//! A running `aluco serve`, and what to ask it.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use reqwest::{Client, ClientBuilder, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for anything. A machine that runs other things beside takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Tokens of a stream whose end nobody waits for.
pub(crate) const ENDLESS_TOKENS: u64 = 4000;

/// Options with which keys and values are as precise as a model in full precision, so that a text is the same whatever runs beside it.
pub(crate) const FULL_PRECISION: [&str; 6] = [
    "--kv-type-k",
    "f32",
    "--kv-type-v",
    "f32",
    "--flash-attention",
    "off",
];

/// Options with which a step brings one token of each stream: how many are guessed ahead depends on how fast this machine is at the time.
pub(crate) const ONE_BY_ONE: [&str; 2] = ["--speculation", "off"];

/// The worker with llama.cpp in it.
pub(crate) fn worker() -> PathBuf {
    named("ALUCO_TEST_WORKER")
}

/// SmolLM2-135M-Instruct.
pub(crate) fn model() -> String {
    let model = named("ALUCO_TEST_MODEL");
    model.to_str().expect("the path is UTF-8").to_owned()
}

/// The same one in full precision.
pub(crate) fn model_in_full_precision() -> String {
    let model = aluco_tiny_models::in_full_precision(model().as_ref()).unwrap();
    model.to_str().expect("the path is UTF-8").to_owned()
}

fn named(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
        panic!("{variable} is not set; run this by: make test");
    };
    assert!(path.is_file(), "{variable}: no file {}", path.display());
    path
}

/// `aluco` with the real worker and an empty home folder. A server that happens to run on this machine is not asked: nobody listens at that
/// port.
pub(crate) fn aluco(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aluco"));
    command
        .args(args)
        .env_clear()
        .env("HOME", home)
        .env("ALUCO_WORKER", worker())
        .env("ALUCO_PORT", "1")
        .stdin(Stdio::null());
    command
}

/// A client that asks this machine, whatever the environment says of proxies.
pub(crate) fn client() -> ClientBuilder {
    Client::builder().no_proxy()
}

/// A server process. It is killed when a test fails.
pub(crate) struct Served {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) client: Client,
    /// What it has written to standard error.
    log: Arc<Mutex<String>>,
    _home: TempDir,
}

impl Served {
    /// Starts a server on a free port and waits until it listens.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_at("0", args)
    }

    /// The same on a port of the caller's choice.
    pub(crate) fn start_at(port: &str, args: &[&str]) -> Self {
        Self::start_with(port, args, &[])
    }

    /// A server on a free port whose workers have an accident.
    pub(crate) fn start_with_fault(fault: &str, args: &[&str]) -> Self {
        Self::start_with("0", args, &[("ALUCO_FAULT", fault)])
    }

    fn start_with(port: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        // An address of this process alone, so that nobody else can take a port of it that is free for a moment.
        let host = Ipv4Addr::from_bits(0x7f00_0000 | (std::process::id() & 0x00ff_ffff));
        let mut child = aluco(home.path(), &["serve", "--port", port, "--host"])
            .arg(host.to_string())
            .args(args)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // What it has to say of this machine may come before.
        let url = loop {
            let length = lines.read_line(&mut said).unwrap();
            assert!(length > 0, "the server did not start: {said}");
            let mut words = said.split_whitespace();
            if let Some(url) = words.find(|word| word.starts_with("http://")) {
                break url.to_owned();
            }
        };
        let log = Arc::new(Mutex::new(String::new()));
        let writer = log.clone();
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = writer.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self {
            child,
            url,
            client: client().timeout(PATIENCE).build().unwrap(),
            log,
            _home: home,
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        request.send().await.unwrap()
    }

    /// A greedy chat with one question.
    pub(crate) async fn chat(&self, question: &str, fields: Value) -> Response {
        let mut body = json!({
            "model": model(),
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
        });
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.post("/v1/chat/completions", &body).await
    }

    /// The text of a whole reply, which has to succeed.
    pub(crate) async fn answer(&self, question: &str, fields: Value) -> String {
        let reply = self.chat(question, fields).await;
        assert_eq!(reply.status(), 200, "{}", self.log());
        let reply: Value = reply.json().await.unwrap();
        let text = &reply["choices"][0]["message"]["content"];
        text.as_str().unwrap().to_owned()
    }

    /// A stream without a near end, after its first words. Reads on by `chunk`.
    pub(crate) async fn endless_stream(&self) -> Response {
        self.endless_stream_of(&model()).await
    }

    /// The same of another model than the usual one.
    pub(crate) async fn endless_stream_of(&self, model: &str) -> Response {
        let fields = json!({
            "model": model,
            "stream": true,
            "max_tokens": ENDLESS_TOKENS,
            "ignore_eos": true,
        });
        let mut stream = self.chat("Count to a million.", fields).await;
        assert_eq!(stream.status(), 200, "{}", self.log());
        for _ in 0..3 {
            stream.chunk().await.unwrap().expect("the stream goes on");
        }
        stream
    }

    /// What the server says of its workers and models.
    pub(crate) async fn status(&self) -> Value {
        let url = format!("{}/aluco/v1/status", self.url);
        let status = self.client.get(url).send().await.unwrap();
        status.json().await.unwrap()
    }

    /// A number in the status, as soon as it is there and as it has to be.
    pub(crate) async fn number_in_status(&self, at: &str, is_wanted: impl Fn(u64) -> bool) -> u64 {
        let asked = Instant::now();
        loop {
            let status = self.status().await;
            let number = status.pointer(at).and_then(Value::as_u64);
            if let Some(number) = number.filter(|number| is_wanted(*number)) {
                return number;
            }
            assert!(asked.elapsed() < PATIENCE, "{at} of {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Process id of the worker, as soon as there is one.
    pub(crate) async fn worker_pid(&self) -> u32 {
        let pid = self.number_in_status("/workers/0/hello/pid", |_| true);
        u32::try_from(pid.await).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the server goes on for ever");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True of a process that has not ended, whether or not somebody has taken note of its end.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// Comes back when the process has ended.
pub(crate) fn assert_gone(pid: u32) {
    let begun = Instant::now();
    while is_running(pid) {
        assert!(begun.elapsed() < PATIENCE, "process {pid} is still there");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Comes back when there is a file of this name.
pub(crate) fn assert_there(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "no {}", path.display());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Kills a process the hard way.
pub(crate) fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// The data of an event stream's text, parsed, without `[DONE]`.
pub(crate) fn chunks(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// What a finished command wrote to standard output; it has to have succeeded.
pub(crate) fn output_of(mut command: Command) -> String {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    let mut errors = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {errors}");
    output
}

/// A home folder without anything.
pub(crate) fn empty_home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    home
}
