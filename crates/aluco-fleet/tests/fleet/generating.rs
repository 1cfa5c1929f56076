//! What comes back while all goes well, and when the request is at fault.

use std::time::Duration;

use aluco_fake_worker::Script;
use aluco_fleet::{
    FleetError,
    proto::{ChatPrompt, FailureKind, FinishReason, GenerationEvent},
};
use serde_json::json;

use crate::world::{World, events, eventually, failure, spec, text, within};

#[tokio::test]
async fn a_generation_gives_its_events_in_order_and_ends() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let generation = within(fleet.generate(&model, spec("one two three")))
        .await
        .unwrap();
    assert_eq!(generation.model().architecture, "fake");
    let events = events(generation).await;
    assert_eq!(text(&events), "Hello, world!");
    let kinds: Vec<_> = events
        .iter()
        .map(|event| match event {
            GenerationEvent::Started {
                prompt_tokens,
                seed,
                ..
            } => format!("started {prompt_tokens} {seed}"),
            GenerationEvent::Prefill { .. } => "prefill".to_owned(),
            GenerationEvent::Delta { .. } => "delta".to_owned(),
            GenerationEvent::Finished { reason, .. } => format!("finished {reason:?}"),
            GenerationEvent::Done { usage, .. } => format!("done {}", usage.generated_tokens),
            GenerationEvent::Failed(failure) => format!("failed {failure}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "started 3 1",
            "prefill",
            "delta",
            "delta",
            "delta",
            "delta",
            "finished EndOfGeneration",
            "done 5"
        ]
    );
}

#[tokio::test]
async fn more_requests_than_sequences_all_complete() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            echo: true,
            delay_ms: 1,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let requests: Vec<_> = (0..20)
        .map(|index| {
            let (fleet, model) = (fleet.clone(), model.clone());
            tokio::spawn(async move {
                let prompt = format!("this is request number {index}");
                let generation = fleet.generate(&model, spec(&prompt)).await.unwrap();
                assert_eq!(text(&events(generation).await), prompt);
            })
        })
        .collect();
    for request in requests {
        within(request).await.unwrap();
    }
    let status = fleet.status().await;
    assert_eq!(status.workers.len(), 1);
    assert_eq!(status.models[0].requests, 0);
}

#[tokio::test]
async fn dropping_a_generation_cancels_it_in_the_worker() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            endless: true,
            delay_ms: 1,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let mut generation = within(fleet.generate(&model, spec("x"))).await.unwrap();
    while !matches!(
        within(generation.next()).await,
        Some(GenerationEvent::Delta { .. })
    ) {}
    drop(generation);
    eventually("the worker ends the request", || {
        world
            .journal("m")
            .iter()
            .any(|line| line.starts_with("finished"))
    })
    .await;
    assert!(
        world
            .journal("m")
            .iter()
            .any(|line| line.starts_with("cancel"))
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_before_the_request_is_accepted_cancels_it_too() {
    let world = World::new();
    let mut world_config = world.config.clone();
    world_config.load_options.sequences_max = 1;
    let model = world.model(
        "m",
        &Script {
            endless: true,
            delay_ms: 1,
            ..Script::default()
        },
    );
    let fleet = aluco_fleet::Fleet::new(world_config);
    let first = within(fleet.generate(&model, spec("x"))).await.unwrap();
    let second = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.generate(&model, spec("y")).await.map(drop) }
    });
    let generated = |count| {
        move || {
            let journal = world.journal("m");
            let lines = journal.iter().filter(|line| line.starts_with("generate"));
            lines.count() == count
        }
    };
    eventually("the second request reaches the worker", generated(2)).await;
    second.abort();
    drop(first);
    within(async {
        while fleet.status().await.models[0].requests > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn stop_strings_choices_and_log_probabilities_come_through() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let mut request = spec("x");
    request.choices = 2;
    request.stop = vec!["wor".to_owned()];
    request.logprobs = Some(3);
    let generation = within(fleet.generate(&model, request)).await.unwrap();
    let events = events(generation).await;
    assert_eq!(text(&events), "Hello, ");
    let stopped = events
        .iter()
        .filter(|event| {
            matches!(event, GenerationEvent::Finished { reason, .. }
                if *reason == FinishReason::StopString("wor".to_owned()))
        })
        .count();
    assert_eq!(stopped, 2);
    assert!(events.iter().any(|event| {
        matches!(event, GenerationEvent::Delta { logprobs, .. }
            if logprobs.len() == 1 && logprobs[0].top.len() == 3)
    }));
}

#[tokio::test]
async fn a_request_at_fault_is_refused_and_the_next_one_works() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            context_tokens: 4,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let too_long = within(fleet.generate(&model, spec("a b c d e f"))).await;
    let Err(FleetError::Failed(failure)) = too_long else {
        panic!("a prompt over the context was taken");
    };
    assert_eq!(
        failure.kind,
        FailureKind::ContextExceeded {
            prompt_tokens: 6,
            context_tokens: 4
        }
    );
    let generation = within(fleet.generate(&model, spec("a"))).await.unwrap();
    assert_eq!(text(&events(generation).await), "Hello, world");
}

#[tokio::test]
async fn a_model_that_is_not_there_is_named() {
    let world = World::new();
    let fleet = world.fleet();
    let missing = world.folder.path().join("missing.gguf");
    let Err(error) = within(fleet.generate(missing.to_str().unwrap(), spec("x"))).await else {
        panic!("a missing model generated");
    };
    assert!(matches!(error, FleetError::Model(_)), "{error:?}");
    assert!(error.to_string().contains("missing.gguf"), "{error}");
    assert!(fleet.status().await.workers.is_empty(), "no worker needed");
}

#[tokio::test]
async fn text_becomes_tokens_and_text_again_and_chats_are_rendered() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let tokens = within(fleet.tokenize(&model, "to be or".to_owned(), true, true))
        .await
        .unwrap();
    assert_eq!(tokens.len(), 3);
    let text = within(fleet.detokenize(&model, tokens)).await.unwrap();
    assert_eq!(text, "to be or");
    let Err(FleetError::Failed(failure)) = within(fleet.detokenize(&model, vec![-1])).await else {
        panic!("a token outside of the vocabulary was spelt out");
    };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let chat = ChatPrompt {
        messages: json!([{"role": "user", "content": "hi"}]),
        template_arguments: serde_json::Map::new(),
        add_generation_prompt: true,
    };
    let rendered = within(fleet.render_chat(&model, chat)).await.unwrap();
    assert_eq!(rendered, "<|user|> hi\n<|assistant|>");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_disturbs_nobody() {
    let world = World::new();
    let flood = world.model(
        "flood",
        &Script {
            tokens: vec!["x".repeat(100_000)],
            endless: true,
            context_tokens: 1_000_000,
            ..Script::default()
        },
    );
    let calm = world.model("calm", &Script::default());
    let fleet = world.fleet();
    let slow = within(fleet.generate(&flood, spec("x"))).await.unwrap();
    eventually("the flood is cancelled", || {
        world
            .journal("flood")
            .iter()
            .any(|line| line.starts_with("finished"))
    })
    .await;
    let generation = within(fleet.generate(&calm, spec("x"))).await.unwrap();
    assert_eq!(text(&events(generation).await), "Hello, world!");
    let events = events(slow).await;
    assert_eq!(failure(&events).kind, FailureKind::Overloaded);
    let bytes = text(&events).len();
    assert!((1_000_000..20_000_000).contains(&bytes), "{bytes} bytes");
    within(async {
        while fleet.status().await.models.iter().any(|it| it.requests > 0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
