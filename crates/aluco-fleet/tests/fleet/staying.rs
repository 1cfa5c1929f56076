//! How long models stay: what the configuration, a load and a request say about it.

use std::time::Duration;

use aluco_fake_worker::{Place, Script};
use aluco_fleet::{
    Fleet, FleetError, KeepAlive, LoadPlan, LoadWishes, ModelConfig, ModelSummary, RequestOptions,
    plan::Consumer, proto::FailureKind,
};
use rustix::process::Signal;

use crate::world::{
    World, answer, endless, events, eventually, first_delta, signal, spec, until_status, within,
    worker_pid,
};

fn kept(keep_alive: KeepAlive) -> RequestOptions {
    RequestOptions {
        keep_alive: Some(keep_alive),
    }
}

fn pinned() -> LoadWishes {
    LoadWishes {
        pin: true,
        ..LoadWishes::default()
    }
}

async fn only(fleet: &Fleet) -> ModelSummary {
    let mut models = within(fleet.status()).await.models;
    assert_eq!(models.len(), 1, "{models:?}");
    models.remove(0)
}

#[tokio::test]
async fn a_request_can_have_its_model_unloaded_right_after_it() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let options = kept(KeepAlive::NONE);
    let generation = within(fleet.generate_with(&model, spec("x"), options)).await;
    let mut generation = generation.unwrap();
    first_delta(&mut generation).await;
    assert_eq!(world.count("m", "unload"), 0);
    drop(generation);
    eventually("the model goes", || world.count("m", "unload") == 1).await;
    until_status(&fleet, "nothing is loaded", |it| it.models.is_empty()).await;
    within(fleet.load(&model)).await.unwrap();
    let again = only(&fleet).await;
    assert_eq!(again.keep_alive, KeepAlive::default(), "that was long ago");
    assert!(again.expires_at.is_some());
}

#[tokio::test]
async fn a_request_can_keep_its_model_for_ever_and_the_next_one_takes_that_back() {
    let mut world = World::new();
    world.config.keep_alive = KeepAlive::For(Duration::from_millis(100));
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let ask = async |keep_alive| {
        let generation = fleet.generate_with(&model, spec("x"), kept(keep_alive));
        events(within(generation).await.unwrap()).await
    };
    ask(KeepAlive::Forever).await;
    assert_eq!(answer(&fleet, &model).await.unwrap(), "Hello, world!");
    let summary = only(&fleet).await;
    assert_eq!(summary.keep_alive, KeepAlive::Forever);
    assert_eq!(summary.expires_at, None);
    ask(KeepAlive::For(Duration::from_millis(1))).await;
    eventually("the model goes", || world.count("m", "unload") == 1).await;
    assert_eq!(world.count("m", "load"), 1);
}

/// A generation may be over, and its model on its way out, at the very moment at which it is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_short_request_wishes_is_never_too_late() {
    let mut world = World::new();
    world.config.keep_alive = KeepAlive::NONE;
    world.config.models_max = 20;
    let fleet = world.fleet();
    for number in 0..20 {
        let name = format!("m{number}");
        let model = world.model(&name, &Script::default());
        let options = kept(KeepAlive::Forever);
        let generation = within(fleet.generate_with(&model, spec("x"), options)).await;
        events(generation.unwrap()).await;
        assert_eq!(answer(&fleet, &model).await.unwrap(), "Hello, world!");
        assert_eq!(world.count(&name, "load"), 1);
    }
    let status = within(fleet.status()).await;
    assert_eq!(status.models.len(), 20);
    let models = status.models.iter();
    assert!(
        models
            .map(|it| it.keep_alive)
            .all(|it| it == KeepAlive::Forever)
    );
}

#[tokio::test]
async fn each_model_may_be_kept_for_a_time_of_its_own() {
    let mut world = World::new();
    let [short, long] = ["short", "long"].map(|name| world.model(name, &Script::default()));
    world.config.models.insert(
        short.clone(),
        ModelConfig {
            keep_alive: Some(KeepAlive::For(Duration::from_millis(20))),
            pin: false,
        },
    );
    let fleet = world.fleet();
    within(fleet.load(&long)).await.unwrap();
    within(fleet.load(&short)).await.unwrap();
    eventually("one goes", || world.count("short", "unload") == 1).await;
    until_status(&fleet, "the other stays", |it| it.models.len() == 1).await;
    assert_eq!(only(&fleet).await.name, long);
}

