//! What prompt rules change on the way to the worker.

use aluco_fake_worker::Script;
use aluco_fleet::proto::Prompt;
use aluco_server::{PromptRules, ServerConfig};
use serde_json::{Value, json};

use crate::world::{World, config};

const RULES: &str = r"
[[rule]]
name = 'header'
pattern = '\Ax-header: [^\n]*\n'
replace = ''
";

/// A conversation whose beginning is never the same.
fn messages(header: &str) -> Value {
    let parts = json!([
        {"type": "text", "text": format!("x-header: {header}\nBe brief.")},
        {"type": "text", "text": "Be kind."},
    ]);
    json!([
        {"role": "developer", "content": parts},
        {"role": "user", "content": "x-header: mine\nHi."},
    ])
}

/// What reaches the worker of two conversations that differ in their header only.
async fn arrived(world: &World) -> [Value; 2] {
    let model = world.model("m", &Script::default());
    for header in ["1", "2"] {
        let fields = json!({"messages": messages(header)});
        world.chat_json(&model, fields).await;
    }
    let arrived = world.specs("m").into_iter().map(|spec| match spec.prompt {
        Prompt::Chat(chat) => chat.messages,
        prompt => panic!("{prompt:?}"),
    });
    let arrived: Vec<Value> = arrived.collect();
    arrived.try_into().unwrap()
}

#[tokio::test]
async fn prompts_reach_the_worker_as_they_are_unless_there_are_rules() {
    let world = World::new().await;
    let [first, second] = arrived(&world).await;
    assert_eq!(first[0]["content"], "x-header: 1\nBe brief.\nBe kind.");
    assert_eq!(second[0]["content"], "x-header: 2\nBe brief.\nBe kind.");
}

#[tokio::test]
async fn rules_make_prompts_the_same_that_differ_without_need() {
    let ruled = ServerConfig {
        prompt_rules: PromptRules::parse(RULES, "rules.toml".as_ref()).unwrap(),
        ..config()
    };
    let world = World::with(ruled, |_| {}).await;
    let [first, second] = arrived(&world).await;
    assert_eq!(first, second);
    assert_eq!(
        first,
        json!([
            {"role": "system", "content": "Be brief.\nBe kind."},
            {"role": "user", "content": "x-header: mine\nHi."},
        ])
    );
    let model = world.model("m", &Script::default());
    let body = json!({"model": model, "messages": messages("3")});
    let shown = world.post("/aluco/v1/render", &body).send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    let prompt = shown["prompt"].as_str().unwrap();
    assert!(prompt.starts_with("<|system|> Be brief."), "{prompt}");
    let metrics = world.get("/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    // Two answers; a look at a prompt is no use of it.
    let line = "aluco_prompt_rules_applied_total{rule=\"header\"} 2";
    assert!(metrics.lines().any(|it| it == line), "{metrics}");
}
