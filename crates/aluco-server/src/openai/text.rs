//! `POST /v1/completions`: plain text or token ids, one prompt or several.

use aluco_fleet::{
    Recovery,
    proto::{GenerationEvent, GenerationSpec, Prompt, TokenLogprob, Truncate},
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Choice, Envelope, collect, finish_reason, logprobs, request::Body};
use crate::{
    app::App,
    body::JsonBody,
    error::ApiError,
    guard::Caller,
    resume::Asked,
    sse::{Form, respond},
    stream::{Feed, Totals},
};

/// Most prompts of one request.
const PROMPTS_MAX: usize = 256;

pub(crate) async fn complete(
    State(app): State<App>,
    caller: Caller,
    Asked(asked): Asked,
    JsonBody(mut body): JsonBody<Body>,
) -> Result<Response, ApiError> {
    caller.may_use(&body.model)?;
    body.refuse_unsupported()?;
    let specs = specs(&mut body)?;
    let wants_echo = body.echo.unwrap_or(false);
    if wants_echo && specs[0].logprobs.is_some() {
        return Err(ApiError::unsupported(
            "logprobs",
            "log probabilities of an echoed prompt are not supported yet",
        ));
    }
    let echoes = if wants_echo {
        echoes(&app, &body.model, &specs).await?
    } else {
        vec![String::new(); specs.len()]
    };
    let per_prompt = specs[0].choices;
    let form = TextForm {
        envelope: Envelope::new(
            "cmpl",
            "text_completion",
            body.model.clone(),
            body.includes_usage(),
        ),
        wants_logprobs: specs[0].logprobs.is_some(),
        per_prompt,
        offsets: echoes
            .iter()
            .flat_map(|echo| std::iter::repeat_n(echo.chars().count(), per_prompt as usize))
            .collect(),
        echoes,
    };
    let feed = Feed::new(&app, &caller, &body.model, body.options(), specs);
    if body.is_streamed() {
        let is_resumable = app.makes_resumable(body.resumable.or(asked));
        return respond(&app, &caller, feed, form, is_resumable).await;
    }
    Ok(Json(whole(feed, &form).await?).into_response())
}

fn specs(body: &mut Body) -> Result<Vec<GenerationSpec>, ApiError> {
    let Some(prompts) = body.prompt.take() else {
        return Err(ApiError::invalid_value("prompt", "there is no prompt"));
    };
    let prompts = prompts.into_prompts();
    if prompts.is_empty() || prompts.len() > PROMPTS_MAX {
        let problem = format!("{} prompts; 1 to {PROMPTS_MAX} can be had", prompts.len());
        return Err(ApiError::invalid_value("prompt", problem));
    }
    if prompts.contains(&Prompt::Tokens(Vec::new())) {
        return Err(ApiError::invalid_value("prompt", "the prompt is empty"));
    }
    let spec = GenerationSpec {
        prompt: Prompt::Tokens(Vec::new()),
        sampling: body.sampling()?,
        choices: body.choices()?,
        // OpenAI's default for this endpoint is 16, which no local server has followed.
        tokens_max: body.tokens_max()?,
        truncate: body.may_truncate().then_some(Truncate::Middle),
        stop: body.stops()?,
        logprobs: body.text_logprobs()?,
        client: String::new(),
        namespace: String::new(),
    };
    let prompts = prompts.into_iter();
    Ok(prompts
        .map(|prompt| GenerationSpec {
            prompt,
            ..spec.clone()
        })
        .collect())
}

/// What `echo` puts before each answer.
async fn echoes(app: &App, model: &str, specs: &[GenerationSpec]) -> Result<Vec<String>, ApiError> {
    let mut echoes = Vec::with_capacity(specs.len());
    for spec in specs {
        echoes.push(match &spec.prompt {
            Prompt::Text(text) => text.clone(),
            Prompt::Tokens(tokens) => app.fleet().detokenize(model, tokens.clone()).await?,
            Prompt::Chat(_) => String::new(),
        });
    }
    Ok(echoes)
}

/// The reply in one piece.
async fn whole(mut feed: Feed, form: &TextForm) -> Result<Value, ApiError> {
    let mut choices = vec![Choice::default(); form.offsets.len()];
    collect(&mut feed, &mut choices, |prompt, choice| {
        form.index(prompt, choice)
    })
    .await?;
    let choices = choices.into_iter().enumerate();
    let choices: Vec<_> = choices
        .map(|(index, choice)| {
            let echo = &form.echoes[index / form.per_prompt as usize];
            json!({
                "index": index,
                "text": format!("{echo}{}", choice.text),
                "logprobs": form.logprobs(&choice.logprobs, form.offsets[index]),
                "finish_reason": choice.finish,
            })
        })
        .collect();
    Ok(form.envelope.close(&choices, feed.totals()))
}

struct TextForm {
    envelope: Envelope,
    wants_logprobs: bool,
    /// Choices of one prompt.
    per_prompt: u32,
    /// Text before each prompt's answers.
    echoes: Vec<String>,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
}

impl TextForm {
    /// A choice's number among those of all prompts.
    fn index(&self, prompt: usize, choice: u32) -> usize {
        prompt * self.per_prompt as usize + choice as usize
    }

    fn logprobs(&self, logprobs: &[TokenLogprob], offset: usize) -> Value {
        if self.wants_logprobs {
            logprobs::of_text(logprobs, offset)
        } else {
            Value::Null
        }
    }

    fn chunk(&self, index: usize, text: &str, logprobs: Value) -> String {
        self.envelope.chunk(TextChoice {
            index,
            text,
            logprobs,
            finish_reason: None,
        })
    }
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Value,
    finish_reason: Option<&'a str>,
}

impl Form for TextForm {
    fn chunks(
        &mut self,
        prompt: usize,
        event: &GenerationEvent,
        recovery: Option<&Recovery>,
    ) -> Vec<String> {
        match event {
            GenerationEvent::Started { .. } if !self.echoes[prompt].is_empty() => {
                let echo = &self.echoes[prompt];
                (0..self.per_prompt)
                    .map(|choice| self.chunk(self.index(prompt, choice), echo, Value::Null))
                    .collect()
            }
            GenerationEvent::Delta {
                choice,
                text,
                logprobs,
                ..
            } if !text.is_empty() || !logprobs.is_empty() => {
                let index = self.index(prompt, *choice);
                let logprobs = self.logprobs(logprobs, self.offsets[index]);
                self.offsets[index] += text.chars().count();
                vec![self.chunk(index, text, logprobs)]
            }
            GenerationEvent::Finished { choice, reason } => {
                let end = TextChoice {
                    index: self.index(prompt, *choice),
                    text: "",
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
