//! What a model would take, and whether it fits: on made-up machines, without any server or worker.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    thread,
};

use aluco_fake_worker::Script;
use aluco_tiny_models::Kind;
use assert_cmd::assert::OutputAssertExt;
use serde_json::{Value, json};

use crate::home::{Home, measured_before};

/// A home with a real header in `model.gguf`, and a machine of which a cgroup lets it have so many MiB.
fn home(mib: u64) -> Home {
    let home = Home::with(&Script::default());
    aluco_tiny_models::write(Kind::SlidingWindow, &home.model()).unwrap();
    let cgroup = home.path().join("machine/sys/fs/cgroup/box");
    let proc = home.path().join("machine/proc");
    write(&proc.join("self/cgroup"), "0::/box\n");
    aluco_fake_worker::set_memory(&home.path().join("machine"), 32 << 10, 24 << 10).unwrap();
    write(&cgroup.join("memory.max"), &(mib << 20).to_string());
    write(&cgroup.join("memory.current"), "0\n");
    home
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn output(home: &Home, args: &[&str], status: i32) -> String {
    let mut command = home.aluco(&["mem", "--root", "machine"]);
    let output = command.args(args).assert().code(status);
    String::from_utf8(output.get_output().stdout.clone()).unwrap()
}

#[test]
fn the_memory_of_a_machine_is_told() {
    insta::assert_snapshot!(output(&home(16 << 10), &[], 0));
}

#[test]
fn a_model_that_fits_is_told_with_what_it_takes() {
    let home = home(4096);
    let text = output(&home, &["./model.gguf", "--cache-ram", "64MiB"], 0);
    let (first, table) = text.split_once("\n\n").unwrap();
    assert!(first.contains("fits: it needs"), "{first}");
    insta::assert_snapshot!(table);
    let json = output(&home, &["./model.gguf", "--json"], 0);
    let answer: Value = serde_json::from_str(&json).unwrap();
    // A sixteenth of what there is goes to stored prompts.
    assert_eq!(answer["fits"]["plan"]["items"][0]["bytes"], 256 << 20);
}

#[test]
fn a_model_that_fits_is_told_with_its_speed_where_that_was_measured() {
    let home = home(4096);
    measured_before(&home);
    // It is told for this machine only, and how much memory that has just now is not known; what a server here may take is.
    let url = server();
    let mem = |args: &[&str]| {
        let mut command = home.aluco(&["mem", "./model.gguf", "--url", &url]);
        let output = command.args(args).assert().code(0);
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let text = mem(&["--cache-ram", "0"]);
    let speed: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("decode"))
        .collect();
    assert!(speed[0].contains(" tok/s (at 8k: "), "{text}");
    assert!(speed[3].ends_with("of 2026-11-20 (16 threads)."), "{text}");
    assert!(
        speed[4].starts_with("Measured with kernel 0.0.1, now "),
        "{text}"
    );
    let answer: Value = serde_json::from_str(&mem(&["--cache-ram", "0", "--json"])).unwrap();
    assert_eq!(answer["fits"]["plan"]["context_tokens"], 8192);
    assert!(answer["speed"]["prefill"]["band"]["low"].as_f64() > Some(0.0));
    // What was measured here says nothing of another machine.
    let other = output(&home, &["./model.gguf", "--json"], 0);
    let other: Value = serde_json::from_str(&other).unwrap();
    assert_eq!(other["speed"]["origin"], "not_measured");
    assert_eq!(other["speed"].get("decode"), None);
}

#[test]
fn a_model_that_does_not_fit_is_told_what_would_help() {
    let home = home(256);
    let text = output(&home, &["./model.gguf", "--context", "262144"], 1);
    assert!(
        text.lines().skip(2).all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let (_, table) = text.split_once("\n\n").unwrap();
    insta::assert_snapshot!(table);
    let json = output(&home, &["./model.gguf", "--context", "262144", "--json"], 1);
    let answer: Value = serde_json::from_str(&json).unwrap();
    let refusal = &answer["does_not_fit"];
    assert!(refusal["needed_bytes"].as_u64() > refusal["free_bytes"].as_u64());
    assert!(!refusal["ways_out"].as_array().unwrap().is_empty());
}

/// The kernel's real file about a process that may not have more than 3 GiB, on a machine that has more.
#[test]
fn a_limit_of_the_process_refuses_before_anything_is_loaded() {
    let home = home(16 << 10);
    let limits = home.path().join("machine/proc/self/limits");
    std::os::unix::fs::symlink("/proc/self/limits", limits).unwrap();
    let limited = |args: &[&str]| {
        let mut aluco = home.aluco(&["mem"]);
        aluco.args(args);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -v 3145728 && exec \"$0\" \"$@\""])
            .arg(aluco.get_program())
            .args(aluco.get_args())
            .current_dir(home.path())
            .env_clear()
            .envs(
                aluco
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
        let output = shell.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let of_process = "address space of a process";
    // What is known of this very machine has the limit as well.
    for root in [&[][..], &["--root", "machine"]] {
        let (_, report) = limited(&[&["--json"], root].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        let mut limits = report["host_limits"].as_array().unwrap().iter();
        let limit = limits.find(|limit| limit["name"] == of_process);
        assert_eq!(limit.unwrap()["total"], 3_u64 << 30, "{report}");
    }
    let planned = |context| limited(&["./model.gguf", "--root", "machine", "--context", context]);
    let (status, text) = planned("8192");
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = planned("4194304");
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&format!("({of_process},")), "{text}");
}

/// A server that holds an idle model of 3 GiB, of 4 that it may have. Gives its address.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let gib = |count: u64| count << 30;
    let status = json!({
        "models": [],
        "ledger": {
            "budget": { "host": gib(4), "device": 0, "together": gib(4) },
            "machine_bytes": gib(8),
            "unified": false,
            "held_bytes": gib(3),
            "free_bytes": gib(1),
            "excess_bytes": 0,
            "pressure": "calm",
            "holders": [
                { "model": "owl:3b", "bytes": gib(3), "is_idle": true, "entries": [
                    { "place": "host", "consumer": "weights", "bytes": gib(3), "origin": "measured" },
                ] },
                { "model": null, "consumer": "other_programs", "bytes": gib(2) },
                { "model": null, "consumer": "reserve", "bytes": gib(2) },
            ],
            "host_limits": [
                { "name": "memory of the machine", "source": "/proc/meminfo", "total": gib(8), "free": gib(6) },
            ],
            "device_limits": [],
        },
    });
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            let body = if request.starts_with("GET /health ") {
                json!({"service": "aluco"}).to_string()
            } else {
                status.to_string()
            };
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn the_ledger_of_a_running_server_is_told_and_tried() {
    let home = home(4096);
    let url = server();
    let told = home.aluco(&["mem", "--url", &url]).assert().code(0);
    let told = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    assert!(told.contains("owl:3b, idle"), "{told}");
    let large = ["mem", "./model.gguf", "--context", "2097152", "--url", &url];
    let told = home.aluco(&large).assert().code(1);
    let told = String::from_utf8(told.get_output().stdout.clone()).unwrap();
    assert!(
        told.contains("* unload owl:3b (3.0 GiB), which nobody uses"),
        "{told}"
    );
}

#[test]
fn a_model_that_is_not_there_is_an_error() {
    let home = home(256);
    home.aluco(&["mem", "--root", "machine", "./none.gguf"])
        .assert()
        .code(1)
        .stdout("");
}
