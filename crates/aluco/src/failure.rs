//! What a command ends with when it does not succeed: what failed, on what, why, what to do; and the exit status.

use std::{fmt::Display, io, process::ExitCode};

/// What to do where nothing can compute.
pub(crate) const NO_WORKER_ADVICE: &str =
    "`aluco version` tells which worker is found; --worker or ALUCO_WORKER names another";

/// Exit statuses, the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// It was asked wrongly.
    Usage,
    /// It was done, and what it looked at is worth a warning.
    Warnings,
    /// It was done, and what it looked at is broken.
    Errors,
    /// The reader of standard output went away. Nobody is left to tell, so this ends quietly.
    OutputClosed,
    /// Ctrl-C.
    Interrupted,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done | Status::OutputClosed => 0,
            Status::Failed => 1,
            Status::Usage => 2,
            Status::Warnings => 3,
            Status::Errors => 4,
            Status::Interrupted => 130,
        })
    }
}

/// A failure, told once, at the edge.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed, on what, and why.
    message: String,
    /// What to do about it.
    advice: Option<String>,
    /// How the process ends.
    pub(crate) status: Status,
}

/// What a command comes to.
pub(crate) type Outcome<T = Status> = Result<T, Failure>;

impl Failure {
    /// A failure with its cause already in the message.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            advice: None,
            status: Status::Failed,
        }
    }

    /// The command line asked for something that cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            status: Status::Usage,
            ..Self::new(message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// All of it in one line, for where nobody reads more than that.
    pub(crate) fn in_one_line(&self) -> String {
        match &self.advice {
            Some(advice) => format!("{}. {}", self.message, advice.replace('\n', " ")),
            None => self.message.clone(),
        }
    }

    /// Writes it to standard error. Control characters are taken out: a message may quote what a server or a file said.
    pub(crate) fn report(&self) {
        if self.status == Status::OutputClosed {
            return;
        }
        let style = console::Style::new().red().bold().for_stderr();
        let mut text = format!(
            "{} {}",
            style.apply_to("error:"),
            crate::render::printable(&self.message)
        );
        if let Some(advice) = &self.advice {
            for line in advice.lines() {
                text.push_str("\n  ");
                text.push_str(line);
            }
        }
        crate::render::say(&text);
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// Errors of writing to standard output: the one place where an `io::Error` needs no more context.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                status: Status::OutputClosed,
                ..Self::new("")
            };
        }
        Self::new(format!("cannot write the output: {error}"))
    }
}

impl From<aluco_model::ModelError> for Failure {
    fn from(error: aluco_model::ModelError) -> Self {
        Self::new(chain(&error))
    }
}

impl From<aluco_fleet::FleetError> for Failure {
    fn from(error: aluco_fleet::FleetError) -> Self {
        let failure = Self::new(chain(&error));
        match error {
            aluco_fleet::FleetError::NoWorker { .. } => failure.advise(NO_WORKER_ADVICE),
            _ => failure,
        }
    }
}

impl From<aluco_prefix::disk::DiskError> for Failure {
    fn from(error: aluco_prefix::disk::DiskError) -> Self {
        Self::new(chain(&error))
    }
}

/// An error and what caused it, in one line. A cause that the message already holds is not said twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_output_ends_quietly_and_with_success() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.status, Status::OutputClosed);
        assert_eq!(ExitCode::from(failure.status), ExitCode::SUCCESS);
    }

    #[test]
    fn a_chain_of_causes_is_told_once_each() {
        #[derive(Debug)]
        struct Outer(io::Error);
        impl Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("cannot read the file")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Outer(io::Error::other("the disk is on fire"));
        assert_eq!(chain(&error), "cannot read the file: the disk is on fire");
    }
}
