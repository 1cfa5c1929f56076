//! The ledger at work: nothing is loaded that does not fit. How what is held follows what there is: `pressure`.

use std::{sync::Arc, time::Duration};

use aluco_fake_worker::Script;
use aluco_fleet::{
    Fleet, FleetConfig, FleetError, FleetStatus, LoadWishes,
    plan::{Bytes, Origin},
    proto::{BenchSpec, BenchTest, FailureKind, LoadOptions},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{
    World, answer, endless, eventually, first_delta, signal, spec, until_status, within, worker_pid,
};

pub(crate) const MIB: u64 = 1 << 20;

/// What the ledger reserves for a worker beside the engine's own, and what the fake worker claims beside its weights.
pub(crate) const BESIDE_WEIGHTS: u64 = 48 * MIB + 3_000;

/// A machine with so much memory, of which so much is available, and a model's stored prompts of 0 bytes.
pub(crate) fn machine(world: &mut World, total_mib: u64, available_mib: u64) {
    world.config.memory_interval = Duration::from_millis(20);
    world.config.memory_reserve = Some(100 * MIB);
    world.config.load_options.cache.ram_bytes = Some(0);
    world.set_memory(total_mib, available_mib);
}

pub(crate) fn weighs(mib: u64) -> Script {
    Script {
        weights_bytes: mib * MIB,
        ..Script::default()
    }
}

/// The models of a ledger, by name, with what they hold.
fn holders(status: &FleetStatus) -> Vec<(String, u64)> {
    let models = status.ledger.holders.iter();
    let mut holders: Vec<_> = models
        .filter_map(|holder| Some((holder.model.clone()?, holder.bytes.0)))
        .collect();
    holders.sort();
    holders
}

pub(crate) fn file_name(model: &str) -> String {
    model.rsplit('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn what_never_fits_is_refused_before_anything_is_read() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let model = world.model("large", &weighs(900));
    let fleet = world.fleet();
    let error = within(fleet.load(&model)).await.unwrap_err();
    let FleetError::DoesNotFit(refusal) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.free_bytes, Bytes(500 * MIB));
    assert_eq!(refusal.needed_bytes, Bytes(900 * MIB + BESIDE_WEIGHTS));
    let table = error.to_string();
    assert!(
        table.contains("does not fit: it needs 948.0 MiB"),
        "{table}"
    );
    assert!(table.contains("NEEDED"), "{table}");
    assert!(
        table
            .lines()
            .all(|line| line.chars().count() <= 80 || line.contains('/'))
    );
    assert_eq!(world.journal("large"), Vec::<String>::new());
    let status = fleet.status().await;
    assert_eq!(holders(&status), []);
    assert!(status.models.is_empty() && status.workers.is_empty());
}

#[tokio::test]
async fn a_model_in_the_ledger_holds_what_the_worker_measured() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let script = Script {
        weights_bytes_predicted: Some(90 * MIB),
        ..weighs(100)
    };
    let model = world.model("one", &script);
    let fleet = world.fleet();
    within(fleet.load(&model)).await.unwrap();
    let status = fleet.status().await;
    let holder = &status.ledger.holders[0];
    assert!(holder.is_idle);
    let measured: u64 = holder
        .entries
        .iter()
        .filter(|entry| entry.origin == Origin::Measured)
        .map(|entry| entry.item.bytes.0)
        .sum();
    assert_eq!(measured, 100 * MIB + 3_000);
    assert_eq!(status.ledger.held_bytes, Bytes(100 * MIB + BESIDE_WEIGHTS));
    assert_eq!(
        status.ledger.free_bytes,
        Bytes(500 * MIB - 100 * MIB - BESIDE_WEIGHTS)
    );
    assert!(within(fleet.unload(&model)).await.unwrap());
    assert_eq!(fleet.status().await.ledger.held_bytes, Bytes::ZERO);
}

#[tokio::test]
async fn a_model_that_took_more_than_there_is_goes_again() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let script = Script {
        weights_bytes_predicted: Some(90 * MIB),
        ..weighs(700)
    };
    let model = world.model("liar", &script);
    let fleet = world.fleet();
    let error = within(fleet.load(&model)).await.unwrap_err();
    let FleetError::Failed(failure) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(failure.kind, FailureKind::OutOfMemory);
    assert!(
        failure.message.contains("90.0 MiB were predicted"),
        "{failure}"
    );
    assert_eq!(world.journal("liar"), ["load", "unload"]);
    assert_eq!(fleet.status().await.ledger.held_bytes, Bytes::ZERO);
}

