//! A loaded model: the threads that serve it, and the way to them.
//!
//! Two threads per model: one loads it, then renders and tokenizes prompts, so that a long prompt never holds up a step; the other runs
//! the [`ModelLoop`].

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use aluco_prefix::{Fetched, Store, StoreStatus};
use aluco_proto::{
    ChatPrompt, Event, Failure, FailureKind, FinishReason, GenerationEvent, GenerationSpec,
    LoadOptions, LoadedModel, ModelActivity, ModelHandle, Prompt, RequestId, Resume, ResumeChoice,
    Speculation, Timings, Token, Usage,
};

use crate::{
    ffi::{
        ChatTemplates, Context, ContextOptions, Engine, EngineError, Model, ModelOptions,
        give_back_freed_memory,
    },
    governor::Governor,
    intake::Intake,
    keeping,
    memo::TokenMemo,
    model_loop::{Activity, ModelLoop, Start, Tools},
    outbox::{Outbox, Pulse},
    prompt::{self, PreparedPrompt, PromptMaker},
    threads,
};

/// Context of a model that was trained for more, unless asked otherwise, in tokens.
const CONTEXT_TOKENS_DEFAULT: u32 = 8192;
const CONTEXT_TOKENS_MIN: u32 = 64;
const SEQUENCES_MAX: u32 = 255;
const CHOICES_MAX: u32 = 128;
const LOGPROBS_MAX: u32 = 20;

/// Longer stop strings are compared for nothing: they are longer than any paragraph.
const STOP_BYTES_MAX: usize = 4096;

/// llama.cpp splits text by `std::regex`, which recurses once per character in runs of like ones, with up to 210 bytes of stack each
/// (measured with the pre-tokenizers gpt-4o, tekken and falcon). The memory is reserved and not used until it is needed.
const TOKENIZER_STACK_BYTES: usize = 1 << 30;

/// How long prompts that are dropped from memory may be written to disk first.
const SHRINK_PATIENCE: Duration = Duration::from_secs(2);

/// What a model's first thread is told.
#[derive(Debug)]
pub enum ModelCommand {
    /// Generate, from the begin or from where another worker had come.
    Generate(RequestId, Box<GenerationSpec>, Option<Box<Resume>>, Instant),
    /// Text to tokens.
    Tokenize {
        /// The question.
        request: RequestId,
        /// The text.
        text: String,
        /// Add BOS and its like.
        add_special: bool,
        /// Read control tokens in the text as such.
        parse_special: bool,
    },
    /// Tokens to text.
    Detokenize(RequestId, Vec<Token>),
    /// Apply the chat template.
    RenderChat(RequestId, ChatPrompt),
}

/// The way to a model that is loading or loaded.
pub struct Resident {
    commands: Mutex<Option<Sender<ModelCommand>>>,
    intake: Arc<Intake>,
    /// Set when a load is to be given up.
    is_abandoned: Arc<AtomicBool>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    activity: Arc<Activity>,
    loaded: Arc<OnceLock<LoadedModel>>,
    /// Its prompts, once it is loaded, if they are stored.
    store: Arc<Mutex<Option<Store>>>,
    model: ModelHandle,
}

/// What to load, and for whom.
#[derive(Debug)]
pub struct Load {
    /// Names the request.
    pub request: RequestId,
    /// Name of the model from here on.
    pub model: ModelHandle,
    /// The GGUF file; the first one if it is split.
    pub path: PathBuf,
    /// How to load it.
    pub options: LoadOptions,
}

