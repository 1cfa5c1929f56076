//! Models that come and go: what that does to the others, to conversations, and to the worker.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aluco_tiny_models::Kind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::served::{FULL_PRECISION, ONE_BY_ONE, Served, model};

/// Tokens of a block of the prefix store.
const BLOCK_TOKENS: u64 = 256;

const MIB: u64 = 1 << 20;

/// How often two models take turns.
const CYCLES: usize = 100;

/// After so many of them both models go, and what the worker holds then is measured.
const CYCLES_BETWEEN_MEASUREMENTS: usize = 5;

/// Looks at a worker for one measurement.
const LOOKS: usize = 20;

/// Made-up models in a folder of their own.
struct Models {
    folder: TempDir,
}

impl Models {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn tiny(&self, kind: Kind) -> String {
        let path = self.folder.path().join(format!("{kind}.gguf"));
        aluco_tiny_models::write(kind, &path).unwrap();
        name(&path)
    }

    /// The real model once more, under another name.
    fn twin(&self) -> String {
        let path = self.folder.path().join("twin.gguf");
        fs::copy(model(), &path).unwrap();
        name(&path)
    }
}

fn name(path: &Path) -> String {
    path.to_str().expect("the path is UTF-8").to_owned()
}

/// A successful answer to a request.
async fn posted(served: &Served, path: &str, body: &Value) -> Value {
    let reply = served.post(path, body).await;
    let status = reply.status();
    let text = reply.text().await.unwrap();
    assert_eq!(status, 200, "{text}\n{}", served.log());
    serde_json::from_str(&text).unwrap()
}

async fn load(served: &Served, model: &str) {
    posted(served, "/aluco/v1/load", &json!({"model": model})).await;
}

async fn unload(served: &Served, model: &str) {
    let unloaded = posted(served, "/aluco/v1/models/unload", &json!({"model": model})).await;
    assert_eq!(unloaded["unloaded"], true);
}

/// A conversation with one model, greedy.
struct Conversation {
    model: String,
    messages: Vec<Value>,
}

/// Tokens of one turn.
struct Turn {
    prompt: u64,
    generated: u64,
    cached: u64,
    text: String,
    /// Where the cached tokens came from, and why the rest was computed.
    cache: Value,
}

impl Conversation {
    fn new(model: &str, system: &str) -> Self {
        Self {
            model: model.to_owned(),
            messages: vec![json!({"role": "system", "content": system})],
        }
    }

    async fn turn(&mut self, served: &Served, question: &str) -> Turn {
        self.messages
            .push(json!({"role": "user", "content": question}));
        let body = json!({
            "model": self.model,
            "messages": self.messages,
            "temperature": 0,
            "max_tokens": 24,
        });
        let reply = posted(served, "/v1/chat/completions", &body).await;
        let text = reply["choices"][0]["message"]["content"].as_str().unwrap();
        self.messages
            .push(json!({"role": "assistant", "content": text}));
        let usage = &reply["usage"];
        let count = |value: &Value| value.as_u64().unwrap();
        Turn {
            prompt: count(&usage["prompt_tokens"]),
            generated: count(&usage["completion_tokens"]),
            cached: count(&usage["prompt_tokens_details"]["cached_tokens"]),
            text: text.to_owned(),
            cache: reply["timings"]["cache"].clone(),
        }
    }
}

