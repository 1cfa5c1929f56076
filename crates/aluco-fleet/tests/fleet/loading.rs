//! Which models are loaded, when, and when they go.

use std::time::Duration;

use aluco_fake_worker::{Place, Script};
use aluco_fleet::{
    Fleet, FleetError, ModelState,
    proto::{FailureKind, FinishReason, GenerationEvent},
};

use crate::world::{
    World, answer, endless, events, eventually, first_delta, spec, text, until_status, within,
};

const HELLO: &str = "Hello, world!";

#[tokio::test]
async fn requests_that_come_together_load_their_model_once() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            load_ms: 50,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let requests: Vec<_> = (0..10)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move { answer(&fleet, &model).await.unwrap() })
        })
        .collect();
    for request in requests {
        assert_eq!(within(request).await.unwrap(), HELLO);
    }
    assert_eq!(world.count("m", "load"), 1);
    assert_eq!(world.count("m", "generate"), 10);
}

#[tokio::test]
async fn a_load_shows_its_progress_until_the_model_is_ready() {
    let world = World::new();
    let half = world.gate(Place::Load(5));
    let script = Script {
        gates: vec![half.clone()],
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let load = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.load(&model).await }
    });
    let mut seen = Vec::new();
    let status = until_status(&fleet, "the model is ready", |status| {
        match status.models.first().map(|model| model.state) {
            Some(ModelState::Loading { progress }) => {
                seen.push(progress);
                if progress >= 0.5 {
                    half.open().unwrap();
                }
            }
            Some(ModelState::Ready) => return status.models[0].activity.is_some(),
            None => {}
        }
        false
    })
    .await;
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(
        seen.iter().any(|progress| (0.1..0.95).contains(progress)),
        "{seen:?}"
    );
    let loaded = within(load).await.unwrap().unwrap();
    assert_eq!(status.models[0].loaded, Some(loaded));
}

#[tokio::test]
async fn the_model_that_is_idle_for_longest_makes_place() {
    let mut world = World::new();
    world.config.models_max = 2;
    let models = ["a", "b", "c"].map(|name| world.model(name, &Script::default()));
    let fleet = world.fleet();
    for model in [&models[0], &models[1], &models[0], &models[2]] {
        assert_eq!(answer(&fleet, model).await.unwrap(), HELLO);
    }
    assert_eq!(world.count("b", "unload"), 1);
    assert_eq!(world.count("a", "unload"), 0);
    let names: Vec<_> = within(fleet.status())
        .await
        .models
        .into_iter()
        .map(|model| model.name)
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(answer(&fleet, &models[1]).await.unwrap(), HELLO);
    assert_eq!(world.count("b", "load"), 2);
}

#[tokio::test]
async fn a_busy_model_stays_and_the_request_for_another_waits_for_its_end() {
    let mut world = World::new();
    world.config.models_max = 1;
    let busy = world.model("busy", &endless());
    let wanted = world.model("wanted", &Script::default());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let waiting = tokio::spawn({
        let (fleet, wanted) = (fleet.clone(), wanted.clone());
        async move { answer(&fleet, &wanted).await }
    });
    until_status(&fleet, "the request waits", |status| {
        status.models.len() == 2
    })
    .await;
    for _ in 0..50 {
        first_delta(&mut stream).await;
    }
    assert_eq!(world.count("wanted", "load"), 0);
    drop(stream);
    assert_eq!(within(waiting).await.unwrap().unwrap(), HELLO);
    assert_eq!(world.count("busy", "unload"), 1);
}

#[tokio::test]
async fn a_request_that_no_place_is_made_for_is_turned_away_in_time() {
    let mut world = World::new();
    world.config.models_max = 1;
    world.config.place_timeout = Duration::from_millis(50);
    let busy = world.model("busy", &endless());
    let wanted = world.model("wanted", &Script::default());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    let error = answer(&fleet, &wanted).await.unwrap_err();
    let FleetError::Failed(failure) = error else {
        panic!("{error:?}");
    };
    assert_eq!(failure.kind, FailureKind::Overloaded);
    assert!(
        failure.message.contains("1 may be loaded at once"),
        "{failure}"
    );
    first_delta(&mut stream).await;
    drop(stream);
    let answered = async { while answer(&fleet, &wanted).await.is_err() {} };
    within(answered).await;
}

#[tokio::test]
async fn a_request_over_the_queue_of_its_model_is_turned_away_at_once() {
    let mut world = World::new();
    world.config.load_options.sequences_max = 1;
    world.config.queue_max = 1;
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut running = within(fleet.generate(&model, spec("x"))).await.unwrap();
    let waiting = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.generate(&model, spec("y")).await }
    });
    until_status(&fleet, "one runs and one waits", |status| {
        status.models[0].requests == 2
    })
    .await;
    let error = answer(&fleet, &model).await.unwrap_err();
    assert!(
        matches!(error, FleetError::Overloaded { waiting: 1 }),
        "{error:?}"
    );
    first_delta(&mut running).await;
    drop(running);
    let mut next = within(waiting).await.unwrap().unwrap();
    first_delta(&mut next).await;
}