impl Resident {
    /// Begins to load. Progress and outcome go to the supervisor as events; `on_failure` is called if there is nothing to keep.
    pub fn load(
        engine: Engine,
        load: Load,
        outbox: Outbox,
        pulse: Arc<Pulse>,
        on_failure: impl FnOnce() + Send + 'static,
    ) -> Self {
        let Load { request, model, .. } = load;
        let (commands, inbox) = channel();
        let activity = Arc::new(Activity::default());
        let loaded = Arc::new(OnceLock::new());
        let intake = Arc::new(Intake::default());
        let store = Arc::new(Mutex::new(None));
        let is_abandoned = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name(format!("model {model}"))
            .stack_size(TOKENIZER_STACK_BYTES)
            .spawn({
                let (activity, loaded) = (activity.clone(), loaded.clone());
                let shown_store = store.clone();
                let (intake, is_abandoned) = (intake.clone(), is_abandoned.clone());
                move || {
                    let result = {
                        let _working = pulse.work();
                        load_parts(engine, &load, &outbox, &is_abandoned)
                    };
                    match result {
                        Ok(parts) => {
                            let _ = loaded.set(parts.info.clone());
                            shown_store
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .clone_from(&parts.tools.store);
                            outbox.send(&Event::Loaded {
                                request,
                                model: Box::new(parts.info.clone()),
                            });
                            serve(parts, &inbox, &outbox, &pulse, activity, &intake);
                        }
                        Err(failure) => {
                            on_failure();
                            outbox.failed(request, failure);
                            for command in inbox {
                                refuse(&command, &outbox);
                            }
                        }
                    }
                }
            })
            .expect("the system lets a process have a few threads");
        Self {
            commands: Mutex::new(Some(commands)),
            intake,
            is_abandoned,
            thread: Mutex::new(Some(thread)),
            activity,
            loaded,
            store,
            model,
        }
    }

    /// Ends a generation at the next step. Unknown ones are ignored.
    pub fn cancel(&self, request: RequestId) {
        self.intake.cancel(request);
    }

    /// Hands a command on. One that comes before the model is loaded waits.
    pub fn send(&self, command: ModelCommand) {
        if let ModelCommand::Generate(request, ..) = &command {
            self.intake.announce(*request);
        }
        if let Some(commands) = &*self.commands.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread ends only after this sender is gone.
            let _ = commands.send(command);
        }
    }

    /// What it does; `None` while it loads.
    pub fn activity(&self) -> Option<ModelActivity> {
        let loaded = self.loaded.get()?;
        let mut activity =
            self.activity
                .snapshot(self.model, loaded.context_tokens, loaded.memory.clone());
        // The loop tells it when it does something; a budget changes while it sleeps, too.
        if let Some(store) = &*self.store.lock().unwrap_or_else(PoisonError::into_inner) {
            let status = store.status();
            activity.cache.ram_bytes = status.ram_bytes;
            activity.cache.ram_bytes_max = status.ram_bytes_max;
        }
        Some(activity)
    }

    /// Allows its stored prompts so many bytes of memory, and tells what they take afterwards; nothing if none are stored. May take seconds.
    pub fn set_cache_budget(&self, ram_bytes: u64) -> StoreStatus {
        // An unload does not wait for this.
        let store = self
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(store) = store else {
            return StoreStatus::default();
        };
        store.resize(ram_bytes, SHRINK_PATIENCE);
        give_back_freed_memory();
        store.status()
    }

    /// Ends what runs and frees the memory; comes back when it is free.
    pub fn unload(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        self.store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        if let Some(thread) = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            let _ = thread.join();
        }
        give_back_freed_memory();
    }
}

/// Everything a loaded model consists of.
struct Parts {
    model: Model,
    templates: ChatTemplates,
    info: LoadedModel,
    tools: Tools,
}

