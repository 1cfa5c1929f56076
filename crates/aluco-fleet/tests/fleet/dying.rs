//! Workers that die, hang or talk nonsense: what is told of it, and a new worker for the next one. How streams go on is in `recovering`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use aluco_fake_worker::{Crash, Hang, Persona, Script};
use aluco_fleet::{Fleet, FleetError, Generation, KernelLog, ModelState, proto::FailureKind};
use rustix::process::Signal;

use crate::world::{
    World, answer, endless, events, eventually, exists, failure, first_delta, signal, spec,
    until_status, within, worker_pid,
};

const HELLO: &str = "Hello, world!";

/// Reads to the end of a request that ends every worker, and gives the cause in it.
async fn death(generation: Generation) -> String {
    let events = events(generation).await;
    let failure = failure(&events);
    assert_eq!(failure.kind, FailureKind::Engine);
    failure.message.clone()
}

/// The cause in an error that must be a worker's death.
fn cause(error: FleetError) -> String {
    match error {
        FleetError::WorkerLost { cause } => cause,
        error => panic!("{error:?}"),
    }
}

/// What a stream ends with when its worker follows the script.
async fn accident(world: &World, script: &Script) -> String {
    let model = world.model("m", script);
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("bad"))).await.unwrap();
    first_delta(&mut stream).await;
    let cause = death(stream).await;
    world.model("m", &Script::default());
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
    cause
}

#[tokio::test]
async fn a_worker_killed_in_mid_stream_is_replaced_by_one_for_all_streams() {
    let world = World::new();
    let model = world.model("m", &endless());
    let other = world.model("other", &endless());
    let fleet = world.fleet();
    let mut streams = Vec::new();
    for model in [&model, &model, &other] {
        let mut stream = within(fleet.generate(model, spec("x"))).await.unwrap();
        first_delta(&mut stream).await;
        streams.push(stream);
    }
    let status = within(fleet.status()).await;
    assert_eq!(status.workers[0].restarts, 0);
    let pid = status.workers[0].hello.pid;
    signal(pid, Signal::KILL);
    eventually("it is reaped", || !exists(pid)).await;
    let status = until_status(&fleet, "the streams are back", |status| {
        let requests: usize = status.models.iter().map(|model| model.requests).sum();
        requests == 3 && !status.workers.is_empty()
    })
    .await;
    assert_eq!(status.workers.len(), 1);
    assert_eq!(status.workers[0].restarts, 1);
    assert_ne!(status.workers[0].hello.pid, pid);
    assert_eq!(status.models.len(), 2);
    for stream in &mut streams {
        first_delta(stream).await;
    }
}

#[tokio::test]
async fn the_cause_of_a_death_has_the_exit_status_and_the_last_words() {
    let world = World::new();
    let script = Script {
        crash_after: Some(2),
        crash: Crash::Exit,
        last_words: vec!["the device is lost".to_owned(), "giving up".to_owned()],
        ..Script::default()
    };
    let cause = accident(&world, &script).await;
    assert_eq!(
        cause,
        "this request has ended 2 workers at the same place, so it is not tried again; the last one: it exited with status 7; its last words: the device is lost | giving up"
    );
}

#[tokio::test]
async fn the_cause_of_a_death_names_the_signal() {
    for (crash, name) in [(Crash::Abort, "SIGABRT"), (Crash::Segv, "SIGSEGV")] {
        let world = World::new();
        let script = Script {
            crash_after: Some(1),
            crash,
            ..Script::default()
        };
        let cause = accident(&world, &script).await;
        assert!(cause.contains(name), "{cause}");
    }
}

