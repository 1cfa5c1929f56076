//! A process whose address space is limited, as by `ulimit -v`: alone in its binary, since the limit holds for all of it.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use aluco_fleet::{Fleet, FleetConfig, FleetError, proto::LoadOptions};
use aluco_model::{Store, StoreConfig};
use rustix::process::{Resource, Rlimit, setrlimit};

const LIMIT_BYTES: u64 = 4 << 30;

fn named(variable: &str) -> PathBuf {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else {
        panic!("{variable} is not set; run this by: make test");
    };
    assert!(path.is_file(), "{variable}: no file {}", path.display());
    path
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn a_limit_of_the_process_refuses_what_it_would_kill() {
    let limit = Rlimit {
        current: Some(LIMIT_BYTES),
        maximum: Some(LIMIT_BYTES),
    };
    setrlimit(Resource::As, limit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = named("ALUCO_TEST_MODEL");
    let model = model.to_str().expect("the path is UTF-8");
    // A machine on which nothing else is short; the limit is that of this process.
    let machine = folder.path().join("machine");
    fs::create_dir_all(machine.join("proc/self")).unwrap();
    aluco_fake_worker::set_memory(&machine, 64 << 10, 48 << 10).unwrap();
    symlink("/proc/self/limits", machine.join("proc/self/limits")).unwrap();
    let fleet = |context_tokens| {
        let store = Store::new(StoreConfig {
            hub_cache: folder.path().join("hub"),
            models: folder.path().join("models"),
        });
        let mut load_options = LoadOptions {
            context_tokens: Some(context_tokens),
            ..LoadOptions::default()
        };
        load_options.cache.ram_bytes = Some(0);
        Fleet::new(FleetConfig {
            worker_binary: Some(named("ALUCO_TEST_WORKER")),
            load_options,
            memory_root: machine.clone(),
            ..FleetConfig::new(store)
        })
    };
    let large = fleet(131_072);
    let error = large.load(model).await.unwrap_err();
    let FleetError::DoesNotFit(refusal) = error else {
        panic!("{error:?}");
    };
    println!("{refusal}");
    let (total, source) = refusal.limit.as_ref().unwrap();
    assert_eq!(total.0, LIMIT_BYTES);
    assert!(source.contains("address space of a process"), "{source}");
    assert!(large.status().await.workers.is_empty());
    large.shutdown(Duration::ZERO).await;

    let small = fleet(8192);
    let loaded = small.load(model).await.unwrap();
    assert_eq!(loaded.context_tokens, 8192);
    let tokens = small
        .tokenize(model, "owl ".repeat(100), false, false)
        .await;
    assert!(tokens.unwrap().len() >= 100);
    let status = small.status().await;
    assert_eq!(status.workers[0].restarts, 0);
    small.shutdown(Duration::ZERO).await;
}
