//! Words of an expression.

use super::super::version::Version;

#[derive(Debug, Clone)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    Version(Version),
    /// A path, a keyword or the name of a function.
    Word(String),
    /// `== != <= >= < > + - * / ( ) [ ] ,`
    Symbol(&'static str),
}

const SYMBOLS: [&str; 15] = [
    "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")", "[", "]", ",",
];

const UNITS: [(&str, f64); 3] = [
    ("KiB", 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("GiB", 1024.0 * 1024.0 * 1024.0),
];

/// Splits an expression into words; the error says what is not understood.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end;
        if first == '"' {
            let close = rest[1..]
                .find('"')
                .ok_or_else(|| format!("a text is not closed: {rest}"))?;
            tokens.push(Token::Text(rest[1..=close].to_owned()));
            end = close + 2;
        } else if first.is_ascii_digit() {
            end = prefix(rest, |letter| {
                letter.is_ascii_alphanumeric() || letter == '.'
            });
            tokens.push(Token::Number(number(&rest[..end])?));
        } else if first == 'v' && rest[1..].starts_with(|letter: char| letter.is_ascii_digit()) {
            end = prefix(rest, |letter| {
                letter.is_ascii_alphanumeric() || ".-~+_".contains(letter)
            });
            let version = Version::parse(&rest[..end]);
            tokens.push(Token::Version(
                version.ok_or_else(|| format!("{:?} is no version", &rest[..end]))?,
            ));
        } else if first.is_ascii_alphabetic() {
            end = prefix(rest, |letter| {
                letter.is_ascii_alphanumeric() || letter == '_' || letter == '.'
            });
            match UNITS.iter().find(|(unit, _)| *unit == &rest[..end]) {
                Some((unit, factor)) => match tokens.last_mut() {
                    Some(Token::Number(number)) => *number *= factor,
                    _ => return Err(format!("{unit} needs a number before it")),
                },
                None => tokens.push(Token::Word(rest[..end].to_owned())),
            }
        } else {
            let symbol = SYMBOLS
                .into_iter()
                .find(|symbol| rest.starts_with(symbol))
                .ok_or_else(|| format!("{first:?} is not understood"))?;
            tokens.push(Token::Symbol(symbol));
            end = symbol.len();
        }
        rest = rest[end..].trim_start();
    }
    Ok(tokens)
}

fn prefix(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|letter| !belongs(letter)).unwrap_or(text.len())
}

fn number(text: &str) -> Result<f64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok().map(f64::from),
        None => text.parse().ok(),
    };
    parsed.ok_or_else(|| format!("{text:?} is no number"))
}
