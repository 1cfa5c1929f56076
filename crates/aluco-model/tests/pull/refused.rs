//! What the hub refuses, and who sees the token.

use aluco_model::ModelError;

use crate::{
    FILE, FILE_BYTES, Fixture, NAME, REPO, TOKEN, contents,
    fake_hub::{FakeHub, Refusal},
};

const fn refusal(status: u16, headers: &'static [(&'static str, &'static str)]) -> Refusal {
    Refusal { status, headers }
}

#[tokio::test]
async fn a_busy_hub_is_asked_again() {
    let f = Fixture::new().await;
    {
        let mut state = f.server.state();
        let busy = || refusal(429, &[("retry-after", "0")]);
        state.api_refusals.extend([busy(), refusal(503, &[])]);
        state
            .file_refusals
            .extend([busy(), refusal(500, &[]), refusal(502, &[])]);
    }
    f.pull(NAME).await.unwrap();
    assert_eq!(f.server.take_bytes_served(), FILE_BYTES);
}

#[tokio::test]
async fn a_hub_that_stays_busy_is_given_up() {
    let f = Fixture::new().await;
    let busy = || {
        refusal(
            429,
            &[("retry-after", "0"), ("x-error-message", "too many")],
        )
    };
    f.server
        .state()
        .api_refusals
        .extend([busy(), busy(), busy(), busy()]);
    let error = f.pull(NAME).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, ModelError::Network { tries: 4, .. }),
        "{text}"
    );
    assert!(text.contains("too many"), "{text}");
}

#[tokio::test]
async fn the_pause_that_the_hub_asks_for_is_kept() {
    let f = Fixture::new().await;
    f.server
        .state()
        .api_refusals
        .push_back(refusal(429, &[("retry-after", "1")]));
    let start = std::time::Instant::now();
    f.pull(NAME).await.unwrap();
    // The pause of its own would be a thousandth of it.
    assert!(start.elapsed() >= std::time::Duration::from_secs(1));
}

async fn error_of(status: u16, headers: &'static [(&'static str, &'static str)]) -> ModelError {
    let f = Fixture::new().await;
    f.server
        .state()
        .api_refusals
        .push_back(refusal(status, headers));
    let error = f.pull(NAME).await.unwrap_err();
    assert_eq!(f.server.take_seen().len(), 1, "asked again after {status}");
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
    error
}

#[tokio::test]
async fn a_gated_model_names_the_page_where_its_terms_are() {
    let headers: &[_] = &[
        ("x-error-code", "GatedRepo"),
        (
            "x-error-message",
            "Access to model is restricted for hf_TestToken",
        ),
    ];
    for status in [401, 403] {
        let error = error_of(status, headers).await;
        let ModelError::Gated { repo, url, detail } = &error else {
            panic!("{error}");
        };
        assert_eq!(repo, REPO);
        assert!(
            url.starts_with("http://127.0.0.1:") && url.ends_with(REPO),
            "{url}"
        );
        assert_eq!(detail, "Access to model is restricted for (token)");
        assert!(error.to_string().contains("HF_TOKEN"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_the_hub_does_not_know_is_told_from_a_missing_repository() {
    let error = error_of(401, &[("x-error-message", "Invalid credentials")]).await;
    assert!(matches!(error, ModelError::BadToken { .. }), "{error}");
    for status in [401, 404] {
        let error = error_of(status, &[("x-error-code", "RepoNotFound")]).await;
        assert!(matches!(error, ModelError::RepoNotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn without_a_token_401_means_no_such_repository() {
    let f = Fixture::new().await;
    f.server.state().api_refusals.push_back(refusal(401, &[]));
    let config = aluco_model::HubConfig {
        token: None,
        ..crate::hub_config(&f.server.url())
    };
    let hub = aluco_model::Hub::new(config).unwrap();
    let error = hub.pull(&f.store, NAME, |_| ()).await.unwrap_err();
    assert!(matches!(error, ModelError::RepoNotFound { .. }), "{error}");
}

#[tokio::test]
async fn what_a_repository_lacks_is_said_with_what_it_has() {
    let f = Fixture::with_files(&[
        ("Tiny-Q4_K_M.gguf", contents(100, 1)),
        ("Tiny-Q8_0.gguf", contents(100, 2)),
    ])
    .await;
    let error = f.pull("unsloth/Tiny-GGUF:Q2_K").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsloth/Tiny-GGUF has no Q2_K; it has Q4_K_M, Q8_0"
    );

    let f = Fixture::with_files(&[("model.safetensors", contents(100, 1))]).await;
    let error = f.pull(NAME).await.unwrap_err();
    assert!(matches!(error, ModelError::NoGgufInRepo { .. }), "{error}");

    let error = f.pull("qwen9").await.unwrap_err();
    assert!(
        matches!(error, ModelError::NotInCatalogue { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn the_token_stays_with_the_hub_when_files_are_elsewhere() {
    let f = Fixture::new().await;
    let storage = FakeHub::serve("storage/only", &[(FILE, contents(FILE_BYTES, 1))]).await;
    f.server.state().files_at = Some(storage.url());
    f.pull(NAME).await.unwrap();

    let bearer = format!("Bearer {TOKEN}");
    let at_hub = f.server.take_seen();
    assert!(at_hub.len() > 1);
    assert!(
        at_hub
            .iter()
            .all(|seen| seen.authorization.as_ref() == Some(&bearer))
    );
    let at_storage = storage.take_seen();
    assert!(
        at_storage
            .iter()
            .any(|seen| seen.path == format!("/storage/{FILE}"))
    );
    assert!(at_storage.iter().all(|seen| seen.authorization.is_none()));
    assert_eq!(storage.take_bytes_served(), FILE_BYTES);
}

#[tokio::test]
async fn what_a_storage_host_refuses_is_said_without_its_keys() {
    let f = Fixture::new().await;
    let storage = FakeHub::serve("storage/only", &[(FILE, contents(FILE_BYTES, 1))]).await;
    f.server.state().files_at = Some(storage.url());
    storage
        .state()
        .file_refusals
        .extend((0..8).map(|_| refusal(403, &[])));
    let error = f.pull(NAME).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(error, ModelError::HubAnswer { .. }), "{text}");
    assert!(
        text.contains("403") && text.contains(&storage.url()),
        "{text}"
    );
    assert!(!text.contains("secret-key"), "{text}");
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let f = Fixture::new().await;
    let here = f.server.url();
    f.server.state().files_at = Some(here);
    let error = f.pull(NAME).await.unwrap_err().to_string();
    assert!(error.contains("redirects too often"), "{error}");
}
