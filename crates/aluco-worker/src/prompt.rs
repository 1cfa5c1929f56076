//! From a prompt in any form to token ids.

mod borders;
mod stored;
mod truncate;

use std::ops::Range;

use aluco_prefix::Store;
use aluco_proto::{
    ChatPrompt, Failure, FailureKind, GenerationSpec, Prompt, RequestId, Token, Truncate,
};
use serde_json::Value;

use crate::{
    fault,
    ffi::{ChatTemplates, EngineError, Model, RenderedChat},
    memo::TokenMemo,
    prompt::stored::Outline,
};

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
    /// Tokens that were left out because the prompt did not fit the context.
    pub dropped_tokens: u32,
}

/// What prompts are made with.
pub(crate) struct PromptMaker<'a> {
    /// Whose vocabulary.
    pub(crate) model: &'a Model,
    /// Its chat template.
    pub(crate) templates: &'a mut ChatTemplates,
    /// What was tokenized before.
    pub(crate) memo: &'a TokenMemo,
    /// What was computed before, maybe by another process.
    pub(crate) store: Option<&'a Store>,
    /// Tokens that one sequence can hold.
    pub(crate) context_tokens: u32,
}

/// Renders and tokenizes, and leaves out what does not fit if that may be.
pub(crate) fn prepare(
    maker: &mut PromptMaker<'_>,
    request: RequestId,
    spec: &GenerationSpec,
) -> Result<PreparedPrompt, Failure> {
    let prepared = match (&spec.prompt, spec.truncate) {
        (Prompt::Chat(_), Some(Truncate::Middle)) => Err(invalid(
            "a conversation has no middle that could be left out, only oldest messages".to_owned(),
        )),
        (Prompt::Text(_) | Prompt::Tokens(_), Some(Truncate::OldestMessages)) => Err(invalid(
            "a plain prompt has no messages that could be left out, only a middle".to_owned(),
        )),
        (Prompt::Chat(chat), _) => maker.prepare_chat(request, spec, chat),
        (Prompt::Text(text), _) => maker
            .tokenize(text, spec)
            .map(|tokens| maker.prepare_plain(spec, tokens)),
        (Prompt::Tokens(tokens), _) => maker
            .check_known(tokens)
            .map(|()| maker.prepare_plain(spec, tokens.clone())),
    }?;
    if prepared.tokens.is_empty() {
        return Err(invalid("the prompt is empty".to_owned()));
    }
    Ok(prepared)
}

/// A rendered and tokenized conversation.
struct Conversation {
    messages: Value,
    rendered: RenderedChat,
    text: String,
    tokens: Vec<Token>,
}

impl PromptMaker<'_> {
    fn prepare_plain(&self, spec: &GenerationSpec, tokens: Vec<Token>) -> PreparedPrompt {
        let whole_tokens = tokens.len();
        let tokens = match spec.truncate {
            Some(_) => truncate::without_middle(tokens, self.fitting_tokens(spec)),
            None => tokens,
        };
        PreparedPrompt {
            dropped_tokens: (whole_tokens - tokens.len()) as u32,
            tokens,
            stops: Vec::new(),
            borders: Vec::new(),
        }
    }

    fn prepare_chat(
        &mut self,
        request: RequestId,
        spec: &GenerationSpec,
        chat: &ChatPrompt,
    ) -> Result<PreparedPrompt, Failure> {
        let whole = self.conversation(spec, chat, chat.messages.clone())?;
        let whole_tokens = whole.tokens.len();
        let Conversation {
            messages,
            rendered,
            text,
            tokens,
        } = match spec.truncate {
            Some(_) => self.shorten(spec, chat, whole)?,
            None => whole,
        };
        if chat.add_generation_prompt {
            let inputs = inputs(&rendered);
            self.memo
                .prompt(request, &spec.namespace, &text, inputs, &tokens);
        }
        Ok(PreparedPrompt {
            dropped_tokens: whole_tokens.saturating_sub(tokens.len()) as u32,
            borders: borders::of_messages(self.model, &rendered, &messages, &tokens),
            stops: rendered.stops,
            tokens,
        })
    }

    /// Renders and tokenizes these messages in place of the conversation's own.
    fn conversation(
        &mut self,
        spec: &GenerationSpec,
        chat: &ChatPrompt,
        messages: Value,
    ) -> Result<Conversation, Failure> {
        let rendered = self
            .templates
            .render(
                &messages,
                &chat.template_arguments,
                chat.add_generation_prompt,
            )
            .map_err(|error| failure(&error))?;
        let text = rendered.text();
        self.check_text(&text, spec)?;
        let tokens = self
            .tokenize_chat(&spec.namespace, &rendered, &text)
            .map_err(|error| failure(&error))?;
        Ok(Conversation {
            messages,
            rendered,
            text,
            tokens,
        })
    }

    /// The conversation without as many of its oldest exchanges as it takes to fit, or as there are.
    fn shorten(
        &mut self,
        spec: &GenerationSpec,
        chat: &ChatPrompt,
        whole: Conversation,
    ) -> Result<Conversation, Failure> {
        let whole_tokens = whole.tokens.len();
        let fitting = self.fitting_tokens(spec);
        let messages = chat.messages.as_array().map_or(&[][..], Vec::as_slice);
        let roles: Vec<&str> = messages
            .iter()
            .map(|message| message["role"].as_str().unwrap_or_default())
            .collect();
        let exchanges = truncate::exchanges(&roles);
        if whole_tokens <= fitting || exchanges.is_empty() {
            return Ok(whole);
        }
        let mut without = |count: usize| {
            let kept = truncate::others(messages.len(), &exchanges[..count]);
            let kept = kept.into_iter().map(|index| messages[index].clone());
            self.conversation(spec, chat, kept.collect())
        };
        let steps = truncate::tokens_to_drop(whole_tokens, fitting);
        let wanted = whole_tokens.saturating_sub(steps);
        let rest = truncate::least(exchanges.len(), &mut without, |it| {
            it.tokens.len() <= wanted
        })?;
        if rest.tokens.len() <= wanted {
            return Ok(rest);
        }
        // What must stay is larger than full steps would leave.
        truncate::least(exchanges.len(), without, |it| it.tokens.len() <= fitting)
    }

    /// Tokenizes a rendered conversation; what was tokenized or generated before keeps its tokens.
    fn tokenize_chat(
        &self,
        namespace: &str,
        rendered: &RenderedChat,
        text: &str,
    ) -> Result<Vec<Token>, EngineError> {
        fault::in_tokenize(text);
        let rest = |begin| tokenize_rest(self.model, rendered, text, begin);
        let known = self.memo.find(namespace, text, &inputs(rendered));
        let known_bytes = known.as_ref().map_or(0, |known| known.bytes);
        if let Some(store) = self.store
            && let Some(outline) = Outline::of(self.model, rendered, text)?
            && let Some(stored) = outline.find(self.model, store, namespace)
            && stored.bytes() > known_bytes
            && let Some(tokens) = stored.complete(rest)?
        {
            return Ok(tokens);
        }
        if let Some(known) = known
            && let Some(rest) = rest(known.bytes)?
        {
            return Ok([known.tokens, rest].concat());
        }
        let parts = parts_from(rendered, 0);
        tokenize_parts(self.model, &parts, text, true)
    }

    fn tokenize(&self, text: &str, spec: &GenerationSpec) -> Result<Vec<Token>, Failure> {
        self.check_text(text, spec)?;
        fault::in_tokenize(text);
        self.model
            .tokenize(text, true, true)
            .map_err(|error| failure(&error))
    }

    fn fitting_tokens(&self, spec: &GenerationSpec) -> usize {
        truncate::fitting_tokens(self.context_tokens, spec.tokens_max)
    }

    /// Refuses a text that is too long to be tokenized, or to fit if nothing may be left out.
    fn check_text(&self, text: &str, spec: &GenerationSpec) -> Result<(), Failure> {
        match spec.truncate {
            Some(_) => check_length(text),
            None => check_fits(self.model, text, self.context_tokens),
        }
    }

    fn check_known(&self, tokens: &[Token]) -> Result<(), Failure> {
        match tokens.iter().find(|token| !self.model.knows(**token)) {
            None => Ok(()),
            Some(token) => Err(invalid(format!(
                "token {token} of the prompt is not in the vocabulary, which has {} tokens",
                self.model.vocabulary()
            ))),
        }
    }
}

