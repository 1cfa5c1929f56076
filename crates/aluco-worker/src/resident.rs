//! A loaded model: the threads that serve it, and the way to them.
//!
//! Two threads per model: one loads it, then renders and tokenizes prompts, so that a long prompt never holds up a step; the other runs
//! the [`ModelLoop`].

use std::{
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
    LoadedModel, ModelActivity, ModelHandle, Prompt, RequestId, Resume, ResumeChoice, Timings,
    Token, Usage,
};

use crate::{
    ffi::{Engine, EngineError, Model, give_back_freed_memory},
    intake::Intake,
    loading::{self, Load, Parts},
    model_loop::{self, Activity, ModelLoop, Start},
    outbox::{Outbox, Pulse},
    prompt::{self, PreparedPrompt, PromptMaker},
};

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
                        loading::load(engine, &load, &outbox, &is_abandoned)
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
        // The loop tells it when it does something; a budget changes while it sleeps, too, and what it had written to disk comes there then.
        if let Some(store) = &*self.store.lock().unwrap_or_else(PoisonError::into_inner) {
            model_loop::tell_of_store(&mut activity.cache, &store.status());
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
                outbox.preparing(request, false);
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
                        outbox.preparing(request, true);
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

#[cfg(test)]
mod tests;
