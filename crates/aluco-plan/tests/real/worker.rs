//! A worker to ask: what a load would take, and what it took.

use std::{
    io::{BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    thread,
    time::Duration,
};

use aluco_plan::{Bytes, Consumer, MemoryPlan};
use aluco_proto::{
    Command, DeviceMemory, Event, LoadOptions, ModelHandle, PROTOCOL_VERSION, RequestId,
    read_frame, write_frame,
};

/// What llama.cpp accounts for, over all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Breakdown {
    pub(crate) weights: Bytes,
    pub(crate) context: Bytes,
    pub(crate) compute: Bytes,
}

impl Breakdown {
    pub(crate) fn of(memory: &[DeviceMemory]) -> Self {
        let sum = |part: fn(&DeviceMemory) -> u64| memory.iter().map(part).map(Bytes).sum();
        Self {
            weights: sum(|device| device.weights_bytes),
            context: sum(|device| device.context_bytes),
            compute: sum(|device| device.compute_bytes),
        }
    }

    pub(crate) fn predicted(plan: &MemoryPlan) -> Self {
        Self {
            weights: plan.of(Consumer::Weights),
            context: plan.of(Consumer::KvCache) + plan.of(Consumer::RecurrentState),
            compute: plan.of(Consumer::Compute),
        }
    }

    pub(crate) fn total(self) -> Bytes {
        self.weights + self.context + self.compute
    }
}

/// How far one amount is from another, as a share of it.
pub(crate) fn off(predicted: Bytes, measured: Bytes) -> f64 {
    (predicted.0 as f64 - measured.0 as f64) / measured.0.max(1) as f64
}

fn binary() -> PathBuf {
    PathBuf::from(std::env::var_os("ALUCO_TEST_WORKER").expect("ALUCO_TEST_WORKER is set"))
}

/// What loads with these options would take, by the worker's own word.
pub(crate) fn estimates(model: &Path, options: &[LoadOptions]) -> Vec<Breakdown> {
    let mut process = Process::new(binary())
        .arg("estimate")
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut questions = process.stdin.take().unwrap();
    let lines = options.iter().map(|it| serde_json::to_string(it).unwrap());
    let lines = lines.map(|line| line + "\n").collect::<String>();
    // At the same time, because pipes may hold less than all questions or all answers. Whether a worker heard all is seen by its answers.
    let asking = thread::spawn(move || questions.write_all(lines.as_bytes()));
    let output = process.wait_with_output().unwrap();
    let _ = asking.join();
    assert!(output.status.success(), "{}", model.display());
    let answers: Vec<Breakdown> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| Breakdown::of(&serde_json::from_str::<Vec<DeviceMemory>>(line).unwrap()))
        .collect();
    assert_eq!(answers.len(), options.len());
    answers
}

/// A worker process at the other end of a socket.
pub(crate) struct Worker {
    process: Child,
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    next: u64,
}

impl Worker {
    pub(crate) fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = Process::new(binary())
            .arg("serve")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        let mut worker = Self {
            process,
            writer: ours.try_clone().unwrap(),
            reader: BufReader::new(ours),
            next: 0,
        };
        worker.send(&Command::Hello {
            protocol: PROTOCOL_VERSION,
        });
        assert!(matches!(worker.event(), Event::Hello(_)));
        worker
    }

    /// Loads and unloads; what was held between.
    pub(crate) fn load(&mut self, path: &Path, options: &LoadOptions) -> Breakdown {
        let (request, model) = (self.request(), ModelHandle(self.next as u32));
        self.send(&Command::Load {
            request,
            model,
            path: path.to_owned(),
            options: options.clone(),
        });
        let breakdown = loop {
            match self.event() {
                Event::Loading { .. } | Event::Log { .. } => {}
                Event::Loaded { model, .. } => break Breakdown::of(&model.memory),
                other => panic!("{other:?}"),
            }
        };
        let request = self.request();
        self.send(&Command::Unload { request, model });
        while !matches!(self.event(), Event::Unloaded { .. }) {}
        breakdown
    }

    /// What a load would take, asked over the socket.
    pub(crate) fn estimate(&mut self, path: &Path, options: &LoadOptions) -> Breakdown {
        let request = self.request();
        self.send(&Command::Estimate {
            request,
            path: path.to_owned(),
            options: options.clone(),
        });
        loop {
            match self.event() {
                Event::Log { .. } => {}
                Event::Estimated {
                    request: answered,
                    memory,
                } => {
                    assert_eq!(answered, request);
                    return Breakdown::of(&memory);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    fn send(&mut self, command: &Command) {
        write_frame(&mut self.writer, command).unwrap();
    }

    fn event(&mut self) -> Event {
        read_frame(&mut self.reader)
            .unwrap()
            .expect("the worker hung up")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
