//! What is held follows what there is: stored prompts give way first, then idle models.

use std::fs;

use aluco_fake_worker::Script;
use aluco_fleet::{
    FleetConfig, FleetStatus,
    plan::{Bytes, Consumer},
    proto::CacheActivity,
};

use crate::{
    budget::{MIB, file_name, machine, weighs},
    world::{
        World, endless, eventually, first_delta, replace, spec, until_status, within, worker_pid,
    },
};

#[tokio::test]
async fn pressure_shrinks_stored_prompts_and_then_unloads_what_is_idle() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.load_options.cache.ram_bytes = Some(100 * MIB);
    let script = Script {
        cache_activity: CacheActivity {
            ram_bytes: 80 * MIB,
            ..CacheActivity::default()
        },
        ..weighs(100)
    };
    let model = world.model("idle", &script);
    let busy = world.model("busy", &endless());
    let fleet = world.fleet();
    within(fleet.load(&model)).await.unwrap();
    let mut generation = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    first_delta(&mut generation).await;
    let store = |status: &FleetStatus| {
        let holder = status.ledger.holders.iter().find(|holder| {
            let name = holder.model.as_deref();
            name.is_some_and(|name| name.ends_with("idle.gguf"))
        });
        holder.map(|holder| {
            let entries = holder.entries.iter();
            let stores = entries.filter(|it| it.item.consumer == Consumer::PrefixStore);
            stores.map(|it| it.item.bytes.0).sum::<u64>()
        })
    };
    assert_eq!(store(&fleet.status().await), Some(100 * MIB));

    // What the worker holds counts as free for Aluco.
    let pid = worker_pid(&fleet).await;
    let process = world.config.memory_root.join(format!("proc/{pid}"));
    fs::create_dir_all(&process).unwrap();
    replace(&process.join("status"), "RssAnon: 409600 kB\n");
    // 125 MiB have to be available until the alarm is over: 45 more.
    world.set_memory(1000, 80);
    until_status(&fleet, "the store shrinks", |status| {
        store(status).is_some_and(|bytes| bytes <= 35 * MIB)
    })
    .await;
    assert!(world.journal("idle").iter().all(|line| line != "unload"));

    world.set_memory(1000, 10);
    until_status(&fleet, "the idle model goes", |status| {
        status.models.len() == 1
    })
    .await;
    let journal = world.journal("idle");
    assert_eq!(journal.first().unwrap(), "load");
    assert!(
        journal.iter().any(|line| line.starts_with("cache ")),
        "{journal:?}"
    );
    assert_eq!(journal.last().unwrap(), "unload");
    assert!(!world.journal("busy").contains(&"unload".to_owned()));
    first_delta(&mut generation).await;
}

#[tokio::test]
async fn a_budget_that_shrinks_costs_promises_first_and_comes_back() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.load_options.cache.ram_bytes = Some(100 * MIB);
    let script = Script {
        cache_activity: CacheActivity {
            ram_bytes: 10 * MIB,
            ..CacheActivity::default()
        },
        ..weighs(100)
    };
    let model = world.model("one", &script);
    let fleet = world.fleet();
    within(fleet.load(&model)).await.unwrap();
    let full = fleet.status().await.ledger.held_bytes;
    // Still more than is to be left free, so no pressure; and less than was promised.
    world.set_memory(1000, 300);
    let status = until_status(&fleet, "promises are taken back", |status| {
        status.ledger.held_bytes < full
    })
    .await;
    assert_eq!(status.ledger.excess_bytes, Bytes::ZERO);
    assert_eq!(status.ledger.held_bytes, Bytes(200 * MIB));
    world.set_memory(1000, 600);
    until_status(&fleet, "they are given back", |status| {
        status.ledger.held_bytes == full
    })
    .await;
    assert_eq!(status.models.len(), 1);
    // The ledger has it before the worker is told.
    let told = format!("cache {}", 100 * MIB);
    eventually("the worker is told", || {
        world.journal("one").last() == Some(&told)
    })
    .await;
}

/// Bytes that the stored prompts of a model may take by the ledger.
fn promised(status: &FleetStatus, name: &str) -> u64 {
    let mut holders = status.ledger.holders.iter();
    let holder =
        holders.find(|holder| holder.model.as_deref().map(file_name).as_deref() == Some(name));
    let entries = &holder.expect("it is in the ledger").entries;
    let stores = entries
        .iter()
        .filter(|it| it.item.consumer == Consumer::PrefixStore);
    stores.map(|it| it.item.bytes.0).sum()
}

