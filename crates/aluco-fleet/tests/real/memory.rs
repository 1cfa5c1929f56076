//! The ledger beside a real model: what is foreseen, what is measured, what is given back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    time::Duration,
};

use aluco_fleet::{
    Fleet, FleetConfig, FleetError, FleetStatus,
    plan::{Bytes, Consumer, Item, Origin},
    proto::{
        FlashAttention, GenerationEvent, GenerationSpec, KvType, LoadOptions, Prompt, Sampling,
        Token,
    },
};
use tempfile::TempDir;

use crate::{PATIENCE, machine, model, named, roomy_machine, store, until};

const MIB: u64 = 1 << 20;

fn config(folder: &TempDir, options: LoadOptions) -> FleetConfig {
    FleetConfig {
        worker_binary: Some(named("ALUCO_TEST_WORKER")),
        load_options: options,
        memory_root: roomy_machine(folder),
        memory_interval: Duration::from_millis(100),
        ..FleetConfig::new(store(folder))
    }
}

fn with_context(tokens: u32, store_bytes: u64) -> LoadOptions {
    let mut options = LoadOptions {
        context_tokens: Some(tokens),
        ..LoadOptions::default()
    };
    options.cache.ram_bytes = Some(store_bytes);
    options
}

fn spec(prompt: Prompt, tokens_max: u32) -> GenerationSpec {
    let sampling = Sampling {
        temperature: 0.0,
        seed: Some(1),
        ..Sampling::default()
    };
    crate::spec(prompt, sampling, tokens_max)
}

async fn text(fleet: &Fleet, model: &str, spec: GenerationSpec) -> String {
    let mut generation = fleet.generate(model, spec).await.unwrap();
    let mut reply = String::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, generation.next()).await;
        match event.expect("this takes too long") {
            Some(GenerationEvent::Delta { text, .. }) => reply += &text,
            Some(GenerationEvent::Failed(failure)) => panic!("{failure}"),
            Some(_) => {}
            None => return reply,
        }
    }
}

fn of(items: impl IntoIterator<Item = Item>) -> BTreeMap<Consumer, u64> {
    let mut sums = BTreeMap::new();
    for item in items {
        *sums.entry(item.consumer).or_default() += item.bytes.0;
    }
    sums
}

