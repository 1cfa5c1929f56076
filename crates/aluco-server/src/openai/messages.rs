//! Messages of a conversation: checked, and brought into the form that chat templates expect.

use serde_json::{Value, json};

use crate::error::ApiError;

const ROLES: [&str; 6] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
];

/// Deepest nesting of what a client sends on to the chat template. The worker reads it inside of other objects, and JSON parsers
/// end somewhere beyond a hundred.
const NESTING_MAX: usize = 64;

/// Refuses what is nested too deeply.
pub(crate) fn check_nesting(param: &str, value: &Value) -> Result<(), ApiError> {
    fn is_within(value: &Value, depth: usize) -> bool {
        depth > 0
            && match value {
                Value::Array(items) => items.iter().all(|item| is_within(item, depth - 1)),
                Value::Object(fields) => fields.values().all(|item| is_within(item, depth - 1)),
                _ => true,
            }
    }
    if is_within(value, NESTING_MAX) {
        return Ok(());
    }
    Err(ApiError::invalid_value(
        param,
        format!("{param} is nested more than {NESTING_MAX} deep"),
    ))
}

/// The messages as one JSON array. Text parts are joined by line ends, as llama.cpp does for templates that know only strings;
/// `developer` becomes `system`, the older name of the same role, which is the one that templates know.
pub(crate) fn checked(messages: Vec<Value>) -> Result<Value, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid_value(
            "messages",
            "there is no message to answer",
        ));
    }
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(index, message)| checked_one(index, message))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

fn checked_one(index: usize, mut message: Value) -> Result<Value, ApiError> {
    let at = format!("messages[{index}]");
    check_nesting(&at, &message)?;
    let Some(fields) = message.as_object_mut() else {
        return Err(ApiError::invalid_value(at, "a message is an object"));
    };
    let param = format!("{at}.role");
    let role = match fields.get("role") {
        Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(Value::String(role)) => {
            let roles = ROLES.join(", ");
            let problem = format!("there is no role {role:?}; the roles are {roles}");
            return Err(ApiError::invalid_value(param, problem));
        }
        Some(_) => return Err(ApiError::invalid_value(param, "a role is a string")),
        None => return Err(ApiError::invalid_value(param, "the message has no role")),
    };
    if role == "developer" {
        fields.insert("role".to_owned(), "system".into());
    }
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => joined(&at, &parts)?,
        // A message that only calls tools has none.
        None | Some(Value::Null) if role == "assistant" => String::new(),
        None | Some(Value::Null) => {
            let param = format!("{at}.content");
            return Err(ApiError::invalid_value(param, "the message has no content"));
        }
        Some(_) => {
            return Err(ApiError::invalid_value(
                format!("{at}.content"),
                "content is a string or a list of parts",
            ));
        }
    };
    fields.insert("content".to_owned(), json!(content));
    Ok(message)
}

fn joined(at: &str, parts: &[Value]) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let at = format!("{at}.content[{index}]");
        match (part.get("type").and_then(Value::as_str), part.get("text")) {
            (Some("text" | "input_text"), Some(Value::String(text))) => texts.push(text.as_str()),
            (Some("text" | "input_text"), _) => {
                let param = format!("{at}.text");
                return Err(ApiError::invalid_value(param, "a text part has a text"));
            }
            (Some(kind), _) => {
                let problem = format!("parts of type {kind:?} are not supported, only text is");
                return Err(ApiError::unsupported(&at, problem));
            }
            (None, _) => {
                return Err(ApiError::invalid_value(at, "a part has a type"));
            }
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(message: Value) -> String {
        let error = checked(vec![message]).unwrap_err().to_json();
        error["error"]["param"].as_str().unwrap().to_owned()
    }

    #[test]
    fn parts_are_joined_and_developers_are_the_system() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let messages = checked(vec![
            json!({"role": "developer", "content": "be brief"}),
            json!({"role": "user", "content": parts, "name": "owl"}),
            json!({"role": "assistant", "content": null, "tool_calls": [1]}),
        ]);
        assert_eq!(
            messages.unwrap(),
            json!([
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "a\nb", "name": "owl"},
                {"role": "assistant", "content": "", "tool_calls": [1]},
            ])
        );
    }

    #[test]
    fn the_field_at_fault_is_named() {
        for (message, param) in [
            (json!("hi"), "messages[0]"),
            (json!({"content": "hi"}), "messages[0].role"),
            (json!({"role": "king", "content": "hi"}), "messages[0].role"),
            (json!({"role": 3, "content": "hi"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": 5}), "messages[0].content"),
            (
                json!({"role": "user", "content": [{"type": "text"}]}),
                "messages[0].content[0].text",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
                "messages[0].content[0]",
            ),
        ] {
            assert_eq!(fault(message.clone()), param, "{message}");
        }
        assert!(checked(Vec::new()).is_err());
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        let message = json!({"role": "user", "content": "hi", "extra": deep});
        assert_eq!(fault(message), "messages[0]");
    }
}
