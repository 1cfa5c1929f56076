//! Ways to end a worker, and how long its streams then wait.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    crowd::Crowd,
    is_long,
    journal::{self, Life, told_within},
};
use crate::served::{PATIENCE, Served, is_running, worker};

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the kernel does when memory runs out.
    Kill,
    /// As if it had read where there is nothing.
    Segv,
    /// It does nothing any more, and does not end.
    Stop,
    /// An assertion fails in the midst of a decode.
    Abort,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [Self::Kill, Self::Segv, Self::Stop, Self::Abort];

    /// What the log has to say of the end.
    fn cause(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Segv => "SIGSEGV",
            Self::Stop => "stopped by a signal",
            Self::Abort => "SIGABRT",
        }
    }

    pub(super) fn signal(self, pid: u32) {
        let process = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        let signal = |signal| kill_process(process, signal);
        match self {
            Self::Kill => signal(Signal::KILL).unwrap(),
            Self::Stop => signal(Signal::STOP).unwrap(),
            // Rust's handler looks for an overflown stack, takes itself away and has the instruction fail once more; one that was only sent
            // does not come again by itself.
            Self::Segv => {
                let begun = Instant::now();
                while is_running(pid) && signal(Signal::SEGV).is_ok() {
                    assert!(begun.elapsed() < PATIENCE, "{pid} outlives SIGSEGV");
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Self::Abort => panic!("it is the worker itself that aborts"),
        }
    }
}

/// A worker that can be told to abort: a script that looks whether `ALUCO_FAULT` is to be set for the one that starts.
pub(super) struct Mortal {
    folder: TempDir,
}

impl Mortal {
    pub(super) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let mortal = Self { folder };
        let script = format!(
            "#!/bin/sh\ncd '{}'\nmv fault taken 2>/dev/null && export ALUCO_FAULT=$(cat taken)\nexec '{}' \"$@\"\n",
            mortal.folder.path().display(),
            worker().display()
        );
        fs::write(mortal.path(), script).unwrap();
        fs::set_permissions(mortal.path(), fs::Permissions::from_mode(0o755)).unwrap();
        mortal
    }

    /// The script.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("worker")
    }

    /// The next worker that starts aborts in this step; the file that comes back is made at that moment.
    fn doom(&self, step: u64, death: usize) -> PathBuf {
        let moment = self.folder.path().join(format!("moment-{death}"));
        let fault = format!("abort-in-decode:{step}:{}", moment.display());
        fs::write(self.folder.path().join("fault"), fault).unwrap();
        moment
    }
}

/// Numbers without a pattern, the same for the same seed (SplitMix64).
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// A number below a bound.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What a death cost.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub(super) way: Way,
    /// The moment of the death. A worker that is stopped is as good as dead when that is noticed.
    pub(super) at: SystemTime,
    /// When the supervisor knew of it.
    pub(super) ended: SystemTime,
    /// From the signal, or the abort, until then.
    pub(super) noticed: Duration,
    /// From there until the next worker had started.
    pub(super) restarted: Duration,
    /// From there until it had the model.
    pub(super) loaded: Duration,
    /// The same as the log tells it, by the worker's own clock.
    pub(super) load: Duration,
    /// From there until the first stream, and until the last one, had its next token.
    pub(super) restored: [Duration; 2],
    /// The next worker may have died before all streams had a token of it.
    pub(super) is_interrupted: bool,
    /// Tasks that may have wanted to run, per core: what takes a second alone takes so many of them.
    pub(super) crowding: f64,
}

impl Pause {
    /// From the death to the next token of the last stream.
    pub(super) fn total(&self) -> Duration {
        self.noticed + self.restarted + self.loaded + self.restored[1]
    }
}

/// Tasks per core that there may be where nobody has taken care that there are none.
const CROWDING_MIN: f64 = 10.0;

/// Turns in which a client hears everything that has been said to it.
const TURNS: usize = 20;

/// Longest time that is waited before a worker that runs is killed, in milliseconds.
const LIFE_MS_MAX: u64 = 1500;

