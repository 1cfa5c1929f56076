//! `aluco list`: the models on this machine.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use aluco_model::{Size, StoredModel};

use crate::{
    cli::{PlainArgs, Storing},
    config::Config,
    engine,
    failure::{Outcome, Status},
    render::{self, Column, Table, ago, printable, say},
};

/// Runs the command.
pub(crate) fn run(args: &PlainArgs<Storing>, config: &Config) -> Outcome {
    let models = engine::store(&config.settings).list()?;
    if args.json {
        render::print_json(&models)?;
    } else if models.is_empty() {
        say("no model is on this machine; get one with: aluco pull smollm2:135m");
    } else {
        let table = table(&models, SystemTime::now());
        let columns = render::terminal_columns();
        write!(io::stdout().lock(), "{}", table.render(columns))?;
    }
    Ok(Status::Done)
}

fn table(models: &[StoredModel], now: SystemTime) -> Table {
    let mut table = Table::new([
        Column::long_words("NAME"),
        Column::words("SHORT NAME"),
        Column::numbers("SIZE"),
        Column::words("CAME"),
    ]);
    for model in models {
        table.row([
            printable(&model.name).into_owned(),
            model
                .short_name
                .as_ref()
                .map_or_else(|| "-".to_owned(), ToString::to_string),
            Size(model.size_bytes).to_string(),
            ago(model.modified, now),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aluco_model::ModelSource;

    use super::*;

    #[test]
    fn models_are_told_in_a_table() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let model = |name: &str, size_bytes, age| StoredModel {
            name: name.to_owned(),
            short_name: None,
            source: ModelSource::File,
            files: Vec::new(),
            size_bytes,
            modified: now - Duration::from_secs(age),
        };
        let models = [
            model("smollm2:135m", 98_362_432, 600),
            model("unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M", 18_600_000_000, 864_000),
        ];
        insta::assert_snapshot!(table(&models, now).render(None));
    }
}
