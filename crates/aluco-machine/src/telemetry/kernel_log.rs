//! Watching the kernel's messages: `/dev/kmsg` where it may be read, else `journalctl`.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{Mode, OFlags, open},
    io::Errno,
    time::{ClockId, clock_gettime},
};

use super::{
    event::KernelEvent,
    line::{parse_kmsg, parse_monotonic_line},
    tracker::Tracker,
};

/// No record of `/dev/kmsg` is larger (`PRINTKRB_RECORD_MAX`, doubled for escapes).
const RECORD_BYTES_MAX: usize = 16 << 10;

/// Why the kernel's messages cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Neither source may be read.
    #[error(
        "cannot watch the kernel's messages: /dev/kmsg: {kmsg}; journalctl: {journal}; members of the group systemd-journal or adm may read them"
    )]
    Unreadable {
        /// Why not `/dev/kmsg`.
        kmsg: io::Error,
        /// Why not `journalctl`.
        journal: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread to watch the kernel's messages: {0}")]
    Thread(#[source] io::Error),
}

/// Where the messages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// `/dev/kmsg`
    Kmsg,
    /// `journalctl -k`
    Journal,
}

/// Watches the kernel's messages until it is dropped.
#[derive(Debug)]
pub struct KernelLog {
    source: LogSource,
    shared: Arc<Shared>,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    tracker: Tracker,
    /// The source ended.
    ended: bool,
}

/// What makes the thread end.
#[derive(Debug)]
enum Stop {
    Event(Arc<OwnedFd>),
    Child(Box<Child>),
}

