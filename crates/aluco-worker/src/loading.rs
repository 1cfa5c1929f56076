//! From a file and options to a model that is ready to serve: its context, its chat template, and where its prompts are kept.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aluco_proto::{
    Event, Failure, FailureKind, LoadOptions, LoadedModel, ModelHandle, RequestId, Speculation,
};

use crate::{
    ffi::{ChatTemplates, Context, ContextOptions, Engine, Model, ModelOptions},
    governor::Governor,
    keeping,
    memo::TokenMemo,
    model_loop::Tools,
    outbox::Outbox,
    prompt, threads,
};

/// Context of a model that was trained for more, unless asked otherwise, in tokens.
const CONTEXT_TOKENS_DEFAULT: u32 = 8192;
const CONTEXT_TOKENS_MIN: u32 = 64;
const SEQUENCES_MAX: u32 = 255;

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

/// Everything a loaded model consists of.
pub(crate) struct Parts {
    pub(crate) model: Model,
    pub(crate) templates: ChatTemplates,
    pub(crate) info: LoadedModel,
    pub(crate) tools: Tools,
}

/// Loads a model and makes ready what serves it.
pub(crate) fn load(
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
    let (archive, store) = keeping::open(engine, &model, &mut context, path, options);
    let info = describe(handle, &model, &context, options, began);
    // A number of threads that was asked for is kept whatever happens.
    let governor = options
        .threads
        .is_none()
        .then(|| Governor::new(info.threads));
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

/// What the supervisor is told of a loaded model, which took since `began`.
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