fn load_parts(
    engine: Engine,
    load: &Load,
    outbox: &Outbox,
    is_abandoned: &AtomicBool,
) -> Result<Parts, Failure> {
    let Load {
        request,
        model: handle,
        path,
        options,
    } = load;
    let (request, handle) = (*request, *handle);
    let began = Instant::now();
    let mut reported = 0.0_f32;
    let model_options = ModelOptions {
        gpu_layers: options.gpu_layers,
        weight_loading: options.weight_loading,
    };
    let model = Model::load(engine, path, &model_options, |progress| {
        // One event per percent is enough for any progress bar.
        if progress >= reported + 0.01 || progress >= 1.0 {
            reported = progress;
            outbox.send(&Event::Loading { request, progress });
        }
        !is_abandoned.load(Ordering::Relaxed)
    })
    .map_err(|error| prompt::failure(&error))?;
    let wanted = checked_context_options(&model, options)?;
    let mut context = Context::new(&model, &wanted).map_err(|error| prompt::failure(&error))?;
    let templates =
        ChatTemplates::new(&model, options.chat_template.as_deref()).map_err(|error| Failure {
            kind: FailureKind::LoadFailed,
            message: format!(
                "the chat template of {} cannot be used: {error}",
                path.display()
            ),
        })?;
    // Looks at the whole vocabulary once: here, and not at the expense of the first prompt.
    model.token_bytes_max();
    let info = describe(handle, &model, &context, options, began);
    // A number of threads that was asked for is kept whatever happens.
    let governor = options
        .threads
        .is_none()
        .then(|| Governor::new(info.threads));
    let (archive, store) = keeping::open(engine, &model, &mut context, path, options);
    Ok(Parts {
        model,
        templates,
        info,
        tools: Tools {
            context,
            archive,
            store,
            memo: Arc::new(TokenMemo::default()),
            device_tokens: options.cache.device_tokens,
            tpot: options
                .tpot_ms
                .and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()),
            governor,
            speculates: options.speculation == Speculation::Auto,
        },
    })
}

/// The context that these options ask for, or why there can be none.
pub fn checked_context_options(
    model: &Model,
    options: &LoadOptions,
) -> Result<ContextOptions, Failure> {
    let wanted = context_options(model, options);
    // llama.cpp would end the process over it.
    if wanted.context_tokens < wanted.sequences_max.max(CONTEXT_TOKENS_MIN) {
        return Err(prompt::invalid(format!(
            "a context of {} tokens is too small: {CONTEXT_TOKENS_MIN} are the least, and one for each of {} sequences",
            wanted.context_tokens, wanted.sequences_max
        )));
    }
    Ok(wanted)
}

/// The context that these options ask for.
pub fn context_options(model: &Model, options: &LoadOptions) -> ContextOptions {
    let trained = model.context_train_tokens().max(1);
    // One of llama.cpp's 256 is kept for the prefix store.
    let sequences_max = options.sequences_max.clamp(1, SEQUENCES_MAX);
    ContextOptions {
        context_tokens: options
            .context_tokens
            .unwrap_or(trained.min(CONTEXT_TOKENS_DEFAULT)),
        sequences_max,
        // Each sequence decodes one token of every batch, and llama.cpp counts the scratch sequence too.
        batch_tokens: options.batch_tokens.max(sequences_max + 1),
        micro_batch_tokens: options.micro_batch_tokens.max(1),
        threads: options.threads.unwrap_or_else(threads::default_threads),
        kv_type_k: options.kv_type_k,
        kv_type_v: options.kv_type_v,
        flash_attention: options.flash_attention,
    }
}

/// What the supervisor is told of a loaded model.
pub fn describe(
    handle: ModelHandle,
    model: &Model,
    context: &Context,
    options: &LoadOptions,
    began: Instant,
) -> LoadedModel {
    LoadedModel {
        model: handle,
        architecture: model.metadata("general.architecture").unwrap_or_default(),
        description: model.description(),
        parameters: model.parameters(),
        weights_bytes: model.weights_bytes(),
        context_train_tokens: model.context_train_tokens(),
        context_tokens: context.context_tokens(),
        sequences_max: context.sequences_max(),
        batch_tokens: context.batch_tokens(),
        micro_batch_tokens: context.micro_batch_tokens(),
        threads: options.threads.unwrap_or_else(threads::default_threads),
        vocabulary: model.vocabulary(),
        has_chat_template: model.has_chat_template(),
        recurrent: model.is_recurrent(),
        load_ms: began.elapsed().as_secs_f64() * 1e3,
        memory: context.memory_breakdown(),
    }
}

