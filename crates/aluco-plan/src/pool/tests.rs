use std::{fs, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    kernel::{parse_cgroup_path, parse_limit, parse_stat, parse_status},
    *,
};

const MEMINFO_HALO: &str =
    "MemTotal:       127098456 kB\nMemFree:        90000000 kB\nMemAvailable:   115000000 kB\n";

/// A folder with files of a machine.
fn machine(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

/// A Strix Halo with 128 GB, of which firmware has set 2 GiB aside; figures of a real one.
fn halo() -> TempDir {
    let root = machine(&[
        ("proc/meminfo", MEMINFO_HALO),
        ("proc/self/cgroup", "0::/user.slice/session-1.scope\n"),
        (
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \nMax data size             unlimited            unlimited            bytes     \nMax address space         unlimited            unlimited            bytes     \n",
        ),
        (
            "sys/fs/cgroup/user.slice/session-1.scope/memory.max",
            "max\n",
        ),
        (
            "sys/fs/cgroup/user.slice/session-1.scope/memory.high",
            "max\n",
        ),
        ("sys/module/ttm/parameters/pages_limit", "29360128\n"),
        (
            "sys/class/drm/card1/device/mem_info_vram_total",
            "2147483648\n",
        ),
        (
            "sys/class/drm/card1/device/mem_info_vram_used",
            "147483648\n",
        ),
        (
            "sys/class/drm/card1/device/mem_info_gtt_total",
            "120259084288\n",
        ),
        ("sys/class/drm/card1/device/mem_info_gtt_used", "59084288\n"),
        (
            "proc/pressure/memory",
            "some avg10=1.50 avg60=0.20 avg300=0.00 total=1\nfull avg10=0.50 avg60=0.10 avg300=0.00 total=1\n",
        ),
    ]);
    fs::create_dir_all(root.path().join("sys/class/drm/card1-DP-1")).unwrap();
    root
}

fn pool(root: &TempDir) -> Pool {
    Pool::of(&Facts::read(root.path()), Held::default(), None)
}

#[test]
fn pages_of_the_gpu_count_once_and_the_carve_out_comes_on_top() {
    let pool = pool(&halo());
    assert!(pool.unified);
    assert_eq!(pool.machine, Bytes(127_098_456 * 1024));
    assert_eq!(pool.reserve, Bytes(127_098_456 * 1024 / 25));
    let host = Bytes(115_000_000 * 1024).less(pool.reserve);
    assert_eq!(pool.budget.host, host);
    let carve_out = Bytes(2_147_483_648 - 147_483_648);
    assert_eq!(pool.budget.together, host + carve_out);
    // GTT allows more than RAM has left.
    assert_eq!(pool.budget.device, pool.budget.together);
    assert_eq!(pool.device_limits.len(), 2);
    assert_eq!(pool.others, Bytes((127_098_456 - 115_000_000) * 1024));
}

#[test]
fn what_aluco_holds_itself_is_no_loss() {
    let root = halo();
    let before = pool(&root);
    let gib = |count| Bytes::GIB.times(count);
    // 40 GiB of the GPU's and 5 of the CPU's memory are taken.
    let kib = 115_000_000 - 45 * (1 << 20);
    fs::write(
        root.path().join("proc/meminfo"),
        MEMINFO_HALO.replace("115000000", &kib.to_string()),
    )
    .unwrap();
    let used = 59_084_288 + gib(40).0;
    fs::write(
        root.path()
            .join("sys/class/drm/card1/device/mem_info_gtt_used"),
        used.to_string(),
    )
    .unwrap();
    fs::write(
        root.path()
            .join("sys/class/drm/card1/device/mem_info_vram_used"),
        "0",
    )
    .unwrap();
    let held = Held {
        host: gib(5),
        device: gib(40),
    };
    let after = Pool::of(&Facts::read(root.path()), held, None);
    assert_eq!(after.budget.host, before.budget.host);
    assert_eq!(after.others, before.others);
}

#[test]
fn a_cgroup_and_those_around_it_limit_too() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO_HALO),
        ("proc/self/cgroup", "0::/box/aluco\n"),
        ("sys/fs/cgroup/box/aluco/memory.max", "max\n"),
        ("sys/fs/cgroup/box/aluco/memory.high", "8589934592\n"),
        ("sys/fs/cgroup/box/memory.max", "2147483648\n"),
        ("sys/fs/cgroup/box/memory.current", "1073741824\n"),
        (
            "sys/fs/cgroup/box/memory.stat",
            "anon 73741824\ninactive_file 800000000\nactive_file 200000000\n",
        ),
        (
            "sys/fs/cgroup/box/memory.pressure",
            "some avg10=7.00 avg60=0.20 avg300=0.00 total=1\n",
        ),
        (
            "proc/pressure/memory",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
        ),
    ]);
    let facts = Facts::read(root.path());
    let pool = Pool::of(&facts, Held::default(), None);
    assert_eq!(pool.host_limits[0].name, "cgroup /box");
    assert_eq!(pool.host_limits[0].free, Bytes(2_147_483_648 - 73_741_824));
    assert_eq!(pool.reserve, Bytes(2_147_483_648 / 8));
    assert_eq!(
        pool.budget.host,
        Bytes(2_147_483_648 - 73_741_824 - 268_435_456)
    );
    assert_eq!(pool.budget.device, Bytes::ZERO);
    assert_eq!(facts.stall.unwrap().some.avg10.to_bits(), 7.0_f64.to_bits());
}

