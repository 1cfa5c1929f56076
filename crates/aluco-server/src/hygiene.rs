//! Prompt hygiene: rules that take out of prompts what changes without need.
//!
//! A prompt is computed only from the first token on that differs from an earlier one. Some clients put a line that changes with every
//! request at the very front, a time or a number for their bill, and so have everything computed each time. Rules bring such lines
//! into a form that stays the same. They change what the model reads, so there are none unless a file with them is named.

mod file;

use std::sync::Arc;

use regex::Regex;
use serde_json::Value;

pub use file::PromptRulesError;

/// Rules for the text of messages, applied one after the other. The default has none and changes nothing.
#[derive(Debug, Clone, Default)]
pub struct PromptRules {
    rules: Arc<[Rule]>,
}

/// What to look for, where, and what to put in its place.
#[derive(Debug)]
struct Rule {
    name: String,
    roles: Vec<String>,
    pattern: Regex,
    /// May refer to groups of the pattern, as in `${1}`.
    replace: String,
}

/// What a rule did to a prompt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Applied<'a> {
    pub(crate) rule: &'a str,
    /// Messages that it changed, at least 1.
    pub(crate) messages: u64,
}

impl PromptRules {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The messages of a conversation after all rules, and which rules changed something. Long prompts take their time, which is
    /// linear in their length, beside the tasks that serve others.
    pub(crate) async fn normalise(&self, mut messages: Value) -> (Value, Vec<Applied<'_>>) {
        if self.is_empty() {
            return (messages, Vec::new());
        }
        let rules = self.rules.clone();
        let work = tokio::task::spawn_blocking(move || {
            let counts: Vec<u64> = rules.iter().map(|rule| rule.apply(&mut messages)).collect();
            (messages, counts)
        });
        let (messages, counts) = work.await.expect("rules do not panic");
        let applied = self.rules.iter().zip(counts);
        let applied = applied.filter(|(_, messages)| *messages > 0);
        let applied = applied.map(|(rule, messages)| Applied {
            rule: &rule.name,
            messages,
        });
        (messages, applied.collect())
    }
}

impl Rule {
    /// Changes an array of messages; says how many of them.
    fn apply(&self, messages: &mut Value) -> u64 {
        let messages = messages.as_array_mut().into_iter().flatten();
        messages
            .map(|message| u64::from(self.change(message)))
            .sum()
    }

    /// True if the message was changed.
    fn change(&self, message: &mut Value) -> bool {
        let role = message.get("role").and_then(Value::as_str);
        if !role.is_some_and(|role| self.roles.iter().any(|it| it == role)) {
            return false;
        }
        match message.get_mut("content") {
            Some(Value::String(text)) => self.change_text(text),
            Some(Value::Array(parts)) => {
                let mut is_changed = false;
                for part in parts {
                    if let Some(Value::String(text)) = part.get_mut("text") {
                        is_changed |= self.change_text(text);
                    }
                }
                is_changed
            }
            _ => false,
        }
    }

    fn change_text(&self, text: &mut String) -> bool {
        let changed = self.pattern.replace_all(text, &self.replace);
        if changed == *text {
            return false;
        }
        *text = changed.into_owned();
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn after(rules: &str, messages: Value) -> (Value, Vec<(String, u64)>) {
        let rules = PromptRules::parse(rules, "rules.toml".as_ref()).unwrap();
        let (messages, applied) = rules.normalise(messages).await;
        let applied = applied.into_iter();
        let applied = applied.map(|it| (it.rule.to_owned(), it.messages));
        (messages, applied.collect())
    }

    #[tokio::test]
    async fn a_rule_changes_the_text_of_its_roles_and_nothing_else() {
        let rules = r"
            [[rule]]
            name = 'digits'
            roles = ['system', 'user']
            pattern = '(id)=\d+'
            replace = '${1}=0'
        ";
        let messages = json!([
            {"role": "system", "content": "id=12 id=34", "name": "id=56"},
            {"role": "user", "content": [{"type": "text", "text": "id=7"}, {"type": "image_url", "image_url": "id=8"}]},
            {"role": "assistant", "content": "id=9"},
            {"role": "user", "content": "id=0"},
            {"role": "user", "content": null},
        ]);
        let (messages, applied) = after(rules, messages).await;
        assert_eq!(
            messages,
            json!([
                {"role": "system", "content": "id=0 id=0", "name": "id=56"},
                {"role": "user", "content": [{"type": "text", "text": "id=0"}, {"type": "image_url", "image_url": "id=8"}]},
                {"role": "assistant", "content": "id=9"},
                {"role": "user", "content": "id=0"},
                {"role": "user", "content": null},
            ])
        );
        // What was in that form already was not changed.
        assert_eq!(applied, [("digits".to_owned(), 2)]);
    }

    #[tokio::test]
    async fn rules_follow_each_other() {
        let rules = r"
            [[rule]]
            name = 'first'
            pattern = 'a'
            replace = 'b'
            [[rule]]
            name = 'second'
            pattern = 'b+'
            replace = ''
            [[rule]]
            name = 'third'
            pattern = 'never'
            replace = ''
        ";
        let (messages, applied) = after(rules, json!([{"role": "system", "content": "abc"}])).await;
        assert_eq!(messages, json!([{"role": "system", "content": "c"}]));
        assert_eq!(applied, [("first".to_owned(), 1), ("second".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn the_rules_that_come_with_aluco_do_what_they_say() {
        let rules = include_str!("../../../packaging/prompt-rules.toml");
        for (before, expected) in [
            (
                "x-anthropic-billing-header: cc_version=2.1.14; cch=00f3a;\nYou are an agent.",
                "You are an agent.",
            ),
            (
                "You know x-anthropic-billing-header: yes\n",
                "You know x-anthropic-billing-header: yes\n",
            ),
            (
                "Be brief.\nToday's date is 2026-11-21T10:44:03.123Z. You are in a shell.",
                "Be brief.\nToday's date is 2026-11-21. You are in a shell.",
            ),
            (
                "- Current date and time: 2026-11-21 10:44 PM UTC\nNext.",
                "- Current date and time: 2026-11-21\nNext.",
            ),
            (
                "The current date is 2026-11-21, 10:44:03 +01:00",
                "The current date is 2026-11-21",
            ),
            ("Today's date is 2026-11-21.", "Today's date is 2026-11-21."),
            ("One.\nCurrent time: 10:44:03 (UTC)\nTwo.", "One.\nTwo."),
            ("One.\n  The current time is 9:05 am.\nTwo.", "One.\nTwo."),
            (
                "The current time is a question of taste, 10:44 or not.",
                "The current time is a question of taste, 10:44 or not.",
            ),
        ] {
            let (messages, _) = after(rules, json!([{"role": "system", "content": before}])).await;
            assert_eq!(messages[0]["content"], expected, "{before:?}");
        }
    }
}