#[tokio::test]
async fn idle_models_make_room_by_the_bytes_that_are_missing() {
    let mut world = World::new();
    machine(&mut world, 1000, 700);
    let small = world.model("small", &weighs(50));
    let large = world.model("large", &weighs(300));
    let wanted = world.model("wanted", &weighs(300));
    let fleet = world.fleet();
    for model in [&small, &large] {
        within(fleet.load(model)).await.unwrap();
    }
    let plan = within(fleet.plan_load(&wanted)).await.unwrap();
    assert_eq!(
        plan.unloads
            .iter()
            .map(|it| file_name(it))
            .collect::<Vec<_>>(),
        ["large.gguf"]
    );
    assert!(!plan.waits && !plan.is_refused && plan.fit.is_none());
    assert_eq!(answer(&fleet, &wanted).await.unwrap(), "Hello, world!");
    assert_eq!(world.journal("small"), ["load"]);
    assert_eq!(world.journal("large"), ["load", "unload"]);
    let names: Vec<String> = holders(&fleet.status().await)
        .iter()
        .map(|(name, _)| file_name(name))
        .collect();
    assert_eq!(names, ["small.gguf", "wanted.gguf"]);
}

#[tokio::test]
async fn a_busy_model_is_waited_for_and_then_the_request_is_turned_away() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.place_timeout = Duration::from_millis(300);
    let busy = world.model(
        "busy",
        &Script {
            weights_bytes: 300 * MIB,
            ..endless()
        },
    );
    let wanted = world.model("wanted", &weighs(200));
    let fleet = world.fleet();
    let mut generation = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    first_delta(&mut generation).await;
    let plan = within(fleet.plan_load(&wanted)).await.unwrap();
    assert!(plan.waits && plan.refusal.is_some() && plan.unloads.is_empty());
    let error = within(fleet.load(&wanted)).await.unwrap_err();
    assert!(matches!(error, FleetError::NoRoom(_)), "{error:?}");
    assert!(error.to_string().contains("HELD BY"), "{error}");
    assert_eq!(world.journal("wanted"), Vec::<String>::new());

    let patient = FleetConfig {
        place_timeout: Duration::from_secs(3600),
        ..world.config.clone()
    };
    within(fleet.reconfigure(patient)).await;
    let waiting = tokio::spawn({
        let (fleet, wanted) = (fleet.clone(), wanted.clone());
        async move { fleet.load(&wanted).await }
    });
    until_status(&fleet, "it waits", |status| status.models.len() == 2).await;
    drop(generation);
    within(waiting).await.unwrap().unwrap();
    assert_eq!(world.journal("wanted"), ["load"]);
    assert_eq!(world.journal("busy").last().unwrap(), "unload");
}

#[tokio::test]
async fn a_pinned_model_makes_no_room() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let pinned = world.model("pinned", &weighs(300));
    let wanted = world.model("wanted", &weighs(200));
    let fleet = world.fleet();
    let pin = LoadWishes {
        pin: true,
        ..LoadWishes::default()
    };
    within(fleet.load_with(&pinned, pin)).await.unwrap();
    let error = within(fleet.load(&wanted)).await.unwrap_err();
    let FleetError::DoesNotFit(refusal) = error else {
        panic!("{error:?}");
    };
    assert!(refusal.to_string().contains("pinned.gguf"), "{refusal}");
    assert_eq!(world.journal("pinned"), ["load"]);
}

/// Three repetitions of one test.
fn measurement() -> BenchSpec {
    BenchSpec {
        options: LoadOptions::default(),
        tests: vec![BenchTest {
            prompt_tokens: 512,
            generated_tokens: 0,
            depth_tokens: 0,
        }],
        repetitions: 3,
        warm_up: true,
    }
}

#[tokio::test]
async fn a_measurement_holds_memory_while_it_runs() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.place_timeout = Duration::from_millis(200);
    let script = Script {
        delay_ms: 3_600_000,
        ..weighs(300)
    };
    let measured = world.model("measured", &script);
    let other = world.model("other", &weighs(200));
    let fleet = world.fleet();
    let bench = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.bench(&measured, measurement(), |_, _| {}).await }
    });
    eventually("the measurement begins", || {
        world.count("measured", "bench") == 1
    })
    .await;
    let held = holders(&fleet.status().await);
    let [(name, bytes)] = &held[..] else {
        panic!("{held:?}");
    };
    assert!(name.ends_with("measured.gguf, being measured"), "{name}");
    assert_eq!(*bytes, 300 * MIB + BESIDE_WEIGHTS);
    // There will be room again.
    let error = within(fleet.load(&other)).await.unwrap_err();
    assert!(matches!(error, FleetError::NoRoom(_)), "{error:?}");
    assert!(error.to_string().contains("being measured"), "{error}");
    bench.abort();
    until_status(&fleet, "nothing is held", |status| {
        status.ledger.held_bytes.is_zero()
    })
    .await;
    within(fleet.load(&other)).await.unwrap();
}

#[tokio::test]
async fn a_measurement_that_does_not_fit_is_refused_before_anything_is_read() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let resident = world.model("resident", &weighs(200));
    let measured = world.model("measured", &weighs(300));
    let fleet = world.fleet();
    within(fleet.load(&resident)).await.unwrap();
    let error = within(fleet.bench(&measured, measurement(), |_, _| {}))
        .await
        .unwrap_err();
    let FleetError::DoesNotFit(refusal) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.needed_bytes, Bytes(300 * MIB + BESIDE_WEIGHTS));
    let table = error.to_string();
    assert!(table.contains("resident.gguf"), "{table}");
    assert_eq!(world.journal("measured"), Vec::<String>::new());
    assert_eq!(holders(&fleet.status().await).len(), 1);
}

