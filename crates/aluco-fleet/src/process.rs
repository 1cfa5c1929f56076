//! One worker process, from its start to its reaping.

use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    process::{Child, ChildStderr, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::cause::{self, Cause, CauseKind, Ending, KernelLog};

/// How long a worker that closed its socket may take to exit by itself.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// How long the kernel may take to end a killed process. A process that hangs in a driver takes longer; then it is reaped later.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long the last bytes of a dead worker's socket and standard error are waited for. They are there already, unless a child of
/// the worker holds the other end.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Reads of [`READ_BYTES`] by which the last bytes are taken: more than a pipe of the usual size holds.
const LAST_READS_MAX: usize = 64;

/// Of standard error, at once.
const READ_BYTES: usize = 8192;

/// How far back the kernel's log is read after a death: a hang is reported long before the process ends.
const KERNEL_LOG_SPAN: Duration = Duration::from_secs(120);

/// How long that may take. It takes milliseconds, but the machine may be busy with what the worker died of, and a worker that is started
/// again some seconds later is better than one of which nobody knows why it died.
const KERNEL_LOG_GRACE: Duration = Duration::from_secs(10);

/// Lines of standard error that are kept.
const TAIL_LINES_MAX: usize = 40;

/// Lines of standard error that go into the cause of a death.
const CAUSE_LINES_MAX: usize = 8;

/// Longer lines are cut into pieces.
const LINE_BYTES_MAX: usize = 4096;

/// A fresh process and the supervisor's ends of its streams.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) socket: UnixStream,
    pub(crate) stderr: ChildStderr,
    /// When it was started: nothing that happened to it happened earlier.
    pub(crate) started_at: SystemTime,
}

/// Starts a worker with one end of a fresh socket as its standard input.
pub(crate) fn spawn(binary: &Path) -> io::Result<Process> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    // The command owns the worker's end and closes our copy of it when it goes out of scope; only then does the end of the
    // process end the stream.
    let mut command = command(binary, "serve");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let started_at = SystemTime::now();
    let mut child = command.spawn()?;
    let stderr = child.stderr.take().expect("standard error is piped");
    Ok(Process {
        child,
        socket: UnixStream::from_std(ours)?,
        stderr,
        started_at,
    })
}

