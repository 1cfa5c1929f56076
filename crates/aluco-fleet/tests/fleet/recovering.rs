//! Streams go on where their worker was lost: nothing twice, nothing missing, one start, one end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aluco_fake_worker::{Crash, Gate, Hang, Persona, Place, Script};
use aluco_fleet::{
    FallbackStep, Fleet, FleetError, Generation,
    proto::{
        Backend, FailureKind, FinishReason, FlashAttention, GenerationEvent, GenerationSpec,
        TokenLogprob, Usage,
    },
};
use rustix::process::Signal;

use crate::world::{
    World, answer, endless, events, eventually, exists, failure, first_delta, signal, spec, text,
    until_status, within, worker_pid,
};

/// What a client saw of one generation.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    starts: usize,
    texts: Vec<String>,
    tokens: Vec<Vec<i32>>,
    logprobs: Vec<Vec<TokenLogprob>>,
    finished: Vec<Option<FinishReason>>,
    usage: Option<Usage>,
}

/// All of a generation, which must come to its end.
fn seen(events: &[GenerationEvent], choices: usize) -> Seen {
    let mut seen = Seen {
        texts: vec![String::new(); choices],
        tokens: vec![Vec::new(); choices],
        logprobs: vec![Vec::new(); choices],
        finished: vec![None; choices],
        ..Seen::default()
    };
    let mut shown = 0;
    for event in events {
        match event.clone() {
            GenerationEvent::Started { prompt, .. } => {
                assert!(prompt.is_empty(), "the prompt's tokens are not for clients");
                seen.starts += 1;
            }
            GenerationEvent::Prefill {
                processed_tokens, ..
            } => {
                assert!(processed_tokens >= shown, "prefill goes backwards");
                shown = processed_tokens;
            }
            GenerationEvent::Delta {
                choice,
                text,
                tokens,
                logprobs,
                ..
            } => {
                let choice = choice as usize;
                assert_eq!(seen.finished[choice], None, "text behind the end");
                seen.texts[choice] += &text;
                seen.tokens[choice].extend(tokens);
                seen.logprobs[choice].extend(logprobs);
            }
            GenerationEvent::Finished { choice, reason } => {
                let before = seen.finished[choice as usize].replace(reason);
                assert_eq!(before, None, "two ends");
            }
            GenerationEvent::Done { usage, .. } => seen.usage = Some(usage),
            GenerationEvent::Failed(failure) => panic!("{failure}"),
        }
    }
    seen
}

fn story() -> Script {
    Script {
        tokens: (0..20).map(|word| format!(" w{word}é")).collect(),
        delay_ms: 1,
        prefill_events: 3,
        ..Script::default()
    }
}

/// What a request gives whose worker is never harmed.
async fn undisturbed(script: &Script, spec: GenerationSpec) -> Seen {
    let world = World::new();
    let model = world.model("m", script);
    let fleet = world.fleet();
    let choices = spec.choices as usize;
    let generation = within(fleet.generate(&model, spec)).await.unwrap();
    seen(&events(generation).await, choices)
}

