//! Prose in lines that fit a column.

use console::measure_text_width;

/// What becomes of a word that is wider than a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LongWord {
    /// It stands whole on a line of its own, as what is copied must: paths, addresses, settings.
    Whole,
    /// It is cut where it must be.
    Cut,
}

/// The lines of a text, of at most so many columns and parted at spaces; an empty text has one empty line.
pub(crate) fn wrapped(text: &str, columns: usize, long_word: LongWord) -> Vec<&str> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        loop {
            let end = cut(rest, columns, long_word);
            lines.push(rest[..end].trim_end());
            rest = rest[end..].trim_start();
            if rest.is_empty() {
                break;
            }
        }
    }
    if lines.is_empty() {
        lines.push("");
    }
    lines
}

/// Where the first line of this one ends.
fn cut(line: &str, columns: usize, long_word: LongWord) -> usize {
    let mut used = 0;
    let mut space = None;
    for (index, letter) in line.char_indices() {
        if letter == ' ' {
            // A space at the border is not shown.
            space = Some(index).filter(|index| *index > 0).or(space);
            if used >= columns && space == Some(index) {
                return index;
            }
        }
        used += measure_text_width(letter.encode_utf8(&mut [0; 4]));
        if used <= columns {
            continue;
        }
        match (space, long_word) {
            (Some(space), _) => return space,
            (None, LongWord::Cut) => return index.max(letter.len_utf8()),
            (None, LongWord::Whole) => {}
        }
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_spaces_and_long_words_are_cut_or_kept_as_it_was_asked() {
        let cut = |text, columns| wrapped(text, columns, LongWord::Cut);
        let whole = |text, columns| wrapped(text, columns, LongWord::Whole);
        for of in [cut, whole] {
            assert_eq!(of("one two three", 8), ["one two", "three"]);
            assert_eq!(of("one two", 7), ["one two"]);
            assert_eq!(of("one two", 3), ["one", "two"]);
            assert_eq!(of("one\ntwo", 80), ["one", "two"]);
            assert_eq!(of("", 4), [""]);
        }
        assert_eq!(cut("abcdefgh ij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(whole("abcdefgh ij", 4), ["abcdefgh", "ij"]);
        assert_eq!(whole("a abcdefgh ij", 4), ["a", "abcdefgh", "ij"]);
        assert_eq!(cut("猫頭鷹", 4), ["猫頭", "鷹"]);
        assert_eq!(cut("猫", 1), ["猫"]);
    }
}