#[tokio::test]
async fn a_measurement_leaves_nothing_in_the_ledger_however_it_ends() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    let fails = Script {
        load_error: Some("unknown architecture".to_owned()),
        ..weighs(100)
    };
    let dies = Script {
        crash_on_load: true,
        ..weighs(100)
    };
    let fleet = world.fleet();
    for (script, is_well) in [(weighs(100), true), (fails, false), (dies, false)] {
        let model = world.model("m", &script);
        let report = within(fleet.bench(&model, measurement(), |_, _| {})).await;
        assert_eq!(report.is_ok(), is_well, "{report:?}");
        assert_eq!(fleet.status().await.ledger.held_bytes, Bytes::ZERO);
    }
    assert_eq!(world.count("m", "bench"), 3);
}

#[tokio::test]
async fn deaths_leave_nothing_in_the_ledger() {
    const DEATHS: usize = 50;
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.restart_backoff = Duration::from_millis(1);
    world.config.restart_backoff_max = Duration::from_millis(2);
    world.config.fallback_after_deaths = None;
    let models = [
        world.model("one", &weighs(150)),
        world.model("other", &weighs(150)),
    ];
    let fleet = world.fleet();
    for death in 0..DEATHS {
        for model in &models {
            assert_eq!(answer(&fleet, model).await.unwrap(), "Hello, world!");
        }
        let status = fleet.status().await;
        assert_eq!(holders(&status).len(), 2, "{death}");
        assert_eq!(
            status.ledger.held_bytes,
            Bytes(2 * (150 * MIB + BESIDE_WEIGHTS)),
            "{death}"
        );
        signal(worker_pid(&fleet).await, Signal::KILL);
        until_status(&fleet, "nothing is held", |status| {
            status.ledger.held_bytes.is_zero()
        })
        .await;
    }
}

/// Loads, unloads and deaths at random, from several tasks at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_no_more_is_held_than_there_is() {
    const MODELS: usize = 5;
    const TASKS: u64 = 4;
    const STEPS: u64 = 40;
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.models_max = 10;
    // Whoever waits for longer goes without; that must be before the test loses its patience with one step.
    world.config.place_timeout = Duration::from_secs(20);
    world.config.restart_backoff = Duration::from_millis(1);
    world.config.restart_backoff_max = Duration::from_millis(2);
    world.config.fallback_after_deaths = None;
    world.worker(&aluco_fake_worker::Persona::default());
    let models: Arc<[String]> = (0..MODELS)
        .map(|index| world.model(&format!("m{index}"), &weighs(60 + 70 * index as u64)))
        .collect();
    let fleet = world.fleet();
    let seed = 20_261_121;
    println!("seed {seed}");
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| tokio::spawn(act(fleet.clone(), models.clone(), seed + task, STEPS)))
        .collect();
    let looking = tokio::spawn({
        let fleet = fleet.clone();
        async move {
            loop {
                let ledger = fleet.status().await.ledger;
                assert!(
                    ledger.held_bytes <= Bytes(500 * MIB) && ledger.excess_bytes.is_zero(),
                    "{ledger:?}"
                );
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut answers = 0;
    for task in tasks {
        answers += task.await.unwrap();
    }
    assert!(!looking.is_finished(), "{:?}", looking.await);
    looking.abort();
    assert!(answers > 20, "{answers}");
    for model in &*models {
        within(fleet.unload(model)).await.unwrap();
    }
    until_status(&fleet, "nothing is held", |status| {
        status.ledger.held_bytes.is_zero()
    })
    .await;
    eventually("all workers but one are gone", || {
        let pids = world.worker_pids();
        pids.iter().filter(|pid| !crate::world::gone(**pid)).count() <= 1
    })
    .await;
}

async fn act(fleet: Fleet, models: Arc<[String]>, seed: u64, steps: u64) -> usize {
    let mut random = seed;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut answers = 0;
    for _ in 0..steps {
        let model = &models[next(models.len() as u64) as usize];
        match next(10) {
            0 => {
                let _ = within(fleet.unload(model)).await;
            }
            1 => {
                let workers = fleet.status().await.workers;
                if let Some(worker) = workers.first() {
                    // It may have been killed already.
                    let pid = Pid::from_raw(worker.hello.pid.try_into().unwrap()).unwrap();
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            _ => match answer(&fleet, model).await {
                Ok(_) => answers += 1,
                Err(
                    FleetError::NoRoom(_) | FleetError::Failed(_) | FleetError::WorkerLost { .. },
                ) => {}
                Err(error) => panic!("{error:?}"),
            },
        }
    }
    answers
}