/// What `serve` and `probe` have in common: a group of its own, so that a terminal's Ctrl-C reaches only the supervisor, and no
/// debugger at an abort.
pub(crate) fn command(binary: &Path, verb: &str) -> Command {
    let mut command = Command::new(binary);
    command
        .arg(verb)
        .env("GGML_NO_BACKTRACE", "1")
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// What the keeper of a process is told.
#[derive(Debug)]
pub(crate) enum Control {
    /// Ask it to go, by SIGTERM.
    Terminate,
    /// End it now, for this reason.
    Kill(CauseKind, String),
}

/// How the way up ended.
#[derive(Debug)]
pub(crate) enum ReadEnd {
    /// Between two frames.
    Closed,
    /// In any other way.
    Broken(String),
}

/// The tasks around a process.
pub(crate) struct Surroundings {
    /// Reads frames.
    pub(crate) reader: JoinHandle<ReadEnd>,
    /// Reads standard error.
    pub(crate) stderr: JoinHandle<()>,
    /// It has been read for long enough; what it says already is taken nevertheless.
    pub(crate) enough: CancellationToken,
    /// What standard error said.
    pub(crate) tail: Arc<Mutex<LineTail>>,
    /// Orders. When all senders are gone, nobody needs the process any more.
    pub(crate) control: mpsc::UnboundedReceiver<Control>,
    /// The whole fleet goes down.
    pub(crate) kill: CancellationToken,
    /// When the process was started.
    pub(crate) started_at: SystemTime,
    /// What the kernel has to say about its end.
    pub(crate) kernel_log: Option<KernelLog>,
}

/// Waits for the end of a process, or brings it about; gives the cause. `on_ending` runs as soon as the end is certain, before the
/// process is reaped.
pub(crate) async fn keep(
    mut child: Child,
    mut around: Surroundings,
    on_ending: impl FnOnce(),
) -> Cause {
    let pid = child.id().unwrap_or(0);
    let mut verdict = None;
    let mut reader_is_done = false;
    loop {
        tokio::select! {
            _ = child.wait() => break,
            end = &mut around.reader => {
                reader_is_done = true;
                if let Ok(ReadEnd::Broken(reason)) = end {
                    verdict = Some((CauseKind::Protocol, reason));
                }
                break;
            }
            order = around.control.recv() => match order {
                Some(Control::Terminate) => signal(&child, Signal::TERM),
                Some(Control::Kill(kind, reason)) => {
                    verdict = Some((kind, reason));
                    break;
                }
                None => {
                    verdict = Some((CauseKind::Unneeded, "nobody needed it any more".to_owned()));
                    break;
                }
            },
            () = around.kill.cancelled() => {
                verdict = Some((CauseKind::Unneeded, "the server is shutting down".to_owned()));
                break;
            }
        }
    }
    on_ending();
    if verdict.is_none() && timeout(EXIT_GRACE, child.wait()).await.is_err() {
        let reason = "it closed its socket without exiting".to_owned();
        verdict = Some((CauseKind::Protocol, reason));
    }
    signal(&child, Signal::KILL);
    let status = timeout(KILL_GRACE, child.wait()).await;
    if !reader_is_done {
        finish(&mut around.reader).await;
    }
    if timeout(DRAIN_GRACE, &mut around.stderr).await.is_err() {
        around.enough.cancel();
        // It can only fail with the runtime.
        let _ = around.stderr.await;
    }
    let status = if let Ok(status) = status {
        status.ok()
    } else {
        tokio::spawn(async move { child.wait().await });
        None
    };
    let kernel_lines = match around.kernel_log {
        Some(log) if !matches!(verdict, Some((CauseKind::Unneeded, _))) => {
            read_log(log, around.started_at).await
        }
        _ => Vec::new(),
    };
    let tail = around.tail.lock().unwrap_or_else(PoisonError::into_inner);
    cause::find(Ending {
        verdict,
        status,
        last_words: &tail.last_words(),
        kernel_lines: &kernel_lines,
        pid,
    })
}

/// Waits for the last bytes, and for the reader in any case: what it still passed on later would come behind what the next worker says.
async fn finish(reader: &mut JoinHandle<ReadEnd>) {
    if timeout(DRAIN_GRACE, &mut *reader).await.is_err() {
        reader.abort();
        // Aborting does not wait for what it does right now.
        let _ = reader.await;
    }
}

/// What the kernel said lately, and since the process was started: what happened before was not its end.
async fn read_log(log: KernelLog, started_at: SystemTime) -> Vec<String> {
    let since = started_at.max(SystemTime::now() - KERNEL_LOG_SPAN);
    let reading = tokio::task::spawn_blocking(move || (log.0)(since));
    match timeout(KERNEL_LOG_GRACE, reading).await {
        Ok(Ok(lines)) => lines,
        _ => Vec::new(),
    }
}

/// True if a signal has stopped the process.
pub(crate) fn is_stopped(pid: u32) -> bool {
    // The state is the first field behind the name, which is in parentheses and may have any others in it.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['T', 't'])))
        .unwrap_or(false)
}

/// Signals the process and what it started, if it is not reaped yet.
fn signal(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process_group(pid, signal);
    }
}

/// An exit status in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    if let Some(code) = status.code() {
        return format!("it exited with status {code}");
    }
    let number = status.signal().unwrap_or(0);
    let name = match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => "SIGABRT (an assertion of the engine failed)",
        Some(Signal::SEGV) => "SIGSEGV (invalid memory access)",
        Some(Signal::BUS) => {
            "SIGBUS (memory that cannot be read: a truncated file, or a device fault)"
        }
        Some(Signal::ILL) => "SIGILL (an instruction that this CPU does not have)",
        Some(Signal::FPE) => "SIGFPE (arithmetic error)",
        Some(Signal::KILL) => "SIGKILL (by hand, or by the kernel when memory ran out)",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::QUIT) => "SIGQUIT",
        Some(Signal::TRAP) => "SIGTRAP",
        Some(Signal::PIPE) => "SIGPIPE",
        _ => return format!("it was ended by signal {number}"),
    };
    format!("it was ended by {name}")
}