/// A request whose worker has one accident; it must give what it would have given without.
async fn survives(mut world: World, script: &Script, spec: GenerationSpec) {
    world.config.heartbeat_interval = Duration::from_millis(20);
    let expected = undisturbed(&story_of(script), spec.clone()).await;
    let script = Script {
        accidents_max: Some(1),
        ..script.clone()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let choices = spec.choices as usize;
    let mut generation = within(fleet.generate(&model, spec)).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = within(generation.next()).await {
        all.push(event);
    }
    assert_eq!(seen(&all, choices), expected);
    assert_eq!(expected.starts, 1);
    assert_eq!(generation.recovery().restarts, 1);
    assert_eq!(world.count("m", "accident"), 1);
}

/// The same script without its accidents.
fn story_of(script: &Script) -> Script {
    Script {
        crash_after: None,
        hang_after: None,
        ..script.clone()
    }
}

#[tokio::test]
async fn a_stream_survives_every_kind_of_crash() {
    for crash in [
        Crash::Abort,
        Crash::Segv,
        Crash::KillSelf,
        Crash::Exit,
        Crash::Garbage,
    ] {
        let script = Script {
            crash_after: Some(7),
            crash,
            ..story()
        };
        survives(World::new(), &script, spec("x")).await;
    }
}

#[tokio::test]
async fn a_stream_survives_a_crash_before_its_first_token_and_one_behind_its_last() {
    for after in [0, 20] {
        let script = Script {
            crash_after: Some(after),
            ..story()
        };
        survives(World::new(), &script, spec("x")).await;
    }
}

#[tokio::test]
async fn a_stream_survives_a_silent_worker_and_a_hanging_device() {
    for hang in [Hang::Process, Hang::Device] {
        let mut world = World::new();
        world.config.heartbeat_timeout = Duration::from_millis(1500);
        world.config.stall_timeout = Duration::from_millis(1500);
        let script = Script {
            hang_after: Some(5),
            hang,
            ..story()
        };
        survives(world, &script, spec("x")).await;
    }
}

#[tokio::test]
async fn all_choices_and_their_log_probabilities_go_on() {
    let script = Script {
        crash_after: Some(6),
        ..story()
    };
    let spec = GenerationSpec {
        choices: 3,
        logprobs: Some(2),
        tokens_max: Some(15),
        ..spec("x")
    };
    survives(World::new(), &script, spec).await;
}

#[tokio::test]
async fn a_stop_string_may_straddle_the_death() {
    for after in 1..4 {
        let script = Script {
            tokens: ["one", " E", "N", "D", " two"].map(str::to_owned).to_vec(),
            crash_after: Some(after),
            ..story()
        };
        let spec = GenerationSpec {
            stop: vec!["END".to_owned()],
            ..spec("x")
        };
        survives(World::new(), &script, spec).await;
    }
}

#[tokio::test]
async fn requests_that_still_waited_are_sent_again() {
    let mut world = World::new();
    world.config.load_options.sequences_max = 1;
    let script = Script {
        crash_after: Some(3),
        accidents_max: Some(1),
        ..story()
    };
    let expected = undisturbed(&story_of(&script), spec("x")).await;
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let requests: Vec<_> = (0..4)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move {
                let generation = within(fleet.generate(&model, spec("x"))).await.unwrap();
                seen(&events(generation).await, 1)
            })
        })
        .collect();
    for request in requests {
        assert_eq!(within(request).await.unwrap(), expected);
    }
    assert_eq!(world.count("m", "load"), 2, "one load for all of them");
}