#[tokio::test]
async fn the_cause_of_a_death_has_what_the_kernel_says_about_it() {
    const HANG: &str =
        "amdgpu 0000:c5:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=11, emitted seq=13";
    let mut world = World::new();
    world.config.kernel_log = Some(KernelLog(Arc::new(|since| {
        assert!(since <= SystemTime::now());
        vec![
            "usb 1-2: new high-speed USB device number 7".to_owned(),
            format!("{HANG}\n"),
        ]
    })));
    let script = Script {
        crash_after: Some(1),
        ..Script::default()
    };
    let cause = accident(&world, &script).await;
    assert!(
        cause.contains(&format!("the kernel says: {HANG} (")),
        "{cause}"
    );
    assert!(cause.contains("SIGABRT"), "{cause}");
    assert!(cause.contains("aluco doctor"), "{cause}");
    assert!(!cause.contains("USB"), "{cause}");
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_ended() {
    let world = World::new();
    let script = Script {
        crash_after: Some(1),
        crash: Crash::Garbage,
        ..endless()
    };
    let cause = accident(&world, &script).await;
    assert!(cause.contains("it broke the protocol"), "{cause}");
}

#[tokio::test]
async fn a_worker_that_hangs_up_is_ended() {
    let world = World::new();
    let script = Script {
        crash_after: Some(1),
        crash: Crash::HangUp,
        ..endless()
    };
    let cause = accident(&world, &script).await;
    assert!(
        cause.contains("it closed its socket without exiting"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_stopped_worker_is_killed_for_its_silence() {
    let mut world = World::new();
    world.config.heartbeat_interval = Duration::from_millis(50);
    world.config.stopped_timeout = Duration::from_millis(1500);
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    // It answers in the order in which it is asked, so no ping from before this question is without its answer.
    let mut asked_at = Instant::now();
    until_status(&fleet, "it answers", |status| {
        let answers = status.models[0].activity.is_some();
        if !answers {
            asked_at = Instant::now();
        }
        answers
    })
    .await;
    signal(pid, Signal::STOP);
    eventually("it is reaped", || !exists(pid)).await;
    assert!(asked_at.elapsed() >= Duration::from_millis(1400));
    while worker_of(&fleet).await.is_none_or(|worker| worker == pid) {
        first_delta(&mut stream).await;
    }
    assert_eq!(stream.recovery().restarts, 1);
}

/// Process id of the worker, if one runs.
async fn worker_of(fleet: &Fleet) -> Option<u32> {
    let status = within(fleet.status()).await;
    status.workers.first().map(|worker| worker.hello.pid)
}

#[tokio::test]
async fn a_worker_whose_device_hangs_is_killed_even_while_it_answers_questions() {
    let mut world = World::new();
    world.config.heartbeat_interval = Duration::from_millis(20);
    world.config.stall_timeout = Duration::from_millis(1500);
    let model = world.model(
        "m",
        &Script {
            hang_after: Some(1),
            hang: Hang::Device,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("bad"))).await.unwrap();
    first_delta(&mut stream).await;
    let curious = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move {
            // A look at the status, and a question that would load the model again after the death.
            while !fleet.status().await.workers.is_empty() {
                let _ = fleet.tokenize(&model, "a".to_owned(), false, false).await;
            }
        }
    });
    let cause = death(stream).await;
    assert!(
        cause.contains("its device did not finish a step for 1.5 s"),
        "{cause}"
    );
    curious.abort();
    world.model("m", &Script::default());
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
}

#[tokio::test]
async fn a_slow_worker_that_makes_steps_is_not_taken_for_a_stalled_one() {
    let mut world = World::new();
    world.config.heartbeat_interval = Duration::from_millis(20);
    world.config.stall_timeout = Duration::from_secs(6);
    // Five steps, which take longer together.
    let model = world.model(
        "m",
        &Script {
            delay_ms: 1500,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
    assert_eq!(within(fleet.status()).await.workers[0].restarts, 0);
}

#[tokio::test]
async fn a_load_goes_on_in_another_worker_for_all_who_wait_for_it() {
    let world = World::new();
    let script = Script {
        load_ms: 3_600_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move { answer(&fleet, &model).await })
        })
        .collect();
    until_status(&fleet, "all wait", |status| {
        status.models.first().is_some_and(|model| {
            model.requests == 4 && matches!(model.state, ModelState::Loading { .. })
        })
    })
    .await;
    eventually("the load begins", || world.count("m", "load") == 1).await;
    world.model("m", &Script::default());
    signal(worker_pid(&fleet).await, Signal::KILL);
    for request in waiting {
        assert_eq!(within(request).await.unwrap().unwrap(), HELLO);
    }
    assert_eq!(world.count("m", "load"), 2);
}

#[tokio::test]
async fn a_model_whose_load_kills_the_worker_harms_no_other_model_in_the_end() {
    let world = World::new();
    let script = Script {
        crash_on_load: true,
        last_words: vec!["GGML_ASSERT(n_dims > 0) failed".to_owned()],
        ..Script::default()
    };
    let bad = world.model("bad", &script);
    let good = world.model("good", &Script::default());
    let fleet = world.fleet();
    assert_eq!(answer(&fleet, &good).await.unwrap(), HELLO);
    let cause = cause(answer(&fleet, &bad).await.unwrap_err());
    assert!(cause.contains("SIGABRT"), "{cause}");
    assert!(cause.contains("GGML_ASSERT(n_dims > 0) failed"), "{cause}");
    assert_eq!(answer(&fleet, &good).await.unwrap(), HELLO);
}

#[tokio::test]
async fn a_model_whose_memory_cannot_be_probed_is_loaded_without_the_prefix_store() {
    let world = World::new();
    let script = Script {
        crash_on_probe: true,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move { answer(&fleet, &model).await })
        })
        .collect();
    for request in waiting {
        assert_eq!(within(request).await.unwrap().unwrap(), HELLO);
    }
    assert_eq!(world.count("m", "load"), 2);
    assert_eq!(within(fleet.status()).await.workers[0].restarts, 1);

    // Known by now: no other worker dies of it.
    assert!(within(fleet.unload(&model)).await.unwrap());
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
    assert_eq!(world.count("m", "load"), 3);
    assert_eq!(within(fleet.status()).await.workers[0].restarts, 1);
}

