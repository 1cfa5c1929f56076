//! Aluco's own endpoints, and the list of models.

use aluco_fake_worker::Script;
use aluco_fleet::proto::{CacheActivity, CacheReport, Miss};
use serde_json::{Value, json};

use crate::world::{PATIENCE, World, error};

#[tokio::test]
async fn models_are_loaded_shown_and_unloaded() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let body = json!({"model": model});
    let loaded = world.post("/aluco/v1/models/load", &body).send().await;
    let loaded: Value = loaded.unwrap().json().await.unwrap();
    assert_eq!(loaded["architecture"], "fake");
    let status = || async {
        let reply = world.get("/aluco/v1/status").send().await.unwrap();
        reply.json::<Value>().await.unwrap()
    };
    let shown = status().await;
    assert_eq!(shown["models"][0]["name"], model.as_str());
    assert_eq!(shown["models"][0]["state"], "ready");
    assert!(shown["workers"][0]["hello"]["pid"].is_number());
    let unload = || async {
        let reply = world.post("/aluco/v1/models/unload", &body).send().await;
        reply.unwrap().json::<Value>().await.unwrap()
    };
    assert_eq!(unload().await, json!({"unloaded": true}));
    assert_eq!(status().await["models"], json!([]));
    assert_eq!(unload().await, json!({"unloaded": false}));
}

#[tokio::test]
async fn the_prompt_of_a_conversation_can_be_looked_at() {
    let world = World::new().await;
    let model = world.model("m", &Script::default());
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let reply = world.post("/aluco/v1/render", &body).send().await.unwrap();
    let reply: Value = reply.json().await.unwrap();
    assert_eq!(reply["prompt"], "<|user|> hi\n<|assistant|>");
}

#[tokio::test]
async fn models_on_this_machine_are_listed() {
    let world = World::new().await;
    let snapshot = world
        .folder
        .path()
        .join("hub/models--owl--Tiny-GGUF/snapshots/0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(&snapshot).unwrap();
    let refs = world.folder.path().join("hub/models--owl--Tiny-GGUF/refs");
    std::fs::create_dir_all(&refs).unwrap();
    std::fs::write(
        refs.join("main"),
        "0123456789abcdef0123456789abcdef01234567",
    )
    .unwrap();
    Script::default()
        .write(&snapshot.join("Tiny-Q4_K_M.gguf"))
        .unwrap();
    let list: Value = world.get_json("/v1/models").await;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "owl/Tiny-GGUF:Q4_K_M", "{list}");
    assert_eq!(list["data"][0]["aluco"]["loaded"], false);
    world.assert_unharmed("owl/Tiny-GGUF:Q4_K_M").await;
    let one = world.get("/v1/models/owl/Tiny-GGUF:Q4_K_M").send().await;
    let one: Value = one.unwrap().json().await.unwrap();
    assert_eq!(one["id"], "owl/Tiny-GGUF:Q4_K_M");
    assert_eq!(one["aluco"]["loaded"], true);
    let missing = world.get("/v1/models/owl/Other-GGUF").send().await.unwrap();
    assert_eq!(error(missing).await.0, 404);
}

/// Looks until there is what is looked for.
async fn until_told<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(told) = look().await {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, looking).await;
    told.expect("the worker says what it does")
}

#[tokio::test]
async fn figures_can_be_scraped() {
    let world = World::new().await;
    let script = Script {
        prompt_tokens: Some(10),
        cache: CacheReport {
            ram_tokens: 7,
            miss: Some(Miss::FingerprintChanged),
            ..CacheReport::default()
        },
        cache_activity: CacheActivity {
            device_tokens: 9,
            disk_bytes: 40,
            disk_bytes_max: 50,
            disk_written_bytes: 60,
            ..CacheActivity::default()
        },
        accepted_tokens: 3,
        ..Script::default()
    };
    let model = world.model("m", &script);
    world.assert_unharmed(&model).await;
    // A worker that takes too long to say what it does is left out.
    let status = until_told(async || {
        let status = world.get_json("/aluco/v1/status").await;
        status["models"][0]["activity"]
            .is_object()
            .then_some(status)
    });
    let status = status.await;
    let cache = &status["models"][0]["activity"]["cache"];
    assert_eq!(cache["disk_written_bytes"], 60, "{status}");
    // Twice, since what is counted elsewhere must not be added up here.
    world.get("/metrics").send().await.unwrap();
    let text = until_told(async || {
        let metrics = world.get("/metrics").send().await.unwrap();
        let form = metrics.headers()["content-type"].to_str().unwrap();
        assert!(form.starts_with("application/openmetrics-text"), "{form}");
        let text = metrics.text().await.unwrap();
        text.contains("aluco_kv_cells{").then_some(text)
    });
    let text = text.await;
    for line in [
        format!("aluco_generated_tokens_total{{model=\"{model}\"}} 5"),
        format!("aluco_accepted_tokens_total{{model=\"{model}\"}} 3"),
        format!("aluco_prompt_tokens_cached_total{{model=\"{model}\",tier=\"ram\"}} 7"),
        format!("aluco_prefix_misses_total{{model=\"{model}\",reason=\"fingerprint_changed\"}} 1"),
        format!("aluco_kv_cells{{model=\"{model}\",state=\"kept\"}} 9"),
        format!("aluco_prefix_cache_bytes{{model=\"{model}\",tier=\"disk\"}} 40"),
        format!("aluco_prefix_cache_max_bytes{{model=\"{model}\",tier=\"disk\"}} 50"),
        format!("aluco_prefix_cache_written_bytes_total{{model=\"{model}\"}} 60"),
        format!("aluco_model_ready{{model=\"{model}\"}} 1"),
        "aluco_workers 1".to_owned(),
        "aluco_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
    }
}
