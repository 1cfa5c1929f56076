use proptest::prelude::*;

use super::*;
use crate::Fingerprint;

const BLOCK: usize = 4;

fn root() -> Key {
    Key::root(&Fingerprint::of([]), "")
}

fn payload(bytes: usize) -> Payload {
    Payload::new(vec![7; bytes])
}

fn find(tree: &Tree, root: &Key, tokens: &[Token]) -> Path {
    tree.find(root, tokens, |_| true)
}

/// Stores all whole blocks of `tokens`, and the tail if asked.
fn store(tree: &mut Tree, tokens: &[Token], tail: bool, origin: Origin) -> bool {
    let whole = tokens.len() / BLOCK;
    let blocks = (1..=whole).all(|count| {
        let entry = tree.entry(&root(), &tokens[..count * BLOCK], Kind::Block);
        tree.insert(entry, payload(100), origin)
    });
    blocks
        && (!tail || {
            let entry = tree.entry(&root(), tokens, Kind::Tail);
            tree.insert(entry, payload(100), origin)
        })
}

fn sequence(length: usize, seed: Token) -> Vec<Token> {
    (0..length as Token)
        .map(|token| token * 31 + seed)
        .collect()
}

#[test]
fn a_smaller_budget_first_costs_what_lies_on_disk_too() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let (read_again, computed_again) = (sequence(8, 1), sequence(8, 1000));
    assert!(store(&mut tree, &read_again, false, Origin::Returning));
    assert!(store(&mut tree, &computed_again, false, Origin::New));
    for end in [BLOCK, 2 * BLOCK] {
        let entry = tree.entry(&root(), &read_again[..end], Kind::Block);
        tree.written(&entry.key);
    }
    tree.resize(200);
    while tree.shed() {}
    assert_eq!((tree.ram_bytes(), tree.ram_bytes_max()), (200, 200));
    let in_memory = |tree: &Tree, tokens: &[Token]| tree.find(&root(), tokens, |_| false).tokens;
    assert_eq!(in_memory(&tree, &read_again), 0);
    assert_eq!(in_memory(&tree, &computed_again), 8);
    assert_eq!(find(&tree, &root(), &read_again).tokens, 8);
    tree.resize(100);
    while tree.shed() {}
    assert_eq!(in_memory(&tree, &computed_again), 4);
    tree.resize(0);
    while tree.shed() {}
    assert_eq!(tree.ram_bytes(), 0);
    assert!(!store(&mut tree, &computed_again, false, Origin::New));
    tree.resize(10_000);
    assert!(store(&mut tree, &computed_again, false, Origin::New));
}

#[test]
fn a_prompt_is_served_up_to_any_token() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let tokens = sequence(11, 1);
    assert!(store(&mut tree, &tokens, true, Origin::New));
    let path = find(&tree, &root(), &tokens);
    assert_eq!((path.tokens, path.parts.len()), (11, 3));
    // Within the tail, within a block, within the first block, and not at all.
    for (length, parts) in [(10, 3), (9, 3), (7, 2), (2, 1)] {
        let mut other = tokens[..length].to_vec();
        other.extend([-1, -2, -3, -4, -5]);
        let path = find(&tree, &root(), &other);
        assert_eq!((path.tokens, path.parts.len()), (length as u32, parts));
        assert_eq!(tree.common(&root(), &other).tokens, length as u32);
    }
    assert_eq!(find(&tree, &root(), &[-1; 20]).tokens, 0);
    let elsewhere = Key::root(&Fingerprint::of([]), "someone else");
    assert_eq!(find(&tree, &elsewhere, &tokens).tokens, 0);
}

#[test]
fn a_state_that_cannot_be_cut_serves_from_its_tails_only() {
    let mut tree = Tree::new(BLOCK, Cut::Tails, 10_000);
    let tokens = sequence(19, 1);
    assert!(store(&mut tree, &tokens, true, Origin::New));
    for border in [6, 8] {
        let entry = tree.entry(&root(), &tokens[..border], Kind::Tail);
        assert_eq!(entry.begin, 4);
        assert!(tree.insert(entry, payload(100), Origin::New));
    }
    for (length, served) in [(19, 19), (18, 8), (8, 8), (7, 6), (6, 6), (5, 0)] {
        let path = find(&tree, &root(), &tokens[..length]);
        assert_eq!(path.tokens, served, "of {length}");
        let ends = path.parts.iter().map(|part| part.entry.tokens.len() as u32);
        assert_eq!(ends.sum::<u32>(), served);
        assert_eq!(
            tree.common(&root(), &tokens[..length]).tokens,
            length as u32
        );
    }
}

#[test]
fn what_comes_after_a_difference_is_told() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let tokens = sequence(12, 1);
    assert!(store(&mut tree, &tokens, false, Origin::New));
    let mut changed = tokens.clone();
    changed[5] = -9;
    let common = tree.common(&root(), &changed);
    assert_eq!(common.tokens, 5);
    assert_eq!(common.other, tokens[5..]);
    // What just goes on differs from nothing.
    let longer = [tokens.clone(), vec![1, 2, 3]].concat();
    assert_eq!(
        tree.common(&root(), &longer),
        Common {
            tokens: 12,
            stored_tokens: 12,
            dropped_tokens: 0,
            other: Vec::new()
        }
    );
}

