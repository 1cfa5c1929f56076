//! Files with prompt rules: read, bounded and checked, so that a mistake is told at the start and not met by a prompt.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use regex::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{PromptRules, Rule};

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Most rules. Each looks at every message of its roles.
const RULES_MAX: usize = 64;

/// Longest pattern and longest replacement, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Longest name, in bytes: it is a label of metrics.
const NAME_BYTES_MAX: usize = 64;

/// Most memory for a compiled pattern, and again for the automaton that is built from it while it works, in bytes.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// The roles that messages have when the rules see them.
const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "function"];

/// Why a file with prompt rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptRulesError {
    /// The file is not there, not readable, not UTF-8 or too long.
    #[error("cannot read the prompt rules {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a list of rules in TOML.
    #[error("{}:{line}: {message}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A rule cannot work.
    #[error("{}: rule {name:?}: {reason}", path.display())]
    Rule {
        /// Which.
        path: PathBuf,
        /// The rule's.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    name: String,
    #[serde(default = "system")]
    roles: Vec<String>,
    pattern: String,
    replace: String,
}

fn system() -> Vec<String> {
    vec!["system".to_owned()]
}

impl PromptRules {
    /// Reads a file of rules:
    ///
    /// ```toml
    /// [[rule]]
    /// name = "request-number"      # in errors and metrics
    /// roles = ["system", "user"]   # whose messages; ["system"] unless given
    /// pattern = '(?m)^Request \d+$'
    /// replace = "Request"          # ${1} stands for the first group of the pattern
    /// ```
    ///
    /// Patterns are those of the [`regex`] crate: no look-around, no back references, and time linear in the text.
    pub fn read(path: &Path) -> Result<Self, PromptRulesError> {
        let text = read_bounded(path).map_err(|source| PromptRulesError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Rules from their text; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, PromptRulesError> {
        let malformed = |at: usize, message: String| PromptRulesError::Malformed {
            path: path.to_owned(),
            line: 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count(),
            message,
        };
        let file: RuleFile = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            malformed(at, error.message().to_owned())
        })?;
        if file.rule.len() > RULES_MAX {
            let count = file.rule.len();
            let message = format!("{count} rules are over the limit of {RULES_MAX}");
            return Err(malformed(0, message));
        }
        let mut rules = Vec::<Rule>::with_capacity(file.rule.len());
        for entry in file.rule {
            let name = entry.name.clone();
            let rule = if rules.iter().any(|rule| rule.name == name) {
                Err("another rule has the same name".to_owned())
            } else {
                checked(entry)
            };
            rules.push(rule.map_err(|reason| PromptRulesError::Rule {
                path: path.to_owned(),
                name,
                reason,
            })?);
        }
        Ok(Self {
            rules: rules.into(),
        })
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is over {} KiB",
            FILE_BYTES_MAX / 1024
        )));
    }
    Ok(text)
}

fn checked(entry: RuleEntry) -> Result<Rule, String> {
    let RuleEntry {
        name,
        mut roles,
        pattern,
        replace,
    } = entry;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} printable bytes"));
    }
    for (what, text) in [("pattern", &pattern), ("replace", &replace)] {
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            return Err(format!(
                "`{what}` has {bytes} bytes, over the limit of {TEXT_BYTES_MAX}"
            ));
        }
    }
    if roles.is_empty() {
        return Err("`roles` is empty, so that it would never be applied".to_owned());
    }
    for role in &mut roles {
        // The same role under its newer name.
        if role == "developer" {
            "system".clone_into(role);
        }
        if !ROLES.contains(&role.as_str()) {
            let known = ROLES.join(", ");
            return Err(format!("there is no role {role:?}; the roles are {known}"));
        }
    }
    let pattern = RegexBuilder::new(&pattern)
        .size_limit(PATTERN_MEMORY_MAX)
        .dfa_size_limit(PATTERN_MEMORY_MAX)
        .build()
        .map_err(|error| format!("`pattern`: {error}"))?;
    if pattern.is_match("") {
        return Err("`pattern` matches empty text, and so between any two letters".to_owned());
    }
    if let Some(group) = unknown_group(&pattern, &replace) {
        return Err(format!(
            "`replace` names the group {group:?}, which `pattern` does not have; write ${{1}} for the first group, $$ for a dollar"
        ));
    }
    Ok(Rule {
        name,
        roles,
        pattern,
        replace,
    })
}

