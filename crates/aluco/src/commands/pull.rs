//! `aluco pull`: downloads a model.

use aluco_model::{Hub, PullProgress, PullStage};

use crate::{
    cli::PullArgs,
    config::Config,
    engine,
    failure::{Outcome, Status},
    render::{self, Transfer, printable, say},
    signals::Signals,
};

/// Runs the command. What was downloaded before an interruption stays, for the next try.
pub(crate) fn run(args: &PullArgs, config: &Config) -> Outcome {
    let runtime = super::run::current_thread()?;
    runtime.block_on(pull(args, config))
}

async fn pull(args: &PullArgs, config: &Config) -> Outcome {
    let mut signals = Signals::new()?;
    let hub = Hub::new(engine::hub(&config.settings))?;
    let store = engine::store(&config.settings);
    let transfer = Transfer::new();
    let pulled = {
        let pulling = hub.pull(&store, &args.model, |progress| show(&transfer, &progress));
        tokio::select! {
            biased;
            () = signals.next() => None,
            pulled = pulling => Some(pulled),
        }
    };
    transfer.clear();
    let Some(pulled) = pulled else {
        say("interrupted; the same command goes on where this one stopped");
        return Ok(Status::Interrupted);
    };
    let model = pulled?;
    if args.json {
        render::print_json(&model)?;
        return Ok(Status::Done);
    }
    let name = model
        .short_name
        .as_ref()
        .map_or_else(|| model.name.clone(), ToString::to_string);
    say(&format!(
        "{0} is here; run it with: aluco run {0}",
        printable(&name)
    ));
    Ok(Status::Done)
}

fn show(transfer: &Transfer, progress: &PullProgress) {
    let file = progress.file.as_deref().unwrap_or_default();
    let file = file.rsplit('/').next().unwrap_or(file);
    match progress.stage {
        PullStage::Resolving => transfer.wait("asking the hub"),
        PullStage::Downloading => {
            let part = if progress.files_total > 1 {
                format!(" ({} of {})", progress.files_done + 1, progress.files_total)
            } else {
                String::new()
            };
            let what = format!("{}{part}", printable(file));
            transfer.show(&what, progress.bytes_done, progress.bytes_total);
        }
        PullStage::Verifying => {
            let what = format!("checking {}", printable(file));
            transfer.show(&what, progress.bytes_done, progress.bytes_total);
        }
        PullStage::Done => transfer.clear(),
    }
}
