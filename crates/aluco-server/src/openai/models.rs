//! `/v1/models`: what is on this machine.

use aluco_fleet::Fleet;
use aluco_model::{ModelError, StoredModel};
use axum::{Json, extract::State, http::StatusCode};
use serde_json::{Value, json};

use crate::{
    app::{App, unix_seconds},
    error::ApiError,
    guard::Caller,
    path::PathName,
};

pub(crate) async fn list(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let models = look(app.fleet(), aluco_model::Store::list).await?;
    let loaded = loaded(app.fleet()).await;
    let mut data: Vec<_> = models
        .iter()
        .map(|model| describe(model, &loaded))
        .collect();
    // Models that were named by their path are not in the store.
    for name in &loaded {
        if models.iter().all(|model| model.name != *name) {
            let name = name.clone();
            if let Ok(model) = look(app.fleet(), move |store| store.find(&name)).await {
                data.push(describe(&model, &loaded));
            }
        }
    }
    Ok(Json(json!({"object": "list", "data": data})))
}

pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    PathName(name): PathName,
) -> Result<Json<Value>, ApiError> {
    caller.may_use(&name)?;
    let model = look(app.fleet(), move |store| store.find(&name)).await?;
    Ok(Json(describe(&model, &loaded(app.fleet()).await)))
}

/// Looks into the store, which is work on files and blocks.
async fn look<T: Send + 'static>(
    fleet: &Fleet,
    question: impl FnOnce(&aluco_model::Store) -> Result<T, ModelError> + Send + 'static,
) -> Result<T, ApiError> {
    let store = fleet.store().clone();
    match tokio::task::spawn_blocking(move || question(&store)).await {
        Ok(answer) => Ok(answer?),
        Err(error) => Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            format!("looking for models failed: {error}"),
        )),
    }
}

/// Names of the models in memory.
async fn loaded(fleet: &Fleet) -> Vec<String> {
    let status = fleet.status().await;
    status.models.into_iter().map(|model| model.name).collect()
}

fn describe(model: &StoredModel, loaded: &[String]) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": unix_seconds(model.modified),
        "owned_by": "aluco",
        "aluco": {
            "short_name": model.short_name,
            "size_bytes": model.size_bytes,
            "loaded": loaded.contains(&model.name),
        },
    })
}
