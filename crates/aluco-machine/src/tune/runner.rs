//! Commands that change settings which are not a matter of one file.

use std::{
    fmt, io,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

/// A program and its arguments. No shell is between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// A program and its arguments.
    pub fn new<I: Into<String>>(words: impl IntoIterator<Item = I>) -> Self {
        Self(words.into_iter().map(Into::into).collect())
    }

    /// The program and its arguments.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

/// As it is typed in a shell.
impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&quoted(word))?;
        }
        Ok(())
    }
}

/// A word as a POSIX shell takes it for itself.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// It succeeded.
    Done,
    /// It ended otherwise; why, and the last of what it said.
    Failed(String),
}

/// Runs commands.
pub trait Runner {
    /// Runs one and waits for its end. An error means that it could not be started.
    fn run(&mut self, command: &CommandLine) -> io::Result<Ran>;

    /// Whether commands are run at all. They are not where the root is a folder: they work on the running machine.
    fn runs(&self) -> bool {
        true
    }
}

/// Where commands are looked for. A root that was become with plain `su` has its user's list, without the folders of `update-grub` and `grubby`, and
/// perhaps with folders that the user can write.
const FOLDERS: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// Runs commands on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealRunner;

impl Runner for RealRunner {
    fn run(&mut self, command: &CommandLine) -> io::Result<Ran> {
        let output = Command::new(command.program())
            .args(command.words().iter().skip(1))
            .stdin(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", FOLDERS)
            .output()?;
        if output.status.success() {
            return Ok(Ran::Done);
        }
        let mut said = output.stderr;
        if said.is_empty() {
            said = output.stdout;
        }
        let said = String::from_utf8_lossy(&said);
        let last: Vec<&str> = said
            .lines()
            .rev()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take(3)
            .collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Ok(Ran::Failed(format!(
            "{} ({})",
            last.join(" / "),
            output.status
        )))
    }
}

/// Runs nothing: for a root that is not this machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRunner;

impl Runner for NoRunner {
    fn run(&mut self, _: &CommandLine) -> io::Result<Ran> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn runs(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_a_shell_takes_it() {
        let command = CommandLine::new(["grubby", "--args=a=1 b=it's", ""]);
        assert_eq!(command.to_string(), r"grubby '--args=a=1 b=it'\''s' ''");
    }

    #[test]
    fn a_failing_command_says_why() {
        let command = CommandLine::new(["sh", "-c", "echo one; echo 'no such thing' >&2; exit 3"]);
        let ran = RealRunner.run(&command).expect("a shell");
        assert_eq!(
            ran,
            Ran::Failed("no such thing (exit status: 3)".to_owned())
        );
        assert_eq!(
            RealRunner
                .run(&CommandLine::new(["true"]))
                .expect("a program"),
            Ran::Done
        );
        assert!(
            RealRunner
                .run(&CommandLine::new(["no-such-program-here"]))
                .is_err()
        );
    }

    #[test]
    fn programs_are_looked_for_where_the_system_has_them() {
        let command = CommandLine::new(["sh", "-c", "test \"$PATH\" = \"$0\"", FOLDERS]);
        assert_eq!(RealRunner.run(&command).expect("a shell"), Ran::Done);
        assert!(FOLDERS.split(':').all(|folder| folder.starts_with('/')));
    }
}
