//! `aluco cache pin` and `aluco cache unpin`: what is kept whatever the budget.

use std::path::Path;

use serde::Serialize;

use super::{
    Shelf,
    forest::{self, Index},
    resolve, shelves, short,
};
use crate::{
    cli::CachePinArgs,
    config::show_size,
    failure::{Failure, Outcome, Status},
    render::{self, say, thousands},
};

/// What `--json` writes for each key.
#[derive(Debug, Serialize)]
struct Changed {
    key: String,
    pinned: bool,
    /// Entries whose pins changed.
    entries: usize,
}

/// Runs the command.
pub(super) fn run(args: &CachePinArgs, root: &Path, pinned: bool) -> Outcome {
    let shelves = shelves(root);
    let mut chosen = Vec::new();
    for key in &args.keys {
        let (number, index) = resolve(&shelves, key)?;
        let shelf = &shelves[number];
        if pinned && !shelf.forest.is_whole(index) {
            return Err(Failure::new(format!(
                "{} has lost its beginning and is of no use",
                short(&shelf.key(index))
            ))
            .advise(format!("delete it with: aluco cache rm {key}")));
        }
        chosen.push((shelf, index));
    }
    let mut changed = Vec::new();
    for (shelf, index) in chosen {
        let entries = set(shelf, index, pinned)?;
        let key = shelf.key(index);
        if !args.json {
            tell(shelf, index, pinned);
        }
        changed.push(Changed {
            key,
            pinned,
            entries,
        });
    }
    if args.json {
        render::print_json(&changed)?;
    }
    Ok(Status::Done)
}

/// Pins an entry with all above it, or frees it with whatever was pinned only for it. Gives how many have changed.
fn set(shelf: &Shelf, index: Index, pinned: bool) -> Outcome<usize> {
    let affected: Vec<Index> = if pinned {
        shelf.forest.chain(index).collect()
    } else {
        shelf.forest.unpinned_with(&[index])
    };
    let mut changed = 0;
    for index in affected {
        let found = shelf.forest.get(index);
        if found.pinned != pinned {
            shelf.folder.pin(&found.entry.key, pinned)?;
            changed += 1;
        }
    }
    Ok(changed)
}

fn tell(shelf: &Shelf, index: Index, pinned: bool) {
    let key = short(&shelf.key(index));
    if pinned {
        let chain = shelf.forest.chain(index);
        let bytes: u64 = chain.map(|index| shelf.forest.get(index).file_bytes).sum();
        say(&format!(
            "pinned {key}: {} tokens, {}",
            thousands(forest::end(shelf.forest.get(index)).into()),
            show_size(bytes)
        ));
    } else {
        say(&format!("unpinned {key}"));
    }
}
