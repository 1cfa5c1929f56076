//! Ten thousand hostile requests. `ALUCO_FUZZ_REQUESTS` and `ALUCO_FUZZ_SEED` ask for more, or others.

mod bodies;
mod cases;
mod replies;

use std::{
    collections::BTreeMap,
    panic,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aluco_fake_worker::Script;
use aluco_server::{ResumeConfig, ServerConfig};
use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::cases::Case;
use crate::world::{PATIENCE, World, config};

/// Clients at once.
const CLIENTS: u64 = 32;

/// Nothing may take longer: the server gives up on a client after [`READ_TIMEOUT`].
const DEADLINE: Duration = PATIENCE;
const READ_TIMEOUT: Duration = Duration::from_millis(400);

/// What the process may grow by, in bytes.
const GROWTH_MAX: u64 = 96 << 20;

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn number(variable: &str, default: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(default, |value| value.parse().expect("a whole number"))
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_requests_do_no_harm() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(what);
    }));
    let requests = number("ALUCO_FUZZ_REQUESTS", 10_000);
    let seed = number("ALUCO_FUZZ_SEED", 0xa1c0);
    let config = ServerConfig {
        read_timeout: READ_TIMEOUT,
        body_bytes_max: 1 << 20,
        resume: ResumeConfig {
            grace: Duration::from_millis(200),
            bytes_max: 4 << 20,
            ..ResumeConfig::default()
        },
        ..config()
    };
    let world = Arc::new(World::with(config, |_| {}).await);
    let model = world.model("m", &Script::default());
    world.assert_unharmed(&model).await;
    let (before, began) = (resident(), Instant::now());
    let next = Arc::new(AtomicU64::new(0));
    let answers = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (world, model) = (world.clone(), model.clone());
            let (next, answers) = (next.clone(), answers.clone());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return;
                    }
                    let mut case = cases::case(&mut Rng::with_seed(seed + number), &model);
                    let reply = tokio::time::timeout(DEADLINE, act(&world, &mut case)).await;
                    let fault = match &reply {
                        Ok(reply) => replies::fault(reply, &case),
                        Err(_) => Some("no end".to_owned()),
                    };
                    if let Some(fault) = fault {
                        let sent: Vec<u8> = case.pieces.into_iter().flat_map(|it| it.0).collect();
                        let sent =
                            String::from_utf8_lossy(&sent[..sent.len().min(3_000)]).into_owned();
                        panic!("{fault}\nseed {} to\n{sent}", seed + number);
                    }
                    let reply = reply.unwrap_or_default();
                    let status = reply.get(9..12).unwrap_or(b"cut");
                    let status = String::from_utf8_lossy(status).into_owned();
                    *answers.lock().unwrap().entry(status).or_default() += 1;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no client found a fault");
    }
    let (took, after) = (began.elapsed(), resident());
    let answers = std::mem::take(&mut *answers.lock().unwrap());
    println!("{requests} requests in {took:?}, {before} bytes before, {after} after, {answers:?}");
    world.assert_unharmed(&model).await;
    assert_eq!(answers.values().sum::<u64>(), requests);
    // They reach into every part: some do no harm, some fail for each reason.
    for status in ["200", "400", "404", "405", "408", "431"] {
        assert!(answers.contains_key(status), "{answers:?}");
    }
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "something panicked");
    let grown = after.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the process grew by {grown} bytes");
    let loads = world.journal("m");
    assert!(!loads.is_empty());
}

/// Does what the case says; gives what came back. A client that this machine keeps from sending for too long deserves no answer: the
/// server waits for a head only so long, from the moment when it has the connection.
async fn act(world: &World, case: &mut Case) -> Vec<u8> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let mut reply = Vec::new();
    let mut is_late = false;
    let (mut reading, mut writing) = stream.split();
    // The server may answer, and hang up, before it has read all.
    let write = async {
        for (piece, pause) in &case.pieces {
            let written = writing.write_all(piece).await;
            is_late |= began.elapsed() >= READ_TIMEOUT / 2;
            if written.is_err() {
                break;
            }
            tokio::time::sleep(*pause).await;
        }
        if case.closes {
            let _ = writing.shutdown().await;
        }
        if case.reads_max > 0 {
            std::future::pending::<()>().await;
        }
    };
    let read = async {
        let mut buffer = vec![0; 16 << 10];
        while reply.len() < case.reads_max.max(1) {
            match reading.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => reply.extend(&buffer[..count]),
            }
        }
    };
    // What is to be sent is sent before anything is read.
    tokio::select! {
        biased;
        () = write => {}
        () = read => {}
    }
    case.deserves_answer &= !is_late;
    reply
}
