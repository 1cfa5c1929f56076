//! The question of a one-shot run: words of the command line, and text that is piped in.

use std::io::Read;

use crate::failure::{Failure, Outcome};

/// Puts words and piped text together: the words, an empty line, the text. `None`: there is neither.
pub(crate) fn one_prompt(
    words: &[String],
    piped: Option<impl Read>,
    bytes_max: u64,
) -> Outcome<Option<String>> {
    let asked = words.join(" ");
    let piped = match piped {
        Some(input) => read(input, bytes_max)?,
        None => String::new(),
    };
    // The text stays as it is but for the line end of its last line.
    let text = piped.trim_end();
    Ok(match (asked.trim().is_empty(), text.trim().is_empty()) {
        (true, true) => None,
        (true, false) => Some(text.to_owned()),
        (false, true) => Some(asked),
        (false, false) => Some(format!("{asked}\n\n{text}")),
    })
}

fn read(input: impl Read, bytes_max: u64) -> Outcome<String> {
    let mut bytes = Vec::new();
    input
        .take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::new(format!(
            "standard input is longer than {} bytes, the most that a request may have (body_max)",
            crate::render::thousands(bytes_max)
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        Failure::new(format!(
            "standard input is not UTF-8 text: byte {:#04x} at offset {valid}",
            error.as_bytes()[valid]
        ))
        .advise("convert it first, for instance with: iconv -f LATIN1 -t UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(words: &[&str], piped: Option<&[u8]>) -> Outcome<Option<String>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        one_prompt(&words, piped, 20)
    }

    #[test]
    fn words_come_first_and_piped_text_after_an_empty_line() {
        for (words, piped, expected) in [
            (&["why", "so?"][..], None, Some("why so?")),
            (
                &["review"],
                Some(&b"  a\nb\n"[..]),
                Some("review\n\n  a\nb"),
            ),
            (&[], Some(b"a\n\n"), Some("a")),
            (&["why?"], Some(b""), Some("why?")),
            (&[], Some(b" \n"), None),
            (&[" "], None, None),
        ] {
            assert_eq!(prompt(words, piped).unwrap().as_deref(), expected);
        }
    }

    #[test]
    fn what_is_no_text_or_too_long_is_refused() {
        let error = prompt(&[], Some(b"caf\xe9 noir")).unwrap_err();
        insta::assert_snapshot!(error, @"standard input is not UTF-8 text: byte 0xe9 at offset 3");
        let error = prompt(&[], Some(&[b'x'; 21])).unwrap_err();
        insta::assert_snapshot!(error, @"standard input is longer than 20 bytes, the most that a request may have (body_max)");
        assert!(prompt(&[], Some(&[b'x'; 20])).is_ok());
    }
}
