//! One answer, from the question to the last event, shown as it comes.

use std::{
    future::pending,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{figures, progress::PATIENCE, progress::Progress};
use crate::{
    client::{
        ChatEvent, ChatStream, Client,
        wire::{ChatRequest, Timings, Usage},
    },
    failure::{Failure, Outcome},
    render,
};

/// Time between two looks at the server's state while a model loads.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// What came of a question.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The text, as far as it came.
    pub(crate) text: String,
    /// Why it ended, such as `stop` or `length`.
    pub(crate) finish_reason: Option<String>,
    /// How many tokens there were.
    pub(crate) usage: Option<Usage>,
    /// Where the time went.
    pub(crate) timings: Option<Timings>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    /// By itself.
    Complete,
    /// By Ctrl-C.
    Interrupted,
    /// By an error.
    Failed(Failure),
}

/// Where the text of an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// To standard output, as it comes.
    Text,
    /// Nowhere; it is only collected.
    Nothing,
}

/// Hears Ctrl-C. While one lives, Ctrl-C does not end the process.
#[derive(Debug)]
pub(crate) struct Listener(Signal);

impl Listener {
    /// Begins to listen. Must be called within a tokio runtime.
    pub(crate) fn new() -> Outcome<Self> {
        signal(SignalKind::interrupt())
            .map(Self)
            .map_err(|error| Failure::new(format!("cannot listen for Ctrl-C: {error}")))
    }

    /// Comes back at the next Ctrl-C.
    pub(crate) async fn interrupted(&mut self) {
        // `None` would mean that the runtime's signal driver is gone; nothing is to be heard then.
        if self.0.recv().await.is_none() {
            pending::<()>().await;
        }
    }

    /// Forgets a Ctrl-C that came when nothing could be stopped.
    pub(crate) async fn forget(&mut self) {
        tokio::select! {
            biased;
            () = self.interrupted() => {}
            () = std::future::ready(()) => {}
        }
    }
}

impl Answer {
    /// Asks, and shows what comes. The text is followed by a line end if there is any.
    pub(crate) async fn of(
        client: &Client,
        request: &ChatRequest<'_>,
        show: Show,
        listener: &mut Listener,
    ) -> (Self, End) {
        let mut answer = Self::default();
        let progress = &Progress::new(io::stderr().is_terminal());
        let mut stream = None;
        let end = tokio::select! {
            biased;
            () = listener.interrupted() => End::Interrupted,
            result = answer.collect(client, request, &mut stream, show, progress) => match result {
                Ok(()) => End::Complete,
                Err(failure) => End::Failed(failure),
            },
            () = watch(client, progress) => unreachable!("watching has no end"),
        };
        progress.clear();
        if let Some(stream) = stream {
            stream.give_up().await;
        }
        let is_shown = show == Show::Text && !answer.text.is_empty();
        if is_shown && let Err(error) = end_line(&answer.text) {
            return (answer, End::Failed(error.into()));
        }
        (answer, end)
    }

    async fn collect(
        &mut self,
        client: &Client,
        request: &ChatRequest<'_>,
        stream: &mut Option<ChatStream>,
        show: Show,
        progress: &Progress,
    ) -> Outcome<()> {
        let is_terminal = io::stdout().is_terminal();
        let stream = stream.insert(client.chat(request).await?);
        while let Some(event) = stream.next().await? {
            match event {
                ChatEvent::Prefill {
                    processed_tokens,
                    prompt_tokens,
                } => progress.count_prompt(processed_tokens, prompt_tokens),
                ChatEvent::Delta(text) => {
                    if self.text.is_empty() {
                        progress.clear();
                    }
                    self.text.push_str(&text);
                    if show == Show::Text {
                        write_delta(&text, is_terminal)?;
                    }
                }
                ChatEvent::Finished(reason) => self.finish_reason = Some(reason),
                ChatEvent::Usage(usage) => self.usage = Some(usage),
                ChatEvent::Timings(timings) => self.timings = Some(timings),
            }
        }
        Ok(())
    }

    /// The closing line of figures, if the server gave any.
    pub(crate) fn figures(&self) -> Option<String> {
        let mut line = figures::line(self.usage.as_ref()?, self.timings.as_ref());
        if self.finish_reason.as_deref() == Some("length") {
            line.push_str(" · cut off at the limit of tokens");
        }
        Some(line)
    }
}

fn write_delta(text: &str, is_terminal: bool) -> io::Result<()> {
    let mut output = io::stdout().lock();
    // A terminal obeys control characters; a file or a program gets what the model said.
    if is_terminal {
        output.write_all(render::printable(text).as_bytes())?;
    } else {
        output.write_all(text.as_bytes())?;
    }
    output.flush()
}

fn end_line(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    if !text.ends_with('\n') {
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// Keeps the progress line alive until text has come, and shows how far the loading of the model is. Has no end.
pub(super) async fn watch(client: &Client, progress: &Progress) {
    if !progress.is_wanted() {
        pending::<()>().await;
    }
    sleep(PATIENCE).await;
    progress.reveal();
    let mut asked: Option<Instant> = None;
    while !progress.is_over() {
        let is_time = asked.is_none_or(|asked| asked.elapsed() >= STATE_INTERVAL);
        if is_time && progress.needs_state() {
            if let Ok(status) = client.status().await
                && progress.needs_state()
            {
                progress.show_loading(&status);
            }
            asked = Some(Instant::now());
        }
        progress.tick();
        sleep(PATIENCE).await;
    }
    pending::<()>().await;
}
