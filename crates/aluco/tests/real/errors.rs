//! What a real engine refuses.

use serde_json::{Value, json};

use crate::served::{Served, model};

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_prompt_longer_than_the_context_is_refused_with_the_numbers() {
    let served = Served::start(&["--context", "256"]);
    let reply = served.chat(&"word ".repeat(2000), json!({})).await;
    assert_eq!(reply.status(), 400);
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["error"]["code"], "context_length_exceeded", "{reply}");
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.contains("256"), "{message}");
    assert!(
        !served
            .answer("Say hello.", json!({"max_tokens": 4}))
            .await
            .is_empty()
    );
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn damaged_files_are_refused_and_the_server_goes_on() {
    let served = Served::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model()).unwrap();
    for (name, bytes) in [
        ("empty.gguf", &whole[..0]),
        ("text.gguf", b"this is no model".as_slice()),
        ("cut-in-header.gguf", &whole[..1000]),
        ("cut-in-tensors.gguf", &whole[..whole.len() / 2]),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let body = json!({"model": path, "prompt": "hi", "max_tokens": 1});
        let reply = served.post("/v1/completions", &body).await;
        assert!(
            reply.status().is_client_error() || reply.status() == 500,
            "{name}"
        );
        let reply: Value = reply.json().await.unwrap();
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty(), "{name}");
        assert_ne!(reply["error"]["code"], "worker_lost", "{name}: {message}");
    }
    assert!(
        !served
            .answer("Say hello.", json!({"max_tokens": 4}))
            .await
            .is_empty()
    );
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn tokens_outside_of_the_vocabulary_are_refused() {
    let served = Served::start(&[]);
    for prompt in [json!([-1]), json!([49152]), json!([1_000_000])] {
        let body = json!({"model": model(), "prompt": prompt, "max_tokens": 1});
        let reply = served.post("/v1/completions", &body).await;
        assert_eq!(reply.status(), 400, "{prompt}");
    }
    let bias = json!({"logit_bias": {"49152": 1}, "max_tokens": 1});
    assert_eq!(served.chat("Say hello.", bias).await.status(), 400);
}
