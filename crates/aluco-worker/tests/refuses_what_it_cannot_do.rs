//! What cannot be done is refused with a reason, and the worker goes on.

mod support;

use std::{
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Command as Process, Stdio},
};

use aluco_proto::{
    Command, Event, FailureKind, FinishReason, LoadOptions, ModelHandle, Prompt, write_frame,
};
use support::{Worker, greedy, model_path, question, small, text};

#[test]
fn what_cannot_be_done_is_refused_with_the_numbers() {
    let mut worker = Worker::start();
    worker.load(small());
    let kind = |worker: &mut Worker, prompt: Prompt| worker.run(greedy(prompt, 4)).failure.unwrap();
    let long = kind(&mut worker, Prompt::Tokens(vec![5; 2000]));
    assert_eq!(
        long.kind,
        FailureKind::ContextExceeded {
            prompt_tokens: 2000,
            context_tokens: 1024
        }
    );
    assert!(
        long.message
            .contains("2000 tokens and the context holds 1024"),
        "{}",
        long.message
    );
    assert_eq!(
        kind(&mut worker, Prompt::Tokens(vec![1, 999_999])).kind,
        FailureKind::InvalidRequest
    );
    assert_eq!(
        kind(&mut worker, Prompt::Tokens(vec![-1])).kind,
        FailureKind::InvalidRequest
    );
    assert_eq!(
        kind(&mut worker, Prompt::Tokens(Vec::new())).kind,
        FailureKind::InvalidRequest
    );
    let broken_chat = Prompt::Chat(aluco_proto::ChatPrompt {
        messages: serde_json::json!({"role": "user"}),
        template_arguments: serde_json::Map::new(),
        add_generation_prompt: true,
    });
    assert_eq!(
        kind(&mut worker, broken_chat).kind,
        FailureKind::InvalidRequest
    );
    let mut none = greedy(text("a"), 4);
    none.choices = 0;
    assert_eq!(
        worker.run(none).failure.unwrap().kind,
        FailureKind::InvalidRequest
    );
    // A prompt that fills the context to the last cell still gets its one token.
    let full = worker.run(greedy(Prompt::Tokens(vec![5; 1024]), 10));
    assert_eq!(
        (full.tokens[0].len(), full.reasons[0].clone()),
        (1, Some(FinishReason::Length))
    );
    let nothing = worker.run(greedy(text("a"), 0));
    assert_eq!(
        (nothing.usage.generated_tokens, nothing.reasons[0].clone()),
        (0, Some(FinishReason::Length))
    );
}

#[test]
fn hostile_prompts_are_refused_before_they_cost_anything() {
    let mut worker = Worker::start();
    worker.load(small());
    for prompt in ["a".repeat(3_000_000), " ".repeat(3_000_000)] {
        let failure = worker.run(greedy(text(&prompt), 1)).failure.unwrap();
        assert!(
            matches!(failure.kind, FailureKind::ContextExceeded { .. }),
            "{failure}"
        );
    }
    let mut spec = greedy(text("hi"), 1);
    spec.stop = vec!["x".repeat(5000)];
    let failure = worker.run(spec).failure.unwrap();
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let (request, model) = (worker.request(), ModelHandle(1));
    worker.send(&Command::Tokenize {
        request,
        model,
        text: "a".repeat(5 << 20),
        add_special: true,
        parse_special: true,
    });
    assert!(matches!(worker.event(), Event::Failed { .. }));
    assert_eq!(worker.run(greedy(text("hi"), 1)).failure, None);
}

#[test]
fn options_that_would_end_the_process_are_refused_or_mended() {
    let mut worker = Worker::start();
    let (request, model) = (worker.request(), ModelHandle(9));
    worker.send(&Command::Load {
        request,
        model,
        path: model_path(),
        options: LoadOptions {
            context_tokens: Some(1),
            ..small()
        },
    });
    let failure = loop {
        match worker.event() {
            Event::Loading { .. } | Event::Log { .. } => {}
            Event::Failed { failure, .. } => break failure,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let loaded = worker.load(LoadOptions {
        batch_tokens: 1,
        micro_batch_tokens: 1,
        ..small()
    });
    assert!(loaded.batch_tokens >= loaded.sequences_max);
    assert_eq!(worker.run(greedy(text("One, two,"), 2)).failure, None);
}

#[test]
fn a_file_that_is_no_model_fails_to_load_and_the_worker_goes_on() {
    let mut worker = Worker::start();
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(model_path()).unwrap();
    let cases = [
        ("missing.gguf", None),
        ("empty.gguf", Some(Vec::new())),
        ("text.gguf", Some(b"not a model".to_vec())),
        ("torn.gguf", Some(whole[..5_000_000].to_vec())),
    ];
    for (index, (name, content)) in cases.into_iter().enumerate() {
        let path = folder.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let request = worker.request();
        worker.send(&Command::Load {
            request,
            model: ModelHandle(50 + u32::try_from(index).unwrap()),
            path: path.clone(),
            options: small(),
        });
        let failure = loop {
            match worker.event() {
                Event::Loading { .. } => {}
                Event::Failed { failure, .. } => break failure,
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(failure.kind, FailureKind::LoadFailed, "{name}");
        assert!(
            failure.message.contains(path.to_str().unwrap()),
            "{}",
            failure.message
        );
    }
    worker.load(small());
    assert_eq!(worker.run(greedy(question("Say hello."), 4)).failure, None);
}

#[test]
fn another_protocol_version_is_told_apart() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut process = Process::new(env!("CARGO_BIN_EXE_aluco-worker"))
        .arg("serve")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    write_frame(&mut ours, &Command::Hello { protocol: 999 }).unwrap();
    let mut complaint = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut complaint)
        .unwrap();
    assert_eq!(process.wait().unwrap().code(), Some(1));
    assert!(complaint.contains("protocol 999"), "{complaint}");
}
