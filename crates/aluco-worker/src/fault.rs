//! Accidents on purpose, for the tests of recovery.
//!
//! `ALUCO_FAULT=abort-in-decode:37` aborts the process within its 37th step; `hang-in-decode:37` has that step never end. With a path
//! behind it, as in `abort-in-decode:37:/tmp/once`, it happens only if that file can be made, so to one worker and not to the next.

use std::{
    fs::File,
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
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    accident: Accident,
    step: u64,
    once: Option<PathBuf>,
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let accident = match parts.next()? {
            "abort-in-decode" => Accident::Abort,
            "hang-in-decode" => Accident::Hang,
            _ => return None,
        };
        Some(Self {
            accident,
            step: parts.next()?.parse().ok()?,
            once: parts.next().map(PathBuf::from),
        })
    }

    fn is_due(&self, step: u64) -> bool {
        step == self.step
            && self
                .once
                .as_ref()
                .is_none_or(|file| File::create_new(file).is_ok())
    }
}

/// Counts a step, and brings about what was asked for in it.
pub(crate) fn in_decode() {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    static STEPS: AtomicU64 = AtomicU64::new(0);
    let fault = FAULT.get_or_init(|| Fault::parse(&std::env::var(VARIABLE).ok()?));
    let Some(fault) = fault else { return };
    if !fault.is_due(STEPS.fetch_add(1, Ordering::Relaxed) + 1) {
        return;
    }
    match fault.accident {
        Accident::Abort => {
            eprintln!("aborted in step {} as {VARIABLE} asks for", fault.step);
            std::process::abort();
        }
        Accident::Hang => loop {
            thread::park();
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named_by_what_where_and_when() {
        let fault = Fault::parse("abort-in-decode:37").unwrap();
        assert_eq!((fault.accident, fault.step), (Accident::Abort, 37));
        assert!(Fault::parse("hang-in-decode:1:/tmp/a:b").unwrap().once == Some("/tmp/a:b".into()));
        for text in ["", "abort-in-decode", "abort-in-decode:x", "smile:1"] {
            assert_eq!(Fault::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_fault_with_a_file_happens_once() {
        let file = std::env::temp_dir().join(format!("aluco-fault-{}", std::process::id()));
        let text = format!("abort-in-decode:2:{}", file.display());
        let fault = Fault::parse(&text).unwrap();
        assert_eq!(
            [1, 2, 2, 3].map(|step| fault.is_due(step)),
            [false, true, false, false]
        );
        std::fs::remove_file(file).unwrap();
    }
}