#[test]
fn what_is_used_again_outlives_what_is_not() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 600);
    let main = sequence(12, 1);
    assert!(store(&mut tree, &main, false, Origin::New));
    let path = find(&tree, &root(), &main);
    tree.touch(&path);
    for seed in 2..5 {
        store(&mut tree, &sequence(12, seed), false, Origin::New);
        assert_eq!(tree.stored(&root(), &main), 3, "{seed}");
        assert!(tree.ram_bytes() <= 600);
    }
    // But not for ever: what is not used any more loses to what is new.
    for seed in 5..400 {
        store(&mut tree, &sequence(12, seed), false, Origin::New);
    }
    assert_eq!(tree.stored(&root(), &main), 0);
    let common = tree.common(&root(), &main);
    assert_eq!(common.tokens, 12, "it is still known");
    assert_eq!(common.stored_tokens, 0);
}

#[test]
fn a_side_request_takes_nothing_from_a_conversation() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 400);
    assert!(store(&mut tree, &sequence(12, 1), false, Origin::New));
    assert!(store(&mut tree, &sequence(4, 2), false, Origin::Side));
    for seed in 3..50 {
        store(&mut tree, &sequence(8, seed), false, Origin::Side);
        assert_eq!(tree.stored(&root(), &sequence(12, 1)), 3);
    }
    assert!(tree.due_for_disk(true).len() == 3);
    assert!(store(&mut tree, &sequence(4, 99), false, Origin::New));
}

#[test]
fn what_lies_on_disk_is_found_after_a_restart_and_orphans_are_named() {
    let mut tree = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let tokens = sequence(10, 1);
    assert!(store(&mut tree, &tokens, true, Origin::Returning));
    let due = tree.due_for_disk(false);
    assert_eq!(due.len(), 3);
    let entries: Vec<Entry> = due
        .iter()
        .map(|key| tree.unwritten(key).unwrap().0)
        .collect();
    for key in &due {
        tree.written(key);
    }
    assert!(tree.due_for_disk(true).is_empty());

    let mut again = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let reversed = entries.iter().rev().map(|entry| (entry.clone(), false));
    assert!(again.add_from_disk(reversed).is_empty());
    let path = find(&again, &root(), &tokens);
    assert_eq!((path.tokens, path.parts.len()), (10, 3));
    assert!(path.parts.iter().all(|part| part.payload.is_none()));
    again.load(&due[0], payload(100));
    assert!(find(&again, &root(), &tokens).parts[0].payload.is_some());
    again.lost(&due[1]);
    assert_eq!(find(&again, &root(), &tokens).tokens, 4);

    let mut without = Tree::new(BLOCK, Cut::Anywhere, 10_000);
    let orphans = without.add_from_disk(entries[1..].iter().map(|entry| (entry.clone(), false)));
    assert_eq!(orphans, due[1..]);
}

/// All sequences ever stored, with what the tree must then know of them at most.
fn naive_common(all: &[Vec<Token>], tokens: &[Token]) -> usize {
    all.iter()
        .map(|stored| common_length(stored, tokens))
        .max()
        .unwrap_or(0)
}

proptest! {
    #[test]
    fn the_books_are_right_and_nothing_is_mistaken(
        sequences in prop::collection::vec((prop::collection::vec(0_i32..2, 1..40), 0_u8..3), 1..25),
        budget in 0_u64..2000,
        cut in prop_oneof![Just(Cut::Anywhere), Just(Cut::Tails)],
    ) {
        let mut tree = Tree::new(BLOCK, cut, budget);
        let mut all = Vec::new();
        for (tokens, origin) in &sequences {
            let origin = [Origin::New, Origin::Returning, Origin::Side][usize::from(*origin)];
            let path = find(&tree, &root(), tokens);
            // What is served begins the prompt, part by part.
            let mut begin = 0;
            for (index, part) in path.parts.iter().enumerate() {
                prop_assert_eq!(part.entry.begin as usize, begin);
                let is_last = index + 1 == path.parts.len();
                let length = if is_last { path.tokens as usize - begin } else { BLOCK };
                prop_assert_eq!(&part.entry.tokens[..length], &tokens[begin..begin + length]);
                if cut == Cut::Tails && is_last {
                    prop_assert_eq!(part.entry.kind, Kind::Tail);
                    prop_assert_eq!(length, part.entry.tokens.len());
                }
                prop_assert!(part.payload.is_some());
                begin += length;
            }
            prop_assert_eq!(begin, path.tokens as usize);
            prop_assert!(tree.common(&root(), tokens).tokens as usize <= naive_common(&all, tokens));
            prop_assert!(path.tokens <= tree.common(&root(), tokens).tokens);
            tree.touch(&path);
            store(&mut tree, tokens, true, origin);
            all.push(tokens.clone());

            let used: u64 = tree.nodes.values().map(Node::ram_bytes).sum();
            prop_assert_eq!(used, tree.ram_bytes());
            prop_assert!(used <= budget);
            let ghosts = tree.nodes.values().filter(|node| node.is_ghost()).count();
            prop_assert_eq!(ghosts, tree.ghosts);
            for node in tree.nodes.values() {
                let entry = &node.entry;
                prop_assert_eq!(entry.parent.child(entry.kind, &entry.tokens), entry.key);
                let siblings = if entry.begin == 0 {
                    tree.roots.get(&entry.parent)
                } else {
                    tree.nodes.get(&entry.parent).map(|parent| &parent.children)
                };
                let times = siblings.unwrap().iter().filter(|key| **key == entry.key).count();
                prop_assert_eq!(times, 1);
                if entry.begin > 0 && node.payload.is_some() {
                    prop_assert!(tree.nodes[&entry.parent].payload.is_some(), "a child without its parent");
                }
            }
        }
    }
}