/// Tokenizes a rendered conversation from this byte on, where tokens end. `None` if what comes of it cannot be put behind others.
fn tokenize_rest(
    model: &Model,
    rendered: &RenderedChat,
    text: &str,
    begin: usize,
) -> Result<Option<Vec<Token>>, EngineError> {
    let Some(rest) = text.get(begin..) else {
        return Ok(None);
    };
    let tokens = tokenize_parts(model, &parts_from(rendered, begin), rest, false)?;
    // Some vocabularies put a space in front of whatever they are given.
    let spelled = tokens
        .iter()
        .flat_map(|token| model.token_bytes(*token, true));
    Ok(spelled.eq(rest.bytes()).then_some(tokens))
}

/// The ranges of the rendered text that came from messages.
fn inputs(rendered: &RenderedChat) -> Vec<Range<usize>> {
    let mut end = 0;
    let mut inputs: Vec<Range<usize>> = Vec::new();
    for part in &rendered.parts {
        let begin = end;
        end += part.text.len();
        match inputs.last_mut() {
            _ if !part.is_input || begin == end => {}
            Some(last) if last.end == begin => last.end = end,
            _ => inputs.push(begin..end),
        }
    }
    inputs
}

/// The parts of a conversation from this byte on, and whether each came from a message.
fn parts_from(rendered: &RenderedChat, begin: usize) -> Vec<(&str, bool)> {
    let mut skip = begin;
    let mut parts = Vec::with_capacity(rendered.parts.len());
    for part in &rendered.parts {
        let text = part
            .text
            .get(skip.min(part.text.len())..)
            .unwrap_or(&part.text);
        skip = skip.saturating_sub(part.text.len());
        if !text.is_empty() {
            parts.push((text, part.is_input));
        }
    }
    parts
}

/// Tokenizes parts of a conversation so that what people typed cannot pose as the template. `text` is all of them together.
///
/// Control tokens of the template are commands; the same letters inside a message are letters. All is tokenized at once, as
/// llama.cpp's server does and as the model was trained, unless a message holds such letters: then each part is tokenized on its own.
fn tokenize_parts(
    model: &Model,
    parts: &[(&str, bool)],
    text: &str,
    is_start: bool,
) -> Result<Vec<Token>, EngineError> {
    let control_tokens = |tokens: &[Token]| {
        tokens
            .iter()
            .filter(|token| model.is_control(**token))
            .count()
    };
    let whole = model.tokenize(text, is_start, true)?;
    let mut from_template = control_tokens(&model.tokenize("", is_start, true)?);
    for (part, _) in parts.iter().filter(|(_, is_input)| !is_input) {
        from_template += control_tokens(&model.tokenize(part, false, true)?);
    }
    if control_tokens(&whole) == from_template {
        return Ok(whole);
    }
    let mut tokens = Vec::with_capacity(whole.len());
    for (index, (part, is_input)) in parts.iter().enumerate() {
        tokens.extend(model.tokenize(part, is_start && index == 0, !is_input)?);
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