/// Reads standard error to its end, or until it is `enough`; each line becomes a log event.
pub(crate) async fn read_stderr(
    mut stderr: ChildStderr,
    tail: Arc<Mutex<LineTail>>,
    enough: CancellationToken,
) {
    let log = |line: &str| tracing::warn!(target: "aluco::worker", "{line}");
    let tail = || tail.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let bytes = tokio::select! {
            biased;
            () = enough.cancelled() => break,
            bytes = stderr.read(&mut buffer) => bytes.unwrap_or(0),
        };
        if bytes == 0 {
            return tail().finish(log);
        }
        tail().push(&buffer[..bytes], log);
    }
    // If this process stood still, time is over before the runtime has looked what is there; the pipe itself knows.
    for _ in 0..LAST_READS_MAX {
        match rustix::io::read(&stderr, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(bytes) => tail().push(&buffer[..bytes], log),
        }
    }
    tail().finish(log);
}

/// The last lines of a stream.
#[derive(Debug, Default)]
pub(crate) struct LineTail {
    lines: VecDeque<String>,
    partial: Vec<u8>,
}

impl LineTail {
    /// Adds bytes in the order of their arrival; `each` hears every complete line.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(&mut each);
            } else {
                self.partial.push(byte);
                if self.partial.len() == LINE_BYTES_MAX {
                    self.end_line(&mut each);
                }
            }
        }
    }

    /// The stream is over; what is left is a line.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(&str)) {
        self.end_line(&mut each);
    }

    /// The last few lines.
    pub(crate) fn last_words(&self) -> Vec<String> {
        let skip = self.lines.len().saturating_sub(CAUSE_LINES_MAX);
        self.lines.iter().skip(skip).cloned().collect()
    }

    fn end_line(&mut self, each: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        each(&line);
        if self.lines.len() == TAIL_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn exit_statuses_and_signals_are_put_into_words() {
        assert_eq!(
            describe(ExitStatus::from_raw(3 << 8)),
            "it exited with status 3"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(11)),
            "it was ended by SIGSEGV (invalid memory access)"
        );
        assert_eq!(
            describe(ExitStatus::from_raw(63)),
            "it was ended by signal 63"
        );
    }

    #[tokio::test]
    async fn what_was_said_is_heard_even_if_time_is_over_and_somebody_holds_the_pipe() {
        let mut holder = std::process::Command::new("sh")
            .args(["-c", "echo last words >&2; echo >&1; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0];
        std::io::Read::read_exact(&mut holder.stdout.take().unwrap(), &mut said).unwrap();
        let stderr = ChildStderr::from_std(holder.stderr.take().unwrap()).unwrap();
        let tail = Arc::new(Mutex::new(LineTail::default()));
        let enough = CancellationToken::new();
        enough.cancel();
        read_stderr(stderr, tail.clone(), enough).await;
        assert!(holder.try_wait().unwrap().is_none(), "it holds the pipe");
        assert_eq!(tail.lock().unwrap().last_words(), ["last words"]);
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }

    #[test]
    fn the_tail_keeps_the_last_lines_and_is_bounded() {
        let mut tail = LineTail::default();
        let mut heard = 0;
        for line in 0..1000 {
            tail.push(format!("line {line}\n\n").as_bytes(), |_| heard += 1);
        }
        tail.push(b"the end", |_| heard += 1);
        tail.finish(|_| heard += 1);
        assert_eq!(heard, 1001);
        assert_eq!(tail.lines.len(), TAIL_LINES_MAX);
        let words = tail.last_words();
        assert_eq!(words[words.len() - 2..], ["line 999", "the end"]);
        assert_eq!(words.len(), CAUSE_LINES_MAX);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_that_is_given_up_has_finished_what_it_does() {
        let is_over = Arc::new(AtomicBool::new(false));
        let (begun, begins) = tokio::sync::oneshot::channel();
        let mut reader = tokio::spawn({
            let is_over = is_over.clone();
            async move {
                begun.send(()).unwrap();
                // It passes on what it has read, on a machine that has no time for that.
                std::thread::sleep(DRAIN_GRACE + Duration::from_millis(300));
                is_over.store(true, Ordering::Relaxed);
                std::future::pending().await
            }
        });
        begins.await.unwrap();
        finish(&mut reader).await;
        assert!(is_over.load(Ordering::Relaxed));
    }

    #[test]
    fn a_line_without_an_end_is_cut_rather_than_kept_whole() {
        let mut tail = LineTail::default();
        tail.push(&vec![b'x'; 1_000_000], |line| {
            assert_eq!(line.len(), LINE_BYTES_MAX);
        });
        assert!(tail.partial.len() < LINE_BYTES_MAX);
        assert_eq!(tail.lines.len(), TAIL_LINES_MAX);
    }
}
