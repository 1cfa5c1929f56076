//! `aluco top`: a running server, live.
//!
//! `look` asks the server, `screen` is what came of it and of the keys, `view` turns that into lines; `pool`, `events` and `theme` are
//! parts of it. Only this file touches the terminal.

mod events;
mod look;
mod pool;
mod screen;
#[cfg(test)]
mod tests;
mod theme;
mod view;

use std::{
    io::{self, IsTerminal, Write},
    pin::Pin,
    thread,
    time::{Duration, SystemTime},
};

use ratatui::{DefaultTerminal, crossterm::event};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    events::Weight,
    look::{Look, PATIENCE_LIVE, PATIENCE_ONCE},
    screen::{Screen, Wish},
    theme::Theme,
};
use super::{
    connection::{configured, told},
    run::current_thread,
};
use crate::{
    cli::TopArgs,
    client::{Client, ClientError},
    config::Config,
    failure::{Failure, Outcome, Status},
    render,
    signals::Signals,
};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Columns of what is written where there is no terminal.
const COLUMNS: u16 = 100;

/// Something that was begun and will end.
type Pending<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// Runs the command.
pub(crate) fn run(args: &TopArgs, config: &Config) -> Outcome {
    let client = configured(config)?;
    let runtime = current_thread()?;
    let told = |error| told(config, error);
    let is_live = !args.once && !args.json && io::stdout().is_terminal();
    match runtime.block_on(client.check()) {
        Ok(()) => {}
        // It may be started later.
        Err(ClientError::NoServer { .. }) if is_live => {}
        Err(error) => return Err(told(error)),
    }
    if is_live {
        return runtime.block_on(live(&client));
    }
    if args.json {
        let raw = runtime.block_on(look::raw(&client, PATIENCE_ONCE));
        render::print_json(&raw.map_err(told)?)?;
        return Ok(Status::Done);
    }
    let text = runtime.block_on(once(&client)).map_err(told)?;
    write!(io::stdout().lock(), "{text}")?;
    Ok(Status::Done)
}

/// One look as text; speeds are counted from look to look, so it takes two.
async fn once(client: &Client) -> Result<String, ClientError> {
    look::look(client, PATIENCE_ONCE).await?;
    sleep(LOOK_INTERVAL).await;
    let look = look::look(client, PATIENCE_ONCE).await?;
    let mut theme = Theme::of_process();
    theme.colour = false;
    let mut screen = Screen::new(client.url(), theme);
    screen.is_still = true;
    screen.take(Ok(look), SystemTime::now());
    let columns = render::terminal_columns().and_then(|columns| u16::try_from(columns).ok());
    Ok(view::text(
        &screen,
        SystemTime::now(),
        columns.unwrap_or(COLUMNS),
    ))
}

/// Shows the server until a key, a signal or the end of the terminal.
async fn live(client: &Client) -> Outcome {
    let mut signals = Signals::new()?;
    // From here on a panic gives the terminal back, too.
    let terminal = ratatui::try_init()
        .map_err(|error| Failure::new(format!("the terminal cannot be used: {error}")))?;
    let ended = show(terminal, client, &mut signals).await;
    ratatui::restore();
    ended?;
    Ok(Status::Done)
}

async fn show(
    mut terminal: DefaultTerminal,
    client: &Client,
    signals: &mut Signals,
) -> io::Result<()> {
    let mut screen = Screen::new(client.url(), Theme::of_process());
    let mut keys = listen()?;
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looking: Pending<Result<Look, String>> = None;
    let mut unloading: Pending<(Weight, String)> = None;
    loop {
        terminal.draw(|frame| {
            let area = frame.area();
            view::draw(&screen, SystemTime::now(), area, frame.buffer_mut());
        })?;
        tokio::select! {
            _ = ticks.tick() => {
                // A server that is slow to answer is asked once.
                if looking.is_none() {
                    let client = client.clone();
                    looking = Some(Box::pin(async move {
                        let look = look::look(&client, PATIENCE_LIVE).await;
                        look.map_err(|error| error.to_string())
                    }));
                }
            }
            look = outcome(&mut looking) => screen.take(look, SystemTime::now()),
            (weight, text) = outcome(&mut unloading) => {
                screen.notice = Some(text.clone());
                screen.happened(SystemTime::now(), weight, text);
            }
            event = keys.recv() => match event {
                Some(event::Event::Key(key)) => match screen.press(key) {
                    Wish::Nothing => {}
                    Wish::Quit => return Ok(()),
                    Wish::Unload(model) => unloading = Some(Box::pin(unload(client.clone(), model))),
                },
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
            () = signals.next() => return Ok(()),
        }
    }
}

/// Waits for what was begun; for ever if nothing was.
async fn outcome<T>(pending: &mut Pending<T>) -> T {
    let Some(future) = pending else {
        return std::future::pending().await;
    };
    let outcome = future.await;
    *pending = None;
    outcome
}

async fn unload(client: Client, model: String) -> (Weight, String) {
    let name = events::short(&model);
    match client.unload(&model).await {
        Ok(true) => (Weight::News, format!("{name} was unloaded from here")),
        Ok(false) => (Weight::News, format!("{name} was not loaded any more")),
        Err(error) => (Weight::Bad, format!("{name} cannot be unloaded: {error}")),
    }
}

/// Keys and changes of size, read by a thread of their own, which ends with the process.
fn listen() -> io::Result<mpsc::Receiver<event::Event>> {
    let (sender, receiver) = mpsc::channel(16);
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while let Ok(event) = event::read() {
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}
