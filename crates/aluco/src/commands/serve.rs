//! `aluco serve`: models over HTTP until it is told to stop.

use std::{net::SocketAddr, path::PathBuf, process, sync::Arc};

use aluco_fleet::Fleet;
use aluco_server::Server;
use tokio::net::{TcpListener, lookup_host};

use super::run::absolute;
use crate::{
    cli::ServeArgs,
    config::{Config, Origin},
    engine,
    failure::{Failure, Outcome, Status},
    log::{self, Levels},
    operator::{Serving, Sources},
    render::say,
    service,
    signals::{Hangups, Signals},
    watching::{KernelWatch, MachineWatch},
};

/// Exit status of a process that a second Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// What there is before there are threads.
struct Start {
    /// Where the configuration came from.
    sources: Sources,
    levels: Levels,
    /// A socket that the service manager listens at already.
    handed_over: Option<std::net::TcpListener>,
    /// To be loaded at once.
    models: Vec<String>,
    /// In the place of `/dev/kmsg`.
    kernel_log: Option<PathBuf>,
    /// In the place of `/`, for what is told of memory.
    memory_root: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &ServeArgs, config: &Config, sources: Sources) -> Outcome {
    let settings = &config.settings;
    let levels = log::start(settings)?;
    let models = settings
        .preload
        .iter()
        .chain(&args.models)
        .map(|model| absolute(model))
        .collect::<Outcome<Vec<_>>>()?;
    let start = Start {
        sources,
        levels,
        handed_over: service::listener()?,
        models,
        kernel_log: args.kernel_log.clone(),
        memory_root: args.memory_root.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(serve(config, start))
}

async fn serve(config: &Config, start: Start) -> Outcome {
    let settings = &config.settings;
    let models = start.models;
    let mut signals = Signals::new()?;
    let hangups = Hangups::new()?;
    let server_config = engine::server(settings)?;
    let listener = match start.handed_over {
        Some(listener) => take_over(listener, config)?,
        None => listen(config).await?,
    };
    let kernel = KernelWatch::start(start.kernel_log.as_deref());
    let mut fleet_config = engine::watched_fleet(settings, kernel.as_ref());
    if let Some(root) = start.memory_root {
        fleet_config.memory_root = root;
    }
    let fleet = Fleet::new(fleet_config);
    // A name that is not here must not be found out by the first client.
    for model in &models {
        fleet.store().find(model)?;
    }
    let address = listener
        .local_addr()
        .map_err(|error| Failure::new(format!("cannot listen: {error}")))?;
    say(&format!(
        "Aluco {} serves at http://{address} (OpenAI API at http://{address}/v1). Ctrl-C stops it.",
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(path) = &settings.prompt_rules {
        let rules = server_config.prompt_rules.len();
        tracing::info!(rules, file = %path.display(), "prompts are changed by rules");
    }
    if models.len() > settings.models_max {
        tracing::warn!(
            models = models.len(),
            models_max = settings.models_max,
            "more models are to be loaded at the start than may be loaded at once"
        );
    }
    tokio::spawn(preload(fleet.clone(), models));
    let machine = MachineWatch::new(kernel);
    let operator = Serving::new(
        start.sources,
        settings,
        fleet.clone(),
        start.levels,
        machine,
    );
    let server = Server::new(fleet, server_config, Arc::new(operator));
    let status = format!("serving at http://{address}");
    // Whoever connects from now on waits for an answer at most, since the socket listens.
    service::ready(&status);
    tokio::spawn(service::keep_watch(server.clone()));
    if let Some(hangups) = hangups {
        tokio::spawn(reload_at(hangups, server.clone(), status));
    }
    let shutdown = async move {
        signals.next().await;
        service::stopping();
        tokio::spawn(async move {
            signals.next().await;
            say("stopped at once");
            // The workers end with the socket that this process holds.
            process::exit(INTERRUPTED);
        });
    };
    let end = server.run(listener, shutdown).await;
    // A client may have asked for it.
    service::stopping();
    end.map_err(|error| Failure::new(format!("the server failed: {error}")))?;
    Ok(Status::Done)
}

/// Loads models one after the other: the disk is not faster for two at once.
async fn preload(fleet: Fleet, models: Vec<String>) {
    for model in models {
        match fleet.load(&model).await {
            Ok(loaded) => tracing::info!(model, load_ms = loaded.load_ms, "loaded"),
            Err(error) => tracing::error!(model, %error, "cannot load the model"),
        }
    }
}

/// Reads the configuration again at each SIGHUP.
async fn reload_at(mut hangups: Hangups, server: Server, status: String) {
    loop {
        hangups.next().await;
        service::reloading();
        match server.reload().await {
            Ok(_) => service::ready(&status),
            Err(reason) => {
                tracing::error!(reason, "the configuration stays as it was");
                service::ready(&format!("{status}; the configuration cannot be reloaded"));
            }
        }
    }
}

/// Takes a socket that the service manager listens at, unless the world could reach it without a key.
fn take_over(listener: std::net::TcpListener, config: &Config) -> Outcome<TcpListener> {
    let failed = |error| {
        Failure::new(format!(
            "the socket that was handed over cannot be used: {error}"
        ))
    };
    let address = listener.local_addr().map_err(failed)?;
    if let Some(refusal) = aluco_server::bind_refusal(&address, &config.settings.api_keys) {
        return Err(Failure::new(refusal).advise(
            "set a key (api_keys in the configuration file), or have the service manager listen at 127.0.0.1",
        ));
    }
    TcpListener::from_std(listener).map_err(failed)
}

/// Listens at the first address of the configured host that works, unless the world could reach it without a key.
async fn listen(config: &Config) -> Outcome<TcpListener> {
    let settings = &config.settings;
    let address = settings.address();
    let origin = config.named_by(&["host", "port"]);
    let name = origin.as_ref().map_or_else(
        || address.clone(),
        |origin| format!("{address} (from {origin})"),
    );
    let addresses: Vec<SocketAddr> = lookup_host(&address)
        .await
        .map_err(|error| Failure::new(format!("cannot listen at {name}: {error}")))?
        .collect();
    for address in &addresses {
        if let Some(mut refusal) = aluco_server::bind_refusal(address, &settings.api_keys) {
            if let Some(origin) = origin {
                refusal = format!("{refusal} (the address is from {origin})");
            }
            return Err(Failure::new(refusal).advise(
                "set a key (ALUCO_API_KEY, or api_keys in the configuration file), or listen at 127.0.0.1 (--host)",
            ));
        }
    }
    TcpListener::bind(&*addresses).await.map_err(|error| {
        let failure = Failure::new(format!("cannot listen at {name}: {error}"));
        if error.kind() == std::io::ErrorKind::AddrInUse {
            // Other commands do not know of this one's flags.
            let is_flag = |key| matches!(config.origin(key), Origin::Flag(_));
            let url = if is_flag("host") || is_flag("port") {
                format!(" --url http://{address}")
            } else {
                String::new()
            };
            failure.advise(format!(
                "aluco ps{url}     shows whether another Aluco runs there\naluco stop{url}   stops it\nor choose another port with --port"
            ))
        } else {
            failure
        }
    })
}
