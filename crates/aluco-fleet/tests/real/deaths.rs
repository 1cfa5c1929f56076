//! Streams whose worker is killed.
//!
//! A short reply is computed again token by token, as it was at first, so a stream that runs alone goes on with the very same logits. Beside
//! others a token is computed in batches of other sizes each time, which moves the last bits of logits, and a near tie may fall the other way.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use aluco_fleet::{
    Fleet, FleetConfig, FleetError, Recovery,
    proto::{
        CacheOptions, FlashAttention, GenerationEvent, GenerationSpec, KvType, LoadOptions, Prompt,
        Sampling, Speculation, Token, Usage,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{PATIENCE, model, named, store};

/// So many that no stream is at its end before it is killed, also where the one who kills it is held up.
const TOKENS: u32 = 160;

/// Longest pause after a worker was stopped: it is noticed after 2 s and the next heartbeat, then the model is loaded again.
const PAUSE_MAX: Duration = Duration::from_secs(20);

fn config(folder: &TempDir) -> FleetConfig {
    FleetConfig {
        worker_binary: Some(named("ALUCO_TEST_WORKER")),
        restart_backoff: Duration::from_millis(20),
        fallback_after_deaths: None,
        load_options: LoadOptions {
            context_tokens: Some(4096),
            sequences_max: 8,
            kv_type_k: KvType::F32,
            kv_type_v: KvType::F32,
            flash_attention: FlashAttention::Off,
            speculation: Speculation::Off,
            // Cells that others left behind change the order in which attention sums up.
            cache: CacheOptions {
                device_tokens: Some(0),
                ram_bytes: Some(0),
                ..CacheOptions::default()
            },
            ..LoadOptions::default()
        },
        ..FleetConfig::new(store(folder))
    }
}

fn fleet(folder: &TempDir) -> Fleet {
    Fleet::new(config(folder))
}

/// The worker as it is, but with a fault in its environment.
fn faulty_worker(folder: &TempDir, fault: &str) -> PathBuf {
    let path = folder.path().join("worker");
    let worker = named("ALUCO_TEST_WORKER");
    let script = format!(
        "#!/bin/sh\nALUCO_FAULT='{fault}' exec '{}' \"$@\"\n",
        worker.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn spec(prompt: &str, temperature: f32, seed: u32) -> GenerationSpec {
    let sampling = Sampling {
        temperature,
        seed: Some(seed),
        ignore_end: true,
        ..Sampling::default()
    };
    crate::spec(Prompt::Text(prompt.to_owned()), sampling, TOKENS)
}

#[derive(Debug, Default, PartialEq)]
struct Reply {
    text: String,
    tokens: Vec<Token>,
    usage: Usage,
}

/// Reads a generation to its end; `news` hears how many tokens have come.
async fn read(
    fleet: &Fleet,
    spec: GenerationSpec,
    news: Option<mpsc::UnboundedSender<usize>>,
) -> (Reply, Recovery) {
    let mut generation = fleet.generate(&model(), spec).await.unwrap();
    let (mut reply, mut starts) = (Reply::default(), 0);
    loop {
        let event = tokio::time::timeout(PATIENCE, generation.next()).await;
        match event.expect("this takes too long") {
            Some(GenerationEvent::Started { .. }) => starts += 1,
            Some(GenerationEvent::Delta { text, tokens, .. }) => {
                reply.text += &text;
                reply.tokens.extend(tokens);
                if let Some(news) = &news {
                    let _ = news.send(reply.tokens.len());
                }
            }
            Some(GenerationEvent::Done { usage, .. }) => reply.usage = usage,
            Some(GenerationEvent::Failed(failure)) => panic!("{failure}"),
            Some(_) => {}
            None => break,
        }
    }
    assert_eq!(starts, 1);
    (reply, generation.recovery())
}

async fn kill_worker(fleet: &Fleet) {
    signal_worker(fleet, Signal::KILL).await;
}

async fn signal_worker(fleet: &Fleet, signal: Signal) {
    let worker = fleet.status().await.workers.into_iter().next();
    let pid = worker.expect("a worker runs").hello.pid;
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_stream_that_is_killed_at_any_token_says_what_it_would_have_said() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(&folder);
    let prompts = [
        "The tawny owl is a bird that",
        "Once upon a time",
        "def f(x):",
    ];
    // Greedy, and two seeds.
    for (temperature, seed) in [(0.0, 1), (0.8, 7), (1.2, 42)] {
        for (index, prompt) in prompts.iter().enumerate() {
            let spec = spec(prompt, temperature, seed);
            let (expected, calm) = read(&fleet, spec.clone(), None).await;
            assert_eq!(calm.restarts, 0);
            let at = [3, 40, 77][index];
            let (news, mut heard) = mpsc::unbounded_channel();
            let killing = async {
                while heard.recv().await.is_some_and(|tokens| tokens < at) {}
                kill_worker(&fleet).await;
            };
            let ((reply, recovery), ()) = tokio::join!(read(&fleet, spec, Some(news)), killing);
            assert_eq!(recovery.restarts, 1, "{prompt}");
            let went_on_at = recovery.resumed_at_tokens[0];
            assert!(went_on_at as usize >= at, "{went_on_at}");
            assert_eq!(reply.text, expected.text, "resumed at {went_on_at}");
            assert_eq!(reply.tokens, expected.tokens);
            assert_eq!(reply.usage.generated_tokens, TOKENS);
            assert_eq!(reply.usage.prompt_tokens, expected.usage.prompt_tokens);
        }
    }
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn eight_streams_that_are_killed_together_all_complete_without_a_token_twice_or_missing() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(&folder);
    let specs: Vec<GenerationSpec> = (0..8)
        .map(|index| {
            let temperature = if index % 2 == 0 { 0.0 } else { 0.8 };
            spec(
                &format!("Number {index} is a number that"),
                temperature,
                index,
            )
        })
        .collect();
    let mut expected = Vec::new();
    for spec in &specs {
        expected.push(read(&fleet, spec.clone(), None).await.0);
    }
    let (news, mut heard) = mpsc::unbounded_channel();
    let streams: Vec<_> = specs
        .into_iter()
        .map(|spec| {
            let (fleet, news) = (fleet.clone(), news.clone());
            tokio::spawn(async move { read(&fleet, spec, Some(news)).await })
        })
        .collect();
    drop(news);
    for at in [20, 50, 80] {
        while heard.recv().await.is_some_and(|tokens| tokens < at) {}
        kill_worker(&fleet).await;
        // What the dead one had sent is no news.
        while heard.try_recv().is_ok() {}
    }
    let mut same = 0;
    for (stream, expected) in streams.into_iter().zip(&expected) {
        let (reply, recovery) = stream.await.unwrap();
        assert!(recovery.restarts >= 1);
        assert_eq!(reply.tokens.len(), TOKENS as usize);
        assert_eq!(reply.usage.generated_tokens, TOKENS);
        assert_eq!(reply.usage.prompt_tokens, expected.usage.prompt_tokens);
        same += usize::from(reply.text == expected.text);
    }
    println!("{same} of 8 texts are those of streams that ran alone and undisturbed");
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_worker_that_aborts_in_the_midst_of_a_step_is_named_and_its_stream_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec("The tawny owl is a bird that", 0.8, 7);
    let calm = fleet(&folder);
    let (expected, _) = read(&calm, spec.clone(), None).await;
    calm.shutdown(Duration::ZERO).await;
    let once = folder.path().join("once");
    let fault = format!("abort-in-decode:40:{}", once.display());
    let fleet = Fleet::new(FleetConfig {
        worker_binary: Some(faulty_worker(&folder, &fault)),
        // The cause is told with the step that it leads to.
        fallback_after_deaths: Some(1),
        ..config(&folder)
    });
    let (reply, recovery) = read(&fleet, spec, None).await;
    assert!(once.is_file(), "the worker has aborted");
    assert_eq!(recovery.restarts, 1);
    assert!((1..40).contains(&recovery.resumed_at_tokens[0]));
    let cause = recovery.fallback.unwrap().cause;
    assert!(cause.contains("SIGABRT"), "{cause}");
    assert!(cause.contains("aborted in step 40"), "{cause}");
    assert_eq!(reply.text, expected.text);
    assert_eq!(reply.tokens, expected.tokens);
    let mishaps = fleet.status().await.mishaps;
    assert_eq!(mishaps.worker_deaths.get("assertion"), Some(&1));
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_prompt_that_breaks_the_tokenizer_is_refused_and_the_stream_beside_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let calm = spec("The tawny owl is a bird that", 0.8, 7);
    let fleet = Fleet::new(FleetConfig {
        worker_binary: Some(faulty_worker(&folder, "abort-in-tokenize:abracadabra")),
        ..config(&folder)
    });
    let (expected, _) = read(&fleet, calm.clone(), None).await;
    let (news, mut heard) = mpsc::unbounded_channel();
    let breaking = async {
        while heard.recv().await.is_some_and(|tokens| tokens < 20) {}
        let broken = || spec("Say abracadabra", 0.0, 1);
        let first = match fleet.generate(&model(), broken()).await {
            Ok(mut stream) => match tokio::time::timeout(PATIENCE, stream.next()).await {
                Ok(Some(GenerationEvent::Failed(failure))) => failure,
                other => panic!("{other:?}"),
            },
            Err(FleetError::Failed(failure)) => failure,
            Err(error) => panic!("{error}"),
        };
        let again = fleet.generate(&model(), broken()).await;
        let Err(FleetError::Failed(again)) = again else {
            panic!("it is let in again");
        };
        (first.message, again.message)
    };
    let ((reply, recovery), (first, again)) =
        tokio::join!(read(&fleet, calm, Some(news)), breaking);
    for message in [first, again] {
        assert!(message.contains("aborted in the tokenizer"), "{message}");
    }
    assert_eq!(reply.text, expected.text);
    assert_eq!(reply.tokens, expected.tokens);
    println!("{recovery:?}");
    assert!((1..=4).contains(&recovery.restarts), "{recovery:?}");
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_stopped_worker_costs_a_pause_of_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = fleet(&folder);
    let (news, mut heard) = mpsc::unbounded_channel();
    let stopping = async {
        while heard.recv().await.is_some_and(|tokens| tokens < 20) {}
        signal_worker(&fleet, Signal::STOP).await;
        let stopped = Instant::now();
        // What was on its way when it was stopped is no sign of life.
        let settled = tokio::time::Instant::now() + Duration::from_millis(500);
        while let Ok(Some(_)) = tokio::time::timeout_at(settled, heard.recv()).await {}
        heard.recv().await.expect("the stream goes on");
        stopped.elapsed()
    };
    let spec = spec("Once upon a time", 0.0, 1);
    let ((reply, recovery), pause) = tokio::join!(read(&fleet, spec, Some(news)), stopping);
    println!("the next token came {pause:.2?} after the stop");
    assert_eq!(reply.tokens.len(), TOKENS as usize);
    assert_eq!(recovery.restarts, 1);
    assert!(pause >= config(&folder).stopped_timeout, "{pause:.2?}");
    assert!(pause < PAUSE_MAX, "{pause:.2?}");
    let mishaps = fleet.status().await.mishaps;
    assert_eq!(mishaps.worker_deaths.get("stopped"), Some(&1));
    fleet.shutdown(Duration::ZERO).await;
}