#[tokio::test]
async fn what_a_lost_worker_guessed_counts_in_the_end() {
    let world = World::new();
    let script = Script {
        crash_after: Some(7),
        accidents_max: Some(1),
        drafted_tokens: 5,
        accepted_tokens: 3,
        ..story()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    let usage = seen(&events(stream).await, 1).usage.unwrap();
    assert_eq!((usage.drafted_tokens, usage.accepted_tokens), (10, 6));
}

#[tokio::test]
async fn a_question_whose_worker_dies_is_asked_once_more_and_no_third_time() {
    for (accidents, is_answered) in [(1, true), (2, false)] {
        let world = World::new();
        let script = Script {
            crash_on_tokenize: true,
            accidents_max: Some(accidents),
            ..story()
        };
        let model = world.model("m", &script);
        let fleet = world.fleet();
        let tokens = within(fleet.tokenize(&model, "to be or".to_owned(), true, true)).await;
        match tokens {
            Ok(tokens) => assert_eq!((tokens.len(), is_answered), (3, true)),
            Err(FleetError::WorkerLost { cause }) => {
                assert!(cause.contains("SIGABRT") && !is_answered, "{cause}");
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(world.count("m", "accident"), accidents as usize);
        let deaths = within(fleet.status()).await.mishaps.worker_deaths;
        assert_eq!(deaths.get("assertion"), Some(&u64::from(accidents)));
    }
}

#[tokio::test]
async fn a_death_in_the_midst_of_the_load_after_a_death_is_survived() {
    let world = World::new();
    let expected = undisturbed(&story(), spec("x")).await;
    let next_is_slow = Gate {
        at: Place::Token(3),
        file: world.path("the next load is slow"),
    };
    let script = Script {
        crash_after: Some(3),
        accidents_max: Some(1),
        gates: vec![next_is_slow.clone()],
        ..story()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    let slow = Script {
        load_ms: 3_600_000,
        ..script.clone()
    };
    world.model("m", &slow);
    next_is_slow.open().unwrap();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(event) = within(stream.next()).await {
            all.push(event);
        }
        (seen(&all, 1), stream.recovery())
    });
    eventually("the second load begins", || world.count("m", "load") == 2).await;
    world.model("m", &story_of(&script));
    signal(worker_pid(&fleet).await, Signal::KILL);
    let (seen, recovery) = within(reading).await.unwrap();
    assert_eq!(seen, expected);
    assert_eq!(recovery.restarts, 1);
    assert_eq!(recovery.resumed_at_tokens, [3]);
    assert!(
        matches!(recovery.restored_ms[..], [Some(_)]),
        "{recovery:?}"
    );
}

#[tokio::test]
async fn kills_at_random_moments_end_no_stream_and_blame_nobody() {
    const STREAMS: usize = 8;
    let mut world = World::new();
    world.config.restart_backoff = Duration::from_millis(1);
    world.config.fallback_after_deaths = None;
    world.config.load_options.sequences_max = STREAMS as u32;
    let fast = Script {
        endless: true,
        delay_ms: 0,
        ..story()
    };
    let spec = GenerationSpec {
        tokens_max: Some(4000),
        ..spec("x")
    };
    let expected = undisturbed(&fast, spec.clone()).await;
    // So slow that none is at its end before the last kill.
    let slow = Script {
        delay_ms: 5,
        ..fast.clone()
    };
    let model = world.model("m", &slow);
    let fleet = world.fleet();
    let progress: Arc<[AtomicUsize]> = (0..STREAMS).map(|_| AtomicUsize::new(0)).collect();
    let streams: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let (fleet, model, spec) = (fleet.clone(), model.clone(), spec.clone());
            let progress = progress.clone();
            tokio::spawn(async move {
                let mut generation = within(fleet.generate(&model, spec)).await.unwrap();
                let mut all = Vec::new();
                while let Some(event) = within(generation.next()).await {
                    all.push(event);
                    progress[stream].store(all.len(), Ordering::Relaxed);
                }
                seen(&all, 1)
            })
        })
        .collect();
    let events = || -> Vec<usize> {
        let each = progress.iter();
        each.map(|events| events.load(Ordering::Relaxed)).collect()
    };
    for kill in 0..10 {
        let status = until_status(&fleet, "a worker runs", |it| !it.workers.is_empty()).await;
        let kind = if kill % 2 == 0 {
            // Nobody's doing, wherever it hits them.
            tokio::time::sleep(Duration::from_millis(10 * kill)).await;
            Signal::KILL
        } else {
            // As an assertion does. Whom it hits nowhere twice is not suspected.
            let before = events();
            eventually("all come on", || {
                let now = events();
                before.iter().zip(now).all(|(before, now)| now > before + 5)
            })
            .await;
            Signal::ABORT
        };
        if kill == 9 {
            world.model("m", &fast);
        }
        let pid = status.workers[0].hello.pid;
        signal(pid, kind);
        eventually("it is reaped", || !exists(pid)).await;
    }
    for stream in streams {
        assert_eq!(within(stream).await.unwrap(), expected);
    }
    assert_eq!(within(fleet.status()).await.workers[0].restarts, 10);
}

#[tokio::test]
async fn a_culprit_is_found_in_a_crowd_and_quarantined_and_the_others_complete() {
    let world = World::new();
    let script = Script {
        crash_after: Some(3),
        culprit: Some("bad".to_owned()),
        last_words: vec!["GGML_ASSERT(bad) failed".to_owned()],
        // The others are far from their end when it comes to its place.
        tokens: (0..400).map(|word| format!(" w{word}")).collect(),
        delay_ms: 5,
        ..story()
    };
    let expected = undisturbed(&story_of(&script), spec("x")).await;
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let mut innocent = Vec::new();
    for _ in 0..3 {
        let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
        innocent.push(tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(event) = within(stream.next()).await {
                all.push(event);
            }
            all
        }));
    }
    let bad = within(fleet.generate(&model, spec("bad"))).await.unwrap();
    let ended = events(bad).await;
    assert_eq!(failure(&ended).kind, FailureKind::Engine);
    let message = &failure(&ended).message;
    assert!(message.contains("GGML_ASSERT(bad) failed"), "{message}");
    for stream in innocent {
        let seen = seen(&within(stream).await.unwrap(), 1);
        // The fake worker numbers words as they come, so tokens depend on what the others asked.
        assert_eq!(
            (&seen.texts, &seen.finished),
            (&expected.texts, &expected.finished)
        );
        assert_eq!(seen.usage, expected.usage);
    }
    let loads = world.count("m", "load");
    // Two deaths in the crowd, two on trial.
    assert!(loads <= 5, "{loads} loads");

    let Err(FleetError::Failed(refusal)) = within(fleet.generate(&model, spec("bad"))).await else {
        panic!("it is let in again");
    };
    assert!(refusal.message.contains("refused for another"), "{refusal}");
    assert!(refusal.message.contains("GGML_ASSERT(bad)"), "{refusal}");
    assert_eq!(world.count("m", "load"), loads, "no worker has heard of it");
}

