//! Where prompts that begin alike part: at their messages.

use aluco_proto::Token;

use crate::ffi::{Model, RenderedChat};

/// Numbers of tokens behind which other conversations go another way: before the first message of a user, before the last one, and before the
/// header of the answer.
pub(super) fn of_messages(
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
