//! The kernel's messages: the fleet asks for them after a death; those that no death explains are warnings.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use aluco_fleet::KernelLog as FleetLog;
use aluco_machine::telemetry::{KernelEvent, KernelEventKind, KernelLog, LogSource};

use super::quiet::Quiet;

/// How long messages may take from the kernel to the watcher.
const DELAY_KMSG: Duration = Duration::from_millis(50);
const DELAY_JOURNAL: Duration = Duration::from_millis(300);

/// A worker that dies of something does so within this time.
const GRACE: Duration = Duration::from_secs(3);

/// Messages that are older than this when a worker dies do not keep anybody waiting for newer ones.
const FRESH: Duration = Duration::from_secs(2);

/// Longest wait for a message; then is looked whether anybody still wants to know.
const WAIT: Duration = Duration::from_secs(10);

/// Watches the kernel's messages for as long as the server runs.
pub(crate) struct KernelWatch {
    log: KernelLog,
    /// Messages up to this moment were told as the cause of a death.
    told_until: Mutex<SystemTime>,
    since: SystemTime,
    warnings: AtomicU64,
}

impl KernelWatch {
    /// Begins to watch: a file in the place of `/dev/kmsg`, if one is named. `None` where the kernel's messages may not be read, which
    /// is no reason not to serve.
    pub(crate) fn start(file: Option<&Path>) -> Option<Arc<Self>> {
        let log = file.map_or_else(KernelLog::watch, KernelLog::watch_file);
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                tracing::debug!(%error, "the kernel's messages are not watched");
                return None;
            }
        };
        tracing::debug!(source = ?log.source(), "the kernel's messages are watched");
        let since = SystemTime::now();
        let watch = Arc::new(Self {
            log,
            told_until: Mutex::new(SystemTime::UNIX_EPOCH),
            since,
            warnings: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&watch);
        let warner = thread::Builder::new().name("kernel-warnings".to_owned());
        if let Err(error) = warner.spawn(move || warn(&weak, since)) {
            tracing::warn!(%error, "early signs in the kernel's messages are not told");
        }
        Some(watch)
    }

    /// For the fleet, which asks after each death.
    pub(crate) fn for_fleet(self: &Arc<Self>) -> FleetLog {
        let watch = self.clone();
        FleetLog(Arc::new(move |since| watch.explain(since)))
    }

    /// Messages since the server began to watch that no death explains.
    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Relaxed)
    }

    /// What happened since the server began to watch, oldest first.
    pub(crate) fn events(&self) -> Vec<KernelEvent> {
        self.log.recent(self.since)
    }

    /// What was said since then and explains no earlier death.
    fn explain(&self, since: SystemTime) -> Vec<String> {
        let delay = match self.log.source() {
            LogSource::Kmsg => DELAY_KMSG,
            LogSource::Journal => DELAY_JOURNAL,
        };
        self.log.wait(SystemTime::now() - FRESH, delay);
        let mut told_until = self.told_until();
        let events = self.log.recent(since.max(*told_until));
        *told_until = SystemTime::now();
        events.iter().map(line).collect()
    }

    fn told_until(&self) -> MutexGuard<'_, SystemTime> {
        self.told_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message, with the process that the kernel named in a later one.
fn line(event: &KernelEvent) -> String {
    match (&event.process, event.pid) {
        (Some(process), Some(pid)) if !event.line.contains(process.as_str()) => {
            format!("{} (process {process} pid {pid})", event.line)
        }
        _ => event.line.clone(),
    }
}

/// Tells, until the watch is dropped, of messages that no worker has died of.
fn warn(watch: &Weak<KernelWatch>, mut since: SystemTime) {
    let mut quiet = Quiet::default();
    while let Some(watching) = watch.upgrade() {
        let began = Instant::now();
        let events = watching.log.wait(since, WAIT);
        drop(watching);
        let Some(last) = events.last() else {
            if began.elapsed() < WAIT {
                tracing::debug!("the kernel's messages have come to their end");
                return;
            }
            continue;
        };
        since = last.at + Duration::from_nanos(1);
        // If a worker dies of it, its end tells of it.
        thread::sleep(GRACE);
        let Some(watching) = watch.upgrade() else {
            return;
        };
        let told_until = *watching.told_until();
        for event in events.iter().filter(|event| event.at > told_until) {
            if is_trouble(&event.kind) {
                watching.warnings.fetch_add(1, Ordering::Relaxed);
                tell(event, &mut quiet);
            }
        }
    }
}

fn tell(event: &KernelEvent, quiet: &mut Quiet) {
    let Some(left_out) = quiet.admit(event.kind.rule().unwrap_or("OOM"), Instant::now()) else {
        return;
    };
    let advice = event.kind.rule().map_or_else(String::new, |rule| {
        format!("; aluco doctor --explain {rule} tells more")
    });
    tracing::warn!(
        kernel = line(event),
        left_out,
        "the kernel reports trouble, of which no worker has died so far{advice}"
    );
}

/// Whether it bodes ill for a worker that runs.
fn is_trouble(kind: &KernelEventKind) -> bool {
    !matches!(
        kind,
        KernelEventKind::SettingIgnored | KernelEventKind::GpuRecovered | KernelEventKind::CoreDump
    )
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use rustix::time::{ClockId, clock_gettime};

    use super::*;

    /// A watch of a file that others go on to write, and its writer.
    fn watched(folder: &Path) -> (Arc<KernelWatch>, std::fs::File) {
        let path = folder.join("kmsg");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        // Open for reading, too, so that opening does not wait for a reader.
        let writer = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        (KernelWatch::start(Some(&path)).unwrap(), writer)
    }

    #[test]
    fn what_the_kernel_says_explains_one_death_only() {
        let folder = tempfile::tempdir().unwrap();
        let (watch, mut kernel) = watched(folder.path());
        let ask = watch.for_fleet();
        let a_while_ago = SystemTime::now() - Duration::from_secs(120);
        assert!((ask.0)(a_while_ago).is_empty());
        // The watch may not have begun to read: then the time of a record counts.
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000 + 1;
        let records = format!(
            "4,1,{now_us},-;amdgpu 0000:c5:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770)\n\
             4,2,{now_us},-;amdgpu 0000:c5:00.0: amdgpu:  Process llama-cli pid 10890 thread llama-cli pid 10890\n",
        );
        kernel.write_all(records.as_bytes()).unwrap();
        // The second line completes what the first began.
        let begun = Instant::now();
        while watch
            .events()
            .first()
            .is_none_or(|event| event.pid.is_none())
        {
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::yield_now();
        }
        assert_eq!(
            (ask.0)(a_while_ago),
            [
                "amdgpu 0000:c5:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:153 vmid:8 pasid:32770) (process llama-cli pid 10890)"
            ]
        );
        assert!((ask.0)(a_while_ago).is_empty());
    }

    #[test]
    fn a_log_that_may_not_be_read_is_no_reason_not_to_serve() {
        assert!(KernelWatch::start(Some(Path::new("/nonexistent/kmsg"))).is_none());
    }
}
