//! Settings that change while models are loaded and requests run.

use std::time::Duration;

use aluco_fake_worker::Script;
use aluco_fleet::{FleetConfig, KeepAlive, ModelConfig};

use crate::world::{World, answer, endless, eventually, first_delta, spec, until_status, within};

#[tokio::test]
async fn a_loaded_model_stays_as_long_as_the_new_settings_say() {
    let world = World::new();
    let model = world.model("m", &Script::default());
    let running = world.model("running", &endless());
    let fleet = world.fleet();
    answer(&fleet, &model).await.unwrap();
    let mut generation = within(fleet.generate(&running, spec("hi"))).await.unwrap();
    first_delta(&mut generation).await;
    let short = FleetConfig {
        keep_alive: KeepAlive::For(Duration::from_millis(20)),
        ..world.config.clone()
    };
    within(fleet.reconfigure(short)).await;
    eventually("the model that nobody uses goes", || {
        world.count("m", "unload") == 1
    })
    .await;
    first_delta(&mut generation).await;
    assert_eq!(world.count("running", "unload"), 0);
}

#[tokio::test]
async fn a_model_is_pinned_and_the_others_are_fewer() {
    let world = World::new();
    let [first, second, third] =
        ["first", "second", "third"].map(|name| world.model(name, &Script::default()));
    let fleet = world.fleet();
    answer(&fleet, &first).await.unwrap();
    answer(&fleet, &second).await.unwrap();
    let pinned = ModelConfig {
        pin: true,
        ..ModelConfig::default()
    };
    let tight = FleetConfig {
        models: [(first.clone(), pinned)].into(),
        models_max: 2,
        ..world.config.clone()
    };
    within(fleet.reconfigure(tight)).await;
    answer(&fleet, &third).await.unwrap();
    until_status(&fleet, "two models are left", |status| {
        status.models.len() == 2
    })
    .await;
    assert_eq!(world.count("first", "unload"), 0);
    assert_eq!(world.count("second", "unload"), 1);
}