#[tokio::test]
async fn a_prompt_that_kills_before_it_is_computed_is_found_beside_a_running_stream() {
    for (running, deaths_max) in [(0, 2), (1, 4), (3, 5)] {
        let world = World::new();
        let script = Script {
            crash_on_prepare: true,
            culprit: Some("bad".to_owned()),
            last_words: vec!["the regular expression is too deep".to_owned()],
            // The others are far from their end when it comes.
            tokens: (0..400).map(|word| format!(" w{word}")).collect(),
            delay_ms: 5,
            ..story()
        };
        let model = world.model("m", &script);
        let fleet = world.fleet();
        let mut innocent = Vec::new();
        for _ in 0..running {
            let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
            first_delta(&mut stream).await;
            innocent.push(tokio::spawn(async move {
                let text = text(&events(stream).await);
                text.ends_with(" w399")
            }));
        }
        let bad = within(fleet.generate(&model, spec("bad"))).await;
        let message = match bad {
            Err(FleetError::Failed(failure)) => failure.message,
            Err(error) => panic!("{error:?}"),
            Ok(stream) => failure(&events(stream).await).message.clone(),
        };
        assert!(message.contains("at the same place"), "{message}");
        assert!(message.contains("expression is too deep"), "{message}");
        for stream in innocent {
            assert!(within(stream).await.unwrap(), "it came to its end");
        }
        let loads = world.count("m", "load");
        assert!(loads <= deaths_max + 1, "{loads} loads with {running}");
        let again = within(fleet.generate(&model, spec("bad"))).await;
        let Err(FleetError::Failed(refusal)) = again else {
            panic!("it is let in again");
        };
        assert!(refusal.message.contains("refused for another"), "{refusal}");
        assert_eq!(world.count("m", "load"), loads, "no worker has heard of it");
    }
}

#[tokio::test]
async fn a_crash_that_hits_a_suspect_on_its_trial_by_chance_convicts_nobody() {
    let world = World::new();
    let script = Script {
        crash_after: Some(3),
        accidents_max: Some(3),
        // The third hits the one on trial.
        crowds: vec![4, 4, 1],
        ..story()
    };
    let expected = undisturbed(&story_of(&script), spec("x")).await;
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let streams: Vec<_> = (0..4)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move {
                let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
                let mut all = Vec::new();
                while let Some(event) = within(stream.next()).await {
                    all.push(event);
                }
                (seen(&all, 1), stream.recovery().restarts)
            })
        })
        .collect();
    let mut restarts = Vec::new();
    for stream in streams {
        let (seen, deaths) = within(stream).await.unwrap();
        assert_eq!(seen, expected);
        restarts.push(deaths);
    }
    restarts.sort_unstable();
    assert_eq!(
        restarts,
        [2, 2, 2, 3],
        "only one was in the worker that died on trial"
    );
    assert_eq!(world.count("m", "load"), 4);
    let status = within(fleet.status()).await;
    assert_eq!(fallback_steps(&status), []);
}

/// Crashes with micro-batches of more than 128 tokens.
fn fragile() -> Script {
    Script {
        crash_after: Some(2),
        micro_batch_safe: Some(128),
        ..story()
    }
}

fn fallback_steps(fleet_status: &aluco_fleet::FleetStatus) -> Vec<FallbackStep> {
    let fallback = fleet_status.models[0].fallback.as_ref();
    fallback.map_or(Vec::new(), |fallback| fallback.steps.clone())
}