#[tokio::test]
async fn a_model_that_nobody_uses_is_unloaded_after_a_while_and_a_busy_one_is_not() {
    let mut world = World::new();
    world.config.keep_alive = Duration::from_millis(50).into();
    let busy = world.model("busy", &endless());
    let idle = world.model("idle", &Script::default());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    assert_eq!(answer(&fleet, &idle).await.unwrap(), HELLO);
    eventually("the idle model goes", || world.count("idle", "unload") == 1).await;
    for _ in 0..100 {
        first_delta(&mut stream).await;
    }
    let status = until_status(&fleet, "only the busy model is left", |status| {
        status.models.len() == 1
    })
    .await;
    assert_eq!(status.models[0].expires_at, None);
    assert_eq!(world.count("busy", "unload"), 0);
    drop(stream);
    until_status(&fleet, "both are gone", |status| status.models.is_empty()).await;
    assert_eq!(answer(&fleet, &idle).await.unwrap(), HELLO);
    assert_eq!(world.count("idle", "load"), 2);
}

#[tokio::test]
async fn an_idle_model_says_when_it_will_go() {
    let mut world = World::new();
    world.config.keep_alive = Duration::from_secs(100).into();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    within(fleet.load(&model)).await.unwrap();
    let status = within(fleet.status()).await;
    let left = status.models[0]
        .expires_at
        .unwrap()
        .duration_since(std::time::SystemTime::now())
        .unwrap();
    assert!(left > Duration::from_secs(70), "{left:?}");
    assert!(left <= Duration::from_secs(100), "{left:?}");
}

#[tokio::test]
async fn unloading_a_model_ends_its_requests_as_cancelled() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    assert!(within(fleet.unload(&model)).await.unwrap());
    assert!(within(fleet.status()).await.models.is_empty());
    let events = events(stream).await;
    assert!(events.iter().any(|event| matches!(
        event,
        GenerationEvent::Finished {
            reason: FinishReason::Cancelled,
            ..
        }
    )));
    assert!(matches!(events.last(), Some(GenerationEvent::Done { .. })));
    assert!(!within(fleet.unload(&model)).await.unwrap());
    within(fleet.load(&model)).await.unwrap();
    assert_eq!(world.count("m", "load"), 2);
}

#[tokio::test]
async fn unloading_a_model_in_the_midst_of_its_load_tells_all_who_wait() {
    let world = World::new();
    let script = Script {
        load_ms: 3_600_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move { answer(&fleet, &model).await })
        })
        .collect();
    until_status(&fleet, "all wait", |status| {
        status.models.first().is_some_and(|it| it.requests == 3)
    })
    .await;
    eventually("the load begins", || world.count("m", "load") == 1).await;
    assert!(within(fleet.unload(&model)).await.unwrap());
    for request in waiting {
        let error = within(request).await.unwrap().unwrap_err();
        let FleetError::Failed(failure) = error else {
            panic!("{error:?}");
        };
        assert_eq!(failure.kind, FailureKind::ModelNotLoaded);
    }
    world.model("m", &Script::default());
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
}

#[tokio::test]
async fn a_file_that_cannot_be_loaded_is_told_and_the_next_request_tries_again() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    std::fs::write(&model, "no model at all").unwrap();
    let fleet = world.fleet();
    let error = answer(&fleet, &model).await.unwrap_err();
    let FleetError::Failed(failure) = error else {
        panic!("{error:?}");
    };
    assert_eq!(failure.kind, FailureKind::LoadFailed);
    assert!(failure.message.contains("m.gguf"), "{failure}");
    let status = within(fleet.status()).await;
    assert!(status.models.is_empty(), "{:?}", status.models);
    assert_eq!(status.workers.len(), 1, "the worker lives on");
    world.model("m", &Script::default());
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
}

/// A model may be chosen to go at the very moment at which a request for it comes in; then it must stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_is_lost_while_models_take_turns_in_one_place() {
    let mut world = World::new();
    world.config.models_max = 1;
    world.config.keep_alive = Duration::from_millis(1).into();
    // Their turn comes, however long each of the others takes to be loaded.
    world.config.place_timeout = Duration::from_secs(3600);
    let models = ["a", "b", "c"].map(|name| world.model(name, &Script::default()));
    let fleet = world.fleet();
    let clients: Vec<_> = (0..6)
        .map(|client: usize| {
            let (fleet, model): (Fleet, _) = (fleet.clone(), models[client % 3].clone());
            tokio::spawn(async move {
                for _ in 0..60 {
                    let generation = within(fleet.generate(&model, spec("x"))).await.unwrap();
                    assert_eq!(text(&events(generation).await), HELLO);
                }
            })
        })
        .collect();
    // Each step has its limit; how long all of them take together is the machine's affair.
    for client in clients {
        client.await.unwrap();
    }
}
