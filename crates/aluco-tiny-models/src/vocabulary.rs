//! A vocabulary of bytes, for byte-pair encoding without a single pair.

use aluco_model::gguf::{Array, Value, ValueType, writer::Writer};

/// Tokens of control, behind those of the 256 bytes.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Number of tokens.
pub(crate) const TOKENS: u64 = 256 + CONTROL.len() as u64;

const END_OF_TEXT: u32 = 256;
const END_OF_MESSAGE: u32 = 258;

const NORMAL: i32 = 1;
const CONTROL_TYPE: i32 = 3;

const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
    {% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Adds the tokenizer's keys.
pub(crate) fn describe(writer: Writer) -> Writer {
    let tokens: Vec<String> = (0..=255)
        .map(|byte| char_of(byte).to_string())
        .chain(CONTROL.map(String::from))
        .collect();
    let mut types = vec![NORMAL; 256];
    types.extend([CONTROL_TYPE; CONTROL.len()]);
    // llama.cpp wants the list of pairs, even an empty one.
    let merges = Value::Array(Array {
        element_type: ValueType::String,
        length: 0,
        items: Vec::new(),
    });
    writer
        .key("tokenizer.ggml.model", "gpt2")
        .key("tokenizer.ggml.pre", "gpt-2")
        .key("tokenizer.ggml.tokens", tokens)
        .key("tokenizer.ggml.token_type", types)
        .key("tokenizer.ggml.merges", merges)
        .key("tokenizer.ggml.bos_token_id", END_OF_TEXT)
        .key("tokenizer.ggml.eos_token_id", END_OF_MESSAGE)
        .key("tokenizer.ggml.padding_token_id", END_OF_TEXT)
        .key("tokenizer.ggml.add_bos_token", false)
        .key("tokenizer.chat_template", CHAT_TEMPLATE)
}

/// Whether a token is text that a test can print and compare: ASCII, no control characters but the line break.
pub(crate) fn is_plain(token: u64) -> bool {
    matches!(token, 0x0a | 0x20..=0x7e)
}

/// The character that stands for a byte in vocabularies of this kind, which have no room for spaces and the like: a printable byte
/// of Latin-1 is itself, the others are numbered from U+0100 on. As in GPT-2's `bytes_to_unicode`.
fn char_of(byte: u8) -> char {
    let is_itself = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if is_itself(byte) {
        return byte.into();
    }
    let others_before = (0..byte).filter(|byte| !is_itself(*byte)).count() as u32;
    char::from_u32(0x100 + others_before).expect("U+0100 to U+0143 are characters")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::char_of;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let chars: HashSet<char> = (0..=255).map(char_of).collect();
        assert_eq!(chars.len(), 256);
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
        assert_eq!(char_of(0xad), 'Ń');
    }
}
