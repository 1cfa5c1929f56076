//! What HTTP costs: the same generation asked for over a socket and of the fleet directly, by turns, with a real model.
//!
//! ```text
//! ALUCO_BENCH_WORKER=… ALUCO_BENCH_MODEL=… cargo bench -p aluco-server --bench overhead [-- --rounds 40 --threads 2 --check]
//! ```
//!
//! `make bench-overhead` sets both. Printed are medians over all rounds and the median of the differences between the two ways
//! within each round. `--check` fails above 1 ms to the first token or 1 % of the speed.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use aluco_fleet::{
    Fleet, FleetConfig,
    proto::{ChatPrompt, GenerationEvent, GenerationSpec, Prompt, Sampling},
};
use aluco_model::{Store, StoreConfig};
use aluco_server::ServerConfig;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const TOKENS: u32 = 64;
const QUESTION: &str = "What is gravity?";

/// One generation as its client saw it.
#[derive(Clone, Copy)]
struct Seen {
    first_token: Duration,
    /// From the first token to the last.
    decode: Duration,
}

impl Seen {
    fn per_second(self) -> f64 {
        f64::from(TOKENS - 1) / self.decode.as_secs_f64()
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |flag: &str, default| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.map_or(default, |at| {
            let number = arguments.get(at + 1).and_then(|it| it.parse().ok());
            number.unwrap_or_else(|| panic!("{flag} takes a number"))
        })
    };
    let rounds = number("--rounds", 40) as usize;
    let threads = number("--threads", 2);
    let worker = PathBuf::from(
        std::env::var_os("ALUCO_BENCH_WORKER").expect("ALUCO_BENCH_WORKER is a worker binary"),
    );
    let model = std::env::var("ALUCO_BENCH_MODEL").expect("ALUCO_BENCH_MODEL is a GGUF file");
    let nowhere = std::env::temp_dir().join("aluco-bench-overhead");
    let store = Store::new(StoreConfig {
        hub_cache: nowhere.join("hub"),
        models: nowhere.join("models"),
    });
    let mut config = FleetConfig {
        worker_binary: Some(worker),
        ..FleetConfig::new(store)
    };
    // Fixed, so that both ways compute the same.
    config.load_options.threads = Some(threads);
    let fleet = Fleet::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("the listener has an address");
    tokio::spawn(aluco_server::serve(
        listener,
        fleet.clone(),
        ServerConfig::default(),
        std::future::pending(),
    ));
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the server listens");
    stream.set_nodelay(true).expect("a TCP option");
    direct(&fleet, &model).await;
    over_http(&mut stream, address, &model).await;
    let mut pairs = Vec::with_capacity(rounds);
    for round in 0..rounds {
        // Whoever goes second finds warmer caches.
        let pair = if round % 2 == 0 {
            let direct = direct(&fleet, &model).await;
            (direct, over_http(&mut stream, address, &model).await)
        } else {
            let http = over_http(&mut stream, address, &model).await;
            (direct(&fleet, &model).await, http)
        };
        pairs.push(pair);
    }
    fleet.shutdown(Duration::from_secs(1)).await;

    let ms = |seen: Seen| seen.first_token.as_secs_f64() * 1e3;
    let added_ms = median(pairs.iter().map(|(direct, http)| ms(*http) - ms(*direct)));
    let ratio = median(
        pairs
            .iter()
            .map(|(direct, http)| http.per_second() / direct.per_second()),
    );
    println!("{rounds} rounds, {TOKENS} tokens each, {threads} threads compute");
    println!("              first token      tokens/s");
    for (name, pick) in [("fleet", 0), ("over HTTP", 1)] {
        let seen = |pair: &(Seen, Seen)| if pick == 0 { pair.0 } else { pair.1 };
        println!(
            "{name:12} {:8.2} ms      {:8.2}",
            median(pairs.iter().map(|pair| ms(seen(pair)))),
            median(pairs.iter().map(|pair| seen(pair).per_second()))
        );
    }
    println!("HTTP adds    {added_ms:8.2} ms   ratio {ratio:.4}");
    if arguments.iter().any(|argument| argument == "--check") && (added_ms > 1.0 || ratio < 0.99) {
        eprintln!("over the limit of 1 ms and 1 %");
        std::process::exit(1);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

async fn direct(fleet: &Fleet, model: &str) -> Seen {
    let spec = GenerationSpec {
        prompt: Prompt::Chat(ChatPrompt {
            messages: messages(),
            template_arguments: serde_json::Map::new(),
            add_generation_prompt: true,
        }),
        sampling: Sampling {
            temperature: 0.0,
            ignore_end: true,
            ..Sampling::default()
        },
        choices: 1,
        tokens_max: Some(TOKENS),
        truncate: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
    };
    let begun = Instant::now();
    let mut generation = fleet
        .generate(model, spec)
        .await
        .expect("the model generates");
    let mut first = None;
    let mut last = begun;
    while let Some(event) = generation.next().await {
        match event {
            GenerationEvent::Delta { .. } => {
                last = Instant::now();
                first.get_or_insert(last);
            }
            GenerationEvent::Failed(failure) => panic!("{failure}"),
            _ => {}
        }
    }
    let first = first.expect("there was a token");
    Seen {
        first_token: first - begun,
        decode: last - first,
    }
}

async fn over_http(stream: &mut TcpStream, address: SocketAddr, model: &str) -> Seen {
    let body = json!({
        "model": model, "messages": messages(), "temperature": 0, "ignore_eos": true,
        "max_tokens": TOKENS, "stream": true,
    })
    .to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let begun = Instant::now();
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the server reads");
    let mut text = Vec::new();
    let mut first = None;
    let mut last = begun;
    while !ends_with(&text, b"data: [DONE]\n\n\r\n0\r\n\r\n") {
        let before = text.len();
        let read = stream
            .read_buf(&mut text)
            .await
            .expect("the server answers");
        assert!(
            read > 0,
            "the server hung up: {}",
            String::from_utf8_lossy(&text)
        );
        // Only what carries text counts: the first chunk names the role, the last the reason of the end. A chunk comes in one piece.
        let new = &text[before..];
        if has(new, b"\"delta\":{\"content\":\"") && !has(new, b"\"delta\":{\"content\":\"\"") {
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    let first = first.unwrap_or_else(|| panic!("no token in {}", String::from_utf8_lossy(&text)));
    Seen {
        first_token: first - begun,
        decode: last - first,
    }
}

fn messages() -> Value {
    json!([{"role": "user", "content": QUESTION}])
}

fn ends_with(text: &[u8], end: &[u8]) -> bool {
    text.len() >= end.len() && &text[text.len() - end.len()..] == end
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
