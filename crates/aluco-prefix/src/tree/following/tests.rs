use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::{Cut, Fingerprint, Origin, tree::Payload};

const BLOCK: usize = 4;

/// Tokens that spell one text in many ways.
const SPELLINGS: [&str; 6] = ["a", "b", "ab", "ba", "aab", "abba"];

fn root() -> Key {
    Key::root(&Fingerprint::of([]), "")
}

fn store(tree: &mut Tree, tokens: &[Token]) {
    let whole = tokens.len() / BLOCK * BLOCK;
    let ends = (BLOCK..=whole).step_by(BLOCK).map(|end| (end, Kind::Block));
    let tail = (tokens.len() > whole).then_some((tokens.len(), Kind::Tail));
    for (end, kind) in ends.chain(tail) {
        let entry = tree.entry(&root(), &tokens[..end], kind);
        assert!(tree.insert(entry, Payload::new(vec![1]), Origin::New));
    }
}

fn spell(tokens: &[Token]) -> String {
    tokens
        .iter()
        .map(|token| SPELLINGS[*token as usize])
        .collect()
}

fn agrees(text: &str, place: Place, token: Token) -> Option<usize> {
    let spelling = SPELLINGS[token as usize];
    text[place.covered..]
        .starts_with(spelling)
        .then_some(place.covered + spelling.len())
}

fn find(tree: &Tree, text: &str) -> Followed {
    follow(|| tree, &root(), |place, token| agrees(text, place, token))
}

fn sequences() -> impl Strategy<Value = Vec<Vec<Token>>> {
    let token = 0..SPELLINGS.len() as Token;
    prop::collection::vec(prop::collection::vec(token, 1..20), 1..12)
}

proptest! {
    #[test]
    fn the_longest_stored_spelling_of_a_text_is_found(
        stored in sequences(),
        other in sequences(),
        pick in any::<prop::sample::Index>(),
    ) {
        let mut tree = Tree::new(BLOCK, Cut::Tails, 1 << 20);
        for tokens in &stored {
            store(&mut tree, tokens);
        }
        // A text that was stored in some spelling, and one that need not have been.
        for text in [spell(&stored[pick.index(stored.len())]), spell(&other.concat())] {
            let found = find(&tree, &text);
            prop_assert_eq!(spell(&found.tokens), &text[..found.covered]);
            let longest = stored.iter().map(|tokens| {
                let mut covered = 0;
                for token in tokens {
                    let place = Place { covered, tokens: 0 };
                    match agrees(&text, place, *token) {
                        Some(next) => covered = next,
                        None => break,
                    }
                }
                covered
            });
            prop_assert_eq!(Some(found.covered), longest.max());
            let is_stored = stored.iter().any(|tokens| {
                tokens.starts_with(&found.tokens)
                    && (found.tokens.len() == tokens.len() || found.tokens.len().is_multiple_of(BLOCK))
            });
            prop_assert!(!found.ends_entry || is_stored);
        }
    }
}

#[test]
fn an_end_of_an_entry_is_told_from_another_way() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 1 << 20);
    store(&mut tree, &[2, 2, 2, 0, 1, 1]);
    let found = find(&tree, "abababab");
    assert_eq!(
        (found.tokens.as_slice(), found.covered),
        (&[2, 2, 2, 0, 1][..], 8)
    );
    assert!(!found.ends_entry);
    let found = find(&tree, "abababaaaa");
    assert_eq!(
        (found.tokens.as_slice(), found.covered),
        (&[2, 2, 2, 0][..], 7)
    );
    assert!(found.ends_entry);
    assert_eq!(find(&tree, "bb"), Followed::default());
}

#[test]
fn what_siblings_begin_with_is_looked_at_once() {
    let mut tree = Tree::new(100, Cut::Anywhere, 1 << 20);
    let beginning = [0; 50];
    for sibling in 0..1000 {
        let number = (0..10).map(|bit| 1 + (sibling >> bit & 1));
        let tokens: Vec<Token> = beginning.into_iter().chain(number).collect();
        store(&mut tree, &tokens);
    }
    let steps = Cell::new(0);
    let text = "a".repeat(50) + "xyz";
    let found = follow(
        || &tree,
        &root(),
        |place, token| {
            steps.set(steps.get() + 1);
            agrees(&text, place, token)
        },
    );
    assert_eq!(found.covered, 50);
    assert!(steps.get() <= 50 + 1000, "{} steps", steps.get());
}

#[test]
fn what_is_not_stored_any_more_is_not_followed() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 3);
    store(&mut tree, &[0, 0]);
    assert_eq!(find(&tree, "aa").covered, 2);
    for first in 1..4 {
        store(&mut tree, &[first, 0]);
    }
    assert_eq!(find(&tree, "aa"), Followed::default());
}