/// Ends workers one after the other, each at a moment of its own; streams have to go on within the patience.
pub(super) async fn kill_again_and_again(
    patience: Duration,
    served: &Served,
    mortal: &Mortal,
    crowd: &Crowd,
    ways: &[Way],
    step_max: u64,
    chance: &mut Chance,
) -> Vec<Pause> {
    let mut pauses = Vec::new();
    let mut moment = None;
    for (index, way) in ways.iter().enumerate() {
        let of_this = moment.take();
        if ways.get(index + 1) == Some(&Way::Abort) {
            moment = Some(mortal.doom(1 + chance.below(step_max), index + 1));
        }
        eprintln!("death {index}: {way:?}");
        let mut at = SystemTime::now();
        if *way != Way::Abort {
            tokio::time::sleep(Duration::from_millis(chance.below(LIFE_MS_MAX))).await;
            let pid = served.worker_pid().await;
            at = SystemTime::now();
            way.signal(pid);
        }
        let (dead, next) = told_within(patience, served, "next worker with the model", |lives| {
            let dead = lives.get(index)?;
            let next = lives.get(index + 1)?;
            (dead.ended.is_some() && next.loaded.is_some()).then(|| (dead.clone(), next.clone()))
        })
        .await;
        assert!(dead.cause.contains(way.cause()), "{way:?}: {}", dead.cause);
        if let Some(moment) = of_this {
            at = fs::metadata(moment).unwrap().modified().unwrap();
        }
        let next_tokens = told_within(patience, served, "next token of each stream", |_| {
            crowd.next_tokens(next.loaded?)
        })
        .await;
        let mut pause = pause(*way, at, &dead, &next, &next_tokens);
        let own_tokens = own_tokens(patience, served, crowd).await;
        let next = journal::lives(&served.log()).swap_remove(index + 1);
        pause.is_interrupted = next
            .ended
            .is_some_and(|at| own_tokens.iter().any(|it| *it > at));
        pauses.push(pause);
    }
    pauses
}

/// When each client heard a token that was none of those which the dead worker had said: they may still have been on their way when the next
/// one had the model.
async fn own_tokens(patience: Duration, served: &Served, crowd: &Crowd) -> Vec<SystemTime> {
    // The clients live on this thread. However long it stood still, they have many turns meanwhile in which they hear what there is.
    for _ in 0..TURNS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let all_heard = SystemTime::now();
    told_within(patience, served, "token of the next worker", |_| {
        crowd.next_tokens(all_heard)
    })
    .await
}

fn pause(
    way: Way,
    signalled: SystemTime,
    dead: &Life,
    next: &Life,
    next_tokens: &[SystemTime],
) -> Pause {
    let ended = dead.ended.unwrap();
    let (started, loaded) = (next.started.unwrap(), next.loaded.unwrap());
    let since = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
    let restored = |at: Option<&SystemTime>| since(loaded, *at.unwrap());
    Pause {
        way,
        at: if way == Way::Stop { ended } else { signalled },
        ended,
        noticed: since(signalled, ended),
        restarted: since(ended, started),
        loaded: since(started, loaded),
        load: next.load.unwrap(),
        restored: [
            restored(next_tokens.iter().min()),
            restored(next_tokens.iter().max()),
        ],
        is_interrupted: false,
        crowding: crowding(),
    }
}

/// By the load average of the last minute. That knows nothing of what has just begun, and the machine that runs all tests does other
/// things beside: only where figures are wanted is it taken to be as idle as it looks.
fn crowding() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = text.split_whitespace().next();
    let load: f64 = load.and_then(|load| load.parse().ok()).unwrap_or_default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    (load / cores as f64).max(if is_long() { 1.0 } else { CROWDING_MIN })
}

/// Median and maximum.
pub(super) fn spread(mut values: Vec<Duration>) -> (Duration, Duration) {
    values.sort_unstable();
    (values[values.len() / 2], values[values.len() - 1])
}

/// Says what the deaths cost.
pub(super) fn print(pauses: &[Pause]) {
    eprintln!(
        "milliseconds, median/maximum, until noticed, restarted, loaded (by itself), first and last stream go on; all"
    );
    for way in Way::ALL {
        let of_way: Vec<&Pause> = pauses
            .iter()
            .filter(|pause| pause.way == way && !pause.is_interrupted)
            .collect();
        if of_way.is_empty() {
            continue;
        }
        let column = |part: &dyn Fn(&Pause) -> Duration| {
            let (median, most) = spread(of_way.iter().map(|pause| part(pause)).collect());
            format!("{:>5}/{:<5}", median.as_millis(), most.as_millis())
        };
        eprintln!(
            "{:>2} x {:<5} {} {} {} ({}) {} {}  {}",
            of_way.len(),
            format!("{way:?}"),
            column(&|pause| pause.noticed),
            column(&|pause| pause.restarted),
            column(&|pause| pause.loaded),
            column(&|pause| pause.load),
            column(&|pause| pause.restored[0]),
            column(&|pause| pause.restored[1]),
            column(&Pause::total),
        );
    }
}