#[tokio::test]
async fn a_model_that_kills_its_worker_without_the_prefix_store_too_is_given_up_after_two_loads() {
    let mut world = World::new();
    world.config.fallback_after_deaths = None;
    let script = Script {
        crash_on_load: true,
        last_words: vec!["GGML_ASSERT(n_dims > 0) failed".to_owned()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let error = cause(answer(&world.fleet(), &model).await.unwrap_err());
    assert!(error.contains("GGML_ASSERT(n_dims > 0) failed"), "{error}");
    assert_eq!(world.count("m", "load"), 2);

    // Nothing can be left out where it is off anyway.
    world.config.load_options.cache.ram_bytes = Some(0);
    world.config.load_options.cache.device_tokens = Some(0);
    let error = cause(answer(&world.fleet(), &model).await.unwrap_err());
    assert!(error.contains("SIGABRT"), "{error}");
    assert_eq!(world.count("m", "load"), 3);
}

#[tokio::test]
async fn a_model_that_is_unloaded_between_the_two_loads_stays_out() {
    let mut world = World::new();
    world.config.restart_backoff = Duration::from_secs(3600);
    world.config.restart_backoff_max = Duration::from_secs(3600);
    let script = Script {
        crash_on_probe: true,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let waiting = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { answer(&fleet, &model).await }
    });
    eventually("the load begins", || world.count("m", "load") == 1).await;
    until_status(&fleet, "the worker is gone", |status| {
        status.workers.is_empty()
    })
    .await;
    assert!(within(fleet.unload(&model)).await.unwrap());
    let error = within(waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, FleetError::Failed(_)), "{error:?}");
    assert!(within(fleet.status()).await.models.is_empty());
}

#[tokio::test]
async fn a_worker_that_dies_at_each_start_is_started_ever_more_rarely_and_its_requests_fail() {
    let mut world = World::new();
    world.config.restart_backoff = Duration::from_millis(150);
    let all_wait = world.path("all wait");
    let worker = world.worker(&Persona {
        serve_fails: Some("no device can be opened".to_owned()),
        serve_waits_for: Some(all_wait.clone()),
        ..Persona::default()
    });
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();

    let together: Vec<_> = (0..10)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move { answer(&fleet, &model).await })
        })
        .collect();
    until_status(&fleet, "all wait", |status| {
        status.models.first().is_some_and(|it| it.requests == 10)
    })
    .await;
    let begun_at = Instant::now();
    std::fs::write(all_wait, "").unwrap();
    for request in together {
        let cause = cause(within(request).await.unwrap().unwrap_err());
        assert!(cause.contains("no device can be opened"), "{cause}");
    }
    assert_eq!(world.count("worker", "serve"), 1, "one start for all");

    // After five deaths each request that comes in the pause is refused. On a slow machine none does before a sixth death or a seventh, and
    // each pause is longer than the last.
    let mut starts = 1;
    let refused = loop {
        let told = cause(answer(&fleet, &model).await.unwrap_err());
        assert!(told.contains("no device can be opened"), "{told}");
        if told.contains("within a minute") {
            break told;
        }
        starts += 1;
        assert_eq!(world.count("worker", "serve"), starts);
    };
    let waited = begun_at.elapsed();
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    assert!(starts >= 5, "{refused}");
    assert!(
        refused.contains(&format!("it died {starts} times")),
        "{refused}"
    );
    assert_eq!(world.count("worker", "serve"), starts, "not even tried");

    world.persona(&Persona::default()).write(&worker).unwrap();
    let recovered = async { while answer(&fleet, &model).await.is_err() {} };
    within(recovered).await;
    assert_eq!(world.count("worker", "serve"), starts + 1);
}

