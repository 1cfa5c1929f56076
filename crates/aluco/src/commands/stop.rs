//! `aluco stop`: unloads a model, or ends the server.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::{
    connection::{configured, told},
    run::{absolute, current_thread},
};
use crate::{
    cli::StopArgs,
    client::{Client, ClientError},
    config::Config,
    failure::{Failure, Outcome, Status},
    render::{self, say},
};

/// How long is waited for a server to be gone: its own limit is 10 s unless configured otherwise.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a server calls it that there is no such model.
const NOT_FOUND: &str = "model_not_found";

/// Runs the command.
pub(crate) fn run(args: &StopArgs, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    // Another server must not be asked for anything.
    runtime.block_on(client.check()).map_err(told)?;
    if let Some(model) = &args.model {
        let unloaded = match runtime.block_on(client.unload(&absolute(model)?)) {
            Err(ClientError::Refused { code, .. }) if code.as_deref() == Some(NOT_FOUND) => {
                return Err(Failure::new(format!(
                    "model {model} is not on the server's machine, so it is not loaded"
                ))
                .advise("`aluco ps` shows what is"));
            }
            unloaded => unloaded.map_err(told)?,
        };
        if args.json {
            render::print_json(&json!({ "model": model, "unloaded": unloaded }))?;
        } else if unloaded {
            say(&format!("{model} is unloaded"));
        } else {
            say(&format!("{model} was not loaded"));
        }
    } else {
        runtime.block_on(stop(&client))?;
        if args.json {
            render::print_json(&json!({ "server": client.url(), "stopped": true }))?;
        } else {
            say(&format!("the server at {} has stopped", client.url()));
        }
    }
    Ok(Status::Done)
}

/// Comes back when the server is gone, not when it has heard.
async fn stop(client: &Client) -> Outcome<()> {
    client.shutdown().await?;
    let asked = Instant::now();
    while !is_gone(client).await {
        if asked.elapsed() > GONE_LIMIT {
            return Err(Failure::new(format!(
                "the server at {} still runs",
                client.url()
            )));
        }
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// True if nobody listens there any more. A server that is ending takes connections and says nothing for a while.
async fn is_gone(client: &Client) -> bool {
    matches!(
        client.check().await,
        Err(ClientError::NoServer { reason: None, .. } | ClientError::NotAluco { .. })
    )
}
