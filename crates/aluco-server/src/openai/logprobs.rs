//! Log probabilities in the two forms that OpenAI gives them.

use aluco_fleet::proto::TokenLogprob;
use serde_json::{Map, Value, json};

/// The form of chats: one object per token.
pub(super) fn of_chat(logprobs: &[TokenLogprob]) -> Value {
    let content: Vec<_> = logprobs
        .iter()
        .map(|entry| {
            let top: Vec<_> = entry
                .top
                .iter()
                .map(|other| token(&other.bytes, other.logprob))
                .collect();
            let mut object = token(&entry.bytes, entry.logprob);
            object["top_logprobs"] = top.into();
            object
        })
        .collect();
    json!({"content": content, "refusal": null})
}

fn token(bytes: &[u8], logprob: f32) -> Value {
    json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
}

/// The form of plain completions: parallel lists. `offset` is the number of characters before the first token.
pub(super) fn of_text(logprobs: &[TokenLogprob], mut offset: usize) -> Value {
    let mut tokens = Vec::with_capacity(logprobs.len());
    let mut values = Vec::with_capacity(logprobs.len());
    let mut tops = Vec::with_capacity(logprobs.len());
    let mut offsets = Vec::with_capacity(logprobs.len());
    for entry in logprobs {
        let text = String::from_utf8_lossy(&entry.bytes);
        let top: Map<String, Value> = entry
            .top
            .iter()
            .map(|other| {
                let text = String::from_utf8_lossy(&other.bytes).into_owned();
                (text, json!(other.logprob))
            })
            .collect();
        offsets.push(offset);
        offset += text.chars().count();
        tokens.push(text.into_owned());
        values.push(entry.logprob);
        tops.push(top);
    }
    json!({
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use aluco_fleet::proto::Alternative;

    use super::*;

    fn entry() -> TokenLogprob {
        TokenLogprob {
            token: 7,
            bytes: "é".into(),
            logprob: -0.5,
            top: vec![Alternative {
                token: 8,
                bytes: vec![0xc3],
                logprob: -1.0,
            }],
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_given_as_bytes() {
        let json = of_chat(&[entry()]);
        assert_eq!(
            json["content"][0],
            json!({
                "token": "é", "logprob": -0.5, "bytes": [0xc3, 0xa9],
                "top_logprobs": [{"token": "\u{fffd}", "logprob": -1.0, "bytes": [0xc3]}],
            })
        );
    }

    #[test]
    fn offsets_count_characters() {
        let json = of_text(&[entry(), entry()], 3);
        assert_eq!(json["text_offset"], json!([3, 4]));
        assert_eq!(json["tokens"], json!(["é", "é"]));
    }
}
