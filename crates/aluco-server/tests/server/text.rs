//! Plain completions.

use aluco_fake_worker::Script;
use aluco_fleet::proto::Truncate;
use serde_json::{Value, json};

use crate::world::{World, chunks, error, lines, merge};

async fn complete(world: &World, model: &str, fields: Value) -> reqwest::Response {
    let mut body = json!({"model": model, "prompt": "hi"});
    merge(&mut body, fields);
    world.post("/v1/completions", &body).send().await.unwrap()
}

#[tokio::test]
async fn a_prompt_is_completed_and_can_be_echoed() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let fields = json!({"logprobs": 1});
    let reply: Value = complete(&world, &model, fields).await.json().await.unwrap();
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["choices"][0]["text"], "Hello, world!");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    let logprobs = &reply["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"][0], "Hello");
    assert_eq!(logprobs["text_offset"][0], 0);
    assert_eq!(logprobs["text_offset"][1], 5);
    assert_eq!(reply["usage"]["completion_tokens"], 5);
    let echoed = complete(&world, &model, json!({"echo": true})).await;
    let echoed: Value = echoed.json().await.unwrap();
    assert_eq!(echoed["choices"][0]["text"], "hiHello, world!");
    // Clients that ask for both want the prompt's log probabilities, which would be missing.
    let both = complete(&world, &model, json!({"echo": true, "logprobs": 1})).await;
    assert_eq!(error(both).await.1, "unsupported_parameter");
}

#[tokio::test]
async fn every_prompt_of_a_request_may_lose_its_middle_when_that_is_asked_for() {
    let world = World::new().await;
    let script = Script {
        dropped_tokens: 20,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fields = json!({"prompt": ["one", "two"], "truncation": "auto"});
    let reply: Value = complete(&world, &model, fields).await.json().await.unwrap();
    assert_eq!(reply["timings"]["dropped_n"], 40);
    let asked = world.specs("m").into_iter().map(|spec| spec.truncate);
    assert_eq!(asked.collect::<Vec<_>>(), [Some(Truncate::Middle); 2]);
}

#[tokio::test]
async fn several_prompts_are_answered_in_their_order() {
    let world = World::new().await;
    let script = Script {
        echo: true,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fields = json!({"prompt": ["one", "two", "three"], "n": 2});
    let reply: Value = complete(&world, &model, fields.clone())
        .await
        .json()
        .await
        .unwrap();
    let texts: Vec<_> = reply["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["text"].as_str().unwrap().trim())
        .collect();
    assert_eq!(texts, ["one", "one", "two", "two", "three", "three"]);
    assert_eq!(reply["usage"]["prompt_tokens"], 3);

    let mut streamed = fields;
    merge(&mut streamed, json!({"stream": true}));
    let lines = lines(complete(&world, &model, streamed).await).await;
    let mut texts = vec![String::new(); 6];
    for chunk in chunks(&lines) {
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().unwrap() as usize]
            .push_str(choice["text"].as_str().unwrap());
    }
    let texts: Vec<_> = texts.iter().map(|text| text.trim()).collect();
    assert_eq!(texts, ["one", "one", "two", "two", "three", "three"]);
}

#[tokio::test]
async fn token_ids_are_a_prompt_too() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let tokens = world
        .post(
            "/aluco/v1/tokenize",
            &json!({"model": model, "text": "to be or"}),
        )
        .send()
        .await
        .unwrap();
    let tokens: Value = tokens.json().await.unwrap();
    let fields = json!({"prompt": tokens["tokens"], "echo": true});
    let reply: Value = complete(&world, &model, fields).await.json().await.unwrap();
    assert_eq!(reply["choices"][0]["text"], "to be orHello, world!");
    assert_eq!(reply["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn wrong_prompts_are_named() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    for prompt in [json!(null), json!([]), json!({}), json!(vec!["x"; 300])] {
        let response = complete(&world, &model, json!({"prompt": prompt})).await;
        let (status, _, param) = error(response).await;
        assert_eq!(
            (status, param.as_deref()),
            (400, Some("prompt")),
            "{prompt}"
        );
    }
    world.assert_unharmed(&model).await;
}

#[tokio::test]
async fn more_prompts_than_places_are_answered_by_and_by() {
    let world = World::with(crate::world::config(), |fleet| {
        fleet.queue_max = 8;
        fleet.load_options.sequences_max = 1;
    })
    .await;
    let script = Script {
        echo: true,
        delay_ms: 1,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let prompts: Vec<_> = (0..40).map(|index| format!("number{index}")).collect();
    let response = complete(&world, &model, json!({"prompt": prompts})).await;
    assert_eq!(response.status(), 200);
    let reply: Value = response.json().await.unwrap();
    let choices = reply["choices"].as_array().unwrap();
    let texts: Vec<_> = choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap().trim())
        .collect();
    assert_eq!(texts, prompts);
}
