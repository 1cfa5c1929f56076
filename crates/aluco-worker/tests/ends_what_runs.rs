//! What runs ends when it is told to, and when nobody is there to tell.

mod support;

use std::os::unix::process::ExitStatusExt;

use aluco_prefix::{Kind as EntryKind, disk};
use aluco_proto::{
    CacheOptions, Command, Event, FailureKind, FinishReason, LoadOptions, ModelHandle, Prompt,
    Speculation,
};
use rustix::process::{Pid, Signal, kill_process};
use support::{
    Worker,
    gate::{self, Gate},
    greedy, question, small, text, tiny, turns,
};

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
fn a_cancel_does_not_wait_for_the_prompts_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let options = || LoadOptions {
        cache: CacheOptions {
            folder: Some(folder.path().to_owned()),
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..tiny::options(2048)
    };
    let model = tiny::path(tiny::Kind::FullAttention);
    let stored = greedy(Prompt::Tokens(turns::text(1, 1100)), 1);
    let mut worker = Worker::start();
    worker.load_file(&model, options());
    assert_eq!(worker.run(stored.clone()).failure, None);
    worker.unload();
    worker.load_file(&model, options());
    // Who prepares this prompt again reads its beginning from here.
    let on_disk = disk::folders(folder.path())[0].folder();
    let found = on_disk.survey().found;
    let mut entries = found.iter().map(|found| &found.entry);
    let first = entries.find(|entry| entry.begin == 0 && entry.kind == EntryKind::Block);
    let file = on_disk.entry_path(&first.unwrap().key);
    std::fs::remove_file(&file).unwrap();
    gate::make_pipe(&file);

    let slow = worker.generate(stored);
    let held = gate::hold(&file);
    let waiting = worker.generate(greedy(Prompt::Tokens(turns::text(2, 10)), 4));
    worker.cancel(waiting);
    worker.until_heard();
    assert_eq!(worker.preparations[2..], [(slow, false)]);
    drop(held);
    let [slow_outcome, outcome] = &worker.finish(&[slow, waiting])[..] else {
        unreachable!("each has an outcome")
    };
    assert_eq!(slow_outcome.failure, None);
    assert_eq!(outcome.reasons, [Some(FinishReason::Cancelled)]);
    assert_eq!(outcome.usage.generated_tokens, 0);
    // The other one was not even looked at.
    assert_eq!(worker.preparations[2..], [(slow, false), (slow, true)]);
}

#[test]
fn unloading_ends_what_runs_and_frees_the_name() {
    let gate = Gate::at(2);
    let mut worker = Worker::with_gate(&gate);
    // By itself it would end in a minute or more.
    worker.load(LoadOptions {
        context_tokens: Some(8192),
        speculation: Speculation::Off,
        ..small()
    });
    let mut spec = greedy(text("Once upon a time"), 8000);
    spec.sampling.ignore_end = true;
    let running = worker.generate(spec);
    let held = gate.reached();
    let request = worker.request();
    worker.send(&Command::Unload {
        request,
        model: ModelHandle(1),
    });
    worker.until_heard();
    drop(held);
    let outcome = worker.finish(&[running]).remove(0);
    assert_eq!(outcome.reasons, [Some(FinishReason::Cancelled)]);
    assert!(outcome.usage.generated_tokens < 8000);
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
