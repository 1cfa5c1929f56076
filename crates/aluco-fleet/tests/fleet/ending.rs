//! The end of a fleet: in order, by neglect, and by force.

use std::{
    future::ready,
    path::PathBuf,
    pin::pin,
    process::{Command, Stdio},
    time::Duration,
};

use aluco_fake_worker::{Persona, Place, Script};
use aluco_fleet::{
    FleetError,
    proto::{FailureKind, FinishReason, GenerationEvent},
};
use rustix::process::Signal;

use crate::world::{
    World, answer, endless, events, eventually, failure, first_delta, gone, signal, spec, text,
    within, worker_pid,
};

const HELLO: &str = "Hello, world!";

/// Much longer than any test's patience.
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_shutdown_waits_for_what_runs_and_refuses_what_comes() {
    let world = World::new();
    let refused = world.gate(Place::Token(150));
    let model = world.model(
        "m",
        &Script {
            tokens: vec!["word ".to_owned(); 300],
            gates: vec![refused.clone()],
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    let mut shutdown = pin!(fleet.shutdown(NEVER));
    tokio::select! {
        biased;
        () = &mut shutdown => panic!("it did not wait"),
        () = ready(()) => {}
    }
    for error in [
        answer(&fleet, &model).await.unwrap_err(),
        within(fleet.load(&model)).await.unwrap_err(),
        within(fleet.unload(&model)).await.unwrap_err(),
    ] {
        assert!(matches!(error, FleetError::ShuttingDown), "{error:?}");
    }
    refused.open().unwrap();
    let events = events(stream).await;
    assert!(matches!(events.last(), Some(GenerationEvent::Done { .. })));
    assert_eq!(text(&events), "word ".repeat(299));
    within(shutdown).await;
    assert!(gone(pid));
    assert!(within(fleet.status()).await.workers.is_empty());
    let error = answer(&fleet, &model).await.unwrap_err();
    assert!(matches!(error, FleetError::ShuttingDown), "{error:?}");
}

#[tokio::test]
async fn what_still_runs_after_the_limit_is_cancelled() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    within(fleet.shutdown(Duration::from_millis(50))).await;
    assert!(gone(pid));
    let events = events(stream).await;
    assert!(events.iter().any(|event| matches!(
        event,
        GenerationEvent::Finished {
            reason: FinishReason::Cancelled,
            ..
        }
    )));
    assert!(matches!(events.last(), Some(GenerationEvent::Done { .. })));
}

#[tokio::test]
async fn a_worker_that_does_not_obey_at_the_shutdown_is_killed() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    signal(pid, Signal::STOP);
    within(fleet.shutdown(Duration::ZERO)).await;
    assert!(gone(pid));
    assert_eq!(failure(&events(stream).await).kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn a_shutdown_in_the_midst_of_a_load_ends_it() {
    let mut world = World::new();
    world.worker(&Persona::default());
    let script = Script {
        load_ms: 3_600_000,
        ..Script::default()
    };
    let model = world.model("m", &script);
    let fleet = world.fleet();
    let request = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { answer(&fleet, &model).await }
    });
    eventually("the load begins", || world.count("m", "load") == 1).await;
    let pid = worker_pid(&fleet).await;
    within(fleet.shutdown(Duration::ZERO)).await;
    assert!(gone(pid));
    let error = within(request).await.unwrap().unwrap_err();
    assert!(matches!(error, FleetError::ShuttingDown), "{error:?}");
    assert_eq!(world.count("worker", "serve"), 1);
}

#[tokio::test]
async fn a_shutdown_in_the_midst_of_a_start_leaves_no_process() {
    let mut world = World::new();
    world.config.hello_timeout = NEVER;
    world.worker(&Persona {
        serve_hangs: true,
        ..Persona::default()
    });
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let request = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { answer(&fleet, &model).await }
    });
    eventually("the start begins", || world.count("worker", "serve") == 1).await;
    let pids = world.worker_pids();
    within(fleet.shutdown(Duration::ZERO)).await;
    assert!(gone(pids[0]));
    let error = within(request).await.unwrap().unwrap_err();
    assert!(matches!(error, FleetError::ShuttingDown), "{error:?}");
}

#[tokio::test]
async fn a_shutdown_of_an_idle_fleet_waits_for_nobody_and_may_come_twice() {
    let mut world = World::new();
    world.worker(&Persona::default());
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    assert_eq!(answer(&fleet, &model).await.unwrap(), HELLO);
    let pid = worker_pid(&fleet).await;
    within(fleet.shutdown(NEVER)).await;
    within(fleet.shutdown(NEVER)).await;
    assert!(gone(pid));
    assert_eq!(world.count("worker", "shutdown"), 1, "nothing forced it");
    assert_eq!(world.count("m", "unload"), 0, "the process takes it along");
}

#[tokio::test]
async fn the_last_handle_takes_the_worker_with_it() {
    let world = World::new();
    let model = world.model("m", &endless());
    let fleet = world.fleet();
    let copy = fleet.clone();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    drop(fleet);
    first_delta(&mut stream).await;
    drop(copy);
    for _ in 0..20 {
        first_delta(&mut stream).await;
    }
    drop(stream);
    eventually("the worker is gone", || gone(pid)).await;
}

/// Names the folder in which a test plays the supervisor for another one.
const SUPERVISE: &str = "ALUCO_TEST_SUPERVISE";

/// The supervisor must be a process of its own to be killed: this very test, run again, plays it.
#[tokio::test]
async fn a_supervisor_that_is_killed_leaves_no_worker() {
    if let Some(folder) = std::env::var_os(SUPERVISE) {
        return supervise(PathBuf::from(folder)).await;
    }
    let world = World::new();
    let model = PathBuf::from(world.model("m", &endless()));
    let folder = model.parent().unwrap();
    let mut supervisor = Command::new(std::env::current_exe().unwrap())
        .args([
            "ending::a_supervisor_that_is_killed_leaves_no_worker",
            "--exact",
            "--nocapture",
        ])
        .env(SUPERVISE, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = folder.join("pid");
    eventually("a stream runs", || pid_file.exists()).await;
    let pid: u32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert!(!gone(pid));
    assert_eq!(world.count("m", "generate"), 1);
    assert_eq!(world.count("m", "finished"), 0);
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    eventually("the worker is gone", || gone(pid)).await;
}

/// Reads a stream without end; tells the worker's process id when it has begun.
async fn supervise(folder: PathBuf) {
    let world = World::new();
    let fleet = world.fleet();
    let model = folder.join("m.gguf");
    let mut stream = fleet
        .generate(model.to_str().unwrap(), spec("x"))
        .await
        .unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await.to_string();
    std::fs::write(folder.join("pid.part"), pid).unwrap();
    std::fs::rename(folder.join("pid.part"), folder.join("pid")).unwrap();
    while stream.next().await.is_some() {}
    panic!("the stream ended before the supervisor was killed");
}
