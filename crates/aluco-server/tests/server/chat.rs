//! Chats, in one piece.

use aluco_fake_worker::Script;
use aluco_fleet::proto::{CacheReport, Miss, Truncate};
use serde_json::{Value, json};

use crate::world::{World, error};

#[tokio::test]
async fn a_chat_is_answered_in_openais_form() {
    let world = World::new().await;
    let script = Script {
        prompt_tokens: Some(12),
        cache: CacheReport {
            device_tokens: 1,
            ram_tokens: 3,
            disk_tokens: 4,
            miss: Some(Miss::Diverged { at: 8 }),
        },
        drafted_tokens: 4,
        accepted_tokens: 3,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let reply = world.chat_json(&model, json!({"seed": 7})).await;
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["model"], model.as_str());
    assert!(reply["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(reply["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        reply["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world!", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    assert_eq!(
        reply["usage"],
        json!({
            "prompt_tokens": 12,
            "completion_tokens": 5,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 8},
        })
    );
    assert_eq!(reply["timings"]["cache_n"], 8);
    assert_eq!(reply["timings"]["prompt_n"], 4);
    assert_eq!(reply["timings"]["predicted_n"], 5);
    assert_eq!(
        reply["timings"]["cache"],
        json!({
            "device_tokens": 1,
            "ram_tokens": 3,
            "disk_tokens": 4,
            "miss": "diverged",
            "diverged_at": 8,
        })
    );
    assert_eq!(reply["timings"]["draft_n"], 4);
    assert_eq!(reply["timings"]["draft_n_accepted"], 3);
}

#[tokio::test]
async fn a_chat_is_only_shortened_when_that_is_asked_for() {
    let world = World::new().await;
    let script = Script {
        dropped_tokens: 300,
        ..Script::default()
    };
    let model = world.model("m", &script);
    for fields in [
        json!({}),
        json!({"truncation": "disabled"}),
        json!({"truncation": "auto"}),
    ] {
        let reply = world.chat_json(&model, fields).await;
        assert_eq!(reply["timings"]["dropped_n"], 300);
    }
    let asked = world.specs("m").into_iter().map(|spec| spec.truncate);
    let asked: Vec<_> = asked.collect();
    assert_eq!(asked, [None, None, Some(Truncate::OldestMessages)]);

    let response = world.chat(&model, json!({"truncation": "always"})).await;
    let (status, code, param) = error(response).await;
    assert_eq!((status, code.as_str()), (400, "invalid_value"));
    assert_eq!(param.as_deref(), Some("truncation"));
}

#[tokio::test]
async fn choices_stops_lengths_and_log_probabilities_come_through() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let fields = json!({"n": 3, "stop": "wor", "logprobs": true, "top_logprobs": 2});
    let reply = world.chat_json(&model, fields).await;
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["message"]["content"], "Hello, ");
        assert_eq!(choice["finish_reason"], "stop");
        let content = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(content[0]["token"], "Hello");
        assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    }
    let reply = world.chat_json(&model, json!({"max_tokens": 2})).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "Hello,");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn parts_of_text_reach_the_model_as_one() {
    let world = World::new().await;
    let script = Script {
        echo: true,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let parts = json!([{"type": "text", "text": "to be"}, {"type": "text", "text": "or not"}]);
    let messages = json!([{"role": "user", "content": parts}]);
    let reply = world.chat_json(&model, json!({"messages": messages})).await;
    let content = reply["choices"][0]["message"]["content"].as_str().unwrap();
    let words: Vec<_> = content.split_whitespace().collect();
    assert_eq!(words, ["to", "be", "or", "not"]);
}

#[tokio::test]
async fn wrong_requests_get_their_fault_named_and_the_next_one_works() {
    let world = World::new().await;
    let script = Script {
        context_tokens: 64,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let cases: [(Value, u16, &str, Option<&str>); 9] = [
        (
            json!({"messages": []}),
            400,
            "invalid_value",
            Some("messages"),
        ),
        (
            json!({"messages": null}),
            400,
            "invalid_value",
            Some("messages"),
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            400,
            "invalid_value",
            Some("messages[0].content"),
        ),
        (
            json!({"temperature": "hot"}),
            400,
            "invalid_value",
            Some("temperature"),
        ),
        (
            json!({"temperature": -3}),
            400,
            "invalid_value",
            Some("temperature"),
        ),
        (json!({"n": 0}), 400, "invalid_value", Some("n")),
        (json!({"stop": {}}), 400, "invalid_value", Some("stop")),
        (
            json!({"tools": [{"type": "function"}]}),
            400,
            "unsupported_parameter",
            Some("tools"),
        ),
        (
            json!({"messages": [{"role": "user", "content": "word ".repeat(100)}]}),
            400,
            "context_length_exceeded",
            None,
        ),
    ];
    for (fields, status, code, param) in cases {
        let found = error(world.chat(&model, fields.clone()).await).await;
        let expected = (status, code.to_owned(), param.map(str::to_owned));
        assert_eq!(found, expected, "{fields}");
    }
    world.assert_unharmed(&model).await;
}

#[tokio::test]
async fn a_model_that_is_not_there_is_a_404() {
    let world = World::new().await;
    for name in [
        "smollm2:135m",
        "owner/repo:Q4_K_M",
        "/no/such/file.gguf",
        "%%%",
    ] {
        for stream in [false, true] {
            let response = world.chat(name, json!({"stream": stream})).await;
            let (status, code, param) = error(response).await;
            assert_eq!((status, code.as_str()), (404, "model_not_found"), "{name}");
            assert_eq!(param.as_deref(), Some("model"));
        }
    }
    let (status, _, param) = error(world.chat("", json!({})).await).await;
    assert_eq!((status, param.as_deref()), (400, Some("model")));
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_says_why() {
    let world = World::new().await;
    let script = Script {
        load_error: Some("unknown architecture 'owl'".to_owned()),
        ..Script::default()
    };
    let model = world.model("m", &script);
    let response = world.chat(&model, json!({})).await;
    assert_eq!(response.status(), 400);
    let text = response.text().await.unwrap();
    assert!(text.contains("unknown architecture 'owl'"), "{text}");
}

#[tokio::test]
async fn a_request_that_kills_its_workers_gets_a_clear_error_and_the_next_one_works() {
    let world = World::new().await;
    let script = Script {
        crash_after: Some(2),
        last_words: vec!["ggml assertion failed".to_owned()],
        ..Script::default()
    };
    let dying = world.model("dying", &script);
    let well = world.model("well", &Script::default());
    let response = world.chat(&dying, json!({})).await;
    assert_eq!(response.status(), 500);
    let json: Value = response.json().await.unwrap();
    assert_eq!(json["error"]["code"], "engine_error");
    let message = json["error"]["message"].as_str().unwrap();
    assert!(message.contains("ggml assertion failed"), "{message}");
    world.assert_unharmed(&well).await;
}
