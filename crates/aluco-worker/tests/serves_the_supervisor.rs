//! The worker at its socket, with a real small model.

mod support;

use std::{
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Command as Process, Stdio},
    time::Instant,
};

use aluco_proto::{
    CacheOptions, Command, Event, FailureKind, FinishReason, LoadOptions, ModelHandle, Prompt,
    Sampling, Speculation, write_frame,
};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Worker,
    gate::{self, Gate},
    greedy, model_path, question,
};

fn small() -> LoadOptions {
    LoadOptions {
        context_tokens: Some(1024),
        threads: Some(2),
        ..LoadOptions::default()
    }
}

fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

/// Other batch shapes take other kernels, so the bits differ between a stream that runs alone and one that runs beside others, in llama.cpp as
/// here. What must not happen is that a stream sees another's cells: that would move the distribution by far more.
#[test]
fn streams_computed_together_do_not_see_each_other() {
    let mut worker = Worker::start();
    worker.load(small());
    let prompts = [
        "The capital of France is",
        "One, two, three, four,",
        "Roses are red, violets are",
        "def main():\n    print(",
    ];
    let spec = |prompt: &str| {
        let mut spec = greedy(text(prompt), 1);
        spec.logprobs = Some(5);
        spec
    };
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| worker.run(spec(prompt)))
        .collect();
    let requests: Vec<_> = prompts
        .iter()
        .map(|prompt| worker.generate(spec(prompt)))
        .collect();
    for ((together, alone), prompt) in worker.finish(&requests).iter().zip(&alone).zip(prompts) {
        assert_eq!(together.failure, None);
        let (together, alone) = (&together.logprobs[0][0], &alone.logprobs[0][0]);
        let in_alone = |token| alone.top.iter().find(|entry| entry.token == token);
        let best = &together.top[0];
        let same = in_alone(best.token)
            .unwrap_or_else(|| panic!("{prompt:?}: {together:?} against {alone:?}"));
        assert!(
            (same.logprob - best.logprob).abs() < 0.5,
            "{prompt:?}: {together:?} against {alone:?}"
        );
        let shared = together
            .top
            .iter()
            .filter(|entry| in_alone(entry.token).is_some())
            .count();
        assert!(shared >= 4, "{prompt:?}: {together:?} against {alone:?}");
    }
}

#[test]
fn choices_share_the_prompt_and_differ_by_seed_alone() {
    let mut worker = Worker::start();
    // Beside cells of others, and with drafts, the last bits differ.
    worker.load(LoadOptions {
        cache: support::without_cache(),
        speculation: Speculation::Off,
        ..small()
    });
    let mut spec = greedy(question("Tell me a story about an owl."), 16);
    spec.sampling = Sampling {
        seed: Some(11),
        temperature: 1.0,
        ..Sampling::default()
    };
    spec.choices = 3;
    let together = worker.run(spec.clone());
    assert_eq!(together.failure, None);
    assert_eq!(together.text.len(), 3);
    assert_eq!(together.usage.generated_tokens, 48);
    assert_eq!(together.prefills.len(), 1, "the prompt is computed once");
    assert_ne!(together.text[0], together.text[1]);
    // Choice i is what a request with seed + i gives alone.
    for (index, expected) in together.text.iter().enumerate() {
        let mut single = spec.clone();
        single.choices = 1;
        single.sampling.seed = Some(11 + u32::try_from(index).unwrap());
        assert_eq!(&worker.run(single).text[0], expected);
    }
    // More choices than sequences: the rest follow.
    spec.choices = 6;
    let more = worker.run(spec);
    assert_eq!(more.text[..3], together.text);
    assert!(more.reasons.iter().all(Option::is_some) && more.reasons.len() == 6);
}

#[test]
fn streams_that_run_out_of_cells_wait_and_go_on() {
    let mut worker = Worker::start();
    let loaded = worker.load(LoadOptions {
        context_tokens: Some(512),
        ..small()
    });
    assert_eq!(loaded.context_tokens, 512);
    // Four streams of about 340 cells in the end: two fit at a time, and promises are made for 256 tokens ahead only.
    let mut spec = greedy(text("Once upon a time there was an owl."), 330);
    spec.sampling.ignore_end = true;
    let requests: Vec<_> = (0..4).map(|_| worker.generate(spec.clone())).collect();
    for outcome in worker.finish(&requests) {
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.reasons, [Some(FinishReason::Length)]);
        assert_eq!(outcome.tokens[0].len(), 330);
        assert_eq!(outcome.usage.generated_tokens, 330);
    }
    // What is over the budget of the device goes behind the replies.
    worker.wait_until("the cells are free", |activity| {
        let found = (
            activity.cells_used,
            activity.sequences_running,
            activity.requests_waiting,
        );
        found == (0, 0, 0)
    });
    assert!(worker.activity().decode_tokens >= 4 * 330);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let mut worker = Worker::start();
    worker.load(small());
    let mut spec = greedy(text("1, 2, 3, 4, 5,"), 40);
    let free = worker.run(spec.clone()).text.remove(0);
    assert!(free.contains(" 8"), "{free:?}");
    spec.stop = vec![" 8".to_owned(), "never".to_owned()];
    let stopped = worker.run(spec);
    assert_eq!(
        stopped.reasons,
        [Some(FinishReason::StopString(" 8".to_owned()))]
    );
    assert_eq!(stopped.text[0], free[..free.find(" 8").unwrap()]);
}

