//! How many threads a decode step should use right now.
//!
//! The threads of a step meet at hundreds of barriers per token. One that has to share its core with another program makes all others
//! wait at each of them: on two cores, one busy program cost three quarters of the decode speed, and one thread alone was
//! faster than two (figures: ARCHITECTURE.md). So a step uses only as many threads as there are cores that nobody else
//! wants. Prefill has few barriers per unit of work and keeps all threads.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::threads::allowed_cpus;

/// Time between looks. The kernel counts in hundredths of a second, so this is exact to a twentieth of a core.
const INTERVAL: Duration = Duration::from_millis(200);

/// What happened in a longer time than this says nothing about now: the model was idle in between.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Share of a core that others may use while it still counts as free: about what a desktop's background makes.
const TOLERANCE: f64 = 0.35;

/// Watches what other programs do on the CPUs that this process may use.
#[derive(Debug)]
pub struct Governor {
    root: PathBuf,
    cpus: Vec<usize>,
    threads_max: u32,
    threads: u32,
    last: Option<(Instant, Ticks)>,
}

/// CPU time since the start of the machine, in the kernel's ticks, which are hundredths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    /// Of all programs, on the CPUs in question.
    all: u64,
    /// Of this process.
    own: u64,
}

impl Governor {
    /// At most so many threads.
    pub fn new(threads_max: u32) -> Self {
        Self {
            root: PathBuf::from("/"),
            cpus: allowed_cpus(),
            threads_max: threads_max.max(1),
            threads: threads_max.max(1),
            last: None,
        }
    }

    /// Threads for a decode step that begins now beside so many other steps of this process, which share what is free. Looks at
    /// the machine a few times per second at most.
    pub fn threads(&mut self, now: Instant, beside: u32) -> u32 {
        (self.free_threads(now) / (1 + beside)).max(1)
    }

    fn free_threads(&mut self, now: Instant) -> u32 {
        let is_fresh = |(at, _): &(Instant, Ticks)| now.duration_since(*at) < INTERVAL;
        if self.last.as_ref().is_some_and(is_fresh) {
            return self.threads;
        }
        let ticks = Ticks::read(&self.root, &self.cpus);
        if let (Some(ticks), Some((then, before))) = (ticks, self.last)
            && now.duration_since(then) <= INTERVAL_MAX
        {
            let others = before.others_until(ticks, now.duration_since(then));
            let threads = threads_beside(others, self.cpus.len(), self.threads_max);
            if threads != self.threads {
                tracing::debug!(threads, others, "other programs use the CPU");
                self.threads = threads;
            }
        }
        self.last = ticks.map(|ticks| (now, ticks));
        self.threads
    }

    /// Threads for a step of many tokens.
    pub fn threads_max(&self) -> u32 {
        self.threads_max
    }
}

/// Threads that find a CPU of their own beside programs that keep so many CPUs busy.
fn threads_beside(others: f64, cpus: usize, threads_max: u32) -> u32 {
    let free = (cpus as f64 - others + TOLERANCE).floor().max(1.0);
    threads_max.min(free as u32)
}

impl Ticks {
    /// Mean number of CPUs that other programs kept busy.
    fn others_until(self, later: Self, elapsed: Duration) -> f64 {
        let all = later.all.saturating_sub(self.all);
        let own = later.own.saturating_sub(self.own);
        all.saturating_sub(own) as f64 / 100.0 / elapsed.as_secs_f64()
    }

    /// `None` where the kernel does not tell.
    fn read(root: &Path, cpus: &[usize]) -> Option<Self> {
        let stat = fs::read_to_string(root.join("proc/stat")).ok()?;
        let own = fs::read_to_string(root.join("proc/self/stat")).ok()?;
        Some(Self {
            all: busy_ticks(&stat, cpus)?,
            own: own_ticks(&own)?,
        })
    }
}

/// All but idling and waiting for disks, from the lines `cpuN user nice system idle iowait irq softirq steal …` of /proc/stat. Time
/// stolen by a hypervisor counts: it is as gone as what a program uses.
fn busy_ticks(stat: &str, cpus: &[usize]) -> Option<u64> {
    let mut busy = None;
    for line in stat.lines() {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().and_then(|name| name.strip_prefix("cpu"));
        let Some(Ok(cpu)) = name.map(str::parse::<usize>) else {
            continue;
        };
        if !cpus.contains(&cpu) {
            continue;
        }
        let ticks: Vec<u64> = fields
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, steal] = ticks[..] else {
            return None;
        };
        *busy.get_or_insert(0) += user + nice + system + irq + softirq + steal;
    }
    busy
}

