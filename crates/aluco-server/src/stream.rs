//! The events of one request's generations.

use std::sync::{Arc, OnceLock};

use aluco_fleet::{
    Fleet, FleetError, Recovery, RequestOptions,
    proto::{CacheReport, FinishReason, GenerationEvent, GenerationSpec, Miss, Timings, Usage},
};
use axum::http::StatusCode;
use futures_util::{
    StreamExt,
    future::ready,
    stream::{self, BoxStream},
};

use crate::{app::App, error::ApiError, guard::Caller, weight::Weight};

/// Tokens and times of all generations of a request.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) usage: Usage,
    /// Where the cached tokens came from; of the misses, the first.
    pub(crate) cache: CacheReport,
    pub(crate) timings: Timings,
    pub(crate) recovery: Recovery,
}

impl Totals {
    /// Tokens and the time spent on them are summed; of the times until something happened the longest counts.
    fn add(&mut self, usage: &Usage, cache: &CacheReport, timings: &Timings) {
        self.usage.prompt_tokens += usage.prompt_tokens;
        self.usage.cached_tokens += usage.cached_tokens;
        self.usage.generated_tokens += usage.generated_tokens;
        self.usage.drafted_tokens += usage.drafted_tokens;
        self.usage.accepted_tokens += usage.accepted_tokens;
        self.usage.dropped_tokens += usage.dropped_tokens;
        self.cache.device_tokens += cache.device_tokens;
        self.cache.ram_tokens += cache.ram_tokens;
        self.cache.disk_tokens += cache.disk_tokens;
        self.cache.miss = self.cache.miss.or(cache.miss);
        self.timings.prefill_ms += timings.prefill_ms;
        self.timings.decode_ms += timings.decode_ms;
        self.timings.queue_ms = self.timings.queue_ms.max(timings.queue_ms);
        self.timings.first_token_ms = self.timings.first_token_ms.max(timings.first_token_ms);
    }
}

/// What generations that run side by side went through: they share the deaths of workers, and each goes on at a place of its own.
fn join(whole: &mut Recovery, part: Recovery) {
    whole.restarts = whole.restarts.max(part.restarts);
    whole.resumed_at_tokens.extend(part.resumed_at_tokens);
    whole.restored_ms.extend(part.restored_ms);
    whole.fallback = part.fallback.or(whole.fallback.take());
}

/// The first token that differs from what is stored, if that is why the rest had to be computed.
pub(crate) fn diverged_at(cache: &CacheReport) -> Option<u32> {
    match cache.miss {
        Some(Miss::Diverged { at }) => Some(at),
        _ => None,
    }
}

/// Generations of one request that run at once. Each takes a place in the queue of its model; a request with many prompts must not
/// take them all.
const GENERATIONS_MAX: usize = 8;

type Numbered = (usize, Result<Happened, ApiError>);

/// An event; at the end of a choice and of the whole with what the generation went through.
pub(crate) type Happened = (GenerationEvent, Option<Recovery>);

/// The events of one request: of one generation per prompt, several of which run side by side. Dropping it cancels them.
pub(crate) struct Feed {
    app: App,
    request_id: String,
    /// The model by the name that the client has for it.
    asked: String,
    /// Canonical name of the model, once it is known. Metrics go by it, since a client can spell a name in many ways.
    model: Arc<OnceLock<Arc<str>>>,
    generations: BoxStream<'static, Numbered>,
    /// What the prefix store did for each prompt, once it has started.
    caches: Vec<CacheReport>,
    totals: Totals,
    /// Its prompts are held until it ends: one that waits can be sent on, and one that runs can be begun anew.
    _weight: Weight,
    is_over: bool,
}

