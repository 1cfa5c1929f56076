//! One stream that outlives its connections: written by its recorder, read by any number of readers.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    log::{EventLog, Unreadable},
    truncated,
};
use crate::{
    client::Client,
    sse::{Heartbeat, Step, comment, data, numbered},
};

/// What a stream costs beside its events: its task, its entry in the table, and so on, in bytes.
const RECORDING_BYTES: usize = 2048;

/// What a stream has said so far.
pub(super) struct Recording {
    pub(super) id: Uuid,
    pub(super) owner: Client,
    state: Mutex<State>,
    /// Told of everything that is new.
    changed: watch::Sender<()>,
    /// How many read.
    audience: watch::Sender<usize>,
    /// Cancelled when nobody is to read it any more. If it still runs then, it ends.
    pub(super) dismissed: CancellationToken,
    /// What all recordings cost, in bytes; this one's share is kept up here.
    total: Arc<AtomicUsize>,
}

struct State {
    log: EventLog,
    /// What a comment says.
    activity: String,
    /// Comments so far that say something new.
    remarks: u64,
    is_over: bool,
}

impl Recording {
    pub(super) fn new(owner: Client, bytes_max: usize, total: Arc<AtomicUsize>) -> Arc<Self> {
        total.fetch_add(RECORDING_BYTES, Ordering::Relaxed);
        Arc::new(Self {
            id: Uuid::new_v4(),
            owner,
            state: Mutex::new(State {
                log: EventLog::new(bytes_max),
                activity: String::new(),
                remarks: 0,
                is_over: false,
            }),
            changed: watch::Sender::new(()),
            audience: watch::Sender::new(0),
            dismissed: CancellationToken::new(),
            total,
        })
    }

    pub(super) fn add(&self, step: &Step, activity: &str) {
        {
            let mut state = self.state();
            if state.activity != activity {
                activity.clone_into(&mut state.activity);
            }
            state.remarks += u64::from(step.has_progress);
            for event in &step.events {
                self.push(&mut state.log, event);
            }
        }
        self.changed.send_replace(());
    }

    /// Ends the stream, with an event that says why if it does not end by itself. Once is enough.
    pub(super) fn finish(&self, error: Option<&str>) {
        {
            let mut state = self.state();
            if state.is_over {
                return;
            }
            if let Some(error) = error {
                self.push(&mut state.log, error);
            }
            state.is_over = true;
        }
        self.changed.send_replace(());
    }