#[tokio::test]
async fn stored_prompts_make_room_before_any_model_goes_and_get_it_back() {
    let mut world = World::new();
    machine(&mut world, 1000, 600);
    world.config.load_options.cache.ram_bytes = Some(100 * MIB);
    let resident = world.model("resident", &weighs(100));
    let wanted = world.model("wanted", &weighs(150));
    let fleet = world.fleet();
    within(fleet.load(&resident)).await.unwrap();
    let plan = within(fleet.plan_load(&wanted)).await.unwrap();
    assert!(
        plan.fit.is_some() && plan.unloads.is_empty() && !plan.waits,
        "{plan:?}"
    );
    within(fleet.load(&wanted)).await.unwrap();
    // 46 MiB and a little are missing of 500.
    let status = fleet.status().await;
    assert_eq!(promised(&status, "resident.gguf"), 53 * MIB);
    assert_eq!(promised(&status, "wanted.gguf"), 100 * MIB);
    assert_eq!(status.ledger.excess_bytes, Bytes::ZERO);
    assert_eq!(status.models.len(), 2);
    assert_eq!(
        world.journal("resident"),
        ["load".to_owned(), format!("cache {}", 53 * MIB)]
    );
    assert!(within(fleet.unload(&wanted)).await.unwrap());
    until_status(&fleet, "it is given back", |status| {
        promised(status, "resident.gguf") == 100 * MIB
    })
    .await;
}

#[tokio::test]
async fn a_running_model_gives_stored_prompts_and_an_idle_one_goes_where_that_is_too_little() {
    let mut world = World::new();
    machine(&mut world, 1000, 800);
    world.config.load_options.cache.ram_bytes = Some(50 * MIB);
    let busy = world.model(
        "busy",
        &Script {
            weights_bytes: 100 * MIB,
            ..endless()
        },
    );
    let idle = world.model("idle", &weighs(100));
    let small = world.model("small", &weighs(190));
    let large = world.model("large", &weighs(250));
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&busy, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    within(fleet.load(&idle)).await.unwrap();
    // 396 of 700 MiB are held. The idle one gives what it has, and the running one does not matter.
    within(fleet.load(&small)).await.unwrap();
    let status = fleet.status().await;
    assert_eq!(status.models.len(), 3);
    assert_eq!(
        promised(&status, "idle.gguf") + promised(&status, "busy.gguf"),
        100 * MIB
    );
    within(fleet.unload(&small)).await.unwrap();
    // 44 MiB and a little are missing, which the idle one has.
    within(fleet.load(&large)).await.unwrap();
    let status = fleet.status().await;
    assert_eq!(promised(&status, "idle.gguf"), 5 * MIB);
    assert_eq!(promised(&status, "busy.gguf"), 50 * MIB);
    assert_eq!(world.count("idle", "unload"), 0);
    within(fleet.unload(&large)).await.unwrap();

    let huge = world.model("huge", &weighs(440));
    within(fleet.load(&huge)).await.unwrap();
    let status = fleet.status().await;
    assert_eq!(status.models.len(), 2);
    assert_eq!(world.count("idle", "unload"), 1);
    assert_eq!(
        promised(&status, "busy.gguf"),
        13 * MIB,
        "{:?}",
        status.ledger
    );
    first_delta(&mut stream).await;
}

#[tokio::test]
async fn a_smaller_limit_makes_idle_models_go() {
    let mut world = World::new();
    machine(&mut world, 4000, 3000);
    let one = world.model("one", &weighs(300));
    let other = world.model("other", &weighs(300));
    let fleet = world.fleet();
    for model in [&one, &other] {
        within(fleet.load(model)).await.unwrap();
    }
    within(fleet.reconfigure(FleetConfig {
        memory_limit: Some(400 * MIB),
        ..world.config.clone()
    }))
    .await;
    let status = until_status(&fleet, "one goes", |status| status.models.len() == 1).await;
    assert_eq!(status.ledger.excess_bytes, Bytes::ZERO);
    assert_eq!(status.ledger.budget.together, Bytes(400 * MIB));
}
