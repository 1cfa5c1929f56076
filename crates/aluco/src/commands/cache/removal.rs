//! `aluco cache rm`: deletes stored conversations.

use std::{path::Path, time::SystemTime};

use serde::Serialize;

use super::{
    super::rm::confirmed, Shelf, conversations, entries, forest::Index, resolve, say_empty,
    shelves, shelves_of,
};
use crate::{
    cli::CacheRmArgs,
    config::{Settings, show_size},
    failure::{Outcome, Status},
    render::{self, say},
};

/// What `--json` writes.
#[derive(Debug, Default, Serialize)]
struct Deleted {
    conversations: usize,
    entries: usize,
    freed_bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &CacheRmArgs, settings: &Settings) -> Outcome {
    let root = &settings.cache_folder;
    let shelves = if args.keys.is_empty() {
        shelves_of(settings, args.model.as_deref())?
    } else {
        shelves(root)
    };
    let doomed = doomed(args, &shelves, SystemTime::now())?;
    let mut planned = Deleted::default();
    let mut pinned = 0;
    for (shelf, indices) in shelves.iter().zip(&doomed) {
        let leaves: Vec<Index> = shelf.forest.leaves().collect();
        for index in indices {
            let found = shelf.forest.get(*index);
            planned.entries += 1;
            planned.conversations += usize::from(leaves.binary_search(index).is_ok());
            planned.freed_bytes += found.file_bytes;
            pinned += usize::from(found.pinned);
        }
    }
    // Files that cannot be believed belong to no conversation, but to the folder.
    let everything = args.keys.is_empty() && args.older_than.is_none();
    let mut damaged = shelves.iter().flat_map(|shelf| &shelf.damaged);
    if planned.entries == 0 && !(everything && damaged.next().is_some()) {
        return nothing(args, root, &shelves);
    }
    let what = format!(
        "{} ({}{})",
        conversations(planned.conversations),
        show_size(planned.freed_bytes),
        match pinned {
            0 => String::new(),
            count => format!(", {} pinned", entries(count)),
        }
    );
    if !args.yes && !confirmed(&what)? {
        say("nothing was deleted");
        return Ok(Status::Failed);
    }
    let mut deleted = Deleted {
        freed_bytes: 0,
        ..planned
    };
    for (shelf, indices) in shelves.iter().zip(&doomed) {
        for index in indices {
            let key = &shelf.forest.get(*index).entry.key;
            deleted.freed_bytes += shelf.folder.remove(key)?;
        }
        if everything {
            for damage in &shelf.damaged {
                deleted.freed_bytes += shelf.folder.remove_damaged(damage)?;
            }
        }
        if !indices.is_empty() || everything {
            shelf.folder.remove_if_empty();
        }
    }
    if args.json {
        render::print_json(&deleted)?;
    } else {
        say(&format!(
            "deleted {}, {} are free again",
            conversations(deleted.conversations),
            show_size(deleted.freed_bytes)
        ));
    }
    Ok(Status::Done)
}

/// What is to go from each shelf, in an order in which nothing goes before what hangs below it.
fn doomed(args: &CacheRmArgs, shelves: &[Shelf], now: SystemTime) -> Outcome<Vec<Vec<Index>>> {
    if let Some(age) = args.older_than {
        let time = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = shelves.iter().map(|shelf| shelf.forest.unused_since(time));
        return Ok(unused.collect());
    }
    let mut asked = vec![Vec::new(); shelves.len()];
    if args.keys.is_empty() {
        for (shelf, asked) in shelves.iter().zip(&mut asked) {
            asked.extend(0..shelf.forest.entries().len());
        }
    }
    // All of them, or if one is not there, none.
    for key in &args.keys {
        let (number, index) = resolve(shelves, key)?;
        asked[number].push(index);
    }
    Ok(shelves
        .iter()
        .zip(asked)
        .map(|(shelf, asked)| shelf.forest.with_what_depends(&asked))
        .collect())
}

fn nothing(args: &CacheRmArgs, root: &Path, shelves: &[Shelf]) -> Outcome {
    let is_empty = |shelf: &Shelf| shelf.forest.entries().is_empty();
    if args.json {
        render::print_json(&Deleted::default())?;
    } else if shelves.iter().all(is_empty) {
        say_empty(root);
    } else {
        say("nothing unpinned is as old as that");
    }
    for shelf in shelves.iter().filter(|shelf| is_empty(shelf)) {
        shelf.folder.remove_if_empty();
    }
    Ok(Status::Done)
}
