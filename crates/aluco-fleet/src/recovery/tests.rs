use aluco_model::{Store, StoreConfig};
use aluco_proto::{LoadedModel, ModelHandle, Prompt, Sampling};

use super::*;
use crate::{
    FleetConfig, Generation,
    residency::Ready,
    shared::{Owner, RequestGuard},
};

const MODEL: ModelHandle = ModelHandle(1);

fn spec() -> GenerationSpec {
    GenerationSpec {
        prompt: Prompt::Text("x".to_owned()),
        sampling: Sampling::default(),
        choices: 1,
        tokens_max: None,
        truncate: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
    }
}

fn loaded() -> Arc<LoadedModel> {
    Arc::new(LoadedModel {
        model: MODEL,
        architecture: "fake".to_owned(),
        description: "fake 0B".to_owned(),
        parameters: 1,
        weights_bytes: 1,
        context_train_tokens: 1,
        context_tokens: 1,
        sequences_max: 1,
        batch_tokens: 1,
        micro_batch_tokens: 1,
        threads: 1,
        vocabulary: 1,
        has_chat_template: true,
        recurrent: false,
        load_ms: 0.0,
        memory: Vec::new(),
    })
}

fn token(number: i32) -> GenerationEvent {
    GenerationEvent::Delta {
        choice: 0,
        text: format!(" {number}"),
        tokens: vec![number],
        logprobs: Vec::new(),
        speculated: None,
    }
}

#[tokio::test]
async fn what_a_lost_worker_still_says_is_neither_told_nor_noted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(StoreConfig {
        hub_cache: folder.path().join("hub"),
        models: folder.path().join("models"),
    });
    let shared = Arc::new(Shared::new(FleetConfig::new(store)));
    let name: Arc<str> = Arc::from("m");
    let flight = Flight::new(shared.clone(), &name, spec());
    let owner = Arc::new(Owner(shared.clone()));
    let mut stream = Generation::new(name.clone(), loaded(), flight.clone(), owner);
    let (lost, _frames_of_lost) = Connection::new();
    let (next, _frames_of_next) = Connection::new();
    let give_to = |connection: &Arc<Connection>| {
        let sent = flight.send(Lease {
            handle: MODEL,
            ready: Ready {
                name: name.clone(),
                loaded: loaded(),
                connection: connection.clone(),
            },
            guard: RequestGuard::new(shared.clone(), MODEL, Arc::from("")),
        });
        assert!(matches!(sent, Ok(Sent::Taken)));
    };

    give_to(&lost);
    flight.event(&lost, token(1)).unwrap();
    flight.lost(Circumstances {
        is_external: true,
        requests: 1,
        configuration: shared.configuration(&name),
    });
    flight.event(&lost, token(2)).unwrap();
    assert_eq!(flight.state().progress.generated_tokens(), 1);
    give_to(&next);
    flight.event(&lost, token(2)).unwrap();
    flight.event(&next, token(2)).unwrap();
    flight
        .event(&lost, GenerationEvent::Failed(worker_lost("too late")))
        .unwrap();
    let end = GenerationEvent::Failed(worker_lost("the end"));
    flight.event(&next, end.clone()).unwrap();

    for expected in [token(1), token(2), end] {
        assert_eq!(stream.next().await, Some(expected));
    }
    assert_eq!(stream.next().await, None);
}
