//! `aluco top` at a pretended terminal and without one, and what `aluco serve` tells of its machine.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use aluco_fake_worker::{Gate, Place, Script};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::Value;

use crate::{
    at_a_server::stdout,
    home::{Home, PATIENCE},
    serving::{Guard, get},
    terminal::Terminal,
};

/// `aluco serve`, its log, and the kernel's messages that it reads.
pub(crate) struct Serving {
    pub(crate) home: Home,
    process: Guard,
    log: Receiver<String>,
    kernel: File,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn start(script: &Script) -> Self {
        let home = Home::with(script);
        let path = home.path().join("kmsg");
        let kernel = pipe(&path);
        let mut process = home
            .serve()
            .args(["--log-level", "debug", "--kernel-log", "kmsg"])
            .arg("--worker")
            .arg(aluco_fake_worker::binary())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut serving = Self {
            home,
            process: Guard(process),
            log,
            kernel,
            url: String::new(),
        };
        let line = serving.logged("serves at http://");
        let (_, rest) = line.split_once("serves at ").unwrap();
        rest.split_whitespace()
            .next()
            .unwrap()
            .clone_into(&mut serving.url);
        serving
    }

    /// The next line of the log with this in it.
    fn logged(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let line = self.log.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("{text:?} is not logged: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn aluco(&self, args: &[&str]) -> Command {
        let mut command = self.home.aluco(args);
        command.env("ALUCO_URL", &self.url).env("LANG", "C.UTF-8");
        command
    }

    /// What the server answers, once that says something of the machine: if the machine takes its time, the server leaves that out.
    fn asked(&self, path: &str, about_machine: &str) -> String {
        let begun = Instant::now();
        loop {
            let answer = get(self.url.strip_prefix("http://").unwrap(), path).unwrap();
            if answer.contains(about_machine) {
                assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
                return answer.split_once("\r\n\r\n").unwrap().1.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "{answer}");
        }
    }

    fn telemetry(&self) -> Value {
        serde_json::from_str(&self.asked("/aluco/v1/telemetry", "\"sample\"")).unwrap()
    }

    /// Comes back when the server has read this line of the kernel.
    fn wait_for_kernel_event(&self, line: &str) {
        let begun = Instant::now();
        loop {
            let told = self.telemetry();
            let mut events = told["kernel"]["events"].as_array().unwrap().iter();
            if events.any(|event| event["line"] == line) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{told}");
        }
    }

    /// The kernel says these lines, as `/dev/kmsg` hands them out.
    fn kernel_says(&mut self, lines: &[&str]) {
        // The server may not have begun to read: then the time of a record counts.
        let now = clock_gettime(ClockId::Monotonic);
        let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        let records: Vec<String> = lines
            .iter()
            .map(|line| format!("4,1,{now_us},-;{line}\n"))
            .collect();
        self.kernel.write_all(records.concat().as_bytes()).unwrap();
    }
}

/// A pipe, open also for reading, so that opening waits for nobody.
fn pipe(path: &Path) -> File {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// From ROCm/legacy-rocm-build#5724: the GPU's scheduler firmware fails.
const MES_BLOCK: [&str; 4] = [
    "amdgpu 0000:c5:00.0: amdgpu: MES failed to respond to msg=REMOVE_QUEUE",
    "amdgpu 0000:c5:00.0: amdgpu: failed to remove hardware queue from MES, doorbell=0x1802",
    "amdgpu 0000:c5:00.0: amdgpu: MES might be in unrecoverable state, issue a GPU reset",
    "amdgpu 0000:c5:00.0: amdgpu: GPU reset begin!. Source:  3",
];

#[test]
fn the_kernels_messages_name_the_cause_of_a_death_and_warn_of_others() {
    let mut serving = Serving::start(&Script::default());
    let gate = Gate {
        at: Place::Token(2),
        file: serving.home.path().join("gate"),
    };
    let script = Script {
        crash_after: Some(2),
        gates: vec![gate.clone()],
        ..Script::default()
    };
    script.write(&serving.home.model()).unwrap();
    serving.kernel_says(&[
        "amdgpu 0000:c5:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=12, emitted seq=14",
    ]);
    let warning = serving.logged("the kernel reports trouble");
    assert!(
        warning.contains("WARN") && warning.contains("ring gfx_0.0.0 timeout"),
        "{warning}"
    );
    assert!(warning.contains("--explain LOG-01"), "{warning}");
    let told = serving.telemetry();
    assert_eq!(told["kernel"]["warnings"], 1, "{told}");

    let asking = serving
        .aluco(&["run", "./model.gguf", "hello"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    serving.logged("a worker started");
    serving.kernel_says(&MES_BLOCK);
    serving.wait_for_kernel_event(MES_BLOCK[3]);
    gate.open().unwrap();
    let ended = serving.logged("the worker ended");
    assert!(
        ended.contains("the kernel says: ") && ended.contains(MES_BLOCK[0]),
        "{ended}"
    );
    assert!(ended.contains("DeviceLost"), "{ended}");
    // It has been told; a ring that hung before the worker began is not the cause of its death either.
    assert!(!ended.contains("ring gfx"), "{ended}");
    // The request ends workers wherever it comes to this place, and its client learns why.
    let output = asking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ended 2 workers"), "{said}");
}

#[test]
fn what_is_known_of_the_machine_is_told_and_measured() {
    let serving = Serving::start(&Script::default());
    let told = serving.telemetry();
    let total = &told["sample"]["memory_total_bytes"]["value"];
    assert!(total.as_u64() > Some(1 << 20), "{told}");
    let gauge = "\naluco_memory_machine_bytes ";
    let metrics = serving.asked("/metrics", gauge);
    let (_, measured) = metrics.split_once(gauge).unwrap();
    let measured = measured.lines().next().unwrap();
    // A virtual machine may get memory, or give some back, at any moment.
    let total = total.as_f64().unwrap();
    let bytes: f64 = measured.parse().unwrap();
    assert!((0.5..2.0).contains(&(bytes / total)), "{bytes}: {told}");
    if told["sample"]["gpu"].is_null() {
        assert!(!metrics.contains("aluco_gpu_"), "{metrics}");
    }
}

#[test]
fn without_a_terminal_one_look_is_written() {
    let serving = Serving::start(&Script::default());
    stdout(&mut serving.aluco(&["run", "./model.gguf", "hello"]));
    // If the machine takes its time, a look is without it.
    let look = |args: &[&str], about_machine: &str| {
        let begun = Instant::now();
        loop {
            let text = stdout(&mut serving.aluco(args));
            if text.contains(about_machine) {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{text}");
        }
    };
    let text = look(&["top"], "CPU");
    for part in [
        "aluco 127.0.0.1",
        "MEMORY",
        "CPU",
        "NPU",
        "MODEL",
        "model.gguf",
        "ready",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "{text}"
    );
    let json = look(&["top", "--json"], "\"uptime_ms\"");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["status"]["models"][0]["state"], "ready");
    assert!(json["telemetry"]["uptime_ms"].is_u64(), "{json}");
}

const LEAVE_SCREEN: &str = "\u{1b}[?1049l";

#[test]
fn at_a_terminal_keys_work_and_the_terminal_is_given_back() {
    let serving = Serving::start(&Script::default());
    stdout(&mut serving.aluco(&["run", "./model.gguf", "hello"]));
    let mut screen = Terminal::of_size(&mut serving.aluco(&["top"]), 100, 30);
    screen.expect_letters("model.gguf");
    assert!(!screen.is_cooked());
    screen.press("u");
    screen.expect_letters("y to do it");
    screen.press("y");
    screen.expect_letters("was unloaded from here");
    screen.press("q");
    assert_eq!(screen.child.wait().unwrap().code(), Some(0));
    assert!(screen.is_cooked());
    assert_eq!(stdout(&mut serving.aluco(&["ps"])), "");
}

#[test]
fn a_server_that_goes_is_waited_for_and_a_signal_gives_the_terminal_back() {
    let mut serving = Serving::start(&Script::default());
    let mut screen = Terminal::of_size(&mut serving.aluco(&["top"]), 100, 30);
    screen.expect_letters("no model is loaded");
    serving.process.0.kill().unwrap();
    serving.process.0.wait().unwrap();
    screen.expect_letters("retrying");
    kill_process(Pid::from_child(&screen.child), Signal::TERM).unwrap();
    screen.expect(LEAVE_SCREEN);
    assert_eq!(screen.child.wait().unwrap().code(), Some(0));
    assert!(screen.is_cooked());
}
