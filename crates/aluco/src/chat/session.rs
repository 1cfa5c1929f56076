//! The conversation at a terminal: reads inputs, obeys commands, shows answers.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use tokio::runtime::Runtime;

use super::{
    Answer, Conversation, End, Listener, Show,
    answer::watch,
    input::{self, Command, Input},
    progress::{Progress, last_part},
    reader::{Line, Reader},
};
use crate::{
    client::{
        Client,
        wire::{ChatRequest, Sampling},
    },
    failure::{Outcome, Status},
    render::{printable, say},
};

/// A conversation with its model.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where answers come from.
    pub(crate) client: Client,
    /// Which model answers.
    pub(crate) model: String,
    /// What was said.
    pub(crate) conversation: Conversation,
    /// How tokens are chosen.
    pub(crate) sampling: Sampling,
    /// Write the line of figures after each answer.
    pub(crate) has_figures: bool,
    /// Where inputs are kept from one session to the next.
    pub(crate) history: PathBuf,
    /// The terminal cannot edit lines.
    pub(crate) is_plain: bool,
    /// The user's folder, for `~`.
    pub(crate) home: Option<PathBuf>,
}

/// What comes after an input.
enum Next {
    Prompt,
    Leave,
}

impl Session {
    /// Talks until the user leaves.
    pub(crate) fn talk(mut self, runtime: &Runtime) -> Outcome {
        let mut listener = runtime.block_on(async { Listener::new() })?;
        if !runtime.block_on(self.load(&mut listener))? {
            return Ok(Status::Interrupted);
        }
        let mut reader = if self.is_plain {
            Reader::plain()
        } else {
            Reader::edited(&self.history)?
        };
        say(&format!(
            "{} · /help shows what you can do, /bye leaves",
            last_part(&self.model)
        ));
        let mut was_interrupted = false;
        loop {
            let text = match reader.read(runtime, &mut listener)? {
                Line::Text(text) => text,
                Line::Interrupted { was_empty } => {
                    if was_empty && was_interrupted {
                        return Ok(Status::Done);
                    }
                    was_interrupted = was_empty;
                    say(if was_empty {
                        "Ctrl-C again, /bye or Ctrl-D leaves"
                    } else {
                        "/bye or Ctrl-D leaves"
                    });
                    continue;
                }
                Line::End => return Ok(Status::Done),
            };
            was_interrupted = false;
            let next = match input::parse(&text) {
                Ok(Input::Nothing) => Next::Prompt,
                Ok(Input::Message(message)) => {
                    runtime.block_on(self.answer(message, &mut listener))?;
                    Next::Prompt
                }
                Ok(Input::Command(command)) => {
                    runtime.block_on(self.obey(command, &mut listener))?
                }
                Err(error) => {
                    say(&error.to_string());
                    Next::Prompt
                }
            };
            if matches!(next, Next::Leave) {
                return Ok(Status::Done);
            }
        }
    }

    /// Loads the model, so that what is wrong with it shows before anything is typed. False: the user did not want to wait.
    async fn load(&self, listener: &mut Listener) -> Outcome<bool> {
        let progress = Progress::new(io::stderr().is_terminal());
        let is_loaded = tokio::select! {
            biased;
            () = listener.interrupted() => Ok(false),
            result = self.client.load(&self.model) => result.map(|()| true),
            () = watch(&self.client, &progress) => unreachable!("watching has no end"),
        };
        progress.clear();
        Ok(is_loaded?)
    }

    async fn answer(&mut self, message: String, listener: &mut Listener) -> Outcome<()> {
        listener.forget().await;
        let messages = self.conversation.with(&message);
        let request = ChatRequest::new(&self.model, &messages, &self.sampling);
        let (answer, end) = Answer::of(&self.client, &request, Show::Text, listener).await;
        let figures = answer.figures();
        self.conversation.answered(message, answer.text);
        match end {
            End::Failed(failure) if failure.status == Status::OutputClosed => return Err(failure),
            End::Failed(failure) => {
                failure.report();
                say("/retry asks again");
            }
            End::Interrupted => say("(stopped)"),
            End::Complete => {
                if self.has_figures
                    && let Some(figures) = figures
                {
                    say_figures(&figures);
                }
            }
        }
        Ok(())
    }

