//! What is kept of a model's prompts, and where: decided once, when it is loaded.

use std::path::Path;

use aluco_prefix::{Cut, DiskOptions, Fingerprint, Store, StoreOptions, disk};
use aluco_proto::LoadOptions;

use crate::{
    ffi::{Context, Engine, Model},
    finding, fingerprint,
    memory::{Archive, MemoryClass},
};

/// Tokens of a block of the prefix store.
const BLOCK_TOKENS: usize = 256;

/// The share of the machine's memory that stored prompts may have unless asked otherwise, and most bytes of it.
const RAM_SHARE: u64 = 16;
const RAM_BYTES_MAX: u64 = 8 << 30;

/// The same for the file system.
const DISK_SHARE: u64 = 5;
const DISK_BYTES_MAX: u64 = 64 << 30;

/// Less room than this keeps few conversations of any model.
const DISK_BYTES_USEFUL: u64 = 4 << 30;

/// Finds out how the memory of a model can be kept, and opens the store of its prompts.
pub(crate) fn open(
    engine: Engine,
    model: &Model,
    context: &mut Context,
    path: &Path,
    options: &LoadOptions,
) -> (Archive, Option<Store>) {
    let ram_bytes = options.cache.ram_bytes.unwrap_or_else(default_ram_bytes);
    if ram_bytes == 0 && options.cache.device_tokens == Some(0) {
        return (Archive::off(), None);
    }
    if ram_bytes == 0 {
        return (Archive::probe(context), None);
    }
    let (fingerprint, facts) = match fingerprint::of(engine, model, path, options) {
        Ok(found) => found,
        Err(error) => {
            // The model was read a moment ago, so this is worth a word.
            tracing::warn!(
                "prompts are not stored, since {} could not be read again: {error}",
                path.display()
            );
            return (Archive::probe(context), None);
        }
    };
    let disk = options.cache.folder.clone().and_then(|root| {
        let bytes = options
            .cache
            .disk_bytes
            .unwrap_or_else(|| default_disk_bytes(&root));
        (bytes > 0).then_some(DiskOptions { root, bytes })
    });
    let (archive, to_note) = find_out(context, options, disk.as_ref(), &fingerprint);
    if archive.class() == MemoryClass::Off {
        return (archive, None);
    }
    let (store, error) = Store::open(StoreOptions {
        fingerprint,
        facts,
        block_tokens: match archive.class() {
            MemoryClass::Whole => usize::MAX,
            _ => BLOCK_TOKENS,
        },
        cut: match archive.class() {
            MemoryClass::Blocks => Cut::Anywhere,
            _ => Cut::Tails,
        },
        ram_bytes,
        disk,
    });
    if let Some(error) = error {
        tracing::warn!("prompts are kept in memory alone: {error}");
    }
    if let Some(text) = to_note
        && let Err(error) = store.write_note(&text)
    {
        tracing::debug!("the memory will be probed at the next load too: {error}");
    }
    if let Some(difference) = store.computed_otherwise() {
        tracing::info!(
            "prompts of this model lie on disk that were computed otherwise and cannot be used: {difference}"
        );
    }
    (archive, Some(store))
}

/// How the memory of a model can be kept, by what an earlier load noted or else by a probe; and what is to be noted for later loads.
fn find_out(
    context: &mut Context,
    options: &LoadOptions,
    disk: Option<&DiskOptions>,
    fingerprint: &Fingerprint,
) -> (Archive, Option<String>) {
    let best = disk.and_then(|_| finding::best(context, options));
    if let (Some(disk), Some((class, text))) = (disk, &best)
        && disk::read_note(&disk.root, fingerprint).as_ref() == Some(text)
        && let Some(archive) = Archive::as_found(context)
    {
        tracing::info!("prompts are kept as {}, as noted", class.name());
        return (archive, None);
    }
    let archive = Archive::probe(context);
    tracing::info!("prompts are kept as {}, as probed", archive.class().name());
    let to_note = best.filter(|(class, _)| *class == archive.class());
    (archive, to_note.map(|(_, text)| text))
}

/// A sixteenth of the machine's memory, at most 8 GiB.
fn default_ram_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    total.map_or(0, |kib| (kib * 1024 / RAM_SHARE).min(RAM_BYTES_MAX))
}

/// A fifth of what is free where the folder is, or was before it filled up, at most 64 GiB. Says so if that is next to nothing.
fn default_disk_bytes(root: &Path) -> u64 {
    let used: u64 = disk::folders(root).iter().map(|folder| folder.bytes).sum();
    let space = disk::free_bytes(root).unwrap_or(0) + used;
    if let Some(warning) = scarcity(root, space) {
        tracing::warn!("{warning}");
    }
    (space / DISK_SHARE).min(DISK_BYTES_MAX)
}

/// What to say of a disk so full that the share of its room keeps next to nothing.
fn scarcity(root: &Path, space: u64) -> Option<String> {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    (space / DISK_SHARE < DISK_BYTES_USEFUL).then(|| {
        format!(
            "stored prompts get only {:.1} GiB of disk, a fifth of the {:.1} GiB that {} has room for; free some, or set what they may take, \
             as in --cache-disk 16GiB",
            gib(space / DISK_SHARE),
            gib(space),
            root.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_nearly_full_is_told_with_its_numbers() {
        let root = Path::new("/var/cache/aluco");
        assert_eq!(scarcity(root, 20 << 30), None);
        let warning = scarcity(root, 5 << 30).unwrap();
        assert!(
            warning.starts_with(
                "stored prompts get only 1.0 GiB of disk, a fifth of the 5.0 GiB that /var/cache/aluco has room for"
            ),
            "{warning}"
        );
    }
}
