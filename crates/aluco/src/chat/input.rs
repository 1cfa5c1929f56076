//! What a line at the prompt means. Pure.

use std::fmt::{self, Display};

const FENCE: &str = "\"\"\"";

/// What `/help` says.
pub(crate) const HELP: &str = "\
/clear               forget the conversation
/system TEXT         instructions before the conversation; `/system off` takes them away
/set NAME VALUE      temperature, top_p, top_k, min_p, seed, max_tokens, and repeat_penalty,
                     presence_penalty, frequency_penalty; VALUE may be `default`
/show                the model, the instructions and what is set
/retry               answer the last message again
/save FILE           keep the conversation in a file
/load FILE           go on with a conversation from a file
/bye                 leave (also /exit, /quit, Ctrl-D)

\"\"\" begins and ends a text of several lines; a line that ends in \\ goes on in the next. A message that begins with / needs a
space before it. Ctrl-C stops an answer, takes back what is typed, and leaves if pressed twice at an empty prompt.";

/// One input, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// An empty line.
    Nothing,
    /// Something for the model.
    Message(String),
    /// Something for this program.
    Command(Command),
}

/// What one can ask of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Say what there is.
    Help,
    /// Forget the conversation.
    Clear,
    /// Show (`None`), set or, with an empty text, take away the instructions.
    System(Option<String>),
    /// Show what is set (`None`), or set a value by its name.
    Set(Option<(String, String)>),
    /// Show what holds.
    Show,
    /// Keep the conversation in a file.
    Save(String),
    /// Go on with a conversation from a file.
    Load(String),
    /// Answer the last message again.
    Retry,
    /// Leave.
    Bye,
}

/// An input that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InputError {
    /// No such command.
    Unknown(String),
    /// A command without what it needs, or with too much.
    Form(&'static str),
}

impl Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "there is no {name}; /help shows what there is, and a space before the / makes it a message"
            ),
            Self::Form(form) => write!(f, "it goes like this: {form}"),
        }
    }
}

/// True if the text is whole: no block is open, and the last line does not go on.
pub(crate) fn is_complete(text: &str) -> bool {
    match body(text).strip_prefix(FENCE) {
        Some(block) => block.trim_end().ends_with(FENCE),
        None => !text.ends_with('\\'),
    }
}

/// Understands a whole text.
pub(crate) fn parse(text: &str) -> Result<Input, InputError> {
    let Some(command) = text.strip_prefix('/') else {
        let message = unfold(text);
        return Ok(if message.trim().is_empty() {
            Input::Nothing
        } else {
            Input::Message(message)
        });
    };
    let (name, rest) = match command.split_once(char::is_whitespace) {
        Some((name, rest)) => (name, rest.trim()),
        None => (command.trim_end(), ""),
    };
    let alone = |command: Command| {
        if rest.is_empty() {
            Ok(command)
        } else {
            Err(InputError::Form("the command alone on its line"))
        }
    };
    let file = |form: &'static str| {
        if rest.is_empty() {
            Err(InputError::Form(form))
        } else {
            Ok(rest.to_owned())
        }
    };
    let command = match name {
        "help" | "?" => Command::Help,
        "clear" => alone(Command::Clear)?,
        "system" => Command::System(match rest {
            "" => None,
            "off" => Some(String::new()),
            text => Some(unfold(text)),
        }),
        "set" => Command::Set(set(rest)?),
        "show" => alone(Command::Show)?,
        "save" => Command::Save(file("/save FILE")?),
        "load" => Command::Load(file("/load FILE")?),
        "retry" => alone(Command::Retry)?,
        "bye" | "exit" | "quit" => alone(Command::Bye)?,
        _ => return Err(InputError::Unknown(format!("/{name}"))),
    };
    Ok(Input::Command(command))
}

fn set(rest: &str) -> Result<Option<(String, String)>, InputError> {
    if rest.is_empty() {
        return Ok(None);
    }
    match rest.split_once(char::is_whitespace) {
        Some((name, value)) => Ok(Some((name.to_owned(), value.trim().to_owned()))),
        None => Err(InputError::Form("/set NAME VALUE")),
    }
}

