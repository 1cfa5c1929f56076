//! `aluco cache verify`: reads everything.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use aluco_prefix::disk::{Damage, DiskError};
use serde::Serialize;

use super::{Shelf, entries, say_empty, shelves};
use crate::{
    cli::CacheVerifyArgs,
    config::show_size,
    failure::{Outcome, Status},
    render::{self, Transfer, say},
};

/// What `--json` writes.
#[derive(Debug, Default, Serialize)]
struct Verified {
    sound_entries: usize,
    sound_bytes: u64,
    damaged: Vec<DamagedFile>,
}

#[derive(Debug, Serialize)]
struct DamagedFile {
    path: PathBuf,
    reason: String,
    deleted: bool,
}

/// Runs the command.
pub(super) fn run(args: &CacheVerifyArgs, root: &Path) -> Outcome {
    let shelves = shelves(root);
    let transfer = Transfer::new();
    let result = verify(&shelves, args.keep, &transfer);
    transfer.clear();
    let verified = result?;
    if args.json {
        render::print_json(&verified)?;
    } else {
        tell(&verified, root)?;
    }
    Ok(if verified.damaged.is_empty() {
        Status::Done
    } else {
        Status::Failed
    })
}

fn verify(shelves: &[Shelf], keep: bool, transfer: &Transfer) -> Outcome<Verified> {
    let all = shelves.iter().flat_map(|shelf| shelf.forest.entries());
    let total: u64 = all.map(|found| found.payload_bytes).sum();
    let mut done = 0;
    let mut verified = Verified::default();
    for shelf in shelves {
        let mut damaged = shelf.damaged.clone();
        for found in shelf.forest.entries() {
            let before = done;
            let result = shelf.folder.verify(&found.entry.key, |bytes| {
                done += bytes;
                transfer.show("verifying", done, total);
            });
            done = before + found.payload_bytes;
            match result {
                Ok(Some(bytes)) => {
                    verified.sound_entries += 1;
                    verified.sound_bytes += bytes;
                }
                // Evicted while this went on.
                Ok(None) => {}
                Err(DiskError::Damaged { path, reason }) => damaged.push(Damage {
                    path,
                    reason,
                    file_bytes: found.file_bytes,
                }),
                Err(error) => return Err(error.into()),
            }
        }
        for damage in damaged {
            if !keep {
                shelf.folder.remove_damaged(&damage)?;
            }
            verified.damaged.push(DamagedFile {
                reason: damage.reason.to_string(),
                path: damage.path,
                deleted: !keep,
            });
        }
    }
    Ok(verified)
}

fn tell(verified: &Verified, root: &Path) -> io::Result<()> {
    let mut output = io::stdout().lock();
    for DamagedFile {
        path,
        reason,
        deleted,
    } in &verified.damaged
    {
        let outcome = if *deleted { "deleted" } else { "kept" };
        writeln!(output, "{}: {reason}; {outcome}", path.display())?;
    }
    output.flush()?;
    match (verified.sound_entries, verified.damaged.len()) {
        (0, 0) => say_empty(root),
        (sound, damaged) => say(&format!(
            "{} ({}) sound, {damaged} damaged",
            entries(sound),
            show_size(verified.sound_bytes)
        )),
    }
    Ok(())
}
