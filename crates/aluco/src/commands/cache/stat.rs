//! `aluco cache stat`: what is stored for each model.

use std::{
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use aluco_prefix::disk;
use serde::Serialize;

use super::{Shelf, entries, say_empty, shelves};
use crate::{
    cli::CacheStatArgs,
    config::show_size,
    failure::{Outcome, Status},
    render::{self, Column, Table, ago, say, thousands},
};

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct Statistics {
    folder: String,
    bytes: u64,
    /// Room left on its file system; null if that cannot be told.
    free_bytes: Option<u64>,
    models: Vec<Stored>,
}

/// What is stored for one fingerprint.
#[derive(Debug, Serialize)]
struct Stored {
    model: String,
    fingerprint: String,
    /// What the fingerprint was made from.
    facts: Vec<(String, String)>,
    conversations: usize,
    entries: usize,
    /// Those with something gone above them.
    useless_entries: usize,
    damaged_files: usize,
    tokens: u64,
    bytes: u64,
    pinned_bytes: u64,
    #[serde(serialize_with = "aluco_model::rfc3339::serialize_option")]
    oldest: Option<SystemTime>,
    #[serde(serialize_with = "aluco_model::rfc3339::serialize_option")]
    newest: Option<SystemTime>,
}

/// Runs the command.
pub(super) fn run(args: &CacheStatArgs, root: &Path) -> Outcome {
    let shelves = shelves(root);
    let full = shelves.iter().filter(|shelf| !shelf.is_empty());
    let models: Vec<Stored> = full.map(stored).collect();
    let statistics = Statistics {
        folder: root.display().to_string(),
        bytes: models.iter().map(|stored| stored.bytes).sum(),
        free_bytes: disk::free_bytes(root).ok(),
        models,
    };
    if args.json {
        render::print_json(&statistics)?;
        return Ok(Status::Done);
    }
    if statistics.models.is_empty() {
        say_empty(root);
        return Ok(Status::Done);
    }
    let table = table(&statistics.models, SystemTime::now());
    let columns = render::terminal_columns();
    write!(io::stdout().lock(), "{}", table.render(columns))?;
    for line in remarks(&statistics) {
        say(&line);
    }
    Ok(Status::Done)
}

fn stored(shelf: &Shelf) -> Stored {
    let forest = &shelf.forest;
    let found = forest.entries();
    let useless = (0..found.len()).filter(|index| !forest.is_whole(*index));
    let pinned = found.iter().filter(|found| found.pinned);
    let damaged_bytes: u64 = shelf.damaged.iter().map(|damage| damage.file_bytes).sum();
    Stored {
        model: shelf.model().to_owned(),
        fingerprint: shelf.folder.fingerprint().to_string(),
        facts: shelf.folder.manifest().facts.clone(),
        conversations: forest.leaves().count(),
        entries: found.len(),
        useless_entries: useless.count(),
        damaged_files: shelf.damaged.len(),
        tokens: found.iter().map(|f| f.entry.tokens.len() as u64).sum(),
        bytes: found.iter().map(|f| f.file_bytes).sum::<u64>() + damaged_bytes,
        pinned_bytes: pinned.map(|found| found.file_bytes).sum(),
        oldest: found.iter().map(|found| found.used_at).min(),
        newest: found.iter().map(|found| found.used_at).max(),
    }
}

fn table(models: &[Stored], now: SystemTime) -> Table {
    let mut table = Table::new([
        Column::long_words("MODEL"),
        Column::numbers("ENTRIES"),
        Column::numbers("TOKENS"),
        Column::numbers("SIZE"),
        Column::words("OLDEST"),
        Column::words("NEWEST"),
    ]);
    let when = |time: Option<SystemTime>| time.map_or_else(|| "-".into(), |time| ago(time, now));
    for stored in models {
        table.row([
            stored.model.clone(),
            thousands(stored.entries as u64),
            thousands(stored.tokens),
            show_size(stored.bytes),
            when(stored.oldest),
            when(stored.newest),
        ]);
    }
    table
}

fn remarks(statistics: &Statistics) -> Vec<String> {
    let sum = |count: fn(&Stored) -> u64| statistics.models.iter().map(count).sum::<u64>();
    let mut lines = vec![format!(
        "{} in {}{}",
        show_size(statistics.bytes),
        statistics.folder,
        statistics
            .free_bytes
            .map_or_else(String::new, |free| format!("; {} free", show_size(free)))
    )];
    let pinned = sum(|stored| stored.pinned_bytes);
    if pinned > 0 {
        lines.push(format!("{} of it pinned", show_size(pinned)));
    }
    let useless = sum(|stored| stored.useless_entries as u64);
    if useless > 0 {
        lines.push(format!(
            "of no use because their beginning is gone: {}",
            entries(useless as usize)
        ));
    }
    let damaged = sum(|stored| stored.damaged_files as u64);
    if damaged > 0 {
        lines.push(format!(
            "damaged files: {damaged}; delete them with: aluco cache verify"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aluco_prefix::{Fingerprint, disk::Folder};

    use super::{
        super::forest::{Forest, tests::entries as seven},
        *,
    };

    #[test]
    fn what_is_stored_is_told_in_a_table_and_remarks() {
        let root = tempfile::tempdir().unwrap();
        let facts = [("model".to_owned(), "smollm2:135m".to_owned())];
        let folder = Folder::open(root.path(), Fingerprint::of([]), &facts).unwrap();
        let mut entries = seven();
        entries[0].pinned = true;
        entries[5].file_bytes = 5 << 20;
        let shelf = |entries| Shelf {
            folder: folder.clone(),
            forest: Forest::new(entries),
            damaged: Vec::new(),
        };
        let models = vec![stored(&shelf(entries)), stored(&shelf(Vec::new()))];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let statistics = Statistics {
            folder: "/home/owl/.cache/aluco/prefix".to_owned(),
            bytes: 5 << 20,
            free_bytes: Some(3 << 40),
            models,
        };
        let text = table(&statistics.models, now).render(None) + &remarks(&statistics).join("\n");
        insta::assert_snapshot!(text);
        insta::assert_json_snapshot!(statistics.models[0]);
    }
}