#[test]
fn limits_of_the_process_are_seen() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO_HALO),
        (
            "proc/self/limits",
            "Max data size             8000000000           unlimited            bytes     \nMax address space         6000000000           unlimited            bytes     \n",
        ),
    ]);
    let pool = pool(&root);
    assert_eq!(pool.host_limits[0].name, "address space of a process");
    assert_eq!(pool.host_limits[0].free, Bytes(6_000_000_000 - (3 << 29)));
}

#[test]
fn a_card_with_memory_of_its_own_is_a_pool_of_its_own() {
    let root = machine(&[
        ("proc/meminfo", MEMINFO_HALO),
        (
            "sys/class/drm/card0/device/mem_info_vram_total",
            "17179869184\n",
        ),
        (
            "sys/class/drm/card0/device/mem_info_vram_used",
            "1073741824\n",
        ),
        (
            "sys/class/drm/card0/device/mem_info_vram_vendor",
            "samsung\n",
        ),
        (
            "sys/class/drm/card0/device/mem_info_gtt_total",
            "65000000000\n",
        ),
    ]);
    let pool = pool(&root);
    assert!(!pool.unified);
    assert_eq!(pool.budget.device, Bytes::GIB.times(14));
    assert_eq!(pool.budget.together, pool.budget.host + pool.budget.device);
}

#[test]
fn a_machine_that_tells_nothing_has_nothing_to_give() {
    let root = machine(&[]);
    assert_eq!(pool(&root).budget, Budget::default());
    assert_eq!(anonymous_bytes(root.path(), 1), None);
}

#[test]
fn memory_of_a_process_is_told_without_its_page_cache() {
    let root = machine(&[(
        "proc/7/status",
        "Name:\taluco\nVmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  300 kB\nRssShmem:\t  100 kB\n",
    )]);
    assert_eq!(anonymous_bytes(root.path(), 7), Some(Bytes(600 * 1024)));
}

#[test]
fn the_reserve_fits_the_machine() {
    let gib = |count| Bytes::GIB.times(count);
    assert_eq!(default_reserve(gib(125)), gib(5));
    assert_eq!(default_reserve(gib(32)), gib(2));
    assert_eq!(default_reserve(gib(2)), Bytes(gib(2).0 / 8));
}

#[test]
fn stored_prompts_get_a_sixteenth_of_what_there_is() {
    assert_eq!(default_store(Bytes::GIB.times(32)), Bytes::GIB.times(2));
    assert_eq!(default_store(Bytes::GIB.times(512)), Bytes::GIB.times(8));
    assert_eq!(pool(&halo()).default_store(), Bytes(127_098_456 * 64));
}

#[test]
fn this_machine_can_be_read() {
    let facts = Facts::read(Path::new("/"));
    assert!(facts.memory.total > Bytes::ZERO);
    assert!(facts.memory.available <= facts.memory.total);
    assert!(anonymous_bytes(Path::new("/"), std::process::id()).is_some());
}