/// A group that the replacement names and the pattern does not have: it would stand for nothing, in silence.
fn unknown_group<'a>(pattern: &Regex, replace: &'a str) -> Option<&'a str> {
    let mut rest = replace;
    while let Some((_, after)) = rest.split_once('$') {
        let is_of_name = |letter: char| letter == '_' || letter.is_ascii_alphanumeric();
        let (name, next) = if let Some(after) = after.strip_prefix('$') {
            ("", after)
        } else if let Some((name, next)) = after
            .strip_prefix('{')
            .and_then(|after| after.split_once('}'))
        {
            (name, next)
        } else {
            let end = after
                .find(|letter| !is_of_name(letter))
                .unwrap_or(after.len());
            after.split_at(end)
        };
        let is_known = name.parse::<usize>().map_or_else(
            |_| name.is_empty() || pattern.capture_names().flatten().any(|it| it == name),
            |number| number < pattern.captures_len(),
        );
        if !is_known {
            return Some(name);
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(fields: &str) -> String {
        format!("[[rule]]\nname = 'it'\n{fields}\n")
    }

    fn fault(text: &str) -> String {
        let error = PromptRules::parse(text, "/etc/rules.toml".as_ref()).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_mistake_is_told_with_file_and_line_or_rule() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        let twice = rule("pattern = 'a'\nreplace = ''").repeat(2);
        for (text, expected) in [
            (
                "\nrules = 1".to_owned(),
                "/etc/rules.toml:2: unknown field `rules`",
            ),
            (
                rule("pattern = 'a'"),
                "/etc/rules.toml:1: missing field `replace`",
            ),
            (
                rule("pattern = 1\nreplace = ''"),
                "/etc/rules.toml:3: invalid type: integer",
            ),
            (
                rule("pattern = '(a'\nreplace = ''"),
                "/etc/rules.toml: rule \"it\": `pattern`: regex parse error",
            ),
            (
                rule("pattern = 'a*'\nreplace = ''"),
                "rule \"it\": `pattern` matches empty text",
            ),
            (
                rule("pattern = '(\\d{1000}){1000}'\nreplace = ''"),
                "rule \"it\": `pattern`: ",
            ),
            (
                rule(&format!("pattern = '{long}'\nreplace = ''")),
                "`pattern` has 4097 bytes, over the limit of 4096",
            ),
            (
                rule("roles = ['king']\npattern = 'a'\nreplace = ''"),
                "there is no role \"king\"; the roles are system, user",
            ),
            (
                rule("roles = []\npattern = 'a'\nreplace = ''"),
                "`roles` is empty",
            ),
            (
                rule("pattern = '(a)'\nreplace = '$1st'"),
                "names the group \"1st\"",
            ),
            (
                "[[rule]]\nname = ''\npattern = 'a'\nreplace = ''".to_owned(),
                "a name has 1 to 64 printable bytes",
            ),
            (twice, "another rule has the same name"),
        ] {
            let message = fault(&text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_well_written_is_taken() {
        let fine = [
            "pattern = '(?<day>a)(b)'\nreplace = '${day}$2 $$5 $ ${2}nd $day'",
            "roles = ['developer', 'tool']\npattern = 'a'\nreplace = '$0'",
        ];
        for fields in fine {
            let rules = PromptRules::parse(&rule(fields), "r".as_ref()).unwrap();
            assert_eq!(rules.len(), 1);
        }
        assert!(PromptRules::parse("", "r".as_ref()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = PromptRules::read("/no/such/rules.toml".as_ref()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.starts_with("cannot read the prompt rules /no/such/rules.toml: "),
            "{message}"
        );
        let endless = PromptRules::read("/dev/zero".as_ref()).unwrap_err();
        assert!(endless.to_string().ends_with("it is over 256 KiB"));
    }
}
