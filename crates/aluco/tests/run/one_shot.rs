//! One question, one answer.

use aluco_fake_worker::{Crash, Script};
use aluco_proto::{CacheReport, Miss};
use assert_cmd::assert::OutputAssertExt;

use crate::home::Home;

/// What a command wrote and how it ended.
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

fn ended(command: &mut std::process::Command, input: &[u8]) -> Ended {
    let output = assert_cmd::Command::from_std(std::mem::replace(
        command,
        std::process::Command::new("true"),
    ))
    .write_stdin(input)
    .output()
    .unwrap();
    Ended {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn the_answer_is_all_that_goes_to_standard_output() {
    let home = Home::with(&Script::default());
    let output = ended(&mut home.run(&["say", "hello"]), b"");
    assert_eq!(output.out, "Hello, world!\n");
    assert_eq!(output.err, "");
    assert_eq!(output.status, Some(0));
}

#[test]
fn figures_go_to_standard_error_if_asked_for() {
    let home = Home::with(&Script {
        cache: CacheReport {
            ram_tokens: 1,
            ..CacheReport::default()
        },
        prompt_tokens: Some(14),
        ..Script::default()
    });
    let output = ended(&mut home.run(&["hello", "--stats"]), b"");
    assert_eq!(output.out, "Hello, world!\n");
    assert!(
        output.err.starts_with("14 prompt tokens (1 cached)"),
        "{}",
        output.err
    );
    assert!(output.err.contains(" · 5 generated"), "{}", output.err);
    assert!(
        output.err.contains(" · first token after "),
        "{}",
        output.err
    );
    assert_eq!(output.err.lines().count(), 1);
}

#[test]
fn piped_text_stands_after_the_question() {
    let home = Home::with(&Script {
        echo: true,
        ..Script::default()
    });
    let output = ended(
        &mut home.run(&["review", "this:"]),
        b"fn owl() {\n    hoot()\n}\n",
    );
    assert_eq!(output.out, "review this:\n\nfn owl() {\n    hoot()\n}\n");
    let output = ended(&mut home.run(&[]), b"what is piped in is the question\n");
    assert_eq!(output.out, "what is piped in is the question\n");
}

#[test]
fn an_answer_that_ends_its_line_gets_no_second_line_end() {
    let home = Home::with(&Script {
        tokens: vec!["a\n".to_owned(), "b\n".to_owned()],
        ..Script::default()
    });
    let output = ended(&mut home.run(&["hello"]), b"");
    assert_eq!(output.out, "a\nb\n");
}

#[test]
fn json_is_one_object_with_text_and_figures() {
    let home = Home::with(&Script {
        cache: CacheReport {
            disk_tokens: 1,
            miss: Some(Miss::Evicted),
            ..CacheReport::default()
        },
        ..Script::default()
    });
    let output = ended(
        &mut home.run(&["hello", "--json", "--max-tokens", "2"]),
        b"",
    );
    let report: serde_json::Value = serde_json::from_str(&output.out).unwrap();
    assert_eq!(report["model"], "model.gguf");
    assert_eq!(report["text"], "Hello,");
    assert_eq!(report["finish_reason"], "length");
    assert_eq!(report["usage"]["completion_tokens"], 2);
    assert_eq!(report["timings"]["predicted_n"], 2);
    assert_eq!(report["timings"]["cache"]["disk_tokens"], 1);
    assert_eq!(report["timings"]["cache"]["miss"], "evicted");
    assert_eq!(output.err, "");
}

#[test]
fn what_the_prefix_store_may_use_reaches_the_worker() {
    let record = tempfile::NamedTempFile::new().unwrap();
    let home = Home::with(&Script {
        record: Some(record.path().to_owned()),
        ..Script::default()
    });
    let flags = [
        "--cache-device=5",
        "--cache-ram=1MiB",
        "--cache-disk=2GiB",
        "--cache-dir=prompts",
        "--tpot-ms=12.5",
        "--speculation=off",
    ];
    ended(home.run(&["hello"]).args(flags), b"");
    // A namespace of a key that is made up for one run would hide what the last run computed.
    let isolated = ["hello", "--cache-disk=0"];
    ended(home.run(&isolated).env("ALUCO_CACHE_ISOLATION", "key"), b"");
    let asked: Vec<serde_json::Value> = std::fs::read_to_string(record.path())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [first, _, second, generate] = &*asked else {
        panic!("{asked:?}");
    };
    assert_eq!(
        first["load"]["cache"],
        serde_json::json!({
            "device_tokens": 5,
            "ram_bytes": 1 << 20,
            "folder": "prompts",
            "disk_bytes": 2_u64 << 30,
        })
    );
    assert_eq!(first["load"]["tpot_ms"], 12.5);
    assert_eq!(first["load"]["speculation"], "off");
    assert!(second["load"]["cache"]["folder"].is_null(), "{second}");
    assert_eq!(generate["generate"]["namespace"], "");
}

#[test]
fn a_missing_model_is_told_with_the_way_to_get_it() {
    let home = Home::with(&Script::default());
    let worker = aluco_fake_worker::binary();
    let output = ended(
        home.aluco(&["run", "smollm2:135m", "hello", "--worker"])
            .arg(worker),
        b"",
    );
    assert_eq!(output.status, Some(1));
    assert_eq!(output.out, "");
    assert_eq!(
        output.err,
        "error: model smollm2:135m is not on this machine; get it with: aluco pull smollm2:135m\n"
    );
}

#[test]
fn nothing_to_ask_is_a_mistake_of_usage() {
    let home = Home::with(&Script::default());
    for args in [&[][..], &["--json"]] {
        let output = ended(&mut home.run(args), b" \n");
        assert_eq!(output.status, Some(2));
        assert!(
            output.err.contains("there is nothing to ask"),
            "{}",
            output.err
        );
    }
}

#[test]
fn piped_bytes_that_are_no_text_are_refused() {
    let home = Home::with(&Script::default());
    let output = ended(&mut home.run(&["hello"]), b"\x7fELF\xff");
    assert_eq!(output.status, Some(1));
    assert!(
        output.err.contains("byte 0xff at offset 4"),
        "{}",
        output.err
    );
    assert_eq!(output.out, "");
}

#[test]
fn a_worker_that_dies_in_the_middle_is_told_and_the_text_so_far_stays() {
    let home = Home::with(&Script {
        crash_after: Some(2),
        crash: Crash::KillSelf,
        ..Script::default()
    });
    let output = ended(&mut home.run(&["hello"]), b"");
    assert_eq!(output.status, Some(1));
    assert_eq!(output.out, "Hello,\n");
    assert!(
        output.err.starts_with("error: the worker process ended: "),
        "{}",
        output.err
    );
    assert!(output.err.contains("SIGKILL"), "{}", output.err);
    // Half an object would be worse than none.
    let output = ended(&mut home.run(&["hello", "--json"]), b"");
    assert_eq!((output.status, &*output.out), (Some(1), ""));
}

#[test]
fn a_model_that_does_not_load_is_told_with_its_reason() {
    let home = Home::with(&Script {
        load_error: Some("tensor blk.0 has a type that nobody knows".to_owned()),
        ..Script::default()
    });
    let output = ended(&mut home.run(&["hello"]), b"");
    assert_eq!(output.status, Some(1));
    assert!(
        output.err.contains("has a type that nobody knows"),
        "{}",
        output.err
    );
}

#[test]
fn a_value_below_its_range_is_judged_by_the_server_and_not_taken_for_a_flag() {
    let home = Home::with(&Script::default());
    let output = ended(&mut home.run(&["hello", "--top-p", "-1"]), b"");
    assert_eq!(output.status, Some(2));
    assert!(output.err.contains("top_p"), "{}", output.err);
    let flags = "hello --seed -1 --presence-penalty -0.5 --repeat-penalty 1.1";
    let flags: Vec<&str> = flags.split(' ').collect();
    let output = ended(&mut home.run(&flags), b"");
    assert_eq!(output.out, "Hello, world!\n", "{}", output.err);
}

#[test]
fn a_value_out_of_range_is_refused_by_name() {
    let home = Home::with(&Script::default());
    let output = ended(&mut home.run(&["hello", "--top-p", "7"]), b"");
    assert_eq!(output.status, Some(2));
    assert!(output.err.contains("top_p"), "{}", output.err);
}

#[test]
fn a_flag_of_the_engine_and_another_server_contradict_each_other() {
    let home = Home::with(&Script::default());
    home.run(&["hello", "--url", "http://127.0.0.1:9"])
        .assert()
        .code(2)
        .stderr("error: --worker says how to load a model here, and --url asks another server\n  leave one of them out\n");
}
