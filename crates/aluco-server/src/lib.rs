//! Aluco over HTTP: API dialects translated to and from one internal form, [`aluco_fleet::proto::GenerationSpec`] and its events.
//!
//! ```no_run
//! # async fn example(fleet: aluco_fleet::Fleet) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:13313").await?;
//! let config = aluco_server::ServerConfig::default();
//! aluco_server::serve(listener, fleet, config, async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await
//! # }
//! ```
//!
//! Inside: `serve` accepts connections and ends them; `guard` looks at each request before anything else does (who may ask, its id,
//! the log, the metrics); `client` tells those apart who ask; `body` reads JSON, whose `weight` is bounded over all requests, `path` names; `openai` and `native` are the dialects; `hygiene` changes
//! prompts by rules; `stream` gathers the events of a request's generations, `sse` writes them as server-sent events, and `resume` keeps
//! those that a client may come back for; `operations` are for whoever runs the server, and `telemetry` is what that
//! program tells of the machine; `error` is what goes wrong, in OpenAI's form.

mod app;
mod body;
mod client;
mod config;
mod error;
mod guard;
mod hygiene;
mod loading;
mod metrics;
mod native;
mod openai;
mod operations;
mod path;
mod resume;
mod serve;
mod sse;
mod stream;
mod telemetry;
mod weight;

pub use app::router;
pub use config::{Isolation, ServerConfig, bind_refusal};
pub use hygiene::{PromptRules, PromptRulesError};
pub use operations::{Acceptance, Operator, Reload, Reloaded};
pub use resume::{ResumableStreams, ResumeConfig};
pub use serve::{Server, serve};
pub use telemetry::{MachineGauge, Telemetry};
