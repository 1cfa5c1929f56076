//! One supervisor, from hello to the end of the socket.

use std::{
    collections::HashMap,
    io::BufReader,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use aluco_proto::{
    Command, Event, Failure, FailureKind, GenerationEvent, ModelHandle, PROTOCOL_VERSION,
    RequestId, WorkerStatus, read_frame,
};

use crate::{
    bench, estimate,
    ffi::Engine,
    hello,
    loading::Load,
    log,
    outbox::{Outbox, Pulse},
    prompt,
    resident::{ModelCommand, Resident},
};

type Residents = Arc<Mutex<HashMap<ModelHandle, Arc<Resident>>>>;

/// Serves the supervisor at the other end of `stream`; comes back when it hangs up, asks for it, or speaks another language.
pub fn serve(stream: UnixStream) -> anyhow::Result<()> {
    let outbox = Outbox::new(stream.try_clone()?);
    log::to_supervisor(outbox.clone());
    let engine = Engine::start();
    let pulse = Arc::new(Pulse::default());
    let residents = Residents::default();
    let mut reader = BufReader::new(stream);

    let Some(Command::Hello { protocol }) = read_frame::<Command>(&mut reader)? else {
        anyhow::bail!("the supervisor did not say hello");
    };
    outbox.send(&Event::Hello(hello::worker_hello(engine)));
    if protocol != PROTOCOL_VERSION {
        anyhow::bail!(
            "the supervisor speaks protocol {protocol}, this worker {PROTOCOL_VERSION}; install both from one build"
        );
    }

    while let Some(command) = read_frame::<Command>(&mut reader)? {
        let arrived = Instant::now();
        let resident = |model: ModelHandle| {
            residents
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&model)
                .cloned()
        };
        match command {
            Command::Hello { .. } => tracing::warn!("a second hello is ignored"),
            Command::Load {
                request,
                model,
                path,
                options,
            } => {
                let forget = {
                    let residents = residents.clone();
                    move || {
                        residents
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&model);
                    }
                };
                // The lock is held until the entry is in, so that a load that fails at once finds what to forget.
                let mut residents = residents.lock().unwrap_or_else(PoisonError::into_inner);
                if residents.contains_key(&model) {
                    outbox.failed(
                        request,
                        prompt::invalid(format!("model handle {model} is in use")),
                    );
                    continue;
                }
                let load = Load {
                    request,
                    model,
                    path,
                    options,
                };
                let resident = Resident::load(engine, load, outbox.clone(), pulse.clone(), forget);
                residents.insert(model, Arc::new(resident));
            }
            Command::Unload { request, model } => {
                let resident = residents
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&model);
                let outbox = outbox.clone();
                // Waiting for the memory to be free must not hold up other commands.
                thread::spawn(move || {
                    if let Some(resident) = resident {
                        resident.unload();
                    }
                    outbox.send(&Event::Unloaded { request, model });
                });
            }
            Command::Generate {
                request,
                model,
                spec,
                resume,
            } => match resident(model) {
                Some(resident) => {
                    resident.send(ModelCommand::Generate(request, spec, resume, arrived));
                }
                None => outbox.generation(request, GenerationEvent::Failed(not_loaded(model))),
            },
            Command::Cancel { request } => {
                // Ids are never used again, so the models that do not know it are not harmed.
                let residents = residents.lock().unwrap_or_else(PoisonError::into_inner);
                for resident in residents.values() {
                    resident.cancel(request);
                }
            }
            Command::Tokenize {
                request,
                model,
                text,
                add_special,
                parse_special,
            } => forward(
                &outbox,
                request,
                model,
                resident(model),
                ModelCommand::Tokenize {
                    request,
                    text,
                    add_special,
                    parse_special,
                },
            ),
            Command::Detokenize {
                request,
                model,
                tokens,
            } => {
                forward(
                    &outbox,
                    request,
                    model,
                    resident(model),
                    ModelCommand::Detokenize(request, tokens),
                );
            }
            Command::RenderChat {
                request,
                model,
                chat,
            } => {
                forward(
                    &outbox,
                    request,
                    model,
                    resident(model),
                    ModelCommand::RenderChat(request, chat),
                );
            }
            Command::Bench {
                request,
                path,
                spec,
            } => {
                let (outbox, pulse) = (outbox.clone(), pulse.clone());
                thread::spawn(move || bench::run(engine, request, &path, &spec, &outbox, &pulse));
            }
            Command::Estimate {
                request,
                path,
                options,
            } => {
                let (outbox, pulse) = (outbox.clone(), pulse.clone());
                thread::spawn(move || {
                    estimate::run(engine, request, &path, &options, &outbox, &pulse);
                });
            }
            Command::SetCacheBudget {
                request,
                model,
                ram_bytes,
            } => {
                let (outbox, resident) = (outbox.clone(), resident(model));
                // Prompts may have to be written to disk first.
                thread::spawn(move || match resident {
                    Some(resident) => {
                        let status = resident.set_cache_budget(ram_bytes);
                        outbox.send(&Event::CacheBudget {
                            request,
                            model,
                            ram_bytes: status.ram_bytes,
                            ram_bytes_max: status.ram_bytes_max,
                        });
                    }
                    None => outbox.failed(request, not_loaded(model)),
                });
            }
            Command::Ping { sequence } => outbox.send(&Event::Pong {
                sequence,
                steps: pulse.steps(),
                working: pulse.is_working(),
                step_tokens: pulse.step_tokens(),
            }),
            Command::Status { request } => {
                let mut models: Vec<_> = residents
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .values()
                    .filter_map(|resident| resident.activity())
                    .collect();
                models.sort_by_key(|activity| activity.model);
                outbox.send(&Event::Status {
                    request,
                    status: WorkerStatus { models },
                });
            }
            Command::Shutdown => break,
        }
    }
    Ok(())
}

fn forward(
    outbox: &Outbox,
    request: RequestId,
    model: ModelHandle,
    resident: Option<Arc<Resident>>,
    command: ModelCommand,
) {
    match resident {
        Some(resident) => resident.send(command),
        None => outbox.failed(request, not_loaded(model)),
    }
}

fn not_loaded(model: ModelHandle) -> Failure {
    Failure {
        kind: FailureKind::ModelNotLoaded,
        message: format!("model {model} is not loaded"),
    }
}
