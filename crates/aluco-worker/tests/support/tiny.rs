//! Tiny models of every kind of memory.

use std::{fs, path::PathBuf};

use aluco_proto::{LoadOptions, Speculation};
pub use aluco_tiny_models::Kind;

/// The file of a tiny model, written anew.
pub fn path(kind: Kind) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{kind}.gguf"));
    fs::create_dir_all(&folder).unwrap();
    // Tests run side by side, in threads or processes: each writes its own, and the last one stays.
    let mine = tempfile::NamedTempFile::new_in(&folder)
        .unwrap()
        .into_temp_path();
    aluco_tiny_models::write(kind, &mine).unwrap();
    mine.persist(&path).unwrap();
    path
}

/// Whether the state of this kind can be cut at any token.
pub fn is_cut_anywhere(kind: Kind) -> bool {
    matches!(kind, Kind::FullAttention | Kind::Moe)
}

/// A context of so many tokens, on one thread, for steps that are always the same.
pub fn options(context_tokens: u32) -> LoadOptions {
    LoadOptions {
        context_tokens: Some(context_tokens),
        threads: Some(1),
        speculation: Speculation::Off,
        ..LoadOptions::default()
    }
}