/// The text in which a block may begin: that of `/system`, or all of it.
fn body(text: &str) -> &str {
    match text.strip_prefix("/system") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => text.trim_start(),
    }
}

/// The text without its fences, or with continued lines put together.
fn unfold(text: &str) -> String {
    let block = text
        .trim()
        .strip_prefix(FENCE)
        .and_then(|rest| rest.strip_suffix(FENCE));
    match block {
        Some(block) => {
            let block = block.strip_prefix('\n').unwrap_or(block);
            block.strip_suffix('\n').unwrap_or(block).to_owned()
        }
        None => text.replace("\\\n", "\n").trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Input {
        Input::Message(text.to_owned())
    }

    #[test]
    fn what_is_no_command_is_for_the_model() {
        assert_eq!(parse(" why? "), Ok(message("why?")));
        assert_eq!(
            parse(" /etc/fstab: what is it?"),
            Ok(message("/etc/fstab: what is it?"))
        );
        assert_eq!(parse("  "), Ok(Input::Nothing));
        assert_eq!(parse("\"\"\"\"\"\""), Ok(Input::Nothing));
    }

    #[test]
    fn a_block_keeps_its_lines_and_its_indentation() {
        assert!(!is_complete("\"\"\""));
        assert!(!is_complete("\"\"\"one"));
        assert!(!is_complete("\"\"\"\none\n"));
        assert!(is_complete("\"\"\"one\"\"\""));
        assert!(is_complete("\"\"\"\n  one\n\\\n\"\"\" "));
        assert_eq!(
            parse("\"\"\"\n  one\n\n two\\\n\"\"\" "),
            Ok(message("  one\n\n two\\"))
        );
        assert_eq!(parse("\"\"\"one\"\"\""), Ok(message("one")));
    }

    #[test]
    fn a_backslash_continues_the_line() {
        assert!(!is_complete("one \\"));
        assert!(is_complete("one \\\ntwo"));
        assert_eq!(parse("one \\\ntwo"), Ok(message("one \ntwo")));
    }

    #[test]
    fn instructions_may_be_a_block() {
        assert!(!is_complete("/system \"\"\"\nBe brief."));
        let text = "/system \"\"\"\nBe brief.\nRhyme.\n\"\"\"";
        assert!(is_complete(text));
        let system =
            |text: Option<&str>| Ok(Input::Command(Command::System(text.map(str::to_owned))));
        assert_eq!(parse(text), system(Some("Be brief.\nRhyme.")));
        assert_eq!(parse("/system Be brief."), system(Some("Be brief.")));
        assert_eq!(parse("/system off"), system(Some("")));
        assert_eq!(parse("/system"), system(None));
    }

    #[test]
    fn commands_are_read_with_what_they_need() {
        let set = |name: &str, value: &str| Command::Set(Some((name.to_owned(), value.to_owned())));
        for (text, command) in [
            ("/help", Command::Help),
            ("/?", Command::Help),
            ("/clear ", Command::Clear),
            ("/set", Command::Set(None)),
            ("/set temperature  0.5 ", set("temperature", "0.5")),
            ("/show", Command::Show),
            (
                "/save my talk.json",
                Command::Save("my talk.json".to_owned()),
            ),
            ("/load\ttalk.json", Command::Load("talk.json".to_owned())),
            ("/retry", Command::Retry),
            ("/bye", Command::Bye),
            ("/exit", Command::Bye),
            ("/quit", Command::Bye),
        ] {
            assert_eq!(parse(text), Ok(Input::Command(command)), "{text}");
        }
    }

    #[test]
    fn commands_that_make_no_sense_are_refused() {
        for text in ["/save", "/load ", "/set  seed", "/clear all", "/bye bye"] {
            assert!(matches!(parse(text), Err(InputError::Form(_))), "{text}");
        }
        for text in ["/", "/usr/bin/owl", "/Help"] {
            assert!(matches!(parse(text), Err(InputError::Unknown(_))), "{text}");
        }
        insta::assert_snapshot!(parse("/hlep me").unwrap_err(), @"there is no /hlep; /help shows what there is, and a space before the / makes it a message");
    }
}
