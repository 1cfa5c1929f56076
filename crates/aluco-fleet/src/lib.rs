//! Models to processes: the fleet starts workers, loads models into them, routes requests, and notices when a worker dies.
//!
//! It knows nothing of HTTP, terminals or environment variables: values come in, values go out.
//!
//! ```no_run
//! # async fn example(store: aluco_model::Store, spec: aluco_fleet::proto::GenerationSpec) -> Result<(), aluco_fleet::FleetError> {
//! use aluco_fleet::{Fleet, FleetConfig};
//!
//! let fleet = Fleet::new(FleetConfig::new(store));
//! let mut generation = fleet.generate("smollm2:135m", spec).await?;
//! while let Some(event) = generation.next().await {
//!     println!("{event:?}");
//! }
//! fleet.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! Inside: `locate` picks the worker binary; `process` keeps one process, from its start to its reaping; `connection` speaks with
//! it; `heartbeat` and `restart` judge (pure); `slot` holds the running worker and starts it on demand; `residency` decides which
//! models stay, `eviction` which one goes, `room` what is taken before that (all pure); `loading` carries that out; `wishes` is what callers say about it; `generation` queues events for a client; `memory` keeps
//! the ledger, `wanted` finds out what a model will take, `relief` keeps what is held within what there is; `fleet` is the outside of it all.

mod blame;
mod cause;
mod config;
mod connection;
mod court;
mod devices;
mod docket;
mod error;
mod eviction;
mod faults;
mod fleet;
mod generation;
mod heartbeat;
mod keep_alive;
mod ladder;
mod loading;
mod locate;
mod memory;
mod mishaps;
mod placing;
mod prefill_speed;
mod process;
mod progress;
mod quarantine;
mod reconfigure;
mod recovery;
mod relief;
mod residency;
mod restart;
mod room;
mod shared;
mod slot;
mod speed;
mod status;
mod wanted;
mod wishes;
mod worker;

pub use aluco_plan as plan;
pub use aluco_proto as proto;
pub use cause::KernelLog;
pub use config::{FleetConfig, ModelConfig};
pub use error::FleetError;
pub use fleet::Fleet;
pub use generation::Generation;
pub use keep_alive::{KeepAlive, NoDuration};
pub use ladder::{Fallback, FallbackStep};
pub use memory::told_gpus;
pub use mishaps::Mishaps;
pub use recovery::Recovery;
pub use speed::Speed;
pub use status::{FleetStatus, ModelState, ModelSummary, WorkerSummary};
pub use wishes::{LoadPlan, LoadWishes, RequestOptions};
