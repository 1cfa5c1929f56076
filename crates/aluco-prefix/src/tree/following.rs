//! Walking the tree by something other than token ids, such as the text that tokens spell.

use aluco_proto::Token;

use super::{Tree, common_length};
use crate::{Key, Kind};

/// How far a walk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// What the tokens so far cover of what is looked for: bytes of a text, say.
    pub covered: usize,
    /// Tokens so far.
    pub tokens: usize,
}

/// Stored tokens that agree with what was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Followed {
    /// The tokens, from position 0 on.
    pub tokens: Vec<Token>,
    /// What they cover.
    pub covered: usize,
    /// True if they end where an entry ends: a sequence was there, and did not just go another way.
    pub ends_entry: bool,
}

/// An entry that agrees, at least with its first token.
#[derive(Debug)]
struct Agreeing {
    key: Key,
    kind: Kind,
    /// Its tokens that agree.
    tokens: Vec<Token>,
    /// Where they end.
    end: Place,
    /// True if that is all of them.
    is_whole: bool,
}

/// The longest stored path below `root` of which `step` says, token by token, that it agrees: given the place before a token, it tells
/// how much is covered with it. The tree is asked for one node at a time, so that it may be locked for a short time each.
pub(crate) fn follow<T: std::ops::Deref<Target = Tree>>(
    tree: impl Fn() -> T,
    root: &Key,
    step: impl Fn(Place, Token) -> Option<usize>,
) -> Followed {
    // Entries on the way to others, each with the one above it.
    let mut passed: Vec<(Option<usize>, Vec<Token>)> = Vec::new();
    let mut open = vec![(*root, Place::default(), None)];
    let mut best = (Place::default(), false, None, Vec::new());
    while let Some((key, begin, above)) = open.pop() {
        let agreeing = tree().agreeing(&key, begin, &step);
        for entry in agreeing {
            if (entry.end, entry.is_whole) > (best.0, best.1) {
                best = (entry.end, entry.is_whole, above, entry.tokens.clone());
            }
            if entry.is_whole && entry.kind == Kind::Block {
                passed.push((above, entry.tokens));
                open.push((entry.key, entry.end, Some(passed.len() - 1)));
            }
        }
    }
    let (end, ends_entry, mut above, last) = best;
    let mut pieces = vec![last];
    while let Some(index) = above {
        let (next, tokens) = &mut passed[index];
        pieces.push(std::mem::take(tokens));
        above = *next;
    }
    pieces.reverse();
    Followed {
        tokens: pieces.concat(),
        covered: end.covered,
        ends_entry,
    }
}

impl Tree {
    /// Stored children of a node that agree from `begin` on: whole blocks, which may be followed further, and of the others the longest.
    fn agreeing(
        &self,
        parent: &Key,
        begin: Place,
        step: impl Fn(Place, Token) -> Option<usize>,
    ) -> Vec<Agreeing> {
        // Siblings begin alike: what was asked about one need not be asked about the next.
        let (mut sibling, mut places): (&[Token], Vec<Place>) = (&[], vec![begin]);
        let mut found: Vec<Agreeing> = Vec::new();
        let mut longest: Option<Agreeing> = None;
        for node in self.children(parent).filter(|node| !node.is_ghost()) {
            let tokens = &*node.entry.tokens;
            let shared = common_length(tokens, sibling);
            let disagrees_likewise = shared >= places.len();
            places.truncate(shared + 1);
            sibling = tokens;
            let mut place = *places.last().unwrap_or(&begin);
            for token in tokens.iter().skip(places.len() - 1) {
                if disagrees_likewise {
                    break;
                }
                let Some(covered) = step(place, *token) else {
                    break;
                };
                place = Place {
                    covered,
                    tokens: place.tokens + 1,
                };
                places.push(place);
            }
            let agreeing = places.len() - 1;
            if agreeing == 0 {
                continue;
            }
            let is_whole = agreeing == tokens.len();
            let is_followed = is_whole && node.entry.kind == Kind::Block;
            let is_longest = longest
                .as_ref()
                .is_none_or(|other| (place, is_whole) > (other.end, other.is_whole));
            if is_followed || is_longest {
                let entry = Agreeing {
                    key: node.entry.key,
                    kind: node.entry.kind,
                    tokens: tokens[..agreeing].to_vec(),
                    end: place,
                    is_whole,
                };
                if is_followed {
                    found.push(entry);
                } else {
                    longest = Some(entry);
                }
            }
        }
        found.extend(longest);
        found
    }
}

#[cfg(test)]
mod tests;
