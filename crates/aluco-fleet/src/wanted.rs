//! What a model will take, found out before it is loaded: from its header, else by a worker that lays it out without reading it, else
//! from the size of its files.

use std::{path::Path, sync::Arc, time::Duration};

use aluco_model::StoredModel;
use aluco_plan::{
    Bytes, CONTEXT_TOKENS_DEFAULT, Candidate, Consumer, Fit, Ledger, MemoryPlan, Refusal,
    Reservation, Setting, Shape, ShapeError,
};
use aluco_proto::{Backend, DeviceMemory, LoadOptions};
use tokio::time::timeout;

use crate::{error::Fault, loading::first_file, locate, shared::Shared};

/// How long a worker may take to lay a model out. It reads the vocabulary, from a slow disk perhaps.
const ESTIMATE_TIMEOUT: Duration = Duration::from_secs(60);

/// A model that is to be loaded, with what it will take.
pub(crate) struct Wanted {
    name: String,
    /// How it is to be loaded.
    pub(crate) options: LoadOptions,
    setting: Setting,
    forecast: Forecast,
}

enum Forecast {
    /// By its header.
    Shape(Box<Shape>),
    /// By other means.
    Plan(MemoryPlan),
}

impl Wanted {
    /// Finds out what a model will take if it is loaded in this way. Takes a look at the machine's memory, too.
    pub(crate) async fn of(
        shared: &Arc<Shared>,
        model: &StoredModel,
        mut options: LoadOptions,
    ) -> Result<Self, Fault> {
        let binary = shared.slot.binary(&shared.config).await?;
        shared.state().memory.tell_gpus(&binary.hello);
        shared.look_at_memory().await;
        let store = shared.state().memory.default_store();
        // The worker's own default knows nothing of cgroups and limits.
        options.cache.ram_bytes.get_or_insert(store.0);
        let setting = Setting {
            backend: binary.hello.backend,
            store,
        };
        let forecast = match read_shape(model).await? {
            Ok(shape) if shape.unknown.is_empty() => Forecast::Shape(Box::new(shape)),
            found => {
                let estimate = estimate(&binary.path, &first_file(model)?, &options).await;
                let stored = Bytes(options.cache.ram_bytes.unwrap_or_default());
                match (estimate, found) {
                    (Ok(memory), _) => {
                        let context = context_tokens(&options);
                        Forecast::Plan(MemoryPlan::estimated(&memory, context, stored))
                    }
                    (Err(_), Ok(shape)) => Forecast::Shape(Box::new(shape)),
                    (Err(reason), Err(error)) => {
                        tracing::info!(
                            model = model.name,
                            %error,
                            reason,
                            "what this model will take is guessed by the size of its files"
                        );
                        Forecast::Plan(guess(model, &options, setting.backend, stored))
                    }
                }
            }
        };
        Ok(Self {
            name: model.name.clone(),
            options,
            setting,
            forecast,
        })
    }

    /// For a measurement of the model: the tables tell it from the model itself.
    pub(crate) fn measured(self) -> Self {
        Self {
            name: format!("{}, being measured", self.name),
            ..self
        }
    }

    /// Whether it fits.
    pub(crate) fn check(&self, ledger: &Ledger) -> Result<Fit, Box<Refusal>> {
        match &self.forecast {
            Forecast::Shape(shape) => ledger.check(&self.candidate(shape)),
            Forecast::Plan(plan) => ledger.check_plan(&self.name, plan),
        }
    }

    /// Reserves what it will take.
    pub(crate) fn admit(&self, ledger: &mut Ledger) -> Result<Reservation, Box<Refusal>> {
        match &self.forecast {
            Forecast::Shape(shape) => ledger.admit(&self.candidate(shape)),
            Forecast::Plan(plan) => ledger.admit_plan(&self.name, plan),
        }
    }

    /// What it will take.
    pub(crate) fn plan(&self) -> MemoryPlan {
        match &self.forecast {
            Forecast::Shape(shape) => self.candidate(shape).plan(),
            Forecast::Plan(plan) => plan.clone(),
        }
    }

    /// Bytes that its stored prompts may take.
    pub(crate) fn store(&self) -> Bytes {
        self.plan().of(Consumer::PrefixStore)
    }

    fn candidate<'a>(&'a self, shape: &'a Shape) -> Candidate<'a> {
        Candidate {
            name: &self.name,
            shape,
            options: &self.options,
            setting: self.setting,
        }
    }
}

async fn read_shape(model: &StoredModel) -> Result<Result<Shape, ShapeError>, Fault> {
    let model = model.clone();
    match tokio::task::spawn_blocking(move || Shape::read(&model)).await {
        Ok(shape) => Ok(shape),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Fault::ShuttingDown),
    }
}

/// Has a worker of its own lay the model out: one that dies of it takes no streams with it.
async fn estimate(
    worker: &Path,
    file: &Path,
    options: &LoadOptions,
) -> Result<Vec<DeviceMemory>, String> {
    let question = serde_json::to_vec(options).map_err(|error| error.to_string())?;
    let answer = locate::ask_about(worker, "estimate", file, question);
    let answer = timeout(ESTIMATE_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| Err("did not answer in time".to_owned()))
}

fn guess(model: &StoredModel, options: &LoadOptions, backend: Backend, store: Bytes) -> MemoryPlan {
    let files = Bytes(model.size_bytes);
    MemoryPlan::guessed(files, context_tokens(options), backend, store)
}

fn context_tokens(options: &LoadOptions) -> u64 {
    u64::from(options.context_tokens.unwrap_or(CONTEXT_TOKENS_DEFAULT))
}
