//! From a prompt in any form to token ids.

use aluco_proto::{Failure, FailureKind, Prompt, Token};

use crate::ffi::{ChatTemplates, EngineError, Model, RenderedChat};

/// Longest text that is tokenized: about a million tokens. The tokenizer's stack is made for it.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// A prompt ready to compute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedPrompt {
    /// Token ids; at least one, all within the vocabulary.
    pub tokens: Vec<Token>,
    /// Strings at which the chat template's answers end.
    pub stops: Vec<String>,
    /// Numbers of tokens after which other prompts often go another way, in rising order: before the first message of a user, before the last
    /// one, before the header of the answer. Each lies behind a control token, so that what follows cannot change it.
    pub borders: Vec<u32>,
}

/// Renders and tokenizes.
pub fn prepare(
    model: &Model,
    templates: &mut ChatTemplates,
    prompt: &Prompt,
    context_tokens: u32,
) -> Result<PreparedPrompt, Failure> {
    let mut stops = Vec::new();
    let mut borders = Vec::new();
    let tokens = match prompt {
        Prompt::Tokens(tokens) => {
            if let Some(token) = tokens.iter().find(|token| !model.knows(**token)) {
                return Err(invalid(format!(
                    "token {token} of the prompt is not in the vocabulary, which has {} tokens",
                    model.vocabulary()
                )));
            }
            tokens.clone()
        }
        Prompt::Text(text) => {
            check_fits(model, text, context_tokens)?;
            model
                .tokenize(text, true, true)
                .map_err(|error| failure(&error))?
        }
        Prompt::Chat(chat) => {
            let rendered = templates
                .render(
                    &chat.messages,
                    &chat.template_arguments,
                    chat.add_generation_prompt,
                )
                .map_err(|error| failure(&error))?;
            let text = rendered.text();
            check_fits(model, &text, context_tokens)?;
            let tokens = tokenize_chat(model, &rendered, &text).map_err(|error| failure(&error))?;
            borders = message_borders(model, &rendered, &chat.messages, &tokens);
            stops = rendered.stops;
            tokens
        }
    };
    if tokens.is_empty() {
        return Err(invalid("the prompt is empty".to_owned()));
    }
    Ok(PreparedPrompt {
        tokens,
        stops,
        borders,
    })
}

/// Where prompts that begin alike part: at their messages.
fn message_borders(
    model: &Model,
    rendered: &RenderedChat,
    messages: &serde_json::Value,
    tokens: &[Token],
) -> Vec<u32> {
    let offsets = border_offsets(rendered, messages);
    if offsets.is_empty() {
        return Vec::new();
    }
    let mut borders = Vec::new();
    let mut wanted = offsets.into_iter().peekable();
    let (mut bytes, mut behind_control) = (0, None);
    for (index, token) in tokens.iter().enumerate() {
        // The text of what the tokenizer put in front on its own (BOS) may be part of the template or not: a few bytes do not
        // matter, as the last control token before the border is what counts.
        bytes += model.token_bytes(*token, true).len();
        while let Some((offset, side)) = wanted.peek().copied() {
            let border = match side {
                Side::Before if bytes >= offset => behind_control,
                Side::After if bytes > offset && model.is_control(*token) => Some(index as u32 + 1),
                _ => break,
            };
            borders.extend(border);
            wanted.next();
        }
        if model.is_control(*token) {
            behind_control = Some(index as u32 + 1);
        }
    }
    borders.sort_unstable();
    borders.dedup();
    borders
}