#[tokio::test]
async fn a_pinned_model_makes_no_place_and_who_waits_for_it_is_told_at_once() {
    let mut world = World::new();
    world.config.models_max = 2;
    world.config.place_timeout = Duration::from_secs(3600);
    world.config.keep_alive = KeepAlive::NONE;
    let [a, b, c] = ["a", "b", "c"].map(|name| world.model(name, &Script::default()));
    let of_file = ModelConfig {
        pin: true,
        ..ModelConfig::default()
    };
    world.config.models.insert(a.clone(), of_file);
    let fleet = world.fleet();
    within(fleet.load(&a)).await.unwrap();
    within(fleet.load_with(&b, pinned())).await.unwrap();
    let status = within(fleet.status()).await;
    assert!(status.models.iter().all(|model| model.pinned));
    let error = answer(&fleet, &c).await.unwrap_err();
    let FleetError::Failed(failure) = error else {
        panic!("{error:?}");
    };
    assert_eq!(failure.kind, FailureKind::Overloaded);
    for part in ["2 may be loaded", &a, &b] {
        assert!(failure.message.contains(part), "{failure}");
    }
    // Unloading it by name takes the pin of the load back, but not that of the configuration.
    for model in [&a, &b] {
        assert!(within(fleet.unload(model)).await.unwrap());
    }
    within(fleet.load(&a)).await.unwrap();
    within(fleet.load(&b)).await.unwrap();
    eventually("the other goes at once", || world.count("b", "unload") == 2).await;
    until_status(&fleet, "one is left", |it| it.models.len() == 1).await;
    let left = only(&fleet).await;
    assert!(left.name == a && left.pinned, "{left:?}");
}

#[tokio::test]
async fn a_pin_outlives_the_worker() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    within(fleet.load_with(&model, pinned())).await.unwrap();
    let pid = worker_pid(&fleet).await;
    signal(pid, Signal::KILL);
    until_status(&fleet, "the death is noticed", |status| {
        status.workers.iter().all(|worker| worker.hello.pid != pid)
    })
    .await;
    within(fleet.load(&model)).await.unwrap();
    assert!(only(&fleet).await.pinned);
}

#[tokio::test]
async fn of_two_idle_models_the_one_that_loads_fast_makes_place() {
    let mut world = World::new();
    world.config.models_max = 2;
    let slow = Script {
        load_ms: 1500,
        ..Script::default()
    };
    let slow = world.model("slow", &slow);
    let [fast, wanted] = ["fast", "wanted"].map(|name| world.model(name, &Script::default()));
    let fleet = world.fleet();
    within(fleet.load(&slow)).await.unwrap();
    within(fleet.load(&fast)).await.unwrap();
    let plan = within(fleet.plan_load(&wanted)).await.unwrap();
    assert_eq!(plan.unloads.as_slice(), std::slice::from_ref(&fast));
    within(fleet.load(&wanted)).await.unwrap();
    assert_eq!(world.count("fast", "unload"), 1);
    assert_eq!(world.count("slow", "unload"), 0);
}

#[tokio::test]
async fn a_plan_tells_what_a_load_would_do_and_does_nothing() {
    let mut world = World::new();
    world.config.models_max = 1;
    let busy = world.model("busy", &endless());
    let wanted = world.model("wanted", &Script::default());
    let fleet = world.fleet();
    let file_bytes = std::fs::metadata(&wanted).unwrap().len();
    let plan = async || within(fleet.plan_load(&wanted)).await.unwrap();
    let first = plan().await;
    let fit = first.fit.as_ref().unwrap();
    assert_eq!(
        fit.plan.of(Consumer::Weights).0,
        Script::default().weights_bytes
    );
    let expected = LoadPlan {
        model: wanted.clone(),
        is_loaded: false,
        file_bytes,
        unloads: Vec::new(),
        waits: false,
        fit: first.fit.clone(),
        refusal: None,
        is_refused: false,
    };
    assert_eq!(first, expected);
    let mut stream = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    assert!(plan().await.waits);
    drop(stream);
    until_status(&fleet, "it is idle", |it| it.models[0].requests == 0).await;
    assert_eq!(plan().await.unloads, [busy]);
    assert_eq!(world.count("wanted", "load"), 0);
    assert!(matches!(
        fleet.plan_load("no-such-model").await,
        Err(FleetError::Model(_))
    ));
}

#[tokio::test]
async fn the_progress_of_one_load_is_told_while_it_lasts() {
    let world = World::new();
    let half = world.gate(Place::Load(5));
    let script = Script {
        gates: vec![half.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    assert_eq!(fleet.load_progress(&model), None);
    let load = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.load(&model).await }
    });
    let mut seen = Vec::new();
    eventually("it is half loaded", || {
        seen.extend(fleet.load_progress(&model));
        seen.iter().any(|progress| *progress >= 0.5)
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
    half.open().unwrap();
    within(load).await.unwrap().unwrap();
    assert_eq!(fleet.load_progress(&model), None);
}

#[tokio::test]
async fn who_looks_twice_sees_how_fast_a_model_computes() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    assert_eq!(only(&fleet).await.speed, None, "nobody has looked before");
    let reader = tokio::spawn(async move { while stream.next().await.is_some() {} });
    let status = until_status(&fleet, "there is a speed", |status| {
        status.models[0].speed.is_some()
    })
    .await;
    let speed = status.models[0].speed.unwrap();
    assert!(speed.over_ms >= 500, "{speed:?}");
    let activity = status.models[0].activity.as_ref().unwrap();
    let most = activity.decode_tokens as f64 / (speed.over_ms as f64 / 1e3);
    assert!((0.0..=most).contains(&speed.decode_per_second), "{speed:?}");
    reader.abort();
}
