//! One supervisor, from hello to the end of the socket.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aluco_proto::{
    BenchReport, BenchSpec, BenchTestResult, CacheActivity, Command, DeviceMemory, Event, Failure,
    FailureKind, GenerationEvent, GenerationSpec, LoadOptions, LoadedModel, ModelActivity,
    ModelHandle, PROTOCOL_VERSION, RequestId, Resume, WorkerStatus, read_frame, write_frame,
};

use crate::{
    Persona, Place, Script,
    generate::{self, Counters},
    script::note,
    text::{self, Vocabulary},
};

/// How long requests may take to end that were cancelled before the worker was.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);

/// Serves the supervisor at the other end of `stream` until it hangs up, asks for it, or speaks another version.
pub fn serve(stream: UnixStream, persona: &Persona) -> io::Result<()> {
    let worker = Arc::new(Worker {
        outbox: Mutex::new(stream.try_clone()?),
        socket: stream.try_clone()?,
        vocabulary: Vocabulary::default(),
        steps: AtomicU64::new(0),
        working: AtomicUsize::new(0),
        models: Mutex::default(),
        requests: Mutex::default(),
        present: Mutex::default(),
    });
    let mut reader = BufReader::new(stream);
    let mut next = || read_frame::<Command>(&mut reader).map_err(io::Error::other);
    let Some(Command::Hello { protocol }) = next()? else {
        return Err(io::Error::other("the supervisor did not say hello"));
    };
    worker.send(&Event::Hello(persona.hello()));
    if protocol != PROTOCOL_VERSION {
        return Err(io::Error::other(format!(
            "the supervisor speaks protocol {protocol}, this worker {PROTOCOL_VERSION}"
        )));
    }
    while let Some(command) = next()? {
        if matches!(command, Command::Shutdown) {
            persona.note("shutdown");
            worker.settle();
            break;
        }
        worker.obey(command);
    }
    Ok(())
}

/// What all threads share.
pub(crate) struct Worker {
    pub(crate) outbox: Mutex<UnixStream>,
    pub(crate) socket: UnixStream,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) steps: AtomicU64,
    pub(crate) working: AtomicUsize,
    models: Mutex<HashMap<ModelHandle, Arc<Model>>>,
    requests: Mutex<HashMap<RequestId, Arc<Cancel>>>,
    /// How many requests have come to the place of an accident. Held while one happens: it is the only one.
    pub(crate) present: Mutex<u32>,
}

/// A loaded or loading model.
pub(crate) struct Model {
    handle: ModelHandle,
    pub(crate) script: Script,
    pub(crate) loaded: LoadedModel,
    pub(crate) counters: Counters,
    is_gone: AtomicBool,
    /// What its stored prompts take, and may take.
    cache_bytes: AtomicU64,
    cache_bytes_max: AtomicU64,
    running: Mutex<Vec<(RequestId, Arc<Cancel>)>>,
    sequences: Sequences,
}

/// Says that a request is to end; waiting for anything else wakes up from it.
#[derive(Default)]
pub(crate) struct Cancel {
    is_cancelled: Mutex<bool>,
    changed: Condvar,
}

impl Cancel {
    pub(crate) fn cancel(&self) {
        *lock(&self.is_cancelled) = true;
        self.changed.notify_all();
    }

