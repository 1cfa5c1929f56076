//! `aluco-fake-worker probe|serve|estimate`, as `aluco-worker`.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    thread,
    time::Duration,
};

use aluco_fake_worker::{Persona, answer_estimates, serve};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("aluco-fake-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let persona = Persona::of_this_executable()?;
    if let Some(sentence) = &persona.wrong_cpu {
        eprintln!("{sentence}");
        return Ok(ExitCode::from(3));
    }
    let verb = std::env::args().nth(1);
    persona.note(verb.as_deref().unwrap_or_default());
    match verb.as_deref() {
        Some("probe") => {
            if persona.probe_hangs {
                stand_still();
            }
            println!("{}", serde_json::to_string(&persona.hello())?);
            Ok(ExitCode::SUCCESS)
        }
        Some("serve") => {
            let awaited = persona.serve_waits_for.as_ref();
            while awaited.is_some_and(|file| !file.exists()) {
                thread::sleep(Duration::from_millis(1));
            }
            if let Some(sentence) = &persona.serve_fails {
                eprintln!("{sentence}");
                return Ok(ExitCode::FAILURE);
            }
            if persona.serve_hangs {
                stand_still();
            }
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            serve(UnixStream::from(socket), &persona)?;
            Ok(ExitCode::SUCCESS)
        }
        Some("estimate") => {
            let path = std::env::args().nth(2).unwrap_or_default();
            answer_estimates(path.as_ref(), io::stdin().lock(), io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("usage: aluco-fake-worker probe|serve|estimate FILE");
            Ok(ExitCode::from(2))
        }
    }
}

fn stand_still() -> ! {
    loop {
        thread::park();
    }
}