/// User and system time, fields 14 and 15 of /proc/self/stat. The name in parentheses may hold anything, so counting begins behind it.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of two CPUs after so many busy ticks on each, of which this process used some.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(machine.0.path().join("proc/self")).unwrap();
            machine
        }

        fn show(&self, busy: [u64; 2], own: u64) {
            let lines = busy.map(|busy| format!("{busy} 0 0 1000 50 0 0 0 0 0"));
            let stat = format!("cpu  1 2 3\ncpu0 {}\ncpu1 {}\nintr 5\n", lines[0], lines[1]);
            fs::write(self.0.path().join("proc/stat"), stat).unwrap();
            let own = format!("7 (a) b c) R 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0");
            fs::write(self.0.path().join("proc/self/stat"), own).unwrap();
        }

        fn governor(&self) -> Governor {
            Governor {
                root: self.0.path().to_owned(),
                cpus: vec![0, 1],
                ..Governor::new(2)
            }
        }
    }

    #[test]
    fn threads_make_place_for_others_and_come_back() {
        let machine = Machine::new();
        let mut governor = machine.governor();
        let start = Instant::now();
        let second = |n: u32| start + Duration::from_secs(1) * n;
        machine.show([0, 0], 0);
        assert_eq!(governor.threads(second(0), 0), 2);
        // Both CPUs are busy, all of it this process.
        machine.show([100, 100], 200);
        assert_eq!(governor.threads(second(1), 0), 2);
        // Another program takes nine tenths of a CPU.
        machine.show([200, 200], 310);
        assert_eq!(governor.threads(second(2), 0), 1);
        // A little in the background is no reason.
        machine.show([300, 220], 410);
        assert_eq!(governor.threads(second(3), 0), 2);
        // Two programs that would take everything still leave one thread.
        machine.show([400, 320], 410);
        assert_eq!(governor.threads(second(4), 0), 1);
    }

    #[test]
    fn looks_are_rare() {
        let machine = Machine::new();
        let mut governor = machine.governor();
        let start = Instant::now();
        machine.show([0, 0], 0);
        governor.threads(start, 0);
        machine.show([1000, 1000], 0);
        assert_eq!(governor.threads(start + INTERVAL / 2, 0), 2);
        assert_eq!(governor.threads(start + INTERVAL, 0), 1);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let machine = Machine::new();
        let mut governor = machine.governor();
        let start = Instant::now();
        machine.show([0, 0], 0);
        governor.threads(start, 0);
        machine.show([5000, 5000], 0);
        assert_eq!(governor.threads(start + Duration::from_secs(60), 0), 2);
        machine.show([5020, 5020], 0);
        assert_eq!(
            governor.threads(start + Duration::from_millis(60_200), 0),
            1
        );
    }

    #[test]
    fn steps_of_several_models_share_the_threads() {
        let machine = Machine::new();
        let mut governor = machine.governor();
        let start = Instant::now();
        machine.show([0, 0], 0);
        assert_eq!(governor.threads(start, 0), 2);
        assert_eq!(governor.threads(start, 1), 1);
        assert_eq!(governor.threads(start, 5), 1);
    }

    #[test]
    fn idle_siblings_leave_room_for_all_threads() {
        // 16 cores with two CPUs each: as long as half of them is free, each thread finds one.
        assert_eq!(threads_beside(0.0, 32, 16), 16);
        assert_eq!(threads_beside(16.0, 32, 16), 16);
        assert_eq!(threads_beside(20.0, 32, 16), 12);
        assert_eq!(threads_beside(99.0, 32, 16), 1);
    }

    #[test]
    fn a_machine_that_does_not_tell_keeps_all_threads() {
        let machine = Machine::new();
        let mut governor = machine.governor();
        let start = Instant::now();
        assert_eq!(governor.threads(start, 0), 2);
        fs::write(machine.0.path().join("proc/stat"), "cpu0 nonsense").unwrap();
        fs::write(machine.0.path().join("proc/self/stat"), "nonsense").unwrap();
        assert_eq!(governor.threads(start + INTERVAL, 0), 2);
    }

    #[test]
    fn the_real_machine_is_read() {
        let ticks = Ticks::read(Path::new("/"), &allowed_cpus()).unwrap();
        assert!(ticks.all > 0 && ticks.all >= ticks.own, "{ticks:?}");
    }
}