#[test]
fn a_cancelled_generation_ends_at_the_next_step() {
    const STEP: u32 = 6;
    let gate = Gate::at(u64::from(STEP));
    let mut worker = Worker::with_gate(&gate);
    worker.load(small());
    let mut spec = greedy(text("Once upon a time"), 900);
    spec.sampling.ignore_end = true;
    let request = worker.generate(spec);
    let held = gate.reached();
    worker.cancel(request);
    worker.until_heard();
    drop(held);
    let outcome = worker.finish(&[request]).remove(0);
    assert_eq!(outcome.reasons.last(), Some(&Some(FinishReason::Cancelled)));
    // Each step brings one, that of the prompt too.
    assert_eq!(outcome.usage.generated_tokens, STEP);
    // A request that nobody knows is ignored, and the worker goes on.
    worker.send(&Command::Cancel { request });
    assert_eq!(worker.run(greedy(question("Say hello."), 4)).failure, None);
}

#[test]
fn the_preparation_of_each_prompt_is_told_when_it_begins_and_before_its_request_does() {
    let gate = Gate::at(1);
    let mut worker = Worker::with_gate(&gate);
    worker.load(small());
    let running = worker.generate(greedy(text("Once upon a time"), 2));
    let held = gate.reached();
    assert_eq!(worker.preparations, []);
    worker.until_heard();
    assert_eq!(worker.preparations, [(running, false), (running, true)]);
    let too_long = worker.generate(greedy(Prompt::Tokens(vec![5; 2000]), 2));
    worker.until_prepared();
    assert_eq!(worker.preparations[2..], [(too_long, false)]);
    drop(held);
    worker.finish(&[running]);
    assert_eq!(worker.preparations.len(), 3);
}

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
fn control_tokens_typed_by_a_user_are_letters() {
    let mut worker = Worker::start();
    worker.load(small());
    let usage = |worker: &mut Worker, asked: &str| {
        worker.run(greedy(question(asked), 1)).usage.prompt_tokens
    };
    let plain = usage(&mut worker, "hello");
    // As a command it would be one token; as letters it is several.
    assert!(usage(&mut worker, "hello<|im_end|>") > plain + 2);
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
fn the_time_of_a_load_is_what_was_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let options = || LoadOptions {
        cache: CacheOptions {
            folder: Some(folder.path().to_owned()),
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..small()
    };
    let mut worker = Worker::start();
    worker.load(options());
    worker.unload();
    // The store of the prompts comes last, and reads this.
    let store = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let manifest = store.unwrap().path().join("manifest.json");
    let kept = folder.path().join("kept");
    std::fs::rename(&manifest, &kept).unwrap();
    gate::make_pipe(&manifest);

    let sent = Instant::now();
    let (request, model) = (worker.request(), ModelHandle(1));
    worker.send(&Command::Load {
        request,
        model,
        path: model_path(),
        options: options(),
    });
    assert!(matches!(worker.event(), Event::Loading { .. }));
    let began = Instant::now();
    let held = gate::hold(&manifest);
    // Longer than all before it: whoever stops the clock sooner tells less than this.
    std::thread::sleep(sent.elapsed());
    let waited = began.elapsed();
    // Whoever reads it again is not held up.
    std::fs::rename(&kept, &manifest).unwrap();
    drop(held);
    let loaded = loop {
        match worker.event() {
            Event::Loading { .. } => {}
            Event::Loaded { model, .. } => break model,
            other => panic!("{other:?}"),
        }
    };
    let (told, all) = (loaded.load_ms / 1e3, sent.elapsed().as_secs_f64());
    let least = waited.as_secs_f64();
    assert!((least..=all).contains(&told), "{least} {told} {all}");
}

#[test]
fn unloading_ends_what_runs_and_frees_the_name() {
    let mut worker = Worker::start();
    // By itself it would end in a minute or more.
    worker.load(LoadOptions {
        context_tokens: Some(8192),
        ..small()
    });
    let mut spec = greedy(text("Once upon a time"), 8000);
    spec.sampling.ignore_end = true;
    let running = worker.generate(spec);
    let request = worker.request();
    worker.send(&Command::Unload {
        request,
        model: ModelHandle(1),
    });
    let outcome = worker.finish(&[running]).remove(0);
    assert!(
        matches!(outcome.reasons.last(), Some(Some(FinishReason::Cancelled)))
            || outcome.failure.is_some()
    );
    loop {
        if let Event::Unloaded { .. } = worker.event() {
            break;
        }
    }
    assert_eq!(
        worker.run(greedy(text("a"), 1)).failure.unwrap().kind,
        FailureKind::ModelNotLoaded
    );
    worker.load(small());
    assert_eq!(worker.run(greedy(text("a"), 1)).failure, None);
}

#[test]
fn pings_are_answered_while_a_model_computes() {
    let gate = Gate::at(1);
    let mut worker = Worker::with_gate(&gate);
    worker.load(small());
    let request = worker.generate(greedy(Prompt::Tokens(vec![7; 1000]), 1));
    let held = gate.reached();
    worker.send(&Command::Ping { sequence: 42 });
    loop {
        match worker.event() {
            Event::Pong {
                sequence,
                working,
                step_tokens,
                ..
            } => {
                assert_eq!((sequence, working, step_tokens), (42, true, 512));
                break;
            }
            Event::Generation { event, .. } => assert!(!event.is_terminal()),
            _ => {}
        }
    }
    drop(held);
    assert_eq!(worker.finish(&[request])[0].failure, None);
}

#[test]
fn the_worker_ends_when_the_supervisor_is_gone_even_in_mid_step() {
    let gate = Gate::at(2);
    let mut worker = Worker::with_gate(&gate);
    worker.load(small());
    worker.generate(greedy(text("Once upon a time"), 900));
    let _held = gate.reached();
    worker.hang_up();
    let status = worker.end();
    assert!(status.success(), "{status}");
}

#[test]
fn one_signal_of_a_fault_ends_the_worker_and_is_named_by_its_status() {
    for signal in [Signal::SEGV, Signal::BUS] {
        let mut worker = Worker::start();
        kill_process(Pid::from_child(&worker.process), signal).unwrap();
        assert_eq!(worker.end().signal(), Some(signal.as_raw()));
    }
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

#[test]
fn a_probe_tells_who_the_worker_is() {
    let output = Process::new(env!("CARGO_BIN_EXE_aluco-worker"))
        .arg("probe")
        .output()
        .unwrap();
    assert!(output.status.success());
    let hello: aluco_proto::WorkerHello = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(hello.protocol, aluco_proto::PROTOCOL_VERSION);
    assert!(
        hello.devices.iter().any(|device| device.device == "CPU"),
        "{hello:?}"
    );
}

#[test]
fn a_measurement_has_as_many_samples_as_asked_for() {
    let mut worker = Worker::start();
    let request = worker.request();
    let test = |prompt_tokens, generated_tokens, depth_tokens| aluco_proto::BenchTest {
        prompt_tokens,
        generated_tokens,
        depth_tokens,
    };
    let tests = vec![test(32, 0, 0), test(0, 4, 16), test(16, 2, 0)];
    worker.send(&Command::Bench {
        request,
        path: model_path(),
        spec: aluco_proto::BenchSpec {
            options: small(),
            tests: tests.clone(),
            repetitions: 2,
            warm_up: true,
        },
    });
    let mut progress = Vec::new();
    let report = loop {
        match worker.event() {
            Event::BenchProgress { done, total, .. } => progress.push((done, total)),
            Event::Bench { report, .. } => break report,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(progress, (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
    assert_eq!(
        report
            .tests
            .iter()
            .map(|result| result.test)
            .collect::<Vec<_>>(),
        tests
    );
    assert!(
        report.tests.iter().all(
            |result| result.samples_ns.len() == 2 && result.samples_ns.iter().all(|ns| *ns > 0)
        )
    );
    assert_eq!(report.backends, "CPU");
}

#[test]
fn arguments_of_the_template_may_be_strings() {
    let mut worker = Worker::start();
    worker.load(small());
    let mut spec = greedy(question("Say hello."), 2);
    let Prompt::Chat(chat) = &mut spec.prompt else {
        panic!("not a chat");
    };
    chat.template_arguments
        .insert("reasoning_effort".to_owned(), "low".into());
    assert_eq!(worker.run(spec).failure, None);
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
fn a_cancel_does_not_wait_for_the_prompts_of_others() {
    let gate = Gate::at(1);
    let mut worker = Worker::with_gate(&gate);
    worker.load(LoadOptions {
        context_tokens: Some(8192),
        sequences_max: 1,
        ..small()
    });
    let running = worker.generate(greedy(text("Once upon a time"), 4));
    let held = gate.reached();
    // Each takes a while to tokenize, and the last one is cancelled before its turn.
    let long = "word ".repeat(100_000);
    let requests: Vec<_> = (0..4)
        .map(|_| worker.generate(greedy(text(&long), 1)))
        .collect();
    let last = worker.generate(greedy(text("One, two,"), 4));
    worker.cancel(last);
    worker.until_heard();
    drop(held);
    let all: Vec<_> = requests.into_iter().chain([running, last]).collect();
    let mut outcomes = worker.finish(&all);
    let outcome = outcomes.pop().unwrap();
    assert_eq!(outcomes.pop().unwrap().failure, None);
    assert!(outcomes.iter().all(|outcome| outcome.failure.is_some()));
    assert_eq!(outcome.reasons, [Some(FinishReason::Cancelled)]);
    assert_eq!(outcome.usage.generated_tokens, 0);
}
