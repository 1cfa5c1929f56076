//! `aluco version`: what is installed.

use std::io::{self, Write};

use aluco_fleet::Fleet;
use serde_json::json;

use crate::{
    cli::VersionArgs,
    config::Config,
    engine,
    failure::{Outcome, Status},
    render,
};

/// Runs the command. That no worker fits is told, and is no failure: it is what people look for here.
pub(crate) fn run(args: &VersionArgs, config: &Config) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let runtime = super::run::current_thread()?;
    let worker = runtime.block_on(async {
        let fleet = Fleet::new(engine::fleet(&config.settings));
        fleet.worker().await
    });
    if args.json {
        let worker = match worker {
            Ok((path, hello)) => json!({"path": path, "hello": hello}),
            Err(error) => json!({"error": error.to_string()}),
        };
        render::print_json(&json!({"version": version, "worker": worker}))?;
        return Ok(Status::Done);
    }
    let mut output = io::stdout().lock();
    writeln!(output, "aluco   {version}")?;
    match worker {
        Ok((path, hello)) => {
            writeln!(
                output,
                "worker  {} for {} ({}), {}",
                hello.version, hello.backend, hello.cpu_level, hello.engine_build
            )?;
            writeln!(output, "        {}", path.display())?;
            for device in &hello.devices {
                let total = device.total_bytes.map_or_else(String::new, |bytes| {
                    format!(", {}", crate::config::show_size(bytes))
                });
                let (name, what) = (&device.device, &device.description);
                writeln!(output, "        {name}: {what}{total}")?;
            }
        }
        Err(error) => writeln!(output, "worker  none: {error}")?,
    }
    Ok(Status::Done)
}
