//! The model's chat template: messages in, prompt text out.

use std::{ffi::CString, ptr::NonNull};

use llama_cpp_sys_4 as sys;
use serde::Deserialize;

use super::{EngineError, Model, copied};

/// The chat template of one model.
pub struct ChatTemplates {
    templates: NonNull<sys::chat_shim_templates>,
    // After `templates`, which refer to its vocabulary.
    _model: Model,
}

// SAFETY: the templates have no thread affinity, and `&mut self` keeps each call to one thread at a time.
unsafe impl Send for ChatTemplates {}

impl Drop for ChatTemplates {
    fn drop(&mut self) {
        // SAFETY: made by chat_shim_templates_init and freed only here.
        unsafe { sys::chat_shim_templates_free(self.templates.as_ptr()) };
    }
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    /// The text in order; concatenated it is the prompt.
    pub parts: Vec<ChatPart>,
    /// Strings at which this template's answers end, beyond the model's own end tokens.
    pub stops: Vec<String>,
}

/// A piece of a rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChatPart {
    /// The text.
    pub text: String,
    /// True if it came from a message rather than from the template: control tokens in it are letters, not commands.
    pub is_input: bool,
}

impl RenderedChat {
    /// The whole prompt.
    pub fn text(&self) -> String {
        self.parts.iter().map(|part| part.text.as_str()).collect()
    }
}

impl ChatTemplates {
    /// The model's own template, or `source` (Jinja) in its place. A model without one gets ChatML.
    pub fn new(model: &Model, source: Option<&str>) -> Result<Self, EngineError> {
        let source = source
            .map(|source| {
                CString::new(source).map_err(|_| EngineError::NulByte("the chat template"))
            })
            .transpose()?;
        // SAFETY: the model lives as long as the templates (it is kept beside them); the source is terminated or NULL.
        let templates = unsafe {
            sys::chat_shim_templates_init(
                model.as_ptr(),
                source
                    .as_ref()
                    .map_or(std::ptr::null(), |source| source.as_ptr()),
            )
        };
        let templates = NonNull::new(templates).ok_or_else(last_error)?;
        Ok(Self {
            templates,
            _model: model.clone(),
        })
    }

    /// Renders messages in OpenAI's form (a JSON array) with further template variables (a JSON object).
    pub fn render(
        &mut self,
        messages: &serde_json::Value,
        arguments: &serde_json::Map<String, serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<RenderedChat, EngineError> {
        // serde_json escapes NUL, so these can hold none.
        let json = |value: String| {
            CString::new(value).map_err(|_| EngineError::NulByte("the conversation"))
        };
        let messages = json(messages.to_string())?;
        let enable_thinking = arguments
            .get("enable_thinking")
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(true);
        // The shim hands strings on as they are, and llama.cpp reads each value as JSON.
        let arguments: serde_json::Map<_, _> = arguments
            .iter()
            .map(|(name, value)| {
                let value = if value.is_string() {
                    value.to_string().into()
                } else {
                    value.clone()
                };
                (name.clone(), value)
            })
            .collect();
        let arguments = json(serde_json::to_string(&arguments).unwrap_or_default())?;
        let params = sys::chat_shim_apply_params {
            messages_json: messages.as_ptr(),
            tools_json: std::ptr::null(),
            grammar: std::ptr::null(),
            json_schema: std::ptr::null(),
            template_kwargs_json: arguments.as_ptr(),
            tool_choice: 0,
            reasoning_format: 0,
            add_generation_prompt,
            enable_thinking,
            parallel_tool_calls: false,
            use_jinja: true,
            add_bos: true,
            add_eos: false,
            force_pure_content: true,
        };
        let mut packed = vec![0_u8; 16 * 1024];
        let result = loop {
            // SAFETY: an all-zero result is valid (offsets, flags and a NULL pointer); the strings of `params` live during the call and
            // the buffer is as long as said.
            let (status, result, needed) = unsafe {
                let mut result: sys::chat_shim_apply_result = std::mem::zeroed();
                let mut needed = 0;
                let status = sys::chat_shim_templates_apply(
                    self.templates.as_ptr(),
                    &raw const params,
                    &raw mut result,
                    packed.as_mut_ptr().cast(),
                    packed.len(),
                    &raw mut needed,
                );
                // Output is not parsed here, so the parser is not kept. NULL is allowed.
                sys::chat_shim_parser_free(result.parser);
                (status, result, needed)
            };
            match status {
                sys::LLAMA_SHIM_OK => break result,
                sys::LLAMA_SHIM_BUFFER_TOO_SMALL if needed > packed.len() => {
                    packed.resize(needed, 0);
                }
                _ => return Err(last_error()),
            }
        };
        Ok(RenderedChat {
            parts: parse(&packed, result.prompt_parts_off)?,
            stops: parse(&packed, result.additional_stops_off)?,
        })
    }
}

/// Reads the JSON of one region of the packed buffer.
fn parse<T: for<'de> Deserialize<'de>>(packed: &[u8], offset: usize) -> Result<T, EngineError> {
    let region = packed.get(offset..).unwrap_or_default();
    let end = region
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(region.len());
    serde_json::from_slice(&region[..end])
        .map_err(|error| EngineError::Template(format!("unreadable result: {error}")))
}

fn last_error() -> EngineError {
    // SAFETY: the shim keeps the text of the last failure on this thread.
    EngineError::Template(unsafe { copied(sys::llama_shim_last_error()) })
}
