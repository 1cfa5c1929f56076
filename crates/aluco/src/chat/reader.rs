//! Reads inputs at a terminal: with a line editor or, where the terminal moves no cursor (TERM=dumb), as plain lines.

use std::{
    cell::Cell,
    fs,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    thread,
};

use rustyline::{
    Config, Context, Editor, Helper,
    completion::Completer,
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{Receiver, channel},
};

use super::{Listener, input};
use crate::failure::{Failure, Outcome};

const PROMPT: &str = ">>> ";

/// Stands before a line that goes on with an input.
const CONTINUATION: &str = "... ";

/// Inputs that are kept in the history file.
const HISTORY_MAX: usize = 1000;

/// Terminals that the line editor leaves to themselves.
const PLAIN_TERMINALS: [&str; 3] = ["dumb", "cons25", "emacs"];

/// What came from the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A whole input, of one line or several.
    Text(String),
    /// Ctrl-C, which takes back what was typed.
    Interrupted {
        /// There was nothing to take back.
        was_empty: bool,
    },
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// Where inputs come from.
pub(super) enum Reader {
    Edited {
        editor: Box<Editor<Whole, FileHistory>>,
        /// Where inputs are kept from one session to the next.
        history: PathBuf,
    },
    Plain(Receiver<io::Result<String>>),
}

/// True if a terminal of this type (`TERM`) cannot edit lines.
pub(crate) fn is_plain(terminal: Option<&str>) -> bool {
    terminal.is_some_and(|name| {
        PLAIN_TERMINALS
            .iter()
            .any(|plain| plain.eq_ignore_ascii_case(name))
    })
}

impl Reader {
    /// Lines as they come, without a history.
    pub(super) fn plain() -> Self {
        // The thread ends with the process: nothing else ends a wait for standard input.
        let (sender, lines) = channel(1);
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                if sender.blocking_send(line).is_err() {
                    break;
                }
            }
        });
        Self::Plain(lines)
    }

    /// Lines that can be edited, with those of earlier sessions.
    pub(super) fn edited(history: &Path) -> Outcome<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .map_err(|error| unreadable(&error))?
            .history_ignore_space(false)
            .build();
        let mut editor: Editor<Whole, FileHistory> =
            Editor::with_config(config).map_err(|error| unreadable(&error))?;
        editor.set_helper(Some(Whole::default()));
        if let Some(folder) = history.parent() {
            let _ = fs::create_dir_all(folder);
        }
        // There is none the first time.
        let _ = editor.load_history(history);
        Ok(Self::Edited {
            editor: Box::new(editor),
            history: history.to_owned(),
        })
    }

    /// The next input.
    pub(super) fn read(&mut self, runtime: &Runtime, listener: &mut Listener) -> Outcome<Line> {
        match self {
            Self::Edited { editor, history } => edited(editor, history),
            Self::Plain(lines) => runtime.block_on(plain(lines, listener)),
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("cannot read from the terminal: {error}"))
}

fn edited(editor: &mut Editor<Whole, FileHistory>, history: &Path) -> Outcome<Line> {
    if let Some(whole) = editor.helper() {
        whole.has_text.set(false);
    }
    let text = match editor.readline(PROMPT) {
        Ok(text) => text,
        Err(ReadlineError::Interrupted) => {
            let has_text = editor.helper().is_some_and(|whole| whole.has_text.get());
            return Ok(Line::Interrupted {
                was_empty: !has_text,
            });
        }
        Err(ReadlineError::Eof) => return Ok(Line::End),
        Err(error) => return Err(unreadable(&error)),
    };
    if !text.trim().is_empty() && editor.add_history_entry(&text).is_ok_and(|added| added) {
        // A history that cannot be kept is no reason to stop talking.
        let _ = editor.append_history(history);
    }
    Ok(Line::Text(text))
}

async fn plain(lines: &mut Receiver<io::Result<String>>, listener: &mut Listener) -> Outcome<Line> {
    listener.forget().await;
    let mut text = String::new();
    let mut prompt = PROMPT;
    loop {
        let mut output = io::stdout().lock();
        write!(output, "{prompt}")?;
        output.flush()?;
        drop(output);
        let line = tokio::select! {
            biased;
            () = listener.interrupted() => {
                writeln!(io::stdout().lock())?;
                return Ok(Line::Interrupted { was_empty: text.is_empty() });
            }
            line = lines.recv() => line,
        };
        match line {
            Some(Ok(line)) => text.push_str(&line),
            Some(Err(error)) => return Err(unreadable(&error)),
            None => return Ok(Line::End),
        }
        if input::is_complete(&text) {
            return Ok(Line::Text(text));
        }
        text.push('\n');
        prompt = CONTINUATION;
    }
}

/// Lets the Enter key end only whole inputs, and knows whether there is anything to take back.
#[derive(Debug, Default)]
pub(super) struct Whole {
    has_text: Cell<bool>,
}

impl Helper for Whole {}
impl Completer for Whole {
    type Candidate = String;
}
impl Highlighter for Whole {}
impl Hinter for Whole {
    type Hint = String;

    /// Gives no hint. It is where the editor shows the line after each change, and an interruption does not tell what was there.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.has_text.set(!line.is_empty());
        None
    }
}
impl Validator for Whole {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if input::is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_without_a_cursor_are_known_by_name() {
        assert!(is_plain(Some("dumb")));
        assert!(is_plain(Some("Emacs")));
        assert!(!is_plain(Some("xterm")));
        assert!(!is_plain(None));
    }
}
