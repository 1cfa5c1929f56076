//! All ways to ask give the same answer.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::served::{
    FULL_PRECISION, ONE_BY_ONE, Served, aluco, chunks, empty_home, model, model_in_full_precision,
    output_of,
};

const QUESTION: &str = "What is gravity?";

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn the_command_the_reply_and_the_stream_say_the_same() {
    let home = empty_home();
    let model = model();
    let by_command = output_of(aluco(
        home.path(),
        &[
            "run",
            &model,
            QUESTION,
            "--temperature",
            "0",
            "--max-tokens",
            "24",
            "--json",
        ],
    ));
    let by_command: Value = serde_json::from_str(&by_command).unwrap();
    let text = by_command["text"].as_str().unwrap();
    assert!(text.contains("Gravity is"), "{text}");
    assert_eq!(by_command["usage"]["completion_tokens"], 24);

    let served = Served::start(&[]);
    let limit = json!({"max_tokens": 24});
    assert_eq!(served.answer(QUESTION, limit).await, text);

    let fields =
        json!({"max_tokens": 24, "stream": true, "stream_options": {"include_usage": true}});
    let stream = served.chat(QUESTION, fields).await.text().await.unwrap();
    let chunks = chunks(&stream);
    let streamed: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(streamed, text);
    let last = chunks.last().unwrap();
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], by_command["usage"][count]);
    }
    // The server had the prompt from the first request; the command computed it.
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    let prompt = last["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(cached(&last["usage"]), Some(prompt - 1));
    assert_eq!(cached(&by_command["usage"]), Some(0));
    assert!(last["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
    assert!(stream.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn requests_side_by_side_are_answered_as_if_alone() {
    // In full precision which of them meet in a batch, and what lies beside, moves the last bits alone.
    let options = [&FULL_PRECISION[..], &ONE_BY_ONE].concat();
    let served = Served::start(&options);
    let model = model_in_full_precision();
    let questions = [
        "What is gravity?",
        "Name a colour.",
        "Say hello.",
        "What is 2+2?",
    ];
    let first_token = async |question| {
        let fields = json!({"model": model, "max_tokens": 1, "logprobs": true, "top_logprobs": 20});
        let reply: Value = served.chat(question, fields).await.json().await.unwrap();
        let top = &reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"];
        let top = top.as_array().unwrap().iter();
        top.map(|it| (it["token"].to_string(), it["logprob"].as_f64().unwrap()))
            .collect::<HashMap<_, _>>()
    };
    let mut alone = Vec::new();
    for question in questions {
        alone.push(first_token(question).await);
    }
    let [a, b, c, d] = questions.map(first_token);
    let together = tokio::join!(a, b, c, d);
    let together = [together.0, together.1, together.2, together.3];
    // A neighbour's tokens in the context would change everything: the four questions are whole units apart.
    let distances = alone
        .iter()
        .zip(&together)
        .map(|(alone, together)| distance(alone, together));
    let distances: Vec<f64> = distances.collect();
    eprintln!("{distances:?}");
    assert!(
        distances.iter().all(|distance| *distance < 0.01),
        "{distances:?}\n{alone:?}\n{together:?}"
    );
    assert!(distance(&alone[0], &alone[2]) > 1.0);
}

/// Largest difference between the log probabilities of a token that both hold among the likeliest.
fn distance(one: &HashMap<String, f64>, other: &HashMap<String, f64>) -> f64 {
    let common = one
        .iter()
        .filter_map(|(token, a)| Some((a - other.get(token)?).abs()));
    common.fold(0.0, f64::max)
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_seed_repeats_an_answer_and_choices_differ() {
    // What comes from the store, and what lies beside, can move the last bits, and with them a choice between two likely tokens.
    let served = Served::start(&["--cache-ram", "0", "--cache-device", "0"]);
    let fields = json!({"temperature": 1.5, "seed": 7, "n": 3, "max_tokens": 12});
    let mut replies = Vec::new();
    for _ in 0..2 {
        let reply = served.chat("Tell me a story.", fields.clone()).await;
        let reply: Value = reply.json().await.unwrap();
        let choices = reply["choices"].as_array().unwrap();
        let texts = choices
            .iter()
            .map(|it| it["message"]["content"].to_string());
        replies.push(texts.collect::<Vec<_>>());
    }
    assert_eq!(replies[0], replies[1]);
    assert_ne!(replies[0][0], replies[0][1]);
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn log_probabilities_are_those_of_a_distribution() {
    let served = Served::start(&[]);
    let fields = json!({"max_tokens": 3, "logprobs": true, "top_logprobs": 5});
    let reply: Value = served
        .chat("What is 2+2?", fields)
        .await
        .json()
        .await
        .unwrap();
    let content = reply["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(content.len(), 3);
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        let top: Vec<f64> = top
            .iter()
            .map(|it| it["logprob"].as_f64().unwrap())
            .collect();
        assert_eq!(top.len(), 5);
        assert!(top.windows(2).all(|pair| pair[0] >= pair[1]), "{top:?}");
        assert!(top.iter().map(|logprob| logprob.exp()).sum::<f64>() <= 1.0 + 1e-6);
        // Greedy: the likeliest one was taken.
        assert!((token["logprob"].as_f64().unwrap() - top[0]).abs() < 1e-9);
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn the_next_turn_of_a_conversation_is_not_computed_again() {
    let served = Served::start(&[]);
    let system = "You answer briefly and to the point. ".repeat(80);
    let mut messages = vec![
        json!({"role": "system", "content": system}),
        json!({"role": "user", "content": "What is gravity?"}),
    ];
    let ask = async |messages: &[Value]| {
        let body = json!({"messages": messages, "max_tokens": 16});
        let reply: Value = served.chat("", body).await.json().await.unwrap();
        let usage = &reply["usage"];
        let prompt = usage["prompt_tokens"].as_u64().unwrap();
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        let text = reply["choices"][0]["message"]["content"].clone();
        (prompt, cached.unwrap(), text)
    };
    let (prompt, cached, text) = ask(&messages).await;
    assert!(prompt > 512, "{prompt}");
    assert_eq!(cached, 0);
    messages.push(json!({"role": "assistant", "content": text}));
    messages.push(json!({"role": "user", "content": "And what is mass?"}));
    let (_, cached, _) = ask(&messages).await;
    assert!(cached >= prompt, "{cached} of {prompt}");
    let metrics = served.client.get(format!("{}/metrics", served.url));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let expected = format!(
        "aluco_prompt_tokens_cached_total{{model=\"{}\",tier=\"device\"}} {cached}",
        model()
    );
    assert!(metrics.lines().any(|line| line == expected), "{metrics}");
}