impl Feed {
    /// Nothing starts before [`Feed::next`] is called.
    pub(crate) fn new(
        app: &App,
        caller: &Caller,
        model: &str,
        options: RequestOptions,
        specs: Vec<GenerationSpec>,
    ) -> Self {
        let name = Arc::new(OnceLock::new());
        let (fleet, asked, known) = (app.fleet().clone(), model.to_owned(), name.clone());
        let caches = vec![CacheReport::default(); specs.len()];
        let client = caller.client.clone();
        let generations = stream::iter(specs.into_iter().enumerate())
            .map(move |(prompt, spec)| {
                let spec = GenerationSpec {
                    client: client.name.to_string(),
                    namespace: client.namespace.to_string(),
                    ..spec
                };
                let (fleet, asked, known) = (fleet.clone(), asked.clone(), known.clone());
                let events = events(fleet, asked, options, spec, known);
                events.map(move |event| (prompt, event)).boxed()
            })
            .flatten_unordered(GENERATIONS_MAX);
        Self {
            app: app.clone(),
            request_id: caller.request_id.clone(),
            asked: model.to_owned(),
            model: name,
            generations: generations.boxed(),
            caches,
            totals: Totals::default(),
            _weight: caller.weight.clone(),
            is_over: false,
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// How far the load of the model is, from 0 to 1, if it is being loaded.
    pub(crate) fn load_progress(&self) -> Option<f32> {
        self.app.fleet().load_progress(&self.asked)
    }

    fn model(&self) -> &str {
        self.model.get().map_or("unknown", |name| name)
    }

    /// The next event, with the number of its prompt; `None` when all are complete. After an error nothing more is to be
    /// expected. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Happened)>, ApiError> {
        let Some((prompt, event)) = self.generations.next().await else {
            self.is_over = true;
            return Ok(None);
        };
        let (event, recovery) = event.inspect_err(|_| self.is_over = true)?;
        match &event {
            GenerationEvent::Started { cache, .. } => self.caches[prompt] = *cache,
            GenerationEvent::Done { usage, timings } => {
                let cache = self.caches[prompt];
                self.totals.add(usage, &cache, timings);
                let metrics = self.app.metrics();
                metrics.generated(self.model(), usage, &cache, timings);
                tracing::info!(
                    target: "aluco::access",
                    request = self.request_id,
                    model = self.model(),
                    prompt_tokens = usage.prompt_tokens,
                    cached_tokens = usage.cached_tokens,
                    device_tokens = cache.device_tokens,
                    ram_tokens = cache.ram_tokens,
                    disk_tokens = cache.disk_tokens,
                    miss = cache.miss.map(Miss::name),
                    diverged_at = diverged_at(&cache),
                    dropped_tokens = usage.dropped_tokens,
                    generated_tokens = usage.generated_tokens,
                    drafted_tokens = usage.drafted_tokens,
                    accepted_tokens = usage.accepted_tokens,
                    restarts = recovery.as_ref().map(|it| it.restarts),
                    ttft_ms = timings.first_token_ms,
                    prefill_per_second = timings.prefill_per_second(usage),
                    decode_per_second = timings.decode_per_second(usage),
                    "generated"
                );
                if let Some(recovery) = recovery.clone() {
                    join(&mut self.totals.recovery, recovery);
                }
            }
            // Nobody who still listens asked for that.
            GenerationEvent::Finished {
                reason: FinishReason::Cancelled,
                ..
            } => {
                self.is_over = true;
                return Err(ApiError::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "cancelled",
                    "the generation was cancelled: its model is being unloaded, or the server is stopping",
                ));
            }
            _ => {}
        }
        Ok(Some((prompt, (event, recovery))))
    }

    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.is_over {
            tracing::info!(
                target: "aluco::access",
                request = self.request_id,
                model = self.model(),
                "the client went away, so the generation is cancelled"
            );
        }
    }
}

/// The events of one generation, from its request on. `name` learns the model's canonical name.
fn events(
    fleet: Fleet,
    model: String,
    options: RequestOptions,
    spec: GenerationSpec,
    name: Arc<OnceLock<Arc<str>>>,
) -> impl stream::Stream<Item = Result<Happened, ApiError>> + Send {
    let started = async move {
        let generation = fleet.generate_with(&model, spec, options).await?;
        name.get_or_init(|| generation.name().clone());
        Ok(generation)
    };
    stream::once(started).flat_map(|started: Result<_, FleetError>| match started {
        Ok(generation) => stream::unfold(generation, |mut generation| async {
            let event = match generation.next().await? {
                GenerationEvent::Failed(failure) => Err(failure.into()),
                event => {
                    let ends_something = matches!(
                        event,
                        GenerationEvent::Finished { .. } | GenerationEvent::Done { .. }
                    );
                    let recovery = ends_something.then(|| generation.recovery());
                    Ok((event, recovery))
                }
            };
            Some((event, generation))
        })
        .left_stream(),
        Err(error) => stream::once(ready(Err(error.into()))).right_stream(),
    })
}
