//! Streams go on where their worker was lost: nothing twice, nothing missing, one start, one end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aluco_fake_worker::{Crash, Hang, Place, Script};
use aluco_fleet::{Fleet, FleetError, Generation, proto::GenerationSpec};
use rustix::process::Signal;

use crate::{
    story::{seen, story, story_of, undisturbed},
    world::{
        World, endless, events, eventually, exists, failure, first_delta, signal, spec,
        until_status, within, worker_pid,
    },
};

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
    // Long enough for the next worker, which is well.
    let patience = Duration::from_secs(6);
    let hangs = |hang| Script {
        hang_after: Some(5),
        hang,
        ..story()
    };
    let mut silent = World::new();
    silent.config.heartbeat_timeout = patience;
    let mut stalled = World::new();
    stalled.config.stall_timeout = patience;
    let (process, device) = (hangs(Hang::Process), hangs(Hang::Device));
    tokio::join!(
        survives(silent, &process, spec("x")),
        survives(stalled, &device, spec("x")),
    );
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
    let next_is_slow = world.gate(Place::Token(3));
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
    // So slow that none is at its end before the last kill: that would take 100 s.
    let slow = Script {
        delay_ms: 25,
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
