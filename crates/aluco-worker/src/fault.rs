//! Accidents on purpose, for the tests of recovery.
//!
//! `ALUCO_FAULT=abort-in-decode:37` aborts the process within its 37th step; `hang-in-decode:37` has that step never end. With a path
//! behind it, as in `abort-in-decode:37:/tmp/once`, it happens only if that file can be made, so to one worker and not to the next.
//! `wait-in-decode:37:/tmp/pipe` holds that step until somebody has opened this named pipe for writing and closed it again, so that a test
//! can see to it that something happens in mid-step. `abort-in-tokenize:abracadabra` aborts where a prompt with that word is tokenized.
//! Several of these stand with semicolons between them.

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const VARIABLE: &str = "ALUCO_FAULT";

#[derive(Debug, PartialEq, Eq)]
enum Accident {
    Abort,
    Hang,
    Wait,
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    accident: Accident,
    step: u64,
    /// What must not be there yet; the pipe to wait at.
    file: Option<PathBuf>,
}

impl Fault {
    /// All that are named.
    fn all(text: &str) -> Vec<Self> {
        text.split(';').filter_map(Self::parse).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let accident = match parts.next()? {
            "abort-in-decode" => Accident::Abort,
            "hang-in-decode" => Accident::Hang,
            "wait-in-decode" => Accident::Wait,
            _ => return None,
        };
        let step = parts.next()?.parse().ok()?;
        let file = parts.next().map(PathBuf::from);
        (accident != Accident::Wait || file.is_some()).then_some(Self {
            accident,
            step,
            file,
        })
    }

    fn is_due(&self, step: u64) -> bool {
        let is_first = |file: &PathBuf| File::create_new(file).is_ok();
        step == self.step
            && (self.accident == Accident::Wait || self.file.as_ref().is_none_or(is_first))
    }

    fn happen(&self) {
        match self.accident {
            Accident::Abort => {
                eprintln!("aborted in step {} as {VARIABLE} asks for", self.step);
                std::process::abort();
            }
            Accident::Hang => loop {
                thread::park();
            },
            Accident::Wait => {
                let pipe = self.file.as_deref().unwrap_or("".as_ref());
                // Opening waits for the other end, reading for it to be closed.
                if let Err(error) = fs::read(pipe) {
                    eprintln!("cannot wait at {}: {error}", pipe.display());
                    std::process::abort();
                }
            }
        }
    }
}

/// What the variable says; it does not change.
fn variable() -> Option<&'static str> {
    static TEXT: OnceLock<Option<String>> = OnceLock::new();
    TEXT.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref()
}

/// The words that must not be tokenized.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(';')
        .filter_map(|part| part.strip_prefix("abort-in-tokenize:"))
}

/// Aborts if that was asked for where this text is tokenized.
pub(crate) fn in_tokenize(text: &str) {
    let mut words = variable().into_iter().flat_map(words);
    if words.any(|word| text.contains(word)) {
        eprintln!("aborted in the tokenizer as {VARIABLE} asks for");
        std::process::abort();
    }
}

/// Counts a step, and brings about what was asked for in it.
pub(crate) fn in_decode() {
    static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
    static STEPS: AtomicU64 = AtomicU64::new(0);
    let faults = FAULTS.get_or_init(|| variable().map(Fault::all).unwrap_or_default());
    if faults.is_empty() {
        return;
    }
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    faults
        .iter()
        .filter(|fault| fault.is_due(step))
        .for_each(Fault::happen);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_by_what_where_and_when() {
        let fault = Fault::parse("abort-in-decode:37").unwrap();
        assert_eq!((fault.accident, fault.step), (Accident::Abort, 37));
        assert!(Fault::parse("hang-in-decode:1:/tmp/a:b").unwrap().file == Some("/tmp/a:b".into()));
        let waiting = Fault::parse("wait-in-decode:2:/tmp/pipe").unwrap();
        assert!(waiting.accident == Accident::Wait && waiting.is_due(2) && !waiting.is_due(1));
        let all = Fault::all("wait-in-decode:2:/tmp/pipe;abort-in-decode:9");
        assert_eq!(all.iter().map(|it| it.step).collect::<Vec<_>>(), [2, 9]);
        for text in [
            "",
            "abort-in-decode",
            "abort-in-decode:x",
            "wait-in-decode:1",
            "abort-in-tokenize:1",
            "smile:1",
        ] {
            assert_eq!(Fault::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_word_that_breaks_the_tokenizer_stands_beside_other_faults() {
        let text = "wait-in-decode:2:/tmp/pipe;abort-in-tokenize:abra;abort-in-tokenize:cadabra";
        assert_eq!(words(text).collect::<Vec<_>>(), ["abra", "cadabra"]);
        assert_eq!(Fault::all(text).len(), 1);
    }

    #[test]
    fn a_fault_with_a_file_happens_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("abort-in-decode:2:{}", folder.path().join("once").display());
        let fault = Fault::parse(&text).unwrap();
        assert_eq!(
            [1, 2, 2, 3].map(|step| fault.is_due(step)),
            [false, true, false, false]
        );
    }
}
