//! The worker at its socket, with a real small model.

mod support;

use std::{process::Command as Process, time::Instant};

use aluco_proto::{
    CacheOptions, Command, Event, FinishReason, LoadOptions, ModelHandle, Prompt, Sampling,
    Speculation,
};
use support::{
    Worker,
    gate::{self, Gate},
    greedy, model_path, question, small, text, without_cache,
};

/// Other batch shapes take other kernels, so the bits differ between a stream that runs alone and one that runs beside others, in llama.cpp as
/// here. What must not happen is that a stream sees another's cells: that would move the distribution by far more.
#[test]
fn streams_computed_together_do_not_see_each_other() {
    let gate = Gate::at(1);
    let mut worker = Worker::with_gate(&gate);
    worker.load(LoadOptions {
        cache: without_cache(),
        ..small()
    });
    let steps = worker.steps();
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
    let requests = worker.ask_at_once(&gate, |worker| {
        prompts.map(|prompt| worker.generate(spec(prompt)))
    });
    let together = worker.finish(&requests);
    let prepared = prompts.len() as u64 + 1;
    let steps = worker.steps() - steps - prepared;
    assert_eq!(steps, 2, "all of them in the one after the first");
    let alone = prompts.map(|prompt| worker.run(spec(prompt)));
    for ((together, alone), prompt) in together.iter().zip(&alone).zip(prompts) {
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
        cache: without_cache(),
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
    let gate = Gate::at(1);
    let fault = gate.fault();
    let variables = [("ALUCO_LOG", "aluco_worker=debug"), ("ALUCO_FAULT", &fault)];
    let mut worker = Worker::with_variables(variables);
    let loaded = worker.load(LoadOptions {
        context_tokens: Some(768),
        speculation: Speculation::Off,
        ..small()
    });
    assert_eq!(loaded.context_tokens, 768);
    // Four streams of about 410 cells in the end. Promises are made for 256 tokens ahead only, so that two are begun of which one fits.
    let mut spec = greedy(text("Once upon a time there was an owl."), 400);
    spec.sampling.ignore_end = true;
    let requests: [_; 4] = worker.ask_at_once(&gate, |worker| {
        std::array::from_fn(|_| worker.generate(spec.clone()))
    });
    for outcome in worker.finish(&requests) {
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.reasons, [Some(FinishReason::Length)]);
        assert_eq!(outcome.tokens[0].len(), 400);
        assert_eq!(outcome.usage.generated_tokens, 400);
    }
    let ran_out = worker
        .notices
        .iter()
        .any(|it| it.starts_with("cells ran out"));
    assert!(ran_out, "{:?}", worker.notices);
    // What is over the budget of the device goes behind the replies.
    worker.wait_until("the cells are free", |activity| {
        let found = (
            activity.cells_used,
            activity.sequences_running,
            activity.requests_waiting,
        );
        found == (0, 0, 0)
    });
    assert!(worker.activity().decode_tokens >= 4 * 400);
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
