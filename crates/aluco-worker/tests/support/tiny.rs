//! Tiny models of every kind of memory.

use std::{fs, path::PathBuf};

use aluco_proto::{LoadOptions, Speculation};
pub use aluco_tiny_models::Kind;

/// The file of a tiny model, written if it is not there yet.
pub fn path(kind: Kind) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{kind}.gguf"));
    // Test processes run side by side: each writes its own, and the last one stays.
    let mine = folder.join(format!("{kind}.{}.gguf", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    aluco_tiny_models::write(kind, &mine).unwrap();
    fs::rename(&mine, &path).unwrap();
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
