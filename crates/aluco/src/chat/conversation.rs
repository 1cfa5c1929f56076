//! What was said so far, and how it is kept in a file. Pure but for reading and writing that file.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::client::wire::{Message, Role};

/// Largest file that is read as a conversation, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Instructions and messages. Messages alternate, beginning with the person's; many chat templates insist on that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Instructions that stand before it.
    pub(crate) system: Option<String>,
    messages: Vec<Message>,
    /// The last message, if it got no answer. It is not among the messages.
    unanswered: Option<String>,
}

/// The form in the file. Its `messages` are what the API takes.
#[derive(Serialize, Deserialize)]
struct Saved {
    model: String,
    messages: Vec<Message>,
}

impl Conversation {
    /// Nothing said yet.
    pub(crate) fn new(system: Option<String>) -> Self {
        Self {
            system,
            ..Self::default()
        }
    }

    /// Messages of both sides, without the instructions.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Forgets what was said, not the instructions.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.unanswered = None;
    }

    /// What is sent to have this message answered.
    pub(crate) fn with(&self, message: &str) -> Vec<Message> {
        let system = self.system.iter().map(|text| (Role::System, text.clone()));
        system
            .map(|(role, content)| Message { role, content })
            .chain(self.messages.iter().cloned())
            .chain([Message {
                role: Role::User,
                content: message.to_owned(),
            }])
            .collect()
    }

    /// Takes the message and its answer in, as far as that came. A message that got no answer at all is left out.
    pub(crate) fn answered(&mut self, message: String, answer: String) {
        if answer.is_empty() {
            self.unanswered = Some(message);
            return;
        }
        self.unanswered = None;
        for (role, content) in [(Role::User, message), (Role::Assistant, answer)] {
            self.messages.push(Message { role, content });
        }
    }

    /// Takes the last message back, and its answer away, to have it answered again.
    pub(crate) fn take_last(&mut self) -> Option<String> {
        if let Some(message) = self.unanswered.take() {
            return Some(message);
        }
        let last = self
            .messages
            .iter()
            .rposition(|message| message.role == Role::User)?;
        let message = self.messages.drain(last..).next();
        message.map(|message| message.content)
    }

    /// Writes it to a file. An older conversation there is replaced, any other file is not.
    pub(crate) fn save(&self, path: &Path, model: &str) -> Result<(), String> {
        let context = |error: io::Error| format!("cannot write {}: {error}", path.display());
        if path.exists() && read(path).is_err() {
            return Err(format!(
                "{} exists and is no conversation; choose another name",
                path.display()
            ));
        }
        let mut messages = self.with("");
        messages.pop();
        messages.extend(self.unanswered.iter().map(|message| Message {
            role: Role::User,
            content: message.clone(),
        }));
        let saved = Saved {
            model: model.to_owned(),
            messages,
        };
        let mut text = serde_json::to_vec_pretty(&saved).map_err(|error| context(error.into()))?;
        text.push(b'\n');
        // A full disk must not cost the older conversation, and what was said is nobody else's to read.
        let mut part = OsString::from(path);
        part.push(".part");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&part, path))
            .map_err(|error| {
                let _ = fs::remove_file(&part);
                context(error)
            })
    }

    /// Reads it from a file.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        read(path).map_err(|reason| format!("cannot read {}: {reason}", path.display()))
    }
}

fn read(path: &Path) -> Result<Conversation, String> {
    let mut text = Vec::new();
    // A pipe or a device may have no end, or never begin.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        return Err("it is not a regular file".to_owned());
    }
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err("it is too large for a conversation".to_owned());
    }
    let saved: Saved =
        serde_json::from_slice(&text).map_err(|error| format!("it is no conversation: {error}"))?;
    let mut messages = saved.messages;
    let mut conversation = Conversation::default();
    if messages
        .first()
        .is_some_and(|first| first.role == Role::System)
    {
        conversation.system = Some(messages.remove(0).content);
    }
    let alternates = messages
        .iter()
        .zip([Role::User, Role::Assistant].into_iter().cycle())
        .all(|(message, role)| message.role == role);
    if !alternates {
        return Err("user and assistant do not take turns in it".to_owned());
    }
    if messages.len() % 2 == 1 {
        conversation.unanswered = messages.pop().map(|message| message.content);
    }
    conversation.messages = messages;
    Ok(conversation)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn talk() -> Conversation {
        let mut talk = Conversation::new(Some("Be brief.".to_owned()));
        talk.answered("Hi".to_owned(), "Hello".to_owned());
        talk.answered("Why?".to_owned(), "Because".to_owned());
        talk
    }

    fn contents(messages: &[Message]) -> Vec<&str> {
        messages.iter().map(|message| &*message.content).collect()
    }

    #[test]
    fn what_is_sent_is_all_that_was_said() {
        assert_eq!(
            contents(&talk().with("And?")),
            ["Be brief.", "Hi", "Hello", "Why?", "Because", "And?"]
        );
    }

    #[test]
    fn a_message_without_an_answer_does_not_break_the_turns_and_can_be_retried() {
        let mut talk = talk();
        talk.answered("Hm?".to_owned(), String::new());
        assert_eq!(talk.len(), 4);
        assert_eq!(talk.take_last().as_deref(), Some("Hm?"));
        assert_eq!(talk.len(), 4);
    }

    #[test]
    fn a_retry_takes_the_last_answer_away() {
        let mut talk = talk();
        assert_eq!(talk.take_last().as_deref(), Some("Why?"));
        assert_eq!(talk.take_last().as_deref(), Some("Hi"));
        assert_eq!(talk.take_last(), None);
    }

    #[test]
    fn a_conversation_comes_back_from_its_file_which_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        talk().save(&path, "owl").unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), talk());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut longer = talk();
        longer.answered("More".to_owned(), "No".to_owned());
        longer.save(&path, "owl").unwrap();
        assert_eq!(Conversation::load(&path).unwrap(), longer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_question_without_an_answer_is_kept_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let mut talk = talk();
        talk.answered("Hm?".to_owned(), String::new());
        talk.save(&path, "owl").unwrap();
        let mut loaded = Conversation::load(&path).unwrap();
        assert_eq!(loaded, talk);
        assert_eq!(loaded.take_last().as_deref(), Some("Hm?"));
    }

    #[test]
    fn only_a_regular_file_is_read() {
        for path in [Path::new("/dev/zero"), Path::new("/")] {
            let error = Conversation::load(path).unwrap_err();
            assert!(error.contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_conversation_is_neither_read_nor_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "dear diary").unwrap();
        assert!(talk().save(&path, "owl").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
        let error = Conversation::load(&path).unwrap_err();
        assert!(error.contains("it is no conversation"), "{error}");
        fs::write(
            &path,
            r#"{"model":"owl","messages":[{"role":"assistant","content":"Hi"}]}"#,
        )
        .unwrap();
        let error = Conversation::load(&path).unwrap_err();
        assert!(error.contains("do not take turns"), "{error}");
        let error = Conversation::load(&folder.path().join("none.json")).unwrap_err();
        assert!(error.contains("none.json: No such file"), "{error}");
    }
}
