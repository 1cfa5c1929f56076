//! `aluco run`: a conversation or one answer, from a server that runs or from one of its own.

mod own_server;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use aluco_model::ModelRef;
use serde::Serialize;
use tokio::runtime::Runtime;

use self::own_server::OwnServer;
use super::connection::{configured, told};
use crate::{
    chat::{self, Answer, Conversation, End, Listener, Session, Show},
    cli::RunArgs,
    client::{
        Client, ClientError,
        wire::{ChatRequest, Sampling, Timings, Usage},
    },
    config::{Config, Environment, Origin, Part},
    failure::{Failure, Outcome, Status},
    render,
};

/// How long standard input may take before the wait is explained.
const NOTICE_AFTER: Duration = Duration::from_secs(1);

/// Runs the command.
pub(crate) fn run(args: &RunArgs, config: &Config, environment: &Environment) -> Outcome {
    let model = absolute(&args.model)?;
    let is_terminal = io::stdin().is_terminal();
    let prompt = if is_terminal {
        chat::one_prompt(&args.prompt, None::<io::Empty>, 0)?
    } else {
        let _notice = Notice::of_reading();
        let input = io::stdin().lock();
        chat::one_prompt(&args.prompt, Some(input), config.settings.body_bytes_max)?
    };
    if prompt.is_none() && (args.json || !is_terminal) {
        return Err(Failure::usage("there is nothing to ask")
            .advise(format!("aluco run {} \"why is the sky blue?\"", args.model)));
    }
    if prompt.is_none() && !io::stdout().is_terminal() {
        return Err(
            Failure::usage("a conversation needs a terminal, and standard output is none").advise(
                format!(
                    "ask one question: aluco run {} \"why is the sky blue?\"",
                    args.model
                ),
            ),
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    match prompt {
        Some(prompt) => runtime.block_on(once(args, config, &model, prompt)),
        None => converse(args, config, environment, model, &runtime),
    }
}

/// Says after a while what is being waited for, on a terminal, unless it is dropped first.
struct Notice {
    _over: Sender<()>,
}

impl Notice {
    fn of_reading() -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let (over, waiting) = channel();
        thread::spawn(move || {
            if waiting.recv_timeout(NOTICE_AFTER) == Err(RecvTimeoutError::Timeout) {
                render::say("reading standard input…");
            }
        });
        Some(Self { _over: over })
    }
}

/// Paths are made absolute, since a server has another working folder.
pub(super) fn absolute(model: &str) -> Outcome<String> {
    let ModelRef::Path(path) = model.parse()? else {
        return Ok(model.to_owned());
    };
    let path = std::path::absolute(&path)
        .map_err(|error| Failure::new(format!("cannot find {}: {error}", path.display())))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::new(format!("{} is not UTF-8", path.display())))
}

/// One answer.
async fn once(args: &RunArgs, config: &Config, model: &str, prompt: String) -> Outcome {
    let mut listener = Listener::new()?;
    let server = tokio::select! {
        biased;
        () = listener.interrupted() => return Ok(Status::Interrupted),
        server = Server::find(args, config, model) => server?,
    };
    let conversation = Conversation::new(args.system.clone());
    let messages = conversation.with(&prompt);
    let sampling = Sampling::from(&args.sampling);
    let request = ChatRequest::new(model, &messages, &sampling);
    let show = if args.json { Show::Nothing } else { Show::Text };
    let (answer, end) = Answer::of(server.client(), &request, show, &mut listener).await;
    let outcome = match end {
        End::Complete => tell(args, answer),
        End::Interrupted => Ok(Status::Interrupted),
        End::Failed(failure) => Err(failure),
    };
    server.close().await;
    outcome
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    text: String,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    timings: Option<Timings>,
}

fn tell(args: &RunArgs, answer: Answer) -> Outcome {
    let has_figures = if args.json {
        args.stats
    } else {
        has_figures(args)
    };
    let figures = answer.figures().filter(|_| has_figures);
    if args.json {
        render::print_json(&Report {
            model: &args.model,
            text: answer.text,
            finish_reason: answer.finish_reason,
            usage: answer.usage,
            timings: answer.timings,
        })?;
    }
    if let Some(figures) = figures {
        chat::say_figures(&figures);
    }
    Ok(Status::Done)
}

fn has_figures(args: &RunArgs) -> bool {
    args.stats || (!args.no_stats && io::stderr().is_terminal())
}

/// A conversation.
fn converse(
    args: &RunArgs,
    config: &Config,
    environment: &Environment,
    model: String,
    runtime: &Runtime,
) -> Outcome {
    let server = runtime.block_on(Server::find(args, config, &model))?;
    let session = Session {
        client: server.client().clone(),
        model,
        conversation: Conversation::new(args.system.clone()),
        sampling: Sampling::from(&args.sampling),
        has_figures: has_figures(args),
        history: environment
            .folder("XDG_STATE_HOME", ".local/state")
            .join("aluco/history"),
        is_plain: chat::is_plain(environment.get("TERM")),
        home: environment.get("HOME").map(PathBuf::from),
    };
    let outcome = session.talk(runtime);
    runtime.block_on(server.close());
    outcome
}

/// Where answers come from.
enum Server {
    /// One that somebody else started.
    Running(Client),
    /// One in this process, which ends with it.
    Own(OwnServer),
}

impl Server {
    /// The server that is configured, if it runs; else one of our own. A server that was named by its URL is never replaced.
    async fn find(args: &RunArgs, config: &Config, model: &str) -> Outcome<Self> {
        let settings = &config.settings;
        let engine_flag = args.overrides.any_about(Part::Engine);
        if let Some(flag) = engine_flag {
            if let Origin::Flag(url_flag) = config.origin("url") {
                return Err(Failure::usage(format!(
                    "{flag} says how to load a model here, and {url_flag} asks another server"
                ))
                .advise("leave one of them out"));
            }
            return OwnServer::start(settings, model).await.map(Self::Own);
        }
        let client = configured(config)?;
        match client.check().await {
            Ok(()) => Ok(Self::Running(client)),
            Err(ClientError::NoServer { .. } | ClientError::NotAluco { .. })
                if settings.url.is_none() =>
            {
                OwnServer::start(settings, model).await.map(Self::Own)
            }
            Err(error) => Err(told(config, error)),
        }
    }

    fn client(&self) -> &Client {
        match self {
            Self::Running(client) => client,
            Self::Own(server) => server.client(),
        }
    }

    async fn close(self) {
        if let Self::Own(server) = self {
            server.close().await;
        }
    }
}

/// A runtime for a few requests.
pub(super) fn current_thread() -> Outcome<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_are_made_absolute() {
        for name in ["smollm2:135m", "org/repo:Q4_K_M", "/models/a.gguf"] {
            assert_eq!(absolute(name).unwrap(), name);
        }
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            absolute("./a.gguf").unwrap(),
            here.join("a.gguf").to_str().unwrap()
        );
        assert!(absolute("").is_err());
    }
}
