//! From token bytes to text: whole characters only, and nothing beyond a stop string.

/// What a push made certain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// Text that is certain to be output.
    pub text: String,
    /// The stop string that came up, as its index; the output ends before it.
    pub stop: Option<usize>,
}

/// Collects the bytes of one choice's tokens and lets text go as soon as it is whole and cannot belong to a stop string.
#[derive(Debug, Clone, Default)]
pub struct TextStream {
    stops: Vec<String>,
    bytes: Vec<u8>,
    held: String,
}

impl TextStream {
    /// A stream that ends at any of these strings; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            ..Self::default()
        }
    }

    /// Adds the bytes of the next token.
    pub fn push(&mut self, bytes: &[u8]) -> Piece {
        self.bytes.extend_from_slice(bytes);
        self.take_whole_characters(false);
        if let Some((start, stop)) = self.first_stop() {
            self.held.truncate(start);
            self.bytes.clear();
            return Piece {
                text: std::mem::take(&mut self.held),
                stop: Some(stop),
            };
        }
        let certain = self.held.len() - self.open_stop_bytes();
        let rest = self.held.split_off(certain);
        Piece {
            text: std::mem::replace(&mut self.held, rest),
            stop: None,
        }
    }

    /// What is still held when the choice ends by itself. An unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.take_whole_characters(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from `bytes` to `held`; what can never become one is replaced.
    fn take_whole_characters(&mut self, last: bool) {
        let mut consumed = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.held.push_str(chunk.valid());
            consumed += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = consumed + invalid.len() == self.bytes.len();
            if invalid.is_empty() || (at_end && !last && may_grow_into_character(invalid)) {
                continue;
            }
            self.held.push(char::REPLACEMENT_CHARACTER);
            consumed += invalid.len();
        }
        self.bytes.drain(..consumed);
    }

    /// The earliest stop string in what is held, the longest of those that begin there.
    fn first_stop(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .filter_map(|(index, stop)| self.held.find(stop.as_str()).map(|start| (start, index)))
            .min_by_key(|(start, index)| (*start, std::cmp::Reverse(self.stops[*index].len())))
    }

    /// Length of the longest end of what is held that a stop string begins with.
    fn open_stop_bytes(&self) -> usize {
        self.stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| {
                let longest = (stop.len() - 1).min(self.held.len());
                (1..=longest).rev().find(|length| {
                    stop.is_char_boundary(*length) && self.held.ends_with(&stop[..*length])
                })
            })
            .max()
            .unwrap_or(0)
    }
}

/// True if more bytes could complete these into a character.
fn may_grow_into_character(bytes: &[u8]) -> bool {
    let length = match bytes[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return false,
    };
    // `utf8_chunks` reports an invalid part as long as it is a valid beginning, so its length alone decides.
    bytes.len() < length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (String, Option<usize>, Vec<String>) {
        let mut stream = TextStream::new(stops.iter().map(ToString::to_string).collect());
        let mut text = String::new();
        let mut pieces_out = Vec::new();
        for piece in pieces {
            let out = stream.push(piece);
            text.push_str(&out.text);
            pieces_out.push(out.text);
            if out.stop.is_some() {
                return (text, out.stop, pieces_out);
            }
        }
        text.push_str(&stream.finish());
        (text, None, pieces_out)
    }

    #[test]
    fn characters_are_let_go_whole() {
        let owl = "🦉".as_bytes();
        let (text, _, steps) = run(&[], &[b"a", &owl[..1], &owl[1..3], &owl[3..], b"b"]);
        assert_eq!(text, "a🦉b");
        assert_eq!(steps, ["a", "", "", "🦉", "b"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_do_not_block() {
        let (text, _, steps) = run(&[], &[b"a\xff", b"b", b"\xe2\x28", b"\xf0\x9f"]);
        assert_eq!(text, "a\u{fffd}b\u{fffd}(\u{fffd}");
        assert_eq!(steps, ["a\u{fffd}", "b", "\u{fffd}(", ""]);
    }

    #[test]
    fn a_stop_string_over_several_tokens_ends_the_text_before_it() {
        let (text, stop, steps) = run(&["END", "\n\n"], &[b"one E", b"N", b"D two"]);
        assert_eq!((text.as_str(), stop), ("one ", Some(0)));
        assert_eq!(steps, ["one ", "", ""]);
        assert_eq!(run(&["END"], &[b"E", b"N", b"X"]).0, "ENX");
        assert_eq!(run(&["END"], &[b"EN"]).0, "EN");
        assert_eq!(run(&["aab"], &[b"aaa", b"b"]).0, "a");
        // The earliest wins, and of those at one place the longest.
        assert_eq!(
            run(&["bc", "abc", "abcd"], &[b"xabcd"]),
            ("x".into(), Some(2), vec!["x".into()])
        );
    }

    proptest! {
        #[test]
        fn text_equals_the_whole_cut_at_the_first_stop(
            whole in "[ab🦉é]{0,40}", stops in prop::collection::vec("[ab🦉é]{1,4}", 0..3), cuts in prop::collection::vec(1_usize..5, 1..40)
        ) {
            let mut pieces = Vec::new();
            let mut rest = whole.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (text, stop, _) = run(&stops, &pieces);
            // Which stop is met first depends on how far the text had come, so the bound is the first that is complete.
            let end = stops.iter().filter_map(|stop| whole.find(stop).map(|start| (start + stop.len(), start))).min();
            if end.is_none() {
                prop_assert_eq!(text, whole);
                prop_assert!(stop.is_none());
            } else {
                prop_assert!(stop.is_some());
                prop_assert!(whole.starts_with(&text));
                prop_assert!(whole[text.len()..].starts_with(stops[stop.unwrap()]));
                prop_assert!(stops.iter().all(|stop| !text.contains(stop)));
            }
        }
    }
}