    /// Waits; true if the request was cancelled meanwhile or before.
    pub(crate) fn wait(&self, duration: Duration) -> bool {
        let guard = lock(&self.is_cancelled);
        *self
            .changed
            .wait_timeout_while(guard, duration, |is_cancelled| !*is_cancelled)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// How many more requests may run.
struct Sequences {
    free: Mutex<u32>,
    changed: Condvar,
}

impl Worker {
    pub(crate) fn send(&self, event: &Event) {
        let _ = write_frame(&mut *lock(&self.outbox), event);
    }

    pub(crate) fn generation(&self, request: RequestId, event: GenerationEvent) {
        self.send(&Event::Generation { request, event });
    }

    fn failed(&self, request: RequestId, failure: Failure) {
        self.send(&Event::Failed { request, failure });
    }

    /// What was cancelled before the end is told to have ended, unless it hangs.
    fn settle(&self) {
        let is_cancelled = |cancel: &Arc<Cancel>| cancel.wait(Duration::ZERO);
        let began = Instant::now();
        while lock(&self.requests).values().any(is_cancelled) && began.elapsed() < SETTLE_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn model(&self, handle: ModelHandle) -> Result<Arc<Model>, Failure> {
        lock(&self.models)
            .get(&handle)
            .cloned()
            .ok_or_else(|| Failure {
                kind: FailureKind::ModelNotLoaded,
                message: format!("model {handle} is not loaded"),
            })
    }

    fn obey(self: &Arc<Self>, command: Command) {
        match command {
            Command::Hello { .. } | Command::Shutdown => {}
            Command::Load {
                request,
                model,
                path,
                options,
            } => {
                let worker = self.clone();
                thread::spawn(move || worker.load(request, model, &path, &options));
            }
            Command::Unload { request, model } => {
                let removed = lock(&self.models).remove(&model);
                if let Some(model) = removed {
                    model.is_gone.store(true, Ordering::Relaxed);
                    for (_, cancel) in lock(&model.running).iter() {
                        cancel.cancel();
                    }
                    model.note("unload");
                }
                self.send(&Event::Unloaded { request, model });
            }
            Command::Generate {
                request,
                model,
                spec,
                resume,
            } => {
                let cancel = Arc::new(Cancel::default());
                lock(&self.requests).insert(request, cancel.clone());
                match self.model(model) {
                    Ok(model) => {
                        model.script.record("generate", &spec);
                        model.note(&format!("generate {request}"));
                        lock(&model.running).push((request, cancel.clone()));
                        let worker = self.clone();
                        thread::spawn(move || {
                            worker.generate(request, &model, &spec, resume.as_deref(), &cancel);
                        });
                    }
                    Err(failure) => {
                        lock(&self.requests).remove(&request);
                        self.generation(request, GenerationEvent::Failed(failure));
                    }
                }
            }
            Command::Cancel { request } => {
                if let Some(cancel) = lock(&self.requests).get(&request) {
                    for model in lock(&self.models).values() {
                        if lock(&model.running).iter().any(|(id, _)| *id == request) {
                            model.note(&format!("cancel {request}"));
                        }
                    }
                    cancel.cancel();
                }
            }
            Command::Tokenize {
                request,
                model,
                text,
                ..
            } => match self.model(model) {
                Ok(model) => {
                    if model.script.crash_on_tokenize {
                        self.accident(&model, &Cancel::default(), || self.crash(&model.script));
                    }
                    let tokens = self.vocabulary.tokenize(&text);
                    self.send(&Event::Tokens { request, tokens });
                }
                Err(failure) => self.failed(request, failure),
            },
            Command::Detokenize {
                request,
                model,
                tokens,
            } => {
                let text = self
                    .model(model)
                    .and_then(|_| self.vocabulary.detokenize(&tokens));
                self.text(request, text);
            }
            Command::RenderChat {
                request,
                model,
                chat,
            } => {
                let text = self.model(model).and_then(|_| text::render(&chat));
                self.text(request, text);
            }
            Command::Bench {
                request,
                path,
                spec,
            } => {
                let worker = self.clone();
                thread::spawn(move || worker.bench(request, &path, &spec));
            }
            Command::Estimate {
                request,
                path,
                options: _,
            } => match read_script(&path) {
                Ok(script) => {
                    let memory = predicted(&script);
                    self.send(&Event::Estimated { request, memory });
                }
                Err(failure) => self.failed(request, failure),
            },
            Command::SetCacheBudget {
                request,
                model,
                ram_bytes,
            } => match self.model(model) {
                Ok(resident) => {
                    resident.note(&format!("cache {ram_bytes}"));
                    let held = resident.cache_bytes.fetch_min(ram_bytes, Ordering::Relaxed);
                    resident.cache_bytes_max.store(ram_bytes, Ordering::Relaxed);
                    self.send(&Event::CacheBudget {
                        request,
                        model,
                        ram_bytes: held.min(ram_bytes),
                        ram_bytes_max: ram_bytes,
                    });
                }
                Err(failure) => self.failed(request, failure),
            },
            Command::Ping { sequence } => self.send(&Event::Pong {
                sequence,
                steps: self.steps.load(Ordering::Relaxed),
                working: self.working.load(Ordering::Relaxed) > 0,
                step_tokens: 1,
            }),
            Command::Status { request } => {
                let mut models: Vec<_> = lock(&self.models)
                    .values()
                    .map(|model| model.activity())
                    .collect();
                models.sort_by_key(|activity| activity.model);
                self.send(&Event::Status {
                    request,
                    status: WorkerStatus { models },
                });
            }
        }
    }

    fn text(&self, request: RequestId, text: Result<String, Failure>) {
        match text {
            Ok(text) => self.send(&Event::Text { request, text }),
            Err(failure) => self.failed(request, failure),
        }
    }

    fn load(&self, request: RequestId, handle: ModelHandle, path: &Path, options: &LoadOptions) {
        let script = match read_script(path) {
            Ok(script) => script,
            Err(failure) => return self.failed(request, failure),
        };
        script.record("load", options);
        let model = Arc::new(Model::new(handle, script, options));
        model.note("load");
        lock(&self.models).insert(handle, model.clone());
        self.working.fetch_add(1, Ordering::Relaxed);
        for step in 1..=10_u8 {
            thread::sleep(Duration::from_millis(model.script.load_ms) / 10);
            if model.is_gone.load(Ordering::Relaxed) {
                break;
            }
            self.send(&Event::Loading {
                request,
                progress: f32::from(step) / 10.0,
            });
            model.script.pass(Place::Load(step.into()), |moment| {
                thread::sleep(moment);
                model.is_gone.load(Ordering::Relaxed)
            });
        }
        self.working.fetch_sub(1, Ordering::Relaxed);
        let probes = options.cache.ram_bytes != Some(0) || options.cache.device_tokens != Some(0);
        let crashes = model.script.crash_on_load || (model.script.crash_on_probe && probes);
        if crashes {
            self.accident(&model, &Cancel::default(), || self.crash(&model.script));
        }
        let failure = if model.is_gone.load(Ordering::Relaxed) {
            Some("the model was unloaded while it was being loaded".to_owned())
        } else {
            model.script.load_error.clone()
        };
        match failure {
            Some(message) => {
                lock(&self.models).remove(&handle);
                self.failed(
                    request,
                    Failure {
                        kind: FailureKind::LoadFailed,
                        message,
                    },
                );
            }
            None => self.send(&Event::Loaded {
                request,
                model: Box::new(model.loaded.clone()),
            }),
        }
    }

    fn generate(
        &self,
        request: RequestId,
        model: &Model,
        spec: &GenerationSpec,
        resume: Option<&Resume>,
        cancel: &Cancel,
    ) {
        let arrived = Instant::now();
        let preparing = |is_over| self.send(&Event::Preparing { request, is_over });
        preparing(false);
        if model.script.crash_on_prepare && generate::is_culprit(self, model, spec) {
            self.accident(model, cancel, || self.crash(&model.script));
        }
        preparing(true);
        let has_sequence = model.sequences.take(cancel);
        self.working.fetch_add(1, Ordering::Relaxed);
        let last = generate::run(self, request, model, spec, resume, cancel, arrived);
        self.working.fetch_sub(1, Ordering::Relaxed);
        if has_sequence {
            model.sequences.give_back();
        }
        lock(&model.running).retain(|(id, _)| *id != request);
        model.note(&format!("finished {request}"));
        self.generation(request, last);
        // Behind what it says at the end: a shutdown waits for that.
        lock(&self.requests).remove(&request);
    }

    fn bench(&self, request: RequestId, path: &Path, spec: &BenchSpec) {
        let script = match read_script(path) {
            Ok(script) => script,
            Err(failure) => return self.failed(request, failure),
        };
        let model = Model::new(ModelHandle(0), script, &spec.options);
        model.note("bench");
        if model.script.crash_on_load {
            self.crash(&model.script);
        }
        if let Some(message) = model.script.load_error {
            return self.failed(
                request,
                Failure {
                    kind: FailureKind::LoadFailed,
                    message,
                },
            );
        }
        let number = model.script.noted("bench") as u32;
        model.script.pass(Place::Bench(number), |moment| {
            thread::sleep(moment);
            false
        });
        let total = spec.repetitions * spec.tests.len() as u32;
        for done in 1..=total {
            thread::sleep(Duration::from_millis(model.script.delay_ms));
            self.send(&Event::BenchProgress {
                request,
                done,
                total,
            });
        }
        let tests = spec
            .tests
            .iter()
            .map(|&test| BenchTestResult {
                test,
                started_at_s: 1_700_000_000,
                samples_ns: vec![1_000_000; spec.repetitions as usize],
            })
            .collect();
        self.send(&Event::Bench {
            request,
            report: Box::new(BenchReport {
                model: model.loaded,
                build_number: 1,
                build_commit: "pretended".to_owned(),
                backends: "CPU".to_owned(),
                cpu_info: "pretended CPU".to_owned(),
                gpu_info: String::new(),
                tests,
            }),
        });
    }
}

impl Model {
    fn new(handle: ModelHandle, script: Script, options: &LoadOptions) -> Self {
        let loaded = LoadedModel {
            model: handle,
            architecture: "fake".to_owned(),
            description: "fake 0B".to_owned(),
            parameters: 1_000,
            weights_bytes: script.weights_bytes,
            context_train_tokens: 8192,
            context_tokens: options.context_tokens.unwrap_or(script.context_tokens),
            sequences_max: options.sequences_max,
            batch_tokens: options.batch_tokens,
            micro_batch_tokens: options.micro_batch_tokens,
            threads: options.threads.unwrap_or(1),
            vocabulary: 1 << 16,
            has_chat_template: true,
            recurrent: false,
            load_ms: script.load_ms as f64,
            memory: memory(script.weights_bytes),
        };
        let cache_bytes_max = options.cache.ram_bytes.unwrap_or(u64::MAX);
        Self {
            handle,
            cache_bytes: AtomicU64::new(script.cache_activity.ram_bytes.min(cache_bytes_max)),
            cache_bytes_max: AtomicU64::new(cache_bytes_max),
            counters: Counters::default(),
            is_gone: AtomicBool::new(false),
            running: Mutex::default(),
            sequences: Sequences {
                free: Mutex::new(options.sequences_max.max(1)),
                changed: Condvar::new(),
            },
            loaded,
            script,
        }
    }

    /// Appends a line to the journal, if the script has one.
    fn note(&self, line: &str) {
        note(self.script.journal.as_deref(), line);
    }

    fn activity(&self) -> ModelActivity {
        let requests = lock(&self.running).len() as u32;
        let running = requests.min(self.loaded.sequences_max);
        ModelActivity {
            model: self.handle,
            sequences_running: running,
            requests_waiting: requests - running,
            cells_used: 0,
            cells_total: self.loaded.context_tokens,
            cache: self.cache(),
            prefill_tokens: self.counters.prefill_tokens.load(Ordering::Relaxed),
            decode_tokens: self.counters.decode_tokens.load(Ordering::Relaxed),
            memory: self.loaded.memory.clone(),
        }
    }

    fn cache(&self) -> CacheActivity {
        CacheActivity {
            ram_bytes: self.cache_bytes.load(Ordering::Relaxed),
            ram_bytes_max: self.cache_bytes_max.load(Ordering::Relaxed),
            ..self.script.cache_activity.clone()
        }
    }
}

impl Sequences {
    /// Waits for a free sequence; false if the request was cancelled meanwhile.
    fn take(&self, cancel: &Cancel) -> bool {
        let mut free = lock(&self.free);
        while *free == 0 {
            if cancel.wait(Duration::ZERO) {
                return false;
            }
            free = self
                .changed
                .wait_timeout(free, Duration::from_millis(5))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *free -= 1;
        true
    }

    fn give_back(&self) {
        *lock(&self.free) += 1;
        self.changed.notify_one();
    }
}

/// What a load would take, one line of JSON for each line of load options.
pub fn answer_estimates(
    path: &Path,
    questions: impl BufRead,
    mut answers: impl Write,
) -> io::Result<()> {
    for question in questions.lines() {
        let _: LoadOptions = serde_json::from_str(&question?)?;
        let answer = serde_json::to_string(&predicted(&Script::read(path)?))?;
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

fn predicted(script: &Script) -> Vec<DeviceMemory> {
    let weights_bytes = script.weights_bytes_predicted;
    memory(weights_bytes.unwrap_or(script.weights_bytes))
}

fn memory(weights_bytes: u64) -> Vec<DeviceMemory> {
    vec![DeviceMemory {
        device: "CPU".to_owned(),
        description: "pretended CPU".to_owned(),
        weights_bytes,
        context_bytes: 2_000,
        compute_bytes: 1_000,
        free_bytes: Some(1 << 33),
        total_bytes: Some(1 << 34),
    }]
}

fn read_script(path: &Path) -> Result<Script, Failure> {
    Script::read(path).map_err(|error| Failure {
        kind: FailureKind::LoadFailed,
        message: format!("{} is no script: {error}", path.display()),
    })
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