impl KernelLog {
    /// Begins to watch. What the kernel said before is read first, so that a hang just before the start is known.
    pub fn watch() -> Result<Self, LogError> {
        match Self::kmsg(Path::new("/dev/kmsg")) {
            Ok(log) => Ok(log),
            Err(LogError::Unreadable { kmsg, .. }) => {
                Self::journal("journalctl").map_err(|error| match error {
                    LogError::Unreadable { journal, .. } => LogError::Unreadable { kmsg, journal },
                    other @ LogError::Thread(_) => other,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Watches a file or a pipe with records as `/dev/kmsg` hands them out, in its place: that of a host, in a container.
    pub fn watch_file(path: &Path) -> Result<Self, LogError> {
        Self::kmsg(path)
    }

    /// Where the messages come from.
    pub fn source(&self) -> LogSource {
        self.source
    }

    /// The events that happened at this moment or later, oldest first.
    pub fn recent(&self, since: SystemTime) -> Vec<KernelEvent> {
        self.shared.lock().tracker.recent(since)
    }

    /// Waits until something happened at this moment or later, for at most `timeout`; empty if nothing did.
    pub fn wait(&self, since: SystemTime, timeout: Duration) -> Vec<KernelEvent> {
        let until = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            let events = state.tracker.recent(since);
            let left = until.saturating_duration_since(Instant::now());
            if !events.is_empty() || left.is_zero() || state.ended {
                return events;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn kmsg(path: &Path) -> Result<Self, LogError> {
        let refused = |kmsg: Errno| LogError::Unreadable {
            kmsg: kmsg.into(),
            journal: io::ErrorKind::NotFound.into(),
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty()).map_err(refused)?;
        // Opening is allowed to everybody; reading may not be.
        let mut record = vec![0; RECORD_BYTES_MAX];
        let first = match rustix::io::read(&file, &mut record[..]) {
            Ok(length) => Some(length),
            Err(Errno::AGAIN | Errno::PIPE) => None,
            Err(error) => return Err(refused(error)),
        };
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(refused)?;
        let stop = Arc::new(stop);
        let shared = Arc::new(Shared::default());
        if let Some(length) = first {
            shared.take_kmsg(&record[..length], false);
        }
        let thread = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            spawn(move || {
                shared.follow_kmsg(&file, &stop, record);
                shared.end();
            })?
        };
        Ok(Self {
            source: LogSource::Kmsg,
            shared,
            stop: Stop::Event(stop),
            thread: Some(thread),
        })
    }

    fn journal(program: &str) -> Result<Self, LogError> {
        let refused = |journal: io::Error| LogError::Unreadable {
            kmsg: io::ErrorKind::NotFound.into(),
            journal,
        };
        let mut child = Command::new(program)
            .args(["-k", "-f", "-n", "1000", "-o", "short-monotonic"])
            .args(["--no-pager", "--quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(refused)?;
        let shared = Arc::new(Shared::default());
        let Some(output) = child.stdout.take() else {
            return Err(refused(io::ErrorKind::BrokenPipe.into()));
        };
        let thread = {
            let shared = Arc::clone(&shared);
            spawn(move || {
                shared.follow_lines(output);
                shared.end();
            })?
        };
        Ok(Self {
            source: LogSource::Journal,
            shared,
            stop: Stop::Child(Box::new(child)),
            thread: Some(thread),
        })
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        match &mut self.stop {
            Stop::Event(event) => {
                let _ = rustix::io::write(event.as_fd(), &1_u64.to_ne_bytes());
            }
            Stop::Child(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_kmsg(&self, file: &OwnedFd, stop: &OwnedFd, mut record: Vec<u8>) {
        let mut live = false;
        loop {
            match rustix::io::read(file, &mut record[..]) {
                Ok(0) => return,
                Ok(length) => self.take_kmsg(&record[..length], live),
                // Overwritten before it was read, or interrupted: the next one.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    live = true;
                    let mut both = [
                        PollFd::new(file, PollFlags::IN),
                        PollFd::new(stop, PollFlags::IN),
                    ];
                    match poll(&mut both, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(_) => return,
                    }
                    if !both[1].revents().is_empty() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// The device hands out one record a read; a file or a pipe, as many as there are.
    fn take_kmsg(&self, records: &[u8], live: bool) {
        let read = Moment::now();
        // Lines that begin with a space belong to the record before; they are no records, so nothing is read from them.
        for record in records.split_inclusive(|byte| *byte == b'\n') {
            // Only the kernel's own words count; programs can write into its log, too.
            if let Some(record) = parse_kmsg(record).filter(|record| record.facility == 0) {
                self.take(read.of(record.at, live), &record.text);
            }
        }
    }

    fn follow_lines(&self, output: impl Read) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = RECORD_BYTES_MAX as u64;
            match output.by_ref().take(limit).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if let Some(line) = parse_monotonic_line(&line) {
                // The journal's own delay is small beside the drift of the kernel's clock.
                let read = Moment::now();
                let is_fresh = read.since_boot.saturating_sub(line.at) < Duration::from_secs(2);
                self.take(read.of(line.at, is_fresh), &line.text);
            }
        }
    }

    fn take(&self, at: SystemTime, text: &str) {
        if self.lock().tracker.take(at, text) {
            self.changed.notify_all();
        }
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LogError> {
    std::thread::Builder::new()
        .name("kernel-log".to_owned())
        .spawn(work)
        .map_err(LogError::Thread)
}

/// When something was read, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// As the kernel's messages count.
    since_boot: Duration,
    time: SystemTime,
}

impl Moment {
    fn now() -> Self {
        // In this order: however long this thread stands still between the two, no message seems older than it is, and none that a
        // process died of seems to have come before that process.
        let now = clock_gettime(ClockId::Monotonic);
        Self {
            since_boot: Duration::new(
                u64::try_from(now.tv_sec).unwrap_or_default(),
                u32::try_from(now.tv_nsec).unwrap_or_default(),
            ),
            time: SystemTime::now(),
        }
    }

    /// When it happened what the kernel said so long after boot.
    fn of(self, at: Duration, live: bool) -> SystemTime {
        // The kernel's clock for messages is not corrected as others are: what is read as it happens, happens now.
        if live {
            return self.time;
        }
        let age = self.since_boot.saturating_sub(at);
        self.time.checked_sub(age).unwrap_or(self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_journal_become_events_and_waiting_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("journalctl");
        let script = "#!/bin/sh\necho '[    1.000000] host kernel: amdgpu: GPU reset begin!'\nexec sleep 600\n";
        // A shell writes it: what this process has open for writing, a fork of another test's may have, too, and nobody can run it then.
        let wrote = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .arg(&program)
            .arg(script)
            .status();
        assert!(wrote.expect("a shell").success());
        let log = KernelLog::journal(program.to_str().expect("text")).expect("a log");
        let events = log.wait(SystemTime::UNIX_EPOCH, Duration::from_secs(60));
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].line, "amdgpu: GPU reset begin!");
        assert_eq!(log.source(), LogSource::Journal);
        // Dropping ends program and thread; this test would not end otherwise.
        drop(log);
    }

    #[test]
    fn waiting_ends_when_the_source_does() {
        let log = KernelLog::journal("true").expect("a log");
        assert!(
            log.wait(SystemTime::UNIX_EPOCH, Duration::from_secs(600))
                .is_empty()
        );
    }

    #[test]
    fn a_file_of_records_is_read_like_the_device() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kmsg");
        let record = "3,1,1000,-;amdgpu: ring sdma0 timeout, signaled seq=1, emitted seq=2\n";
        let next = " SUBSYSTEM=pci\n4,2,1001,-;amdgpu: GPU reset begin!\n";
        std::fs::write(&path, format!("{record}{next}")).expect("a file");
        let log = KernelLog::watch_file(&path).expect("a log");
        let events = log.wait(SystemTime::UNIX_EPOCH, Duration::from_secs(60));
        let rules: Vec<_> = events.iter().map(|event| event.kind.rule()).collect();
        assert_eq!(rules, [Some("LOG-01"), Some("LOG-04")]);
        let program_wrote = record.replace("3,1,", "11,1,");
        std::fs::write(&path, program_wrote).expect("a file");
        let log = KernelLog::kmsg(&path).expect("a log");
        assert!(
            log.wait(SystemTime::UNIX_EPOCH, Duration::from_secs(60))
                .is_empty()
        );
    }

    #[test]
    fn the_log_of_this_machine_is_watched_or_says_why_not() {
        match KernelLog::watch() {
            Ok(log) => {
                let events = log.recent(SystemTime::now() + Duration::from_secs(3600));
                assert!(events.is_empty(), "from the future: {events:?}");
            }
            Err(error) => assert!(error.to_string().contains("/dev/kmsg"), "{error}"),
        }
    }

    #[test]
    fn a_log_that_is_not_there_says_so() {
        let error = KernelLog::journal("/no/such/journalctl").expect_err("no program");
        assert!(matches!(error, LogError::Unreadable { .. }), "{error}");
        assert!(KernelLog::kmsg(Path::new("/no/such/kmsg")).is_err());
    }
}
