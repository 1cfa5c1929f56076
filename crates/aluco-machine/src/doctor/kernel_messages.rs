//! What the kernel said since it started, read once and not watched.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

use crate::{
    facts::{Because, Known},
    root::Root,
    telemetry::{KernelEvent, Tracker, parse_kmsg, parse_monotonic_line},
};

const KMSG: &str = "/dev/kmsg";
const RECORD_BYTES_MAX: usize = 16 << 10;
const TEXT_BYTES_MAX: usize = 8 << 20;
/// How long the journal may take.
const JOURNAL_PATIENCE: Duration = Duration::from_millis(600);
/// Where a replayed machine keeps what `dmesg` said.
const REPLAYED: &str = "/commands/dmesg";

/// The events in the kernel's messages since it started, oldest first: of `/dev/kmsg`, else of the journal; of a replayed machine, those that were
/// captured with it.
pub fn kernel_events(root: &Root) -> Known<Vec<KernelEvent>> {
    if !root.is_live() {
        return match root.text_up_to(REPLAYED, TEXT_BYTES_MAX) {
            Ok(text) => Known::value(of_lines(text.as_bytes()), REPLAYED),
            Err(error) if error.because == Because::Absent => Known::unknown(
                Because::NotCollected,
                "the kernel's messages of this machine were not captured",
            ),
            Err(error) => error.into(),
        };
    }
    match of_kmsg() {
        Ok(events) => Known::value(events, KMSG),
        Err(error) => match of_journal() {
            Some(events) => Known::value(events, "journalctl -k"),
            None => Known::unknown(
                Because::Permission,
                format!(
                    "the kernel's messages are not readable by this user ({KMSG}: {error}); root and the groups adm and systemd-journal may"
                ),
            ),
        },
    }
}

/// What happened is told by the kernel's own clock; only the order matters here.
fn at(since_start: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(since_start)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn of_kmsg() -> Result<Vec<KernelEvent>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = open(KMSG, flags, Mode::empty())?;
    let mut tracker = Tracker::default();
    let mut record = vec![0; RECORD_BYTES_MAX];
    loop {
        match rustix::io::read(&file, &mut record[..]) {
            Ok(0) | Err(Errno::AGAIN) => break,
            Ok(length) => {
                // Programs can write there, too; only the kernel's own words count.
                if let Some(message) = parse_kmsg(&record[..length])
                    && message.facility == 0
                {
                    tracker.take(at(message.at), &message.text);
                }
            }
            // Overwritten before it was read, or interrupted: the next one.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tracker.recent(SystemTime::UNIX_EPOCH))
}

fn of_journal() -> Option<Vec<KernelEvent>> {
    let mut journal = Command::new("journalctl")
        .args(["-k", "-b", "-n", "5000", "-o", "short-monotonic"])
        .args(["--no-pager", "--quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut output = journal.stdout.take()?.take(TEXT_BYTES_MAX as u64);
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.read_to_end(&mut text);
        let _ = done.send(read.map(|_| text));
    });
    let text = result.recv_timeout(JOURNAL_PATIENCE);
    let _ = journal.kill();
    let _ = journal.wait();
    // A user who may not read the journal gets an empty one.
    let text = text.ok()?.ok().filter(|text| !text.is_empty())?;
    Some(of_lines(&text))
}

fn of_lines(text: &[u8]) -> Vec<KernelEvent> {
    let mut tracker = Tracker::default();
    for line in text.split(|byte| *byte == b'\n') {
        if let Some(message) = parse_monotonic_line(line) {
            tracker.take(at(message.at), &message.text);
        }
    }
    tracker.recent(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::KernelEventKind;

    #[test]
    fn events_are_found_in_the_text_of_dmesg() {
        let text = b"[    1.000000] Linux version 7.1.3\n[  950.818166] amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE\n\xff\xfe\n[x] y\n";
        let events = of_lines(text);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind, KernelEventKind::MesFailure);
    }
}