/// Text of so many bytes, no part of which is like another.
fn text(bytes: usize) -> String {
    let words = (0_u32..).map(|n| format!("{:x} ", n.wrapping_mul(2_654_435_761)));
    words
        .flat_map(String::into_bytes)
        .take(bytes)
        .map(char::from)
        .collect()
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_conversation_outlives_its_model_and_only_what_is_new_is_computed() {
    let models = Models::new();
    let other = models.tiny(Kind::Moe);
    for kind in [
        Kind::FullAttention,
        Kind::SlidingWindow,
        Kind::HybridDeltaNet,
    ] {
        for is_evicted in [false, true] {
            // By default a disk that is nearly full is left alone.
            let served = Served::start(&["--models-max", "1", "--cache-disk", "256MiB"]);
            let model = models.tiny(kind);
            // A byte is a token here.
            let mut conversation = Conversation::new(&model, &text(3000));
            conversation.turn(&served, "What is that?").await;
            let before = conversation.turn(&served, "And what is it for?").await;
            assert!(before.prompt > 3000, "{kind}: {}", before.prompt);
            if is_evicted {
                load(&served, &other).await;
            } else {
                unload(&served, &model).await;
            }
            load(&served, &model).await;
            let after = conversation.turn(&served, "Say it again.").await;
            let new = after.prompt - before.prompt - before.generated;
            let computed = after.prompt - after.cached;
            eprintln!(
                "{kind}, evicted {is_evicted}: {} tokens, {new} new, {computed} computed",
                after.prompt
            );
            assert!(
                computed <= new + BLOCK_TOKENS,
                "{kind}, evicted {is_evicted}: {computed} tokens were computed for {new} new ones of {}: {}\n{}",
                after.prompt,
                after.cache,
                served.log()
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn streams_go_on_while_another_model_is_loaded() {
    let models = Models::new();
    let twin = models.twin();
    // One core is left to the load: what is tested is who waits for whom, not how many share a core.
    let served = Served::start(&["--threads", "1", "--speculation", "off"]);
    load(&served, &model()).await;
    let mut stream = served.endless_stream().await;
    let mut quiet = Vec::new();
    let mut last = Instant::now();
    while quiet.len() < 60 {
        stream.chunk().await.unwrap().expect("the stream goes on");
        quiet.push(last.elapsed());
        last = Instant::now();
    }
    quiet.sort_unstable();
    let usual = quiet[quiet.len() / 2];
    let mut stood_still: Vec<Duration> = Vec::new();
    let mut load_times = Vec::new();
    for _ in 0..3 {
        let mut gaps: Vec<Duration> = Vec::new();
        let began = Instant::now();
        // The gap of an unload is not that of a load.
        last = began;
        let mut loading = std::pin::pin!(load(&served, &twin));
        loop {
            tokio::select! {
                () = &mut loading => break,
                chunk = stream.chunk() => {
                    chunk.unwrap().expect("the stream goes on");
                    gaps.push(last.elapsed());
                    last = Instant::now();
                }
            }
        }
        load_times.push(began.elapsed());
        // The next token, too, may have waited for the end of the load.
        stream.chunk().await.unwrap().expect("the stream goes on");
        gaps.push(last.elapsed());
        stood_still.extend(gaps.iter().max());
        unload(&served, &twin).await;
    }
    eprintln!("TPOT {usual:?}, largest gaps {stood_still:?}, loads {load_times:?}");
    // What stops the stream does so at each load; what else this machine does may stop it at one of them.
    let shortest = stood_still.iter().min().copied().unwrap();
    let shortest_load = load_times.iter().min().copied().unwrap();
    assert!(
        shortest < shortest_load.max(usual * 40),
        "a stream with {usual:?} per token stood still for {stood_still:?} during loads of {load_times:?}"
    );
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn models_that_take_turns_in_one_place_leave_nothing_behind_in_the_worker() {
    let models = Models::new();
    let pair = [
        models.tiny(Kind::FullAttention),
        models.tiny(Kind::HybridDeltaNet),
    ];
    // A text is the same whether its prompt was computed or stored.
    let mut options = vec!["--models-max", "1", "--context", "1024"];
    options.extend(FULL_PRECISION);
    options.extend(ONE_BY_ONE);
    let served = Served::start(&options);
    let mut first = Vec::new();
    let mut measured = Vec::new();
    for cycle in 0..CYCLES {
        for (index, model) in pair.iter().enumerate() {
            let mut conversation = Conversation::new(model, &text(300));
            let reply = conversation.turn(&served, "What is that?").await.text;
            if cycle == 0 {
                first.push(reply);
            } else {
                assert_eq!(reply, first[index], "{model} in cycle {cycle}");
            }
        }
        if (cycle + 1) % CYCLES_BETWEEN_MEASUREMENTS == 0 {
            unload(&served, &pair[1]).await;
            measured.push(Footprint::settled(served.worker_pid().await).await);
        }
    }
    let pid = measured[0].pid;
    assert!(
        measured.iter().all(|it| it.pid == pid),
        "the worker has lived through all of it"
    );
    let (early, late) = measured.split_at(measured.len() / 2);
    let (early, late) = (Footprint::least(early), Footprint::least(late));
    eprintln!("at least {early:?} in the first half, {late:?} in the second, of {measured:?}");
    assert!(late.files <= early.files, "{early:?} became {late:?}");
    assert!(late.threads <= early.threads, "{early:?} became {late:?}");
    assert_eq!(late.mappings, 0, "{early:?} became {late:?}");
    assert!(
        late.memory_bytes < early.memory_bytes + 2 * MIB,
        "{early:?} became {late:?}"
    );
}

/// What a process holds.
#[derive(Debug)]
struct Footprint {
    pid: u32,
    /// Of its own: how much of a file is in memory at a time is up to the kernel.
    memory_bytes: u64,
    files: u64,
    threads: u64,
    /// Places in memory where files of models are mapped.
    mappings: u64,
}

impl Footprint {
    /// The least of several looks, since threads and files that nobody needs any more take a moment to go.
    async fn settled(pid: u32) -> Self {
        let mut looks = Vec::new();
        for _ in 0..LOOKS {
            tokio::time::sleep(Duration::from_millis(10)).await;
            looks.push(Self::of(pid));
        }
        Self::least(&looks)
    }

    /// What stays behind raises the least that is ever held. What is just being closed or freed, or lies in a heap between two things that are
    /// in use, raises only the rest.
    fn least(measured: &[Self]) -> Self {
        let least = |of: fn(&Self) -> u64| measured.iter().map(of).min().unwrap();
        Self {
            pid: measured[0].pid,
            memory_bytes: least(|it| it.memory_bytes),
            files: least(|it| it.files),
            threads: least(|it| it.threads),
            mappings: least(|it| it.mappings),
        }
    }

    fn of(pid: u32) -> Self {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let status = fs::read_to_string(process.join("status")).unwrap();
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .unwrap();
        let maps = fs::read_to_string(process.join("maps")).unwrap();
        let count = |folder: &str| {
            let entries = fs::read_dir(process.join(folder)).unwrap();
            entries.count() as u64
        };
        Self {
            pid,
            memory_bytes: memory * 1024,
            files: count("fd"),
            threads: count("task"),
            mappings: maps.matches(".gguf").count() as u64,
        }
    }
}
