//! Streams whose worker is killed.
//!
//! A short reply is computed again token by token, as it was at first, so a stream that runs alone goes on with the very same logits. Beside
//! others a token is computed in batches of other sizes each time, which moves the last bits of logits, and a near tie may fall the other way.
//!
//! A worker whose death is awaited holds in a step until then, so that no stream comes to its end first, whoever stands still meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aluco_fleet::{
    Fleet, FleetConfig, FleetError, Recovery,
    proto::{
        CacheOptions, FlashAttention, GenerationEvent, GenerationSpec, KvType, LoadOptions, Prompt,
        Sampling, Speculation, Token, Usage,
    },
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{PATIENCE, model, named, roomy_machine, store, until};

/// More than the steps of all workers that are killed together.
const TOKENS: u32 = 120;

/// A worker that holds so many steps behind that of a token has sent this one: the three between may wait for the end of a character.
const STEPS_BEHIND: usize = 4;

fn config(folder: &TempDir) -> FleetConfig {
    FleetConfig {
        worker_binary: Some(named("ALUCO_TEST_WORKER")),
        restart_backoff: Duration::from_millis(20),
        fallback_after_deaths: None,
        memory_root: roomy_machine(folder),
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

/// A fleet whose workers have these faults, and what [`hold_next`] says beside.
fn faulty_fleet(folder: &TempDir, faults: &str) -> Fleet {
    Fleet::new(FleetConfig {
        worker_binary: Some(faulty_worker(folder, faults)),
        ..config(folder)
    })
}

/// The worker as it is, but with faults in its environment.
fn faulty_worker(folder: &TempDir, faults: &str) -> PathBuf {
    let path = folder.path().join("worker");
    let worker = named("ALUCO_TEST_WORKER");
    let script = format!(
        "#!/bin/sh\n\
         folder='{}'\n\
         export ALUCO_FAULT='{faults}'\n\
         [ \"$1\" = serve ] && mv \"$folder/next\" \"$folder/taken\" 2>/dev/null && ALUCO_FAULT=\"$ALUCO_FAULT;$(cat \"$folder/taken\")\"\n\
         exec '{}' \"$@\"\n",
        folder.path().display(),
        worker.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Has the next faulty worker that starts hold in its step of this number, until somebody lets it go on: a pipe to be opened.
fn hold_next(folder: &TempDir, step: usize) -> PathBuf {
    let pipe = folder.path().join(format!("pipe-{step}"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let fault = format!("wait-in-decode:{step}:{}", pipe.display());
    fs::write(folder.path().join("next"), fault).unwrap();
    pipe
}

/// Waits until the worker holds; it goes on when what comes back is dropped.
async fn reached(pipe: &Path) -> File {
    let opening = async {
        loop {
            let mut options = OpenOptions::new();
            options.write(true);
            options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
            match options.open(pipe) {
                Ok(pipe) => return pipe,
                Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => panic!("{}: {error}", pipe.display()),
            }
        }
    };
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    opened.expect("the worker comes to this step")
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
    let calm = fleet(&folder);
    let prompts = [
        "The tawny owl is a bird that",
        "Once upon a time",
        "def f(x):",
    ];
    // Greedy, and two seeds.
    for (temperature, seed) in [(0.0, 1), (0.8, 7), (1.2, 42)] {
        for (index, prompt) in prompts.iter().enumerate() {
            let spec = spec(prompt, temperature, seed);
            let (expected, undisturbed) = read(&calm, spec.clone(), None).await;
            assert_eq!(undisturbed.restarts, 0);
            let at = [3, 40, 77][index];
            let folder = tempfile::tempdir().unwrap();
            hold_next(&folder, at + STEPS_BEHIND);
            let fleet = faulty_fleet(&folder, "");
            let (news, mut heard) = mpsc::unbounded_channel();
            let killing = async {
                while heard.recv().await.is_some_and(|tokens| tokens < at) {}
                signal_worker(&fleet, Signal::KILL).await;
            };
            let ((reply, recovery), ()) = tokio::join!(read(&fleet, spec, Some(news)), killing);
            assert_eq!(recovery.restarts, 1, "{prompt}");
            let went_on_at = recovery.resumed_at_tokens[0] as usize;
            assert!(
                (at..at + STEPS_BEHIND).contains(&went_on_at),
                "{went_on_at}"
            );
            assert_eq!(reply.text, expected.text, "resumed at {went_on_at}");
            assert_eq!(reply.tokens, expected.tokens);
            assert_eq!(reply.usage.generated_tokens, TOKENS);
            assert_eq!(reply.usage.prompt_tokens, expected.usage.prompt_tokens);
            fleet.shutdown(Duration::ZERO).await;
        }
    }
    calm.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn eight_streams_that_are_killed_together_all_complete_without_a_token_twice_or_missing() {
    let folder = tempfile::tempdir().unwrap();
    let calm = fleet(&folder);
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
        expected.push(read(&calm, spec.clone(), None).await.0);
    }
    calm.shutdown(Duration::ZERO).await;
    let mut pipe = hold_next(&folder, 24);
    let fleet = faulty_fleet(&folder, "");
    fleet.load(&model()).await.unwrap();
    let streams: Vec<_> = specs
        .into_iter()
        .map(|spec| {
            let fleet = fleet.clone();
            tokio::spawn(async move { read(&fleet, spec, None).await })
        })
        .collect();
    for next in [Some(30), Some(40), None] {
        let held = reached(&pipe).await;
        until(&fleet, "all streams are in the worker", |status| {
            status.models.iter().any(|model| model.requests == 8)
        })
        .await;
        if let Some(step) = next {
            pipe = hold_next(&folder, step);
        }
        signal_worker(&fleet, Signal::KILL).await;
        drop(held);
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
    let whole = spec("The tawny owl is a bird that", 0.8, 7);
    let calm = fleet(&folder);
    let (expected, _) = read(&calm, whole.clone(), None).await;
    calm.shutdown(Duration::ZERO).await;
    let at = 20;
    hold_next(&folder, at + STEPS_BEHIND);
    let fleet = faulty_fleet(&folder, "abort-in-tokenize:abracadabra");
    let (news, mut heard) = mpsc::unbounded_channel();
    let breaking = async {
        while heard.recv().await.is_some_and(|tokens| tokens < at) {}
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
        tokio::join!(read(&fleet, whole, Some(news)), breaking);
    for message in [first, again] {
        assert!(message.contains("aborted in the tokenizer"), "{message}");
    }
    assert_eq!(reply.text, expected.text);
    assert_eq!(reply.tokens, expected.tokens);
    println!("{recovery:?}");
    let went_on_at = recovery.resumed_at_tokens[0] as usize;
    assert!((at..at + STEPS_BEHIND).contains(&went_on_at));
    assert!((1..=4).contains(&recovery.restarts), "{recovery:?}");
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_stopped_worker_costs_a_pause_of_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let at = 20;
    let step = at + STEPS_BEHIND;
    hold_next(&folder, step);
    let fleet = Fleet::new(FleetConfig {
        worker_binary: Some(faulty_worker(&folder, "")),
        // Who reads loses patience before silence alone would have it given up.
        heartbeat_timeout: 2 * PATIENCE,
        ..config(&folder)
    });
    let (news, mut heard) = mpsc::unbounded_channel();
    let stopping = async {
        while heard.recv().await.is_some_and(|tokens| tokens < at) {}
        // Once it has said what it does, it has answered every ping from before it was asked.
        let asked = until_answered(&fleet).await;
        signal_worker(&fleet, Signal::STOP).await;
        // The token of the step in which it was held is another worker's.
        while heard.recv().await.expect("the stream goes on") < step {}
        asked.elapsed()
    };
    let spec = spec("Once upon a time", 0.0, 1);
    let ((reply, recovery), pause) = tokio::join!(read(&fleet, spec, Some(news)), stopping);
    println!("the token of the step that was stopped came {pause:.2?} later");
    assert_eq!(reply.tokens.len(), TOKENS as usize);
    assert_eq!(recovery.restarts, 1);
    assert!((at..step).contains(&(recovery.resumed_at_tokens[0] as usize)));
    assert!(pause >= config(&folder).stopped_timeout, "{pause:.2?}");
    let mishaps = fleet.status().await.mishaps;
    assert_eq!(mishaps.worker_deaths.get("stopped"), Some(&1));
    fleet.shutdown(Duration::ZERO).await;
}

/// Waits until the worker says what it does; gives when it was asked.
async fn until_answered(fleet: &Fleet) -> Instant {
    loop {
        let asked = Instant::now();
        let status = fleet.status().await;
        if status.models.iter().any(|model| model.activity.is_some()) {
            return asked;
        }
    }
}