/// Memory of a process that is no page cache: what it has of files comes and goes as the kernel likes.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = kib.unwrap().trim().strip_suffix(" kB").unwrap();
    kib.trim().parse::<u64>().unwrap() << 10
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Parts of files that a process has mapped, such as weights.
fn mapped_parts(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains('/')).count()
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn what_was_foreseen_is_what_the_engine_takes() {
    for context in [1024, 8192] {
        let folder = tempfile::tempdir().unwrap();
        let fleet = Fleet::new(config(&folder, with_context(context, 64 * MIB)));
        let plan = fleet.plan_load(&model()).await.unwrap();
        let fit = plan.fit.expect("it fits");
        let loaded = fleet.load(&model()).await.unwrap();
        let ledger = fleet.status().await.ledger;
        let holder = &ledger.holders[0];
        let measured = of(holder
            .entries
            .iter()
            .filter(|entry| entry.origin == Origin::Measured)
            .map(|entry| entry.item));
        let sum = |part: fn(&aluco_fleet::proto::DeviceMemory) -> u64| {
            loaded.memory.iter().map(part).sum::<u64>()
        };
        assert_eq!(measured[&Consumer::Weights], sum(|it| it.weights_bytes));
        assert_eq!(measured[&Consumer::KvCache], sum(|it| it.context_bytes));
        assert_eq!(measured[&Consumer::Compute], sum(|it| it.compute_bytes));
        let foreseen = of(fit.plan.items.iter().copied());
        println!("context {context}: foreseen {foreseen:?}, measured {measured:?}");
        let off = |foreseen: u64, measured: u64| (foreseen as f64 / measured as f64 - 1.0).abs();
        for consumer in [Consumer::Weights, Consumer::KvCache] {
            assert!(
                off(foreseen[&consumer], measured[&consumer]) < 0.005,
                "{consumer:?}"
            );
        }
        let all: u64 = measured.values().sum();
        assert!(off(fit.plan.engine().0, all) < 0.03);
        fleet.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn what_does_not_fit_never_reaches_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(FleetConfig {
        memory_limit: Some(400 * MIB),
        ..config(&folder, with_context(32_768, 0))
    });
    let error = fleet.load(&model()).await.unwrap_err();
    let FleetError::DoesNotFit(refusal) = error else {
        panic!("{error:?}");
    };
    println!("{refusal}");
    assert!(refusal.ways_out.len() >= 2, "{refusal}");
    assert!(fleet.status().await.workers.is_empty());
    fleet.shutdown(Duration::ZERO).await;
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Footprint {
    resident_bytes: u64,
    files: usize,
    mapped_parts: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        Self {
            resident_bytes: resident_bytes(pid),
            files: open_files(pid),
            mapped_parts: mapped_parts(pid),
        }
    }

    /// The least of each. What stays behind raises it; what is just being freed or closed does not.
    fn least(all: &[Self]) -> Self {
        let least = |one: Self, other: &Self| Self {
            resident_bytes: one.resident_bytes.min(other.resident_bytes),
            files: one.files.min(other.files),
            mapped_parts: one.mapped_parts.min(other.mapped_parts),
        };
        all.iter().fold(all[0], least)
    }

    /// Those of two processes, looked at so often that what is just being freed has gone meanwhile.
    async fn of_both(one: u32, other: u32) -> [Self; 2] {
        let mut looks = [Vec::new(), Vec::new()];
        for _ in 0..20 {
            looks[0].push(Self::of(one));
            looks[1].push(Self::of(other));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        looks.map(|looks| Self::least(&looks))
    }
}

/// How often the models take turns: `ALUCO_TEST_CYCLES`, else as often as shows whether something stays behind each time.
fn cycles() -> usize {
    let cycles = std::env::var("ALUCO_TEST_CYCLES").ok();
    let cycles = cycles.map_or(16, |cycles| cycles.parse().expect("a number of cycles"));
    assert!(cycles >= 16, "fewer show nothing");
    cycles
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn two_models_take_turns_in_the_memory_of_one_and_leave_nothing_behind() {
    let cycles = cycles();
    let folder = tempfile::tempdir().unwrap();
    let models = ["one.gguf", "other.gguf"].map(|name| {
        let path = folder.path().join(name);
        symlink(named("ALUCO_TEST_MODEL"), &path).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let fleet = Fleet::new(FleetConfig {
        memory_limit: Some(500 * MIB),
        ..config(&folder, with_context(2048, 32 * MIB))
    });
    let question = || spec(Prompt::Text("The tawny owl is a bird that".to_owned()), 16);
    let mut expected = None;
    let (mut workers, mut supervisors) = (Vec::new(), Vec::new());
    let mut pids = BTreeSet::new();
    for cycle in 0..cycles {
        for model in &models {
            let reply = text(&fleet, model, question()).await;
            assert_eq!(
                &reply,
                expected.get_or_insert_with(|| reply.clone()),
                "{cycle}"
            );
            let status = fleet.status().await;
            assert_eq!(status.models.len(), 1, "{cycle}");
            assert!(status.ledger.held_bytes <= Bytes(500 * MIB));
            assert_eq!(status.workers[0].restarts, 0);
        }
        // What stays behind is seen when the model that has the place is gone as well.
        if cycle % 2 == 1 {
            assert!(fleet.unload(&models[1]).await.unwrap());
        }
        let pid = fleet.status().await.workers[0].hello.pid;
        pids.insert(pid);
        if cycle % 2 == 1 {
            let [worker, supervisor] = Footprint::of_both(pid, std::process::id()).await;
            workers.push(worker);
            supervisors.push(supervisor);
        }
    }
    assert_eq!(pids.len(), 1, "the worker has lived through all of it");
    for (who, after, growth_max) in [
        ("worker", workers, 2 * MIB),
        ("supervisor", supervisors, 8 * MIB),
    ] {
        let (early, late) = after.split_at(after.len() / 2);
        let (early, late) = (Footprint::least(early), Footprint::least(late));
        println!("{cycles} cycles: the {who} held {early:?} early and {late:?} late");
        assert!(
            late.resident_bytes < early.resident_bytes + growth_max,
            "{who}: {after:?}"
        );
        assert!(late.files <= early.files, "{who}: {after:?}");
        assert!(late.mapped_parts <= early.mapped_parts, "{who}: {after:?}");
    }
    fleet.shutdown(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn prompts_that_are_dropped_give_their_memory_back_to_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        kv_type_k: KvType::F32,
        kv_type_v: KvType::F32,
        flash_attention: FlashAttention::Off,
        ..with_context(4096, 512 * MIB)
    };
    let mut config = config(&folder, options);
    let root = config.memory_root.clone();
    // Long enough for the shortage to be over before idle models would go for it.
    config.memory_interval = Duration::from_secs(1);
    config.memory_reserve = Some(1024 * MIB);
    machine(&root, 4096);
    let fleet = Fleet::new(config);
    let model = model();
    let prompt =
        |seed: Token| Prompt::Tokens((0..900).map(|at| 1000 + seed * 977 + at * 7).collect());
    for seed in 0..4 {
        text(&fleet, &model, spec(prompt(seed), 2)).await;
    }
    // Unless the worker did not say so in time.
    let stored = |status: &FleetStatus| {
        let activity = status.models[0].activity.as_ref();
        activity.map(|activity| activity.cache.ram_bytes)
    };
    // It is stored behind the replies.
    let full = until(&fleet, "the prompts are stored", |it| {
        stored(it) > Some(120 * MIB)
    })
    .await;
    let pid = full.workers[0].hello.pid;
    symlink(format!("/proc/{pid}"), root.join(format!("proc/{pid}"))).unwrap();
    let before = (stored(&full).unwrap(), resident_bytes(pid));

    machine(&root, 900);
    // What is no more counted is given back a moment later.
    let is_given_back = || resident_bytes(pid) + before.0 * 9 / 10 < before.1;
    let shrunk = until(
        &fleet,
        "the store is empty and its memory given back",
        |it| stored(it) == Some(0) && is_given_back(),
    )
    .await;
    println!(
        "stored {} MiB, resident {} MiB, then {} MiB",
        before.0 >> 20,
        before.1 >> 20,
        resident_bytes(pid) >> 20
    );
    assert_eq!(shrunk.models.len(), 1);

    machine(&root, 4096);
    until(&fleet, "the store may grow again", |it| {
        let activity = it.models[0].activity.as_ref();
        activity.is_some_and(|activity| activity.cache.ram_bytes_max == 512 * MIB)
    })
    .await;
    text(&fleet, &model, spec(prompt(9), 2)).await;
    until(&fleet, "prompts are stored again", |it| {
        stored(it) > Some(30 * MIB)
    })
    .await;
    fleet.shutdown(Duration::ZERO).await;
}