#[tokio::test]
async fn a_configuration_that_kills_with_different_requests_is_changed_and_they_are_forgiven() {
    let world = World::new();
    let expected = undisturbed(&story(), spec("x")).await;
    let model = world.model("m", &fragile());
    let fleet = world.fleet();
    for prompt in ["one", "two"] {
        let stream = within(fleet.generate(&model, spec(prompt))).await.unwrap();
        assert_eq!(failure(&events(stream).await).kind, FailureKind::Engine);
    }
    let mut stream = within(fleet.generate(&model, spec("one"))).await.unwrap();
    let mut all = Vec::new();
    while let Some(event) = within(stream.next()).await {
        all.push(event);
    }
    assert_eq!(seen(&all, 1), expected);
    let fallback = stream.recovery().fallback.unwrap();
    assert_eq!(fallback.steps, [FallbackStep::MicroBatch(128)]);
    assert!(fallback.cause.contains("SIGABRT"), "{}", fallback.cause);
    let status = within(fleet.status()).await;
    assert_eq!(fallback_steps(&status), fallback.steps);
}

#[tokio::test]
async fn a_stream_goes_on_under_the_changed_configuration() {
    let mut world = World::new();
    world.config.fallback_after_deaths = Some(1);
    let expected = undisturbed(&story(), spec("x")).await;
    let model = world.model("m", &fragile());
    let fleet = world.fleet();
    let stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    assert_eq!(seen(&events(stream).await, 1), expected);
}

#[tokio::test]
async fn a_model_whose_load_kills_workers_is_loaded_in_a_safer_way() {
    let world = World::new();
    let script = Script {
        crash_on_load: true,
        crash_after: None,
        ..fragile()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    answer(&fleet, &model).await.unwrap();
    // With the store, without it, with a smaller micro-batch.
    assert_eq!(world.count("m", "load"), 3);
    let status = within(fleet.status()).await;
    assert_eq!(fallback_steps(&status), [FallbackStep::MicroBatch(128)]);
}

#[tokio::test]
async fn when_no_option_is_left_the_stream_goes_on_with_another_backend() {
    let mut world = World::new();
    for (name, persona) in [
        (
            "aluco-worker-vulkan",
            Persona {
                backend: Backend::Vulkan,
                gpus: vec!["Vulkan0".to_owned()],
                ..Persona::default()
            },
        ),
        ("aluco-worker-cpu", Persona::default()),
    ] {
        aluco_fake_worker::install(world.folder.path(), name, &persona).unwrap();
    }
    world.config.worker_binary = None;
    world.config.worker_folders = vec![world.folder.path().to_owned()];
    world.config.fallback_after_deaths = Some(1);
    world.config.load_options.micro_batch_tokens = 64;
    world.config.load_options.flash_attention = FlashAttention::Off;
    let script = Script {
        crash_after: Some(4),
        accidents_max: Some(1),
        ..story()
    };
    let expected = undisturbed(&story(), spec("x")).await;
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    assert_eq!(seen(&events(stream).await, 1), expected);
    let status = within(fleet.status()).await;
    assert_eq!(status.workers[0].hello.backend, Backend::Cpu);
    assert_eq!(
        fallback_steps(&status),
        [FallbackStep::Backend(Backend::Cpu)]
    );
}

/// A stream whose worker is dead, and whose next one does not start before the test is over.
async fn waiting_for_a_worker() -> (World, Fleet, Generation) {
    let mut world = World::new();
    world.config.restart_backoff = Duration::from_secs(3600);
    world.config.restart_backoff_max = Duration::from_secs(3600);
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    signal(pid, Signal::KILL);
    until_status(&fleet, "it waits", |status| {
        status.workers.is_empty() && status.models.iter().any(|model| model.requests == 1)
    })
    .await;
    (world, fleet, stream)
}

#[tokio::test]
async fn a_client_that_leaves_in_the_pause_is_forgotten() {
    let (_world, fleet, stream) = waiting_for_a_worker().await;
    drop(stream);
    until_status(&fleet, "nobody waits", |status| {
        status.models.iter().all(|model| model.requests == 0)
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_in_the_pause_ends_the_stream_explicitly() {
    let (_world, fleet, stream) = waiting_for_a_worker().await;
    within(fleet.shutdown(Duration::ZERO)).await;
    let ended = events(stream).await;
    let message = &failure(&ended).message;
    assert!(message.contains("the server is shutting down"), "{message}");
}
