//! `aluco bench`: prefill and decode, measured in a worker as llama-bench does.

mod plan;
mod report;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use aluco_fleet::Fleet;
use aluco_proto::BenchSpec;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::{BenchArgs, BenchFormat},
    config::Config,
    engine,
    failure::{Failure, Outcome, Status},
    render,
    signals::Signals,
};
use report::Record;

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, config: &Config) -> Outcome {
    let settings = &config.settings;
    let plan = plan::of(args, &settings.load).map_err(Failure::usage)?;
    let model = super::run::absolute(&args.model)?;
    let runtime = super::run::current_thread()?;
    runtime.block_on(async {
        let fleet = Fleet::new(engine::fleet(settings));
        measure(args, &fleet, &model, plan).await
    })
}

async fn measure(args: &BenchArgs, fleet: &Fleet, model: &str, plan: Vec<BenchSpec>) -> Outcome {
    let mut signals = Signals::new()?;
    let stored = fleet.store().find(model)?;
    let file = stored.files.first().map_or(Path::new(model), |file| file);
    let bar = bar(&plan);
    let mut records = Vec::new();
    let mut outcome = Ok(Status::Done);
    for spec in plan {
        let flash_attention = spec.options.flash_attention;
        let gpu_layers = spec.options.gpu_layers;
        let (kv_k, kv_v) = (spec.options.kv_type_k, spec.options.kv_type_v);
        let before = bar.position();
        let measuring = fleet.bench(model, spec, |done, _| {
            bar.set_position(before + u64::from(done));
        });
        let report = tokio::select! {
            biased;
            () = signals.next() => {
                outcome = Ok(Status::Interrupted);
                break;
            }
            report = measuring => report,
        };
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                outcome = Err(error.into());
                break;
            }
        };
        for result in &report.tests {
            records.push(Record::new(
                &report,
                result,
                file,
                (kv_k, kv_v),
                flash_attention,
                gpu_layers,
            ));
        }
    }
    bar.finish_and_clear();
    let format = if args.json {
        BenchFormat::Json
    } else {
        args.output
    };
    // What was measured before a failure or Ctrl-C took its time too.
    if !records.is_empty() {
        write(format, &records)?;
    }
    outcome
}

fn write(format: BenchFormat, records: &[Record]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match format {
        BenchFormat::Json => {
            drop(output);
            return render::print_json(&records);
        }
        BenchFormat::Jsonl => {
            for record in records {
                writeln!(output, "{}", serde_json::to_string(record)?)?;
            }
        }
        BenchFormat::Csv => write!(output, "{}", report::csv(records))?,
        BenchFormat::Md => write!(output, "{}", report::markdown(records))?,
        BenchFormat::Table => {
            let columns = render::terminal_columns();
            write!(output, "{}", report::table(records).render(columns))?;
        }
    }
    output.flush()
}

/// A bar over all repetitions, on a terminal only: elsewhere nobody sees it.
fn bar(plan: &[BenchSpec]) -> ProgressBar {
    let total = plan
        .iter()
        .map(|spec| spec.tests.len() as u64 * u64::from(spec.repetitions))
        .sum();
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("measuring {wide_bar:.dim} {pos}/{len} repetitions")
        .expect("the template is well-formed");
    let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
    bar.tick();
    bar
}