/// On which side of a place in the text the control token is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// Places in the rendered text, in bytes and in order: where the first and the last message of a user begin, and where the last message ends.
fn border_offsets(rendered: &RenderedChat, messages: &serde_json::Value) -> Vec<(usize, Side)> {
    let messages = messages.as_array().map_or(&[][..], Vec::as_slice);
    let users = messages.iter().filter(|message| message["role"] == "user");
    let texts: Vec<&str> = users
        .filter_map(|message| message["content"].as_str())
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    let mut offset = 0;
    let mut inputs = Vec::new();
    for part in &rendered.parts {
        if part.is_input && !part.text.trim().is_empty() {
            inputs.push((offset, part.text.trim(), offset + part.text.len()));
        }
        offset += part.text.len();
    }
    let place = |text: &&str, from_end: bool| {
        let mut found = inputs.iter().filter(|(_, input, _)| input.contains(*text));
        let found = if from_end {
            found.next_back()
        } else {
            found.next()
        };
        found.map(|(begin, ..)| (*begin, Side::Before))
    };
    let mut offsets: Vec<(usize, Side)> = texts
        .first()
        .and_then(|text| place(text, false))
        .into_iter()
        .chain(texts.last().and_then(|text| place(text, true)))
        .chain(inputs.last().map(|(.., end)| (*end, Side::After)))
        .collect();
    offsets.sort_by_key(|(offset, side)| (*offset, *side == Side::After));
    offsets.dedup();
    offsets
}

/// Tokenizes a rendered conversation so that what people typed cannot pose as the template.
///
/// Control tokens of the template are commands; the same letters inside a message are letters. The whole prompt is tokenized at once, as
/// llama.cpp's server does and as the model was trained, unless a message holds such letters: then each part is tokenized on its own.
fn tokenize_chat(
    model: &Model,
    rendered: &RenderedChat,
    text: &str,
) -> Result<Vec<Token>, EngineError> {
    let control_tokens = |tokens: &[Token]| {
        tokens
            .iter()
            .filter(|token| model.is_control(**token))
            .count()
    };
    let whole = model.tokenize(text, true, true)?;
    let added = control_tokens(&model.tokenize("", true, true)?);
    let mut from_template = added;
    for part in rendered.parts.iter().filter(|part| !part.is_input) {
        from_template += control_tokens(&model.tokenize(&part.text, false, true)?);
    }
    if control_tokens(&whole) == from_template {
        return Ok(whole);
    }
    let mut tokens = Vec::with_capacity(whole.len());
    for (index, part) in rendered.parts.iter().enumerate() {
        tokens.extend(model.tokenize(&part.text, index == 0, !part.is_input)?);
    }
    Ok(tokens)
}

/// Refuses a text that cannot fit the context, before it is tokenized, which takes a second per megabyte: each token covers some bytes at
/// most, so there are at least so many tokens.
fn check_fits(model: &Model, text: &str, context_tokens: u32) -> Result<(), Failure> {
    let tokens_min = (text.len() / model.token_bytes_max().max(1)) as u32;
    if tokens_min > context_tokens {
        return Err(Failure {
            kind: FailureKind::ContextExceeded {
                prompt_tokens: tokens_min,
                context_tokens,
            },
            message: format!(
                "the prompt has more than {tokens_min} tokens and the context holds {context_tokens}; shorten it, or load the model with a larger context"
            ),
        });
    }
    check_length(text)
}

/// Refuses a text that the tokenizer's stack could not hold.
pub fn check_length(text: &str) -> Result<(), Failure> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(invalid(format!(
        "the text has {} bytes, and {TEXT_BYTES_MAX} are the most",
        text.len()
    )))
}

/// The failure that a caller sees for an engine error outside of a step.
pub fn failure(error: &EngineError) -> Failure {
    let kind = match error {
        EngineError::Template(_) | EngineError::NulByte(_) => FailureKind::InvalidRequest,
        EngineError::Load { .. } => FailureKind::LoadFailed,
        EngineError::Context { .. } => FailureKind::OutOfMemory,
        EngineError::Failed { .. } => FailureKind::Engine,
    };
    Failure {
        kind,
        message: error.to_string(),
    }
}

/// A failure that the caller can mend.
pub fn invalid(message: String) -> Failure {
    Failure {
        kind: FailureKind::InvalidRequest,
        message,
    }
}
