//! Which model may have been meant by a name that is none.

/// The shortest of these names that holds the letters and digits of the one that was asked for, whatever stands between them:
/// `SmolLM2-135M-Instruct.Q4_1` means `smollm2-135m-instruct:q4_1`.
pub(super) fn name<'a>(asked: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    const LETTERS_MIN: usize = 4;
    let letters = |name: &str| {
        let name = name.strip_suffix(".gguf").unwrap_or(name).chars();
        let kept = name.filter(char::is_ascii_alphanumeric);
        kept.collect::<String>().to_ascii_lowercase()
    };
    let asked = letters(asked);
    let fits = |name: &&str| asked.len() >= LETTERS_MIN && letters(name).contains(&asked);
    names
        .filter(fits)
        .min_by_key(|name| name.len())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_name_that_is_spelt_otherwise_is_recognised() {
        let here = [
            "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_XL",
            "unsloth/Qwen3-30B-A3B-GGUF:Q8_0",
            "smollm2-135m-instruct:q4_1",
        ];
        let found = |asked| name(asked, here.into_iter());
        assert_eq!(
            found("SmolLM2-135M-Instruct.Q4_1.gguf").as_deref(),
            Some(here[2])
        );
        assert_eq!(found("qwen3:30b").as_deref(), Some(here[1]));
        assert_eq!(found("qwen3-8b"), None);
        assert_eq!(found("q4"), None);
    }
}
