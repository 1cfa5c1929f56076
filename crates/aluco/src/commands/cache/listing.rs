//! `aluco cache ls`: the stored conversations.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use serde::Serialize;

use super::{
    Shelf,
    forest::{self, Index},
    say_empty, shelves_of, short,
};
use crate::{
    cli::CacheLsArgs,
    config::{Settings, show_size},
    failure::{Outcome, Status},
    render::{self, Column, Table, ago, thousands},
};

/// A stored conversation. What `--json` writes for each.
#[derive(Debug, Serialize)]
struct Conversation {
    /// Key of its last entry.
    key: String,
    model: String,
    fingerprint: String,
    /// From the first token of the sequence on.
    tokens: u32,
    /// Of all its entries.
    bytes: u64,
    /// Of those that no other conversation begins with.
    own_bytes: u64,
    #[serde(serialize_with = "aluco_model::rfc3339::serialize")]
    used_at: SystemTime,
    /// Tokens that are kept whatever the budget, from the first on.
    pinned_tokens: u32,
    /// False if its beginning is gone, so that it is of no use.
    whole: bool,
}

/// Runs the command.
pub(super) fn run(args: &CacheLsArgs, settings: &Settings) -> Outcome {
    let shelves = shelves_of(settings, args.model.as_deref())?;
    let mut conversations: Vec<Conversation> = shelves
        .iter()
        .flat_map(|shelf| shelf.forest.leaves().map(|leaf| conversation(shelf, leaf)))
        .collect();
    conversations.sort_by(|a, b| b.used_at.cmp(&a.used_at).then_with(|| a.key.cmp(&b.key)));
    if args.json {
        render::print_json(&conversations)?;
    } else if conversations.is_empty() {
        say_empty(&settings.cache_folder);
    } else {
        let table = table(&conversations, SystemTime::now());
        let columns = render::terminal_columns();
        write!(io::stdout().lock(), "{}", table.render(columns))?;
    }
    Ok(Status::Done)
}

fn conversation(shelf: &Shelf, leaf: Index) -> Conversation {
    let forest = &shelf.forest;
    let found = forest.get(leaf);
    let bytes = forest.chain(leaf).map(|index| forest.get(index).file_bytes);
    Conversation {
        key: shelf.key(leaf),
        model: shelf.model().to_owned(),
        fingerprint: shelf.folder.fingerprint().to_string(),
        tokens: forest::end(found),
        bytes: bytes.sum(),
        own_bytes: forest.own_bytes(leaf),
        used_at: found.used_at,
        pinned_tokens: forest.pinned_tokens(leaf),
        whole: forest.is_whole(leaf),
    }
}

fn table(conversations: &[Conversation], now: SystemTime) -> Table {
    let mut table = Table::new([
        Column::words("KEY"),
        Column::long_words("MODEL"),
        Column::numbers("TOKENS"),
        Column::numbers("OWN SIZE"),
        Column::words("USED"),
        Column::words("PINNED"),
    ]);
    for conversation in conversations {
        let Conversation { tokens, .. } = *conversation;
        let pinned = match conversation.pinned_tokens {
            _ if !conversation.whole => "no beginning".to_owned(),
            0 => "-".to_owned(),
            pinned if pinned >= tokens => "yes".to_owned(),
            pinned => format!("first {}", thousands(pinned.into())),
        };
        table.row([
            short(&conversation.key),
            conversation.model.clone(),
            thousands(tokens.into()),
            show_size(conversation.own_bytes),
            ago(conversation.used_at, now),
            pinned,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aluco_prefix::{Fingerprint, disk::Folder};

    use super::{
        super::forest::{Forest, tests::entries},
        *,
    };

    #[test]
    fn conversations_are_told_in_a_table() {
        let root = tempfile::tempdir().unwrap();
        let facts = [("model".to_owned(), "smollm2:135m".to_owned())];
        let folder = Folder::open(root.path(), Fingerprint::of([]), &facts).unwrap();
        let mut entries = entries();
        for (index, pinned) in [(0, true), (1, true), (2, true), (5, false)] {
            entries[index].pinned = pinned;
            entries[index].file_bytes = 3_456_789;
        }
        let shelf = Shelf {
            folder,
            forest: Forest::new(entries),
            damaged: Vec::new(),
        };
        let leaves = shelf.forest.leaves();
        let conversations: Vec<_> = leaves.map(|leaf| conversation(&shelf, leaf)).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        insta::assert_snapshot!(table(&conversations, now).render(None));
        insta::assert_json_snapshot!(conversations[1]);
    }
}
