//! What the worker's integration tests share: the small real model, a worker process, and its socket.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

pub mod gate;
pub mod stored;
pub mod tiny;
pub mod turns;

use std::{
    collections::VecDeque,
    io::BufReader,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command as Process, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use aluco_prefix::disk;
use aluco_proto::{
    CacheOptions, CacheReport, Command, Event, FinishReason, GenerationEvent, GenerationSpec,
    LoadOptions, LoadedModel, LogLevel, ModelActivity, ModelHandle, PROTOCOL_VERSION, Prompt,
    RequestId, Resume, Sampling, Token, TokenLogprob, Usage, WorkerHello, read_frame, write_frame,
};

use self::gate::Gate;

/// SmolLM2-135M-Instruct Q4_1. `make model` fetches it.
pub fn model_path() -> PathBuf {
    let path = std::env::var_os("ALUCO_TEST_MODEL").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
                PathBuf::from,
            );
            cache.join("aluco/models/SmolLM2-135M-Instruct.Q4_1.gguf")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is missing; `make model` fetches it",
        path.display()
    );
    path
}

/// Nothing is kept from one request to the next: every prompt is computed whole and alone in its cells.
#[allow(dead_code)] // Not every test binary needs it.
pub fn without_cache() -> CacheOptions {
    CacheOptions {
        device_tokens: Some(0),
        ram_bytes: Some(0),
        ..CacheOptions::default()
    }
}

/// How long is waited for whatever a worker does: it may be slow, and so may its disk.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Nothing is written to a disk that has less room than a store leaves free, and what a test writes.
const FREE_BYTES_MIN: u64 = (2 << 30) + (256 << 20);

/// Where a test that stores prompts would not store any, that is said, not what comes of it.
fn check_room(cache: &CacheOptions) {
    let Some(folder) = cache.folder.as_deref() else {
        return;
    };
    let free = disk::free_bytes(folder).unwrap();
    assert!(
        cache.disk_bytes == Some(0) || free >= FREE_BYTES_MIN,
        "{} has room for {free} bytes, and this test needs {FREE_BYTES_MIN}: set TMPDIR to a folder that has",
        folder.display()
    );
}

/// A worker process at the other end of a socket.
pub struct Worker {
    pub process: Child,
    pub hello: WorkerHello,
    /// Warnings and errors that it logged, without those of llama.cpp.
    pub complaints: Vec<String>,
    /// What else it logged, without that of llama.cpp.
    pub notices: Vec<String>,
    /// Preparations of prompts that it told of, and whether they were over.
    pub preparations: Vec<(RequestId, bool)>,
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    /// Events that came while another one was waited for, in their order.
    set_aside: VecDeque<Event>,
    next: u64,
}

impl Worker {
    pub fn start() -> Self {
        Self::spawn(&mut Process::new(env!("CARGO_BIN_EXE_aluco-worker")))
    }

    /// A worker that has to wait at a gate.
    pub fn with_gate(gate: &Gate) -> Self {
        Self::with_variable("ALUCO_FAULT", &gate.fault())
    }

    /// A worker in whose environment there is this.
    pub fn with_variable(name: &str, value: &str) -> Self {
        Self::with_variables([(name, value)])
    }

    /// A worker in whose environment there are these.
    pub fn with_variables<const COUNT: usize>(variables: [(&str, &str); COUNT]) -> Self {
        let mut process = Process::new(env!("CARGO_BIN_EXE_aluco-worker"));
        Self::spawn(process.envs(variables))
    }

    fn spawn(process: &mut Process) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = process
            .arg("serve")
            .env("ALUCO_FLUSH_SECONDS", PATIENCE.as_secs().to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut writer = ours.try_clone().unwrap();
        let mut reader = BufReader::new(ours);
        write_frame(
            &mut writer,
            &Command::Hello {
                protocol: PROTOCOL_VERSION,
            },
        )
        .unwrap();
        let Some(Event::Hello(hello)) = read_frame(&mut reader).unwrap() else {
            panic!("no hello");
        };
        Self {
            process,
            hello,
            complaints: Vec::new(),
            notices: Vec::new(),
            preparations: Vec::new(),
            writer,
            reader,
            set_aside: VecDeque::new(),
            next: 0,
        }
    }

