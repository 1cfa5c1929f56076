//! `POST /v1/chat/completions`.

use aluco_fleet::{
    Recovery,
    proto::{ChatPrompt, GenerationEvent, GenerationSpec, Prompt, TokenLogprob, Truncate},
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Choice, Envelope, collect, finish_reason, logprobs, messages, request::Body};
use crate::{
    app::App,
    body::JsonBody,
    error::ApiError,
    guard::Caller,
    hygiene::Applied,
    resume::Asked,
    sse::{Form, respond},
    stream::{Feed, Totals},
};

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked,
    JsonBody(mut body): JsonBody<Body>,
) -> Result<Response, ApiError> {
    caller.may_use(&body.model)?;
    body.refuse_unsupported()?;
    let mut spec = spec(&mut body)?;
    if let Prompt::Chat(chat) = &mut spec.prompt {
        let messages = chat.messages.take();
        let config = app.config();
        let (messages, applied) = config.prompt_rules.normalise(messages).await;
        chat.messages = messages;
        for Applied { rule, messages } in applied {
            app.metrics().rule_applied(rule, messages);
            let request = &caller.request_id;
            tracing::debug!(target: "aluco::access", request, rule, messages, "prompt rule applied");
        }
    }
    let form = ChatForm {
        envelope: Envelope::new(
            "chatcmpl",
            if body.is_streamed() {
                "chat.completion.chunk"
            } else {
                "chat.completion"
            },
            body.model.clone(),
            body.includes_usage(),
        ),
        wants_logprobs: spec.logprobs.is_some(),
        choices: vec![Choice::default(); spec.choices as usize],
    };
    let feed = Feed::new(&app, &caller, &body.model, body.options(), vec![spec]);
    if body.is_streamed() {
        let is_resumable = app.makes_resumable(body.resumable.or(asked));
        return respond(&app, &caller, feed, form, is_resumable).await;
    }
    Ok(Json(whole(feed, form).await?).into_response())
}

fn spec(body: &mut Body) -> Result<GenerationSpec, ApiError> {
    let Some(messages) = body.messages.take() else {
        return Err(ApiError::invalid_value("messages", "there are no messages"));
    };
    let mut template_arguments = body.chat_template_kwargs.take().unwrap_or_default();
    for (name, argument) in &template_arguments {
        messages::check_nesting(&format!("chat_template_kwargs.{name}"), argument)?;
    }
    // Templates of reasoning models read it under this very name.
    if let Some(effort) = body.reasoning_effort.take() {
        template_arguments
            .entry("reasoning_effort")
            .or_insert_with(|| effort.into());
    }
    Ok(GenerationSpec {
        prompt: Prompt::Chat(ChatPrompt {
            messages: messages::checked(messages)?,
            template_arguments,
            add_generation_prompt: true,
        }),
        sampling: body.sampling()?,
        choices: body.choices()?,
        tokens_max: body.tokens_max()?,
        truncate: body.may_truncate().then_some(Truncate::OldestMessages),
        stop: body.stops()?,
        logprobs: body.chat_logprobs()?,
        client: String::new(),
        namespace: String::new(),
    })
}

/// The reply in one piece.
async fn whole(mut feed: Feed, mut form: ChatForm) -> Result<Value, ApiError> {
    collect(&mut feed, &mut form.choices, |_, choice| choice as usize).await?;
    let choices = form.choices.iter().enumerate();
    let choices: Vec<_> = choices
        .map(|(index, choice)| {
            json!({
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": null},
                "logprobs": form.logprobs(&choice.logprobs),
                "finish_reason": choice.finish,
            })
        })
        .collect();
    Ok(form.envelope.close(&choices, feed.totals()))
}

struct ChatForm {
    envelope: Envelope,
    wants_logprobs: bool,
    choices: Vec<Choice>,
}

impl ChatForm {
    fn logprobs(&self, logprobs: &[TokenLogprob]) -> Value {
        if self.wants_logprobs {
            logprobs::of_chat(logprobs)
        } else {
            Value::Null
        }
    }

    fn chunk(&self, choice: u32, delta: Delta, logprobs: Value) -> String {
        self.envelope.chunk(ChatChoice {
            index: choice,
            delta,
            logprobs,
            finish_reason: None,
        })
    }
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Value,
    finish_reason: Option<&'a str>,
}

/// What is new in a message.
#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Form for ChatForm {
    fn chunks(
        &mut self,
        _: usize,
        event: &GenerationEvent,
        recovery: Option<&Recovery>,
    ) -> Vec<String> {
        match event {
            GenerationEvent::Started { .. } => (0..self.choices.len() as u32)
                .map(|choice| {
                    let delta = Delta {
                        role: Some("assistant"),
                        content: Some(""),
                    };
                    self.chunk(choice, delta, Value::Null)
                })
                .collect(),
            GenerationEvent::Delta {
                choice,
                text,
                logprobs,
                ..
            } if !text.is_empty() || !logprobs.is_empty() => {
                let delta = Delta {
                    content: Some(text),
                    ..Delta::default()
                };
                vec![self.chunk(*choice, delta, self.logprobs(logprobs))]
            }
            GenerationEvent::Finished { choice, reason } => {
                let end = ChatChoice {
                    index: *choice,
                    delta: Delta::default(),
                    logprobs: Value::Null,
                    finish_reason: Some(finish_reason(reason)),
                };
                vec![self.envelope.end(end, recovery)]
            }
            _ => Vec::new(),
        }
    }

    fn last_chunk(&self, totals: &Totals) -> Option<Value> {
        let envelope = &self.envelope;
        envelope.include_usage.then(|| envelope.close(&[], totals))
    }
}
