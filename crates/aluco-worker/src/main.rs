//! `aluco-worker`: started by the supervisor, with one end of a Unix socket as its standard input.

use std::{
    ffi::OsString,
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::ExitCode,
};

use aluco_worker::{
    cpu, estimate,
    ffi::{self, CpuBuild, Engine},
    hello, session, threads,
};
use clap::{Parser, Subcommand};

/// Exit status when this build is for another CPU.
const EXIT_WRONG_CPU: u8 = 3;

/// Environment that llama.cpp and the OpenMP runtime read before `main` can change it, so the worker starts itself again with it.
///
/// `GGML_NO_BACKTRACE`: an abort must end the process at once rather than start a debugger. `GOMP_SPINCOUNT`: threads that wait at a
/// barrier spin for a while and then sleep, so that a busy neighbour does not have its core taken by waiting (figures: ARCHITECTURE.md).
const ENVIRONMENT: [(&str, &str); 2] = [("GGML_NO_BACKTRACE", "1"), ("GOMP_SPINCOUNT", "10000")];

/// Runs models on llama.cpp for the Aluco supervisor. Not meant to be started by hand.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the supervisor at the socket that is standard input, until it hangs up
    Serve,
    /// Print as one line of JSON what this worker is and which devices it finds
    Probe,
    /// Print what a model would take, one line of JSON for each line of load options on standard input
    #[command(hide = true)]
    Estimate {
        /// The GGUF file; the first one if it is split
        file: PathBuf,
    },
    /// Print how fast the devices copy and multiply, as one line of JSON
    #[command(hide = true)]
    Measure,
}

fn main() -> ExitCode {
    ffi::end_on_memory_faults();
    ffi::map_large_buffers();
    let arguments = Arguments::parse();
    let build = CpuBuild::compiled();
    let missing = cpu::missing(&build);
    if !missing.is_empty() {
        eprintln!(
            "this worker is built for {}, and this CPU lacks {}; install a worker for this CPU",
            cpu::level(&build),
            missing.join(", ")
        );
        return ExitCode::from(EXIT_WRONG_CPU);
    }
    match arguments.command {
        Command::Probe => {
            let hello = hello::worker_hello(Engine::start());
            println!(
                "{}",
                serde_json::to_string(&hello).expect("a hello has no maps with odd keys")
            );
            ExitCode::SUCCESS
        }
        Command::Estimate { file } => {
            match estimate::answer_lines(Engine::start(), &file, std::io::stdin().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("aluco-worker: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Measure => {
            let threads = i32::try_from(threads::default_threads()).unwrap_or(1);
            match Engine::start().device_speeds(threads) {
                Ok(speeds) => {
                    println!(
                        "{}",
                        serde_json::to_string(&speeds).expect("numbers and names")
                    );
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("aluco-worker: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Serve => {
            if ENVIRONMENT
                .iter()
                .any(|(name, _)| std::env::var_os(name).is_none())
            {
                return start_again();
            }
            // A thread that panics leaves a model without service; better the supervisor sees a death and starts anew.
            let default_hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                default_hook(panic);
                std::process::abort();
            }));
            let served = std::io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .map_err(anyhow::Error::from)
                .and_then(|socket| session::serve(UnixStream::from(socket)));
            let status = match served {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("aluco-worker: {error:#}");
                    1
                }
            };
            ffi::exit_now(status)
        }
    }
}

/// Replaces this process by itself with [`ENVIRONMENT`] set where it was not.
fn start_again() -> ExitCode {
    let mut command = std::process::Command::new("/proc/self/exe");
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.args(std::env::args_os().skip(1).collect::<Vec<OsString>>());
    for (name, value) in ENVIRONMENT {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let error = command.exec();
    eprintln!("aluco-worker: cannot start again with its environment set: {error}");
    ExitCode::FAILURE
}
