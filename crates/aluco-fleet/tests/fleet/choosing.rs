//! Which worker binary is started.

use aluco_fake_worker::{Persona, Script, install};
use aluco_fleet::{FleetError, proto::Backend};

use crate::world::{World, answer, within};

/// A world whose fleet looks for workers in a folder of its own, and these workers in it.
fn world_with(workers: &[(&str, Persona)]) -> World {
    let mut world = World::new();
    let folder = world.folder.path().join("bin");
    std::fs::create_dir(&folder).unwrap();
    for (name, persona) in workers {
        install(&folder, name, persona).unwrap();
    }
    world.config.worker_binary = None;
    world.config.worker_folders = vec![folder];
    world
}

fn vulkan() -> Persona {
    Persona {
        backend: Backend::Vulkan,
        gpus: vec!["Vulkan0".to_owned()],
        ..Persona::default()
    }
}

fn for_another_cpu() -> Persona {
    Persona {
        cpu_level: "x86-64-v4".to_owned(),
        wrong_cpu: Some("this build needs AVX-512, which this CPU does not have".to_owned()),
        ..Persona::default()
    }
}

/// Backend and CPU level of the worker that answered.
async fn chosen(world: &World) -> (Backend, String) {
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    answer(&fleet, &model).await.unwrap();
    let status = within(fleet.status()).await;
    let hello = &status.workers[0].hello;
    (hello.backend, hello.cpu_level.clone())
}

/// Why no worker was started.
async fn refusal(world: &World) -> String {
    let model = world.model("m", &Script::default());
    match answer(&world.fleet(), &model).await {
        Err(FleetError::NoWorker { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_worker_for_the_gpu_is_started_where_there_is_one() {
    let world = world_with(&[
        ("aluco-worker-cpu", Persona::default()),
        ("aluco-worker-vulkan", vulkan()),
    ]);
    assert_eq!(chosen(&world).await.0, Backend::Vulkan);
}

#[tokio::test]
async fn the_cpu_is_used_where_the_backends_for_gpus_find_none() {
    let blind = Persona {
        gpus: Vec::new(),
        ..vulkan()
    };
    let world = world_with(&[
        ("aluco-worker-cpu", Persona::default()),
        ("aluco-worker-vulkan", blind),
    ]);
    assert_eq!(chosen(&world).await.0, Backend::Cpu);
}

#[tokio::test]
async fn a_build_for_another_cpu_is_passed_over() {
    let world = world_with(&[
        ("aluco-worker-cpu", Persona::default()),
        ("aluco-worker-cpu-v4", for_another_cpu()),
    ]);
    assert_eq!(chosen(&world).await, (Backend::Cpu, "x86-64-v3".to_owned()));
}

#[tokio::test]
async fn the_backend_that_is_asked_for_is_used_or_missed() {
    let mut world = world_with(&[
        ("aluco-worker-cpu", Persona::default()),
        ("aluco-worker-vulkan", vulkan()),
    ]);
    world.config.backend = Some(Backend::Cpu);
    assert_eq!(chosen(&world).await.0, Backend::Cpu);
    world.config.backend = Some(Backend::Rocm);
    let reason = refusal(&world).await;
    for name in ["aluco-worker-cpu", "aluco-worker-vulkan"] {
        assert!(reason.contains(name), "{reason}");
    }
    assert!(reason.contains("rocm is asked for"), "{reason}");
}

#[tokio::test]
async fn when_no_worker_fits_each_says_why() {
    let old = Persona {
        protocol: 99,
        ..Persona::default()
    };
    let world = world_with(&[
        ("aluco-worker-cpu", old),
        ("aluco-worker-cpu-v4", for_another_cpu()),
    ]);
    let reason = refusal(&world).await;
    assert!(
        reason.contains("aluco-worker-cpu speaks protocol 99"),
        "{reason}"
    );
    assert!(
        reason.contains("aluco-worker-cpu-v4 says: this build needs AVX-512"),
        "{reason}"
    );
}

#[tokio::test]
async fn when_there_is_no_worker_the_folders_are_named() {
    let world = world_with(&[]);
    let reason = refusal(&world).await;
    let folder = world.config.worker_folders[0].display().to_string();
    assert!(reason.contains(&folder), "{reason}");
}

#[tokio::test]
async fn a_worker_that_is_installed_after_a_failure_is_found() {
    let world = world_with(&[]);
    let model = world.model("m", &Script::default());
    let fleet = world.fleet();
    assert!(answer(&fleet, &model).await.is_err());
    let folder = &world.config.worker_folders[0];
    install(folder, "aluco-worker-cpu", &Persona::default()).unwrap();
    assert_eq!(answer(&fleet, &model).await.unwrap(), "Hello, world!");
}