fn serve(
    parts: Parts,
    inbox: &Receiver<ModelCommand>,
    outbox: &Outbox,
    pulse: &Arc<Pulse>,
    activity: Arc<Activity>,
    intake: &Intake,
) {
    let Parts {
        model,
        mut templates,
        info,
        tools,
    } = parts;
    let context_tokens = info.context_tokens;
    let (to_loop, commands) = channel();
    intake.connect(Some(to_loop));
    let (store, memo) = (tools.store.clone(), tools.memo.clone());
    let model_loop = ModelLoop::new(tools, outbox.clone(), pulse.clone(), activity);
    let thread = thread::Builder::new()
        .name(format!("loop {}", info.model))
        .spawn(move || model_loop.run(&commands))
        .expect("the system lets a process have a few threads");
    for command in inbox {
        match command {
            ModelCommand::Generate(request, spec, resume, arrived) => {
                if intake.take_cancelled(request) {
                    end_cancelled(outbox, request, spec.choices);
                    continue;
                }
                let _working = pulse.work();
                let mut maker = PromptMaker {
                    model: &model,
                    templates: &mut templates,
                    memo: &memo,
                    store: store.as_ref(),
                    context_tokens,
                };
                match start(&mut maker, request, *spec, resume, arrived) {
                    Ok(mut start) => {
                        // Before its turn comes, so that the loop never waits for the disk.
                        if let Some(store) = &store {
                            let mut tokens = start.prompt.tokens.clone();
                            let resumed = start.resume.iter().find(|it| it.finished.is_none());
                            tokens.extend(resumed.iter().flat_map(|choice| &choice.tokens));
                            start.fetched =
                                store.fetch(&start.namespace, &tokens[..tokens.len() - 1]);
                        }
                        intake.start(start);
                    }
                    Err(failure) => {
                        intake.withdraw(request);
                        outbox.generation(request, GenerationEvent::Failed(failure));
                    }
                }
            }
            ModelCommand::Tokenize {
                request,
                text,
                add_special,
                parse_special,
            } => match prompt::check_length(&text) {
                Ok(()) => answer(
                    outbox,
                    request,
                    model.tokenize(&text, add_special, parse_special),
                    |tokens| Event::Tokens { request, tokens },
                ),
                Err(failure) => outbox.failed(request, failure),
            },
            ModelCommand::Detokenize(request, tokens) => {
                match tokens.iter().find(|token| !model.knows(**token)) {
                    Some(token) => outbox.failed(
                        request,
                        prompt::invalid(format!(
                            "token {token} is not in the vocabulary, which has {} tokens",
                            model.vocabulary()
                        )),
                    ),
                    None => answer(outbox, request, model.detokenize(&tokens), |text| {
                        Event::Text { request, text }
                    }),
                }
            }
            ModelCommand::RenderChat(request, chat) => {
                let rendered = templates.render(
                    &chat.messages,
                    &chat.template_arguments,
                    chat.add_generation_prompt,
                );
                answer(outbox, request, rendered, |rendered| Event::Text {
                    request,
                    text: rendered.text(),
                });
            }
        }
    }
    intake.connect(None);
    let _ = thread.join();
}

fn answer<T>(
    outbox: &Outbox,
    request: RequestId,
    result: Result<T, EngineError>,
    event: impl FnOnce(T) -> Event,
) {
    match result {
        Ok(value) => outbox.send(&event(value)),
        Err(error) => outbox.failed(request, prompt::failure(&error)),
    }
}

/// Tells of a request that was cancelled before anything was done for it.
fn end_cancelled(outbox: &Outbox, request: RequestId, choices: u32) {
    for choice in 0..choices {
        let reason = FinishReason::Cancelled;
        outbox.generation(request, GenerationEvent::Finished { choice, reason });
    }
    let (usage, timings) = (Usage::default(), Timings::default());
    outbox.generation(request, GenerationEvent::Done { usage, timings });
}

