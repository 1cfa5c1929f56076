//! What can go wrong between a request and its worker.

use aluco_plan::{Bytes, Refusal};
use aluco_proto::{Failure, FailureKind};

/// Why the fleet could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// No such model is on this machine; the message says how to get it.
    #[error(transparent)]
    Model(#[from] aluco_model::ModelError),
    /// No worker binary fits this machine.
    #[error("no worker for this machine: {reason}")]
    NoWorker {
        /// What was looked for, where, and what each candidate said.
        reason: String,
    },
    /// The worker died (or hung and was killed) while the request ran.
    #[error("the worker process ended: {cause}")]
    WorkerLost {
        /// Exit status or signal, and its last words.
        cause: String,
    },
    /// The queue of the model is full. Try again later.
    #[error("{waiting} requests already wait for this model")]
    Overloaded {
        /// Requests that wait.
        waiting: usize,
    },
    /// There is not enough memory for the model, whatever else is unloaded.
    #[error(transparent)]
    DoesNotFit(Box<Refusal>),
    /// Models that are in use hold the memory that this one needs. Try again later.
    #[error("no room for this model: those that are loaded are in use; try again later\n\n{0}")]
    NoRoom(Box<Refusal>),
    /// The worker refused or failed the request.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The fleet is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A [`FleetError`] that several waiters of one load can share.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    NoWorker(String),
    WorkerLost(String),
    Overloaded { waiting: usize },
    DoesNotFit(Box<Refusal>),
    NoRoom(Box<Refusal>),
    Failed(Failure),
    ShuttingDown,
}

impl From<Fault> for FleetError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::NoWorker(reason) => Self::NoWorker { reason },
            Fault::WorkerLost(cause) => Self::WorkerLost { cause },
            Fault::Overloaded { waiting } => Self::Overloaded { waiting },
            Fault::DoesNotFit(refusal) => Self::DoesNotFit(refusal),
            Fault::NoRoom(refusal) => Self::NoRoom(refusal),
            Fault::Failed(failure) => Self::Failed(failure),
            Fault::ShuttingDown => Self::ShuttingDown,
        }
    }
}

const WORKER_ENDED: &str = "the worker process ended: ";

/// The event that ends a generation whose worker died.
pub(crate) fn worker_lost(cause: &str) -> Failure {
    Failure {
        kind: FailureKind::WorkerLost,
        message: format!("{WORKER_ENDED}{cause}"),
    }
}

/// The cause in such an event.
pub(crate) fn lost_cause(failure: &Failure) -> Option<String> {
    failure
        .message
        .strip_prefix(WORKER_ENDED)
        .map(str::to_owned)
}

/// No model has made place for another in time.
pub(crate) fn no_place(models_max: usize) -> Fault {
    let places = models_max.max(1);
    Fault::Failed(Failure {
        kind: FailureKind::Overloaded,
        message: format!(
            "no place for this model: {places} may be loaded at once, and none became idle in time; try again later"
        ),
    })
}

/// All places are taken by models that stay.
pub(crate) fn all_pinned(names: &[String]) -> Fault {
    Fault::Failed(Failure {
        kind: FailureKind::Overloaded,
        message: format!(
            "no place for this model: {} may be loaded at once, and these are pinned: {}; unload one of them first, or raise models_max",
            names.len(),
            names.join(", ")
        ),
    })
}

/// A model takes more than was predicted, and there is no room for that.
pub(crate) fn larger_than_predicted(predicted: Bytes, measured: Bytes, excess: Bytes) -> Fault {
    Fault::Failed(Failure {
        kind: FailureKind::OutOfMemory,
        message: format!(
            "the model was unloaded again: {predicted} were predicted for it, it took {measured}, and that is {excess} more than there is; a smaller context needs less (--context)"
        ),
    })
}

/// A worker's answer that does not fit the question.
pub(crate) fn out_of_step() -> Fault {
    Fault::Failed(Failure {
        kind: FailureKind::Engine,
        message: "the worker gave an answer that does not fit the question".to_owned(),
    })
}