    async fn obey(&mut self, command: Command, listener: &mut Listener) -> Outcome<Next> {
        match command {
            Command::Help => say(input::HELP),
            Command::Clear => {
                self.conversation.clear();
                say("the conversation is forgotten");
            }
            Command::System(None) => match &self.conversation.system {
                Some(text) => print(text)?,
                None => say("there are no instructions"),
            },
            Command::System(Some(text)) => {
                self.conversation.system = (!text.is_empty()).then_some(text);
            }
            Command::Set(None) => print(&settings(&self.sampling))?,
            Command::Set(Some((name, value))) => {
                if let Err(reason) = self.sampling.set(&name, &value) {
                    say(&reason);
                }
            }
            Command::Show => print(&self.summary())?,
            Command::Save(file) => {
                let path = self.path(&file);
                match self.conversation.save(&path, &self.model) {
                    Ok(()) => say(&format!("saved to {}", path.display())),
                    Err(reason) => say(&reason),
                }
            }
            Command::Load(file) => match Conversation::load(&self.path(&file)) {
                Ok(conversation) => {
                    say(&format!("{} messages", conversation.len()));
                    self.conversation = conversation;
                }
                Err(reason) => say(&reason),
            },
            Command::Retry => match self.conversation.take_last() {
                Some(message) => self.answer(message, listener).await?,
                None => say("nothing was said yet"),
            },
            Command::Bye => return Ok(Next::Leave),
        }
        Ok(Next::Prompt)
    }

    fn summary(&self) -> String {
        format!(
            "model          {}\nserver         {}\nmessages       {}\ninstructions   {}\n{}",
            self.model,
            self.client.url(),
            self.conversation.len(),
            self.conversation.system.as_deref().unwrap_or("none"),
            settings(&self.sampling)
        )
    }

    fn path(&self, file: &str) -> PathBuf {
        match (&self.home, file.strip_prefix("~/")) {
            (Some(home), Some(rest)) => home.join(rest),
            _ => Path::new(file).to_owned(),
        }
    }
}

/// Writes the line of figures to standard error, where it does not get in the way of the text.
pub(crate) fn say_figures(figures: &str) {
    let style = console::Style::new().dim().for_stderr();
    say(&style.apply_to(figures).to_string());
}

fn settings(sampling: &Sampling) -> String {
    let values = sampling.values();
    if values.is_empty() {
        return "all sampling values are the server's own".to_owned();
    }
    let lines: Vec<String> = values
        .into_iter()
        .map(|(name, value)| format!("{name:<14} {value}"))
        .collect();
    lines.join("\n")
}

fn print(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", printable(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            client: Client::new("http://127.0.0.1:9", None).unwrap(),
            model: "owl".to_owned(),
            conversation: Conversation::new(None),
            sampling: Sampling::default(),
            has_figures: false,
            history: PathBuf::new(),
            is_plain: false,
            home: Some(PathBuf::from("/home/owl")),
        }
    }

    #[test]
    fn what_holds_is_shown_in_a_few_lines() {
        let mut session = session();
        session.conversation.system = Some("Be brief.".to_owned());
        session.sampling.set("temperature", "0.5").unwrap();
        session.sampling.set("seed", "7").unwrap();
        insta::assert_snapshot!(session.summary(), @r"
        model          owl
        server         http://127.0.0.1:9
        messages       0
        instructions   Be brief.
        temperature    0.5
        seed           7
        ");
    }

    #[test]
    fn a_tilde_means_the_home_folder() {
        let session = session();
        assert_eq!(
            session.path("~/talk.json"),
            Path::new("/home/owl/talk.json")
        );
        assert_eq!(session.path("talk~.json"), Path::new("talk~.json"));
    }
}
