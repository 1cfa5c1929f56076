//! How many threads the CPU backend should use: the physical cores that this process may run on, within its cgroup's quota.
//!
//! A second thread on the same core adds nothing to matrix products and costs decode speed, and a thread more than there is CPU time
//! for makes all others wait at every barrier.

use std::{collections::BTreeSet, fs, path::Path};

/// The number for this process; at least 1.
pub fn default_threads() -> u32 {
    threads_on(Path::new("/"), &allowed_cpus())
}

/// The CPUs that this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    rustix::thread::sched_getaffinity(None).map_or_else(
        |_| (0..std::thread::available_parallelism().map_or(1, Into::into)).collect(),
        |set| {
            (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect()
        },
    )
}

fn threads_on(root: &Path, cpus: &[usize]) -> u32 {
    let cores: BTreeSet<String> = cpus.iter().map(|cpu| core_of(root, *cpu)).collect();
    let cores = cores.len().max(1) as u32;
    cgroup_cpus(root)
        .map_or(cores, |quota| cores.min(quota))
        .max(1)
}

/// The siblings of a CPU name its core; a CPU whose topology is unknown is a core of its own.
fn core_of(root: &Path, cpu: usize) -> String {
    let path = root.join(format!(
        "sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    ));
    fs::read_to_string(path).map_or_else(
        |_| format!("cpu{cpu}"),
        |siblings| siblings.trim().to_owned(),
    )
}

/// Whole CPUs of the tightest quota of this process's cgroup and its ancestors (cgroup v2, `cpu.max`: "quota period" in microseconds).
fn cgroup_cpus(root: &Path) -> Option<u32> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))?
        .trim_start_matches('/');
    let mounted = root.join("sys/fs/cgroup");
    let mut folder = mounted.join(path);
    let mut tightest: Option<f64> = None;
    loop {
        if let Some(quota) = fs::read_to_string(folder.join("cpu.max"))
            .ok()
            .as_deref()
            .and_then(parse_cpu_max)
        {
            tightest = Some(tightest.map_or(quota, |tightest| tightest.min(quota)));
        }
        if folder == mounted || !folder.pop() || !folder.starts_with(&mounted) {
            break;
        }
    }
    tightest.map(|cpus| cpus.floor().max(1.0) as u32)
}

fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(siblings: &[&str], cgroup: &str, quotas: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, content: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        for (cpu, siblings) in siblings.iter().enumerate() {
            write(
                format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                siblings,
            );
        }
        write("proc/self/cgroup".into(), cgroup);
        for (folder, quota) in quotas {
            write(format!("sys/fs/cgroup/{folder}/cpu.max"), quota);
        }
        root
    }

    #[test]
    fn smt_siblings_count_once() {
        let root = machine(&["0,2\n", "1,3\n", "0,2\n", "1,3\n"], "0::/\n", &[]);
        assert_eq!(threads_on(root.path(), &[0, 1, 2, 3]), 2);
        assert_eq!(threads_on(root.path(), &[0, 2]), 1);
        assert_eq!(threads_on(root.path(), &[1, 2]), 2);
    }

    #[test]
    fn the_tightest_quota_up_the_tree_wins() {
        let siblings = ["0", "1", "2", "3"];
        let cgroup = "0::/user.slice/app\n";
        let all = [0, 1, 2, 3];
        let inner = machine(
            &siblings,
            cgroup,
            &[
                ("user.slice/app", "250000 100000\n"),
                ("user.slice", "max 100000\n"),
            ],
        );
        assert_eq!(threads_on(inner.path(), &all), 2);
        let outer = machine(
            &siblings,
            cgroup,
            &[
                ("user.slice/app", "max 100000\n"),
                ("user.slice", "50000 100000\n"),
            ],
        );
        assert_eq!(threads_on(outer.path(), &all), 1);
        let open = machine(&siblings, cgroup, &[("user.slice/app", "max 100000\n")]);
        assert_eq!(threads_on(open.path(), &all), 4);
    }

    #[test]
    fn an_unreadable_machine_gives_one_thread_per_cpu() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(threads_on(root.path(), &[0, 5]), 2);
        assert_eq!(threads_on(root.path(), &[]), 1);
    }
}