/// Bytes of any kind, and some that look right at first.
fn hostile() -> impl Strategy<Value = String> {
    let bytes = prop::collection::vec(any::<u8>(), 0..400)
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let near = "(MemTotal|MemAvailable|some|full|0::|anon|Max data size|RssAnon)[: /=]{0,3}(avg10=|avg60=|[0-9]{1,25}|NaN|-1|\\.\\./|max)?( kB)?[\\n ]{0,2}";
    prop_oneof![
        bytes,
        prop::collection::vec(near, 0..8).prop_map(|parts| parts.concat())
    ]
}

proptest! {
    #[test]
    fn no_file_of_the_kernel_can_do_harm(text in hostile()) {
        let memory = parse_meminfo(&text);
        prop_assert!(memory.is_none_or(|memory| memory.available <= memory.total));
        let stall = parse_stall(&text);
        prop_assert!(stall.is_none_or(|stall| (0.0..=100.0).contains(&stall.some.avg10)));
        for folder in parse_cgroup_path(&text) {
            prop_assert!(!folder.split('/').any(|part| part == ".."));
            prop_assert!(!folder.starts_with('/'));
        }
        let _ = parse_cgroup_amount(&text);
        let _ = parse_limit(&text, "Max data size");
        let _ = parse_stat(&text, "anon");
        let _ = parse_status(&text, "RssAnon");
    }

    #[test]
    fn budgets_agree_with_each_other_whatever_a_machine_says(
        memory in any::<(u64, u64)>(),
        gpu in any::<(bool, u64, u64, u64, u64)>(),
        held in any::<(u64, u64)>(),
    ) {
        let (is_integrated, vram_total, vram_used, gtt_total, gtt_used) = gpu;
        let facts = Facts {
            memory: MemInfo { total: Bytes(memory.0), available: Bytes(memory.1) },
            gpus: vec![GpuFacts {
                source: String::new(),
                is_integrated,
                vram_total: Bytes(vram_total),
                vram_used: Bytes(vram_used),
                gtt_total: Bytes(gtt_total),
                gtt_used: Bytes(gtt_used),
            }],
            ..Facts::default()
        };
        let held = Held { host: Bytes(held.0), device: Bytes(held.1) };
        let budget = Pool::of(&facts, held, None).budget;
        prop_assert!(budget.host <= budget.together);
        prop_assert!(budget.device <= budget.together);
        prop_assert!(budget.host <= facts.memory.total);
    }
}

#[test]
fn a_limit_for_all_models_is_kept_to_where_there_is_more() {
    let root = halo();
    let pool = Pool::of(&Facts::read(root.path()), Held::default(), None);
    let limited = pool.clone().limited(Bytes::GIB.times(16), "test");
    assert_eq!(limited.budget.host, Bytes::GIB.times(16));
    assert_eq!(limited.budget.together, Bytes::GIB.times(16));
    assert_eq!(limited.host_limits[0].source, "test");
    assert_eq!(limited.default_store(), Bytes::GIB);
    let beyond = pool.clone().limited(Bytes::GIB.times(4096), "test");
    assert_eq!(beyond.budget, pool.budget);
}

#[test]
fn a_plan_without_a_header_is_let_in_or_refused_as_any_other() {
    use aluco_proto::Backend;

    use crate::{Ledger, MemoryPlan};

    let root = halo();
    let pool = Pool::of(&Facts::read(root.path()), Held::default(), None);
    let mut ledger = Ledger::new(pool.limited(Bytes::GIB.times(16), "test"));
    let plan = |gib| MemoryPlan::guessed(Bytes::GIB.times(gib), 4096, Backend::Cpu, Bytes::ZERO);
    let reservation = ledger.admit_plan("one", &plan(8)).unwrap();
    assert_eq!(ledger.held(), plan(8).total());
    assert!(ledger.check_plan("two", &plan(4)).is_ok());
    ledger.set_idle(reservation, true);
    let refusal = ledger.check_plan("two", &plan(10)).unwrap_err();
    assert!(refusal.to_string().contains("unload one"), "{refusal}");
    assert_eq!(
        refusal.missing_bytes(),
        (plan(8).total() + plan(10).total()).less(Bytes::GIB.times(16))
    );
    ledger.release(reservation);
    assert!(ledger.check_plan("two", &plan(10)).is_ok());
}