/// Checks a generation against the model's limits and tokenizes its prompt.
fn start(
    maker: &mut PromptMaker<'_>,
    request: RequestId,
    spec: GenerationSpec,
    resume: Option<Box<Resume>>,
    arrived: Instant,
) -> Result<Start, Failure> {
    let (model, context_tokens) = (maker.model, maker.context_tokens);
    if !(1..=CHOICES_MAX).contains(&spec.choices) {
        return Err(prompt::invalid(format!(
            "{} choices were asked for; 1 to {CHOICES_MAX} are possible",
            spec.choices
        )));
    }
    if spec.logprobs.is_some_and(|count| count > LOGPROBS_MAX) {
        return Err(prompt::invalid(format!(
            "at most {LOGPROBS_MAX} alternatives per token can be reported"
        )));
    }
    if let Some(stop) = spec.stop.iter().find(|stop| stop.len() > STOP_BYTES_MAX) {
        return Err(prompt::invalid(format!(
            "a stop string has {} bytes, and {STOP_BYTES_MAX} are the most",
            stop.len()
        )));
    }
    let mut biased = spec.sampling.logit_bias.iter();
    if let Some((token, _)) = biased.find(|(token, _)| !model.knows(*token)) {
        return Err(prompt::invalid(format!(
            "token {token} of the logit bias is not in the vocabulary, which has {} tokens",
            model.vocabulary()
        )));
    }
    let mut prompt = prompt::prepare(maker, request, &spec)?;
    let seed = resume.as_ref().map(|resume| resume.seed);
    let resume = match resume {
        Some(resume) => take_up(model, &mut prompt, *resume, spec.choices)?,
        None => Vec::new(),
    };
    let prompt_tokens = prompt.tokens.len() as u32;
    // A prompt that fills the context leaves room for one token: the last one needs no cell.
    if prompt_tokens > context_tokens {
        return Err(Failure {
            kind: FailureKind::ContextExceeded {
                prompt_tokens,
                context_tokens,
            },
            message: format!(
                "the prompt has {prompt_tokens} tokens and the context holds {context_tokens}; shorten it, or load the model with a larger context"
            ),
        });
    }
    Ok(Start {
        request,
        tells_prompt: !matches!(&spec.prompt, Prompt::Tokens(tokens) if *tokens == prompt.tokens),
        prompt,
        resume,
        seed: seed.or(spec.sampling.seed).unwrap_or_else(random_seed),
        sampling: spec.sampling,
        choices: spec.choices,
        tokens_max: spec.tokens_max,
        stop: spec.stop,
        logprobs: spec.logprobs,
        client: spec.client,
        namespace: spec.namespace,
        fetched: Fetched::default(),
        arrived,
    })
}

/// Gives a prompt the tokens that it had in another worker, where a text may have been cut into others; returns how far each choice came.
fn take_up(
    model: &Model,
    prompt: &mut PreparedPrompt,
    resume: Resume,
    choices: u32,
) -> Result<Vec<ResumeChoice>, Failure> {
    let generated = resume.choices.iter().flat_map(|choice| &choice.tokens);
    let mut tokens = resume.prompt.iter().chain(generated);
    if resume.choices.len() != choices as usize || tokens.any(|token| !model.knows(*token)) {
        return Err(prompt::invalid(
            "what is to be resumed is not of this request and this model".to_owned(),
        ));
    }
    if !resume.prompt.is_empty() && resume.prompt != prompt.tokens {
        prompt.tokens = resume.prompt;
        prompt.borders.clear();
    }
    Ok(resume.choices)
}

/// A seed for a request that brings none. The standard library seeds its hash maps from the system's randomness.
fn random_seed() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}

/// Answers what was asked of a model that could not be loaded.
fn refuse(command: &ModelCommand, outbox: &Outbox) {
    let failure = Failure {
        kind: FailureKind::ModelNotLoaded,
        message: "the model is not loaded".to_owned(),
    };
    match command {
        ModelCommand::Generate(request, ..) => {
            outbox.generation(*request, GenerationEvent::Failed(failure));
        }
        ModelCommand::Tokenize { request, .. }
        | ModelCommand::Detokenize(request, _)
        | ModelCommand::RenderChat(request, _) => {
            outbox.failed(*request, failure);
        }
    }
}