    fn push(&self, log: &mut EventLog, event: &str) {
        let before = log.bytes();
        log.push(numbered(log.last() + 1, event));
        self.total.fetch_add(log.bytes(), Ordering::Relaxed);
        self.total.fetch_sub(before, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over
    }

    /// What its events cost.
    pub(super) fn bytes(&self) -> usize {
        self.state().log.bytes()
    }

    /// Drops the oldest events until the rest costs no more than that, but for the latest event.
    pub(super) fn shrink_to(&self, bytes_max: usize) {
        let mut state = self.state();
        let before = state.log.bytes();
        state.log.shrink_to(bytes_max);
        let freed = before - state.log.bytes();
        self.total.fetch_sub(freed, Ordering::Relaxed);
    }

    pub(super) fn check(&self, after: u64) -> Result<(), Unreadable> {
        self.state().log.check(after)
    }

    /// Comes back when nobody has read for that long.
    pub(super) async fn abandoned(&self, grace: Duration) {
        let mut audience = self.audience.subscribe();
        loop {
            // This holds the sender, so there is always one.
            let _ = audience.wait_for(|readers| *readers == 0).await;
            let somebody = audience.wait_for(|readers| *readers > 0);
            if tokio::time::timeout(grace, somebody).await.is_err() {
                return;
            }
        }
    }

    /// What comes behind event `after`, to the end of the stream. Between events comments are sent: those of the generation, if
    /// `has_begun` is false also the one it begins with, and heartbeats.
    pub(super) fn read(
        self: &Arc<Self>,
        after: u64,
        has_begun: bool,
        heartbeat_interval: Duration,
    ) -> impl Stream<Item = Bytes> + Send + use<> {
        self.audience.send_modify(|readers| *readers += 1);
        let reader = Reader {
            changed: self.changed.subscribe(),
            after,
            remarks: if has_begun { self.state().remarks } else { 0 },
            heartbeat: Heartbeat::new(heartbeat_interval),
            is_over: false,
            recording: self.clone(),
        };
        stream::unfold(reader, |mut reader| async {
            let frame = reader.next().await?;
            reader.heartbeat.sent();
            Some((frame, reader))
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let bytes = RECORDING_BYTES + self.bytes();
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Reads at its own pace. What it has not read is held only once, and only as long as it fits.
struct Reader {
    recording: Arc<Recording>,
    changed: watch::Receiver<()>,
    after: u64,
    remarks: u64,
    heartbeat: Heartbeat,
    is_over: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            {
                let state = self.recording.state();
                match state.log.next(self.after) {
                    Ok(Some(frame)) => {
                        self.after += 1;
                        return Some(frame);
                    }
                    Ok(None) if state.is_over => return None,
                    Ok(None) => {}
                    Err(unreadable) => {
                        self.is_over = true;
                        return Some(data(&truncated(unreadable).to_json()));
                    }
                }
                if state.remarks > self.remarks {
                    self.remarks = state.remarks;
                    return Some(comment(&state.activity));
                }
            }
            let news = self.changed.changed();
            if self.heartbeat.wait(news).await.is_none() {
                return Some(comment(&self.recording.state().activity));
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.recording.audience.send_modify(|readers| *readers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;

    use super::*;

    fn recording(bytes_max: usize) -> Arc<Recording> {
        Recording::new(Client::at(None), bytes_max, Arc::default())
    }

    fn say(recording: &Recording, text: &str) {
        let step = Step {
            events: vec![text.to_owned()],
            has_progress: false,
        };
        recording.add(&step, "generating");
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_what_is_kept_is_told() {
        let recording = recording(300);
        let mut reader = pin!(recording.read(0, true, Duration::MAX));
        for number in 0..100 {
            say(&recording, &number.to_string());
        }
        let said = reader.next().await.unwrap();
        let said = str::from_utf8(&said).unwrap();
        assert!(said.contains("stream_truncated"), "{said}");
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn steps_that_add_nothing_do_not_put_off_the_heartbeat() {
        let recording = recording(1000);
        let mut reader = pin!(recording.read(0, true, Duration::from_secs(5)));
        let busy = async {
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                recording.add(&Step::default(), "generating");
            }
        };
        let began = tokio::time::Instant::now();
        let heard = tokio::select! {
            heard = reader.next() => heard.unwrap(),
            () = busy => unreachable!(),
        };
        assert_eq!(heard, ": generating\n\n");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn what_all_cost_is_counted_to_the_byte() {
        let total = Arc::new(AtomicUsize::new(0));
        let first = Recording::new(Client::at(None), 1000, total.clone());
        let second = Recording::new(Client::at(None), 1000, total.clone());
        for number in 0..100 {
            say(&first, &number.to_string());
            say(&second, &"x".repeat(number));
        }
        let both = first.bytes() + second.bytes() + 2 * RECORDING_BYTES;
        assert_eq!(total.load(Ordering::Relaxed), both);
        second.shrink_to(0);
        let both = first.bytes() + second.bytes() + 2 * RECORDING_BYTES;
        assert_eq!(total.load(Ordering::Relaxed), both);
        drop((first, second));
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_abandoned_only_when_nobody_reads_for_the_whole_grace() {
        let recording = recording(1000);
        let grace = Duration::from_secs(60);
        let mut abandoned = pin!(recording.abandoned(grace));
        let mut reader = Some(recording.read(0, true, Duration::MAX));
        for has_reader in [true, false, true, false] {
            if has_reader {
                reader = Some(recording.read(0, true, Duration::MAX));
            } else {
                reader.take();
            }
            let wait = tokio::time::timeout(grace / 2, &mut abandoned);
            assert!(wait.await.is_err());
        }
        let began = tokio::time::Instant::now();
        abandoned.await;
        assert_eq!(began.elapsed(), grace / 2);
    }
}
