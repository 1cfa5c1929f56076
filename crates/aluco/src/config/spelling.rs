//! What was probably meant where a key is misspelled.

use super::KEYS;

/// The key that was probably meant: the one with the fewest edits, if they are no more than half its letters.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|key| (edits(name, key.name), key.name))
        .min()
        .filter(|(distance, near)| distance * 2 <= near.len())
        .map(|(_, near)| near)
}

/// Levenshtein's distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found_unless_nothing_is_near() {
        assert_eq!(nearest("prot"), Some("port"));
        assert_eq!(nearest("keepalive"), Some("keep_alive"));
        assert_eq!(nearest("xyzzy"), None);
    }
}
