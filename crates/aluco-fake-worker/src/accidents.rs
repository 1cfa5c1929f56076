//! What befalls the worker where its script says so.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use crate::{
    Crash, Hang, Script,
    script::Accident,
    session::{Cancel, Model, Worker, lock},
};

impl Worker {
    /// A request has come to the place of an accident, which happens if it may: at once, or when others have come too.
    pub(crate) fn accident(&self, model: &Model, cancel: &Cancel, happen: impl FnOnce()) {
        let mut present = lock(&self.present);
        *present += 1;
        match model
            .script
            .accident(model.loaded.micro_batch_tokens, *present)
        {
            Accident::None => {}
            Accident::Now => happen(),
            Accident::Later => {
                drop(present);
                cancel.wait(Duration::MAX);
            }
        }
    }

    /// Stands still.
    pub(crate) fn hang(&self, script: &Script) {
        match script.hang {
            Hang::Process => self.fall_silent(),
            Hang::Device => loop {
                thread::park();
            },
        }
    }

    /// Ends by accident; comes back only for accidents that leave the process alive.
    pub(crate) fn crash(&self, script: &Script) {
        let mut error = io::stderr().lock();
        for line in &script.last_words {
            let _ = writeln!(error, "{line}");
        }
        drop(error);
        let signal = |signal| {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        };
        match script.crash {
            Crash::Abort => std::process::abort(),
            Crash::Segv => loop {
                // Rust's handler for stack overflows takes the first one, and only makes way for the next.
                signal(rustix::process::Signal::SEGV);
                thread::sleep(Duration::from_millis(1));
            },
            Crash::KillSelf => signal(rustix::process::Signal::KILL),
            Crash::Exit => std::process::exit(7),
            Crash::Garbage => {
                let _ = lock(&self.outbox).write_all(b"\x02\0\0\0{]");
                return;
            }
            Crash::HangUp => {
                // Only the way up, so that the reading side does not notice and end the process.
                let _ = self.socket.shutdown(std::net::Shutdown::Write);
                return;
            }
        }
        loop {
            thread::park();
        }
    }

    /// Nothing is sent from here on, not even heartbeats.
    fn fall_silent(&self) -> ! {
        let _outbox = lock(&self.outbox);
        loop {
            thread::park();
        }
    }
}