    /// Closes our end of the socket, as a supervisor does that is killed.
    pub fn hang_up(&mut self) {
        self.writer.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub fn request(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    pub fn send(&mut self, command: &Command) {
        write_frame(&mut self.writer, command).unwrap();
    }

    /// The next event that is no log line.
    pub fn event(&mut self) -> Event {
        match self.set_aside.pop_front() {
            Some(event) => event,
            None => self.new_event(),
        }
    }

    /// The next event of this kind; those before it are left for later.
    fn event_like(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.new_event();
            if is_wanted(&event) {
                return event;
            }
            self.set_aside.push_back(event);
        }
    }

    /// Comes back when the worker has taken notice of all that was sent to it.
    pub fn until_heard(&mut self) {
        self.steps();
    }

    /// Comes back when all prompts that were sent have been prepared and wait for the next step.
    pub fn until_prepared(&mut self) {
        let request = self.request();
        // Prepared in its turn, behind them.
        self.send(&Command::Tokenize {
            request,
            model: ModelHandle(1),
            text: "a".to_owned(),
            add_special: false,
            parse_special: false,
        });
        self.event_like(|event| matches!(event, Event::Tokens { .. }));
    }

    /// Has all of this be prepared before any of it is computed, so that it runs beside each other: the first step, which is that of another
    /// request, waits for it at a gate.
    pub fn ask_at_once<T>(&mut self, first_step: &Gate, ask: impl FnOnce(&mut Self) -> T) -> T {
        // No other prompt begins like it.
        self.generate(greedy(Prompt::Tokens(vec![3]), 1));
        let held = first_step.reached();
        let asked = ask(self);
        self.until_prepared();
        drop(held);
        asked
    }

    /// Steps, loads and preparations of prompts that are over.
    pub fn steps(&mut self) -> u64 {
        self.send(&Command::Ping { sequence: 0 });
        match self.event_like(|event| matches!(event, Event::Pong { .. })) {
            Event::Pong { steps, .. } => steps,
            other => unreachable!("{other:?} is no pong"),
        }
    }

    fn new_event(&mut self) -> Event {
        loop {
            match read_frame(&mut self.reader)
                .unwrap()
                .expect("the worker hung up")
            {
                Event::Log {
                    level: LogLevel::Error | LogLevel::Warn,
                    target,
                    message,
                } if target.starts_with("aluco") => {
                    self.complaints.push(format!("{target}: {message}"));
                }
                Event::Log {
                    target, message, ..
                } if target.starts_with("aluco") => self.notices.push(message),
                Event::Log { .. } => {}
                Event::Preparing { request, is_over } => {
                    self.preparations.push((request, is_over));
                }
                event => return event,
            }
        }
    }

    /// Tokens of a text; as the beginning of a prompt if `is_prompt`, else as letters in the middle of one.
    #[allow(dead_code)] // Not every test binary needs it.
    pub fn tokenize(&mut self, text: &str, is_prompt: bool) -> Vec<Token> {
        let request = self.request();
        self.send(&Command::Tokenize {
            request,
            model: ModelHandle(1),
            text: text.to_owned(),
            add_special: is_prompt,
            parse_special: is_prompt,
        });
        match self.event() {
            Event::Tokens { tokens, .. } => tokens,
            other => panic!("{other:?}"),
        }
    }

    pub fn load(&mut self, options: LoadOptions) -> LoadedModel {
        self.load_file(&model_path(), options)
    }

    pub fn load_file(&mut self, path: &Path, options: LoadOptions) -> LoadedModel {
        check_room(&options.cache);
        let (request, model) = (self.request(), ModelHandle(1));
        self.send(&Command::Load {
            request,
            model,
            path: path.to_owned(),
            options,
        });
        loop {
            match self.event() {
                Event::Loading { .. } => {}
                Event::Loaded { model, .. } => return *model,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Frees the model; what comes of running requests is not looked at.
    pub fn unload(&mut self) {
        let (request, model) = (self.request(), ModelHandle(1));
        self.send(&Command::Unload { request, model });
        while !matches!(self.event(), Event::Unloaded { .. }) {}
    }

    /// What the model is doing. Other events until then are not looked at.
    pub fn activity(&mut self) -> ModelActivity {
        let request = self.request();
        self.send(&Command::Status { request });
        loop {
            if let Event::Status { mut status, .. } = self.event() {
                return status.models.remove(0);
            }
        }
    }

    /// Waits until this is true of what the model is doing, which happens behind its replies.
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&ModelActivity) -> bool) {
        let began = Instant::now();
        loop {
            let activity = self.activity();
            if is_so(&activity) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {activity:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn cancel(&mut self, request: RequestId) {
        self.send(&Command::Cancel { request });
    }

    pub fn generate(&mut self, spec: GenerationSpec) -> RequestId {
        let request = self.request();
        self.send(&Command::Generate {
            request,
            model: ModelHandle(1),
            spec: Box::new(spec),
            resume: None,
        });
        request
    }

    /// Goes on with what another worker began.
    pub fn resume(&mut self, spec: GenerationSpec, resume: Resume) -> RequestId {
        let request = self.request();
        self.send(&Command::Generate {
            request,
            model: ModelHandle(1),
            spec: Box::new(spec),
            resume: Some(Box::new(resume)),
        });
        request
    }

    /// Ends the process as the kernel does.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// How the process ended, which it does soon.
    pub fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the worker lives on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Events of several generations until each has ended.
    pub fn finish(&mut self, requests: &[RequestId]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = requests.iter().map(|_| Outcome::default()).collect();
        while outcomes.iter().any(|outcome| !outcome.ended) {
            let Event::Generation { request, event } = self.event() else {
                continue;
            };
            if let Some(index) = requests.iter().position(|candidate| *candidate == request) {
                outcomes[index].take(event);
            }
        }
        outcomes
    }

    /// Waits until so many tokens of a prompt are computed; gives their number. Other events are not looked at.
    pub fn until_prefill(&mut self, wanted: RequestId, tokens: u32) -> u32 {
        loop {
            match self.event() {
                Event::Generation {
                    request,
                    event:
                        GenerationEvent::Prefill {
                            processed_tokens, ..
                        },
                } if request == wanted && processed_tokens >= tokens => return processed_tokens,
                _ => {}
            }
        }
    }

    pub fn run(&mut self, spec: GenerationSpec) -> Outcome {
        let request = self.generate(spec);
        self.finish(&[request]).remove(0)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What came of one generation, by choice.
#[derive(Debug, Default)]
pub struct Outcome {
    pub text: Vec<String>,
    pub tokens: Vec<Vec<Token>>,
    pub logprobs: Vec<Vec<TokenLogprob>>,
    pub reasons: Vec<Option<FinishReason>>,
    pub usage: Usage,
    /// Tokens of the prompt, if they were not what was sent.
    pub prompt: Vec<Token>,
    /// Where the beginning of the prompt came from.
    pub cache: CacheReport,
    pub failure: Option<aluco_proto::Failure>,
    pub prefills: Vec<u32>,
    pub ended: bool,
}

impl Outcome {
    pub fn take(&mut self, event: GenerationEvent) {
        assert!(!self.ended, "an event after the last one: {event:?}");
        match event {
            GenerationEvent::Started { cache, prompt, .. } => {
                self.cache = cache;
                self.prompt = prompt;
            }
            GenerationEvent::Prefill {
                processed_tokens, ..
            } => self.prefills.push(processed_tokens),
            GenerationEvent::Delta {
                choice,
                text,
                tokens,
                logprobs,
                ..
            } => {
                let choice = self.choice(choice);
                self.text[choice].push_str(&text);
                self.tokens[choice].extend(tokens);
                self.logprobs[choice].extend(logprobs);
            }
            GenerationEvent::Finished { choice, reason } => {
                let choice = self.choice(choice);
                assert_eq!(self.reasons[choice].replace(reason), None, "finished twice");
            }
            GenerationEvent::Done { usage, .. } => {
                self.usage = usage;
                self.ended = true;
            }
            GenerationEvent::Failed(failure) => {
                self.failure = Some(failure);
                self.ended = true;
            }
        }
    }

    /// Prompt tokens that were computed.
    pub fn computed_tokens(&self) -> u32 {
        self.usage.prompt_tokens - self.usage.cached_tokens
    }

    fn choice(&mut self, choice: u32) -> usize {
        let choices = choice as usize + 1;
        if self.text.len() < choices {
            self.text.resize(choices, String::new());
            self.tokens.resize(choices, Vec::new());
            self.logprobs.resize(choices, Vec::new());
            self.reasons.resize(choices, None);
        }
        choices - 1
    }
}

/// A greedy continuation of `prompt` by `tokens_max` tokens.
pub fn greedy(prompt: Prompt, tokens_max: u32) -> GenerationSpec {
    GenerationSpec {
        prompt,
        sampling: Sampling {
            temperature: 0.0,
            ..Sampling::default()
        },
        choices: 1,
        tokens_max: Some(tokens_max),
        truncate: None,
        stop: Vec::new(),
        logprobs: None,
        client: String::new(),
        namespace: String::new(),
    }
}

/// A context of the small real model.
pub fn small() -> LoadOptions {
    LoadOptions {
        context_tokens: Some(1024),
        threads: Some(2),
        ..LoadOptions::default()
    }
}

/// A prompt without a conversation.
pub fn text(text: &str) -> Prompt {
    Prompt::Text(text.to_owned())
}

/// A conversation of one user message.
pub fn question(text: &str) -> Prompt {
    Prompt::Chat(aluco_proto::ChatPrompt {
        messages: serde_json::json!([{"role": "user", "content": text}]),
        template_arguments: serde_json::Map::new(),
        add_generation_prompt: true,
    })
}
