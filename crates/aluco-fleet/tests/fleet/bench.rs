//! Measurements: in a worker of their own, which goes with them.

use aluco_fake_worker::{Persona, Script};
use aluco_fleet::{
    FleetError,
    proto::{BenchSpec, BenchTest, FailureKind, LoadOptions},
};

use crate::world::{
    World, answer, endless, eventually, first_delta, gone, spec, until_status, within, worker_pid,
};

/// Two tests, three repetitions each.
fn two_tests() -> BenchSpec {
    let test = |prompt_tokens, generated_tokens| BenchTest {
        prompt_tokens,
        generated_tokens,
        depth_tokens: 0,
    };
    BenchSpec {
        options: LoadOptions::default(),
        tests: vec![test(512, 0), test(0, 128)],
        repetitions: 3,
        warm_up: true,
    }
}

#[tokio::test]
async fn a_measurement_tells_its_progress_and_reports_every_test() {
    let mut world = World::new();
    world.worker(&Persona::default());
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    let mut heard = Vec::new();
    let report = within(fleet.bench(&model, two_tests(), |done, total| {
        heard.push((done, total));
    }))
    .await
    .unwrap();
    assert_eq!(heard, [1, 2, 3, 4, 5, 6].map(|done| (done, 6)));
    assert_eq!(report.model.architecture, "fake");
    let tests: Vec<_> = report
        .tests
        .iter()
        .map(|result| (result.test, result.samples_ns.len()))
        .collect();
    assert_eq!(
        tests,
        two_tests()
            .tests
            .into_iter()
            .map(|test| (test, 3))
            .collect::<Vec<_>>()
    );
    let status = within(fleet.status()).await;
    assert!(status.workers.is_empty(), "its worker does not stay");
    assert!(status.models.is_empty());
    for pid in world.worker_pids() {
        assert!(gone(pid));
    }
}

#[tokio::test]
async fn a_measurement_runs_beside_the_running_worker() {
    let world = World::new();
    let model = world.model("m", &endless());
    let measured = world.model("measured", &Script::default());
    let fleet = world.fleet();
    let mut stream = within(fleet.generate(&model, spec("x"))).await.unwrap();
    first_delta(&mut stream).await;
    let pid = worker_pid(&fleet).await;
    within(fleet.bench(&measured, two_tests(), |_, _| {}))
        .await
        .unwrap();
    first_delta(&mut stream).await;
    let status = within(fleet.status()).await;
    assert_eq!(status.workers[0].hello.pid, pid);
    assert_eq!(status.workers[0].restarts, 0);
}

#[tokio::test]
async fn a_measurement_that_nobody_waits_for_any_more_takes_its_worker_with_it() {
    let mut world = World::new();
    world.worker(&Persona::default());
    let model = world.model(
        "m",
        &Script {
            delay_ms: 3_600_000,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let bench = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.bench(&model, two_tests(), |_, _| {}).await }
    });
    eventually("the measurement begins", || world.count("m", "bench") == 1).await;
    let pids = world.worker_pids();
    assert_eq!(pids.len(), 1);
    assert!(!gone(pids[0]));
    bench.abort();
    eventually("the worker is gone", || gone(pids[0])).await;
    // Nothing counts as running any more.
    within(fleet.shutdown(std::time::Duration::from_secs(3600))).await;
}

#[tokio::test]
async fn a_model_that_cannot_be_measured_is_told() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            load_error: Some("unknown architecture".to_owned()),
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let error = within(fleet.bench(&model, two_tests(), |_, _| {}))
        .await
        .unwrap_err();
    let FleetError::Failed(failure) = error else {
        panic!("{error:?}");
    };
    assert_eq!(failure.kind, FailureKind::LoadFailed);
    assert_eq!(failure.message, "unknown architecture");
}

#[tokio::test]
async fn a_measurement_whose_worker_dies_is_told_the_cause_and_the_running_worker_goes_on() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let bad = world.model(
        "bad",
        &Script {
            crash_on_load: true,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    answer(&fleet, &model).await.unwrap();
    let pid = worker_pid(&fleet).await;
    let error = within(fleet.bench(&bad, two_tests(), |_, _| {}))
        .await
        .unwrap_err();
    let FleetError::WorkerLost { cause } = error else {
        panic!("{error:?}");
    };
    assert!(cause.contains("SIGABRT"), "{cause}");
    assert_eq!(worker_pid(&fleet).await, pid);
}

#[tokio::test]
async fn a_shutdown_ends_a_measurement_that_takes_too_long() {
    let world = World::new();
    let model = world.model(
        "m",
        &Script {
            delay_ms: 3_600_000,
            ..Script::default()
        },
    );
    let fleet = world.fleet();
    let bench = tokio::spawn({
        let (fleet, model) = (fleet.clone(), model.clone());
        async move { fleet.bench(&model, two_tests(), |_, _| {}).await }
    });
    eventually("the measurement begins", || world.count("m", "bench") == 1).await;
    within(fleet.shutdown(std::time::Duration::ZERO)).await;
    assert!(matches!(
        within(bench).await.unwrap(),
        Err(FleetError::ShuttingDown)
    ));
    until_status(&fleet, "no worker is left", |status| {
        status.workers.is_empty()
    })
    .await;
}