#[tokio::test]
async fn a_worker_that_does_not_say_hello_is_given_up() {
    let mut world = World::new();
    world.config.hello_timeout = Duration::from_millis(100);
    world.worker(&Persona {
        serve_hangs: true,
        ..Persona::default()
    });
    let model = world.model("m", &Script::default());
    let cause = cause(answer(&world.fleet(), &model).await.unwrap_err());
    assert!(
        cause.contains("it did not say hello within 0.1 s"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_worker_of_another_build_is_refused_with_the_way_out() {
    let mut world = World::new();
    let other = Persona {
        protocol: 99,
        ..Persona::default()
    };
    let worker = world.worker(&other);
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let error = answer(&fleet, &model).await.unwrap_err();
    let FleetError::NoWorker { reason } = error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("speaks protocol 99"), "{reason}");
    assert!(reason.contains("install both from one build"), "{reason}");
    assert_eq!(world.count("worker", "serve"), 0, "not even started");

    world.persona(&Persona::default()).write(&worker).unwrap();
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
    // An update of the files under a running supervisor.
    world.persona(&other).write(&worker).unwrap();
    let pid = worker_pid(&fleet).await;
    signal(pid, Signal::KILL);
    eventually("it is reaped", || !exists(pid)).await;
    let cause = cause(answer(&fleet, &model).await.unwrap_err());
    assert!(cause.contains("speaks protocol 99"), "{cause}");
    assert!(matches!(
        answer(&fleet, &model).await,
        Err(FleetError::NoWorker { .. })
    ));
}

#[tokio::test]
async fn a_worker_that_dies_while_it_is_idle_is_noticed_and_replaced() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    for restarts in 0..3 {
        assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
        let status = within(fleet.status()).await;
        assert_eq!(status.workers[0].restarts, restarts);
        signal(status.workers[0].hello.pid, Signal::KILL);
        until_status(&fleet, "it is gone", |status| status.workers.is_empty()).await;
    }
}

/// Requests that find the worker dead before it took them are given to the next one; those that it took are told of its death.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deaths_among_many_requests_leave_none_without_an_end() {
    let mut world = World::new();
    world.config.restart_backoff = Duration::from_millis(1);
    world.config.restart_backoff_max = Duration::from_millis(1);
    let script = Script {
        delay_ms: 1,
        ..Script::default()
    };
    let models = ["a", "b"].map(|name| world.model(name, &script));
    let fleet = world.fleet();
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (fleet, model) = (fleet.clone(), models[client % 2].clone());
            let is_over = is_over.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                while answers < 30 || !is_over.load(Ordering::Relaxed) {
                    let generation = match fleet.generate(&model, spec("x")).await {
                        Ok(generation) => generation,
                        Err(FleetError::WorkerLost { .. }) => continue,
                        Err(error) => panic!("{error:?}"),
                    };
                    let events = events(generation).await;
                    if events.iter().any(|event| {
                        matches!(event, aluco_fleet::proto::GenerationEvent::Done { .. })
                    }) {
                        assert_eq!(crate::world::text(&events), HELLO);
                        answers += 1;
                    } else {
                        assert_eq!(failure(&events).kind, FailureKind::WorkerLost);
                    }
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let status = until_status(&fleet, "a worker with models", |status| {
            !status.workers.is_empty() && status.models.iter().any(|model| model.loaded.is_some())
        })
        .await;
        let pid = status.workers[0].hello.pid;
        if exists(pid) {
            signal(pid, Signal::KILL);
        }
        eventually("it is reaped", || !exists(pid)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        within(client).await.unwrap();
    }
    // A client may have the end of its request before that is counted.
    until_status(&fleet, "nothing runs", |status| {
        status.models.iter().all(|model| model.requests == 0)
    })
    .await;
}
