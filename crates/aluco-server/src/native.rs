//! Aluco's own endpoints, and those that every server has.

use aluco_fleet::{
    FleetStatus,
    proto::{ChatPrompt, Token},
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{app::App, body::JsonBody, error::ApiError, guard::Caller, openai::messages};

pub(crate) async fn about(State(app): State<App>) -> String {
    format!(
        "Aluco {}. The OpenAI API is at /v1, the state at /aluco/v1/status, metrics at /metrics.\n",
        app.config().version
    )
}

pub(crate) async fn health(State(app): State<App>) -> Json<Value> {
    Json(json!({"status": "ok", "service": "aluco", "version": app.config().version}))
}

pub(crate) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let status = app.fleet().status().await;
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let telemetry = app.telemetry().await;
    let machine = telemetry.as_ref().map_or(&[][..], |it| &it.gauges);
    let text = app.metrics().text(&status, machine);
    ([(header::CONTENT_TYPE, form)], text)
}

pub(crate) async fn status(State(app): State<App>) -> Json<FleetStatus> {
    Json(app.fleet().status().await)
}

#[derive(Deserialize)]
pub(crate) struct ModelBody {
    model: String,
}

pub(crate) async fn unload(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<ModelBody>,
) -> Result<Json<Value>, ApiError> {
    caller.may_use(&body.model)?;
    let unloaded = app.fleet().unload(&body.model).await?;
    Ok(Json(json!({"unloaded": unloaded})))
}

#[derive(Deserialize)]
pub(crate) struct TokenizeBody {
    model: String,
    text: String,
    #[serde(default = "yes")]
    add_special: bool,
    #[serde(default = "yes")]
    parse_special: bool,
}

fn yes() -> bool {
    true
}

pub(crate) async fn tokenize(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Json<Value>, ApiError> {
    caller.may_use(&body.model)?;
    let tokens = app
        .fleet()
        .tokenize(&body.model, body.text, body.add_special, body.parse_special)
        .await?;
    Ok(Json(json!({"tokens": tokens})))
}

#[derive(Deserialize)]
pub(crate) struct DetokenizeBody {
    model: String,
    tokens: Vec<Token>,
}

pub(crate) async fn detokenize(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Json<Value>, ApiError> {
    caller.may_use(&body.model)?;
    let text = app.fleet().detokenize(&body.model, body.tokens).await?;
    Ok(Json(json!({"text": text})))
}

#[derive(Deserialize)]
pub(crate) struct RenderBody {
    model: String,
    messages: Vec<Value>,
    #[serde(default)]
    chat_template_kwargs: serde_json::Map<String, Value>,
}

/// The prompt that a conversation becomes, for those who wonder what the model really reads.
pub(crate) async fn render(
    State(app): State<App>,
    caller: Caller,
    JsonBody(body): JsonBody<RenderBody>,
) -> Result<Json<Value>, ApiError> {
    caller.may_use(&body.model)?;
    for (name, argument) in &body.chat_template_kwargs {
        messages::check_nesting(&format!("chat_template_kwargs.{name}"), argument)?;
    }
    let messages = messages::checked(body.messages)?;
    let config = app.config();
    let (messages, _) = config.prompt_rules.normalise(messages).await;
    let chat = ChatPrompt {
        messages,
        template_arguments: body.chat_template_kwargs,
        add_generation_prompt: true,
    };
    let prompt = app.fleet().render_chat(&body.model, chat).await?;
    Ok(Json(json!({"prompt": prompt})))
}

/// The reply still gets out: connections end gracefully.
pub(crate) async fn shutdown(State(app): State<App>) -> (StatusCode, Json<Value>) {
    tracing::info!("a client asked for the end");
    app.stop().cancel();
    (StatusCode::ACCEPTED, Json(json!({"status": "stopping"})))
}
