//! What lies on disk of a conversation.

use std::path::Path;

use aluco_prefix::{Key, Kind, disk};
use aluco_proto::Token;

const BLOCK_TOKENS: usize = 256;

/// How many of these tokens a worker that is started now can put back from the one folder below `root`. Where sequences cannot be cut that is
/// the end of a tail.
pub fn tokens_on_disk(root: &Path, tokens: &[Token], is_cut_anywhere: bool) -> usize {
    let folders = disk::folders(root);
    let [info] = &folders[..] else {
        assert!(folders.is_empty(), "{folders:?}");
        return 0;
    };
    let found = info.folder().survey().found;
    let (mut last, mut begin, mut known) = (Key::root(&info.fingerprint, ""), 0, 0);
    loop {
        let rest = &tokens[begin..];
        let below = found.iter().map(|found| &found.entry);
        let tails = below.filter(|it| it.parent == last && it.kind == Kind::Tail);
        let fitting = tails.filter(|tail| rest.starts_with(&tail.tokens));
        let ends = fitting.map(|tail| begin + tail.tokens.len());
        known = ends.fold(known, usize::max);
        let Some(block) = rest.get(..BLOCK_TOKENS) else {
            return known;
        };
        let next = last.child(Kind::Block, block);
        if !found.iter().any(|found| found.entry.key == next) {
            return known;
        }
        last = next;
        begin += BLOCK_TOKENS;
        if is_cut_anywhere {
            known = known.max(begin);
        }
    }
}
