//! Who or what is at fault when workers die again and again: a request, which is refused, or the configuration, which is changed.

use aluco_fake_worker::{Persona, Script};
use aluco_fleet::{
    FallbackStep, FleetError,
    proto::{Backend, FailureKind, FlashAttention},
};

use crate::{
    story::{seen, story, story_of, undisturbed},
    world::{World, answer, events, failure, first_delta, spec, text, within},
};

#[tokio::test]
async fn a_culprit_is_found_in_a_crowd_and_quarantined_and_the_others_complete() {
    let world = World::new();
    let is_refused = world.path("it is refused");
    let script = Script {
        crash_after: Some(3),
        culprit: Some("bad".to_owned()),
        last_words: vec!["GGML_ASSERT(bad) failed".to_owned()],
        // The others are at work until it is refused, however long that takes: to their end it would be minutes.
        tokens: (0..1200).map(|word| format!(" w{word}")).collect(),
        delay_ms: 100,
        delay_until: Some(is_refused.clone()),
        ..story()
    };
    let fast = Script {
        delay_ms: 0,
        ..story_of(&script)
    };
    let expected = undisturbed(&fast, spec("x")).await;
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
    std::fs::write(is_refused, []).unwrap();
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
        let is_refused = world.path("it is refused");
        let script = Script {
            crash_on_prepare: true,
            culprit: Some("bad".to_owned()),
            last_words: vec!["the regular expression is too deep".to_owned()],
            // As above.
            tokens: (0..1200).map(|word| format!(" w{word}")).collect(),
            delay_ms: 100,
            delay_until: Some(is_refused.clone()),
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
                text.ends_with(" w1199")
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
        std::fs::write(is_refused, []).unwrap();
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
