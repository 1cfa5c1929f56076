use std::convert::Infallible;

use aluco_prefix::{Cut, Fingerprint, Kind, Origin, StoreOptions};
use proptest::prelude::*;

use super::*;

/// Each letter is a token, some words are, and `<` and `>` are control tokens where the template has them.
struct Toy;

const OPEN: Token = 1000;
const CLOSE: Token = 1001;
const WORDS: [&str; 5] = ["oo", "ooo", "user", "un", "happily"];
const BLOCK: usize = 4;

impl Vocabulary for Toy {
    fn spelling(&self, token: Token) -> Vec<u8> {
        match token {
            OPEN => b"<".to_vec(),
            CLOSE => b">".to_vec(),
            word @ 500.. => WORDS[word as usize - 500].as_bytes().to_vec(),
            letter => vec![letter as u8],
        }
    }

    fn is_control(&self, token: Token) -> bool {
        token >= OPEN
    }
}

/// The template's own characters are `<` and `>`; messages write `{` and `}` for the same letters typed.
fn outline(template: &str) -> (String, Vec<Control>) {
    let text = template.replace('{', "<").replace('}', ">");
    let controls = template.char_indices().filter_map(|(begin, letter)| {
        let token = match letter {
            '<' => OPEN,
            '>' => CLOSE,
            _ => return None,
        };
        let end = begin + letter.len_utf8();
        Some(Control { token, begin, end })
    });
    let controls = controls.collect();
    (text, controls)
}

/// The tokenizer's own cut: the longest words.
fn plain(template: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while let Some(letter) = rest.chars().next() {
        let words = WORDS.iter().enumerate();
        let longest = words
            .filter(|(_, word)| rest.starts_with(**word))
            .max_by_key(|(_, word)| word.len());
        let (token, bytes) = match (letter, longest) {
            ('<', _) => (OPEN, 1),
            ('>', _) => (CLOSE, 1),
            ('{', _) => (Token::from(b'<'), 1),
            ('}', _) => (Token::from(b'>'), 1),
            (_, Some((index, word))) => (500 + index as Token, word.len()),
            _ => {
                let bytes = letter.len_utf8();
                tokens.extend(
                    rest.as_bytes()[..bytes - 1]
                        .iter()
                        .map(|byte| Token::from(*byte)),
                );
                (Token::from(rest.as_bytes()[bytes - 1]), bytes)
            }
        };
        tokens.push(token);
        rest = &rest[bytes..];
    }
    tokens
}

fn letters(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

fn spell(tokens: &[Token]) -> String {
    let bytes = tokens.iter().flat_map(|token| Toy.spelling(*token));
    String::from_utf8(bytes.collect()).unwrap()
}

fn store(sequences: &[Vec<Token>]) -> Store {
    let (store, _) = Store::open(StoreOptions {
        fingerprint: Fingerprint::of([]),
        facts: Vec::new(),
        block_tokens: BLOCK,
        cut: Cut::Anywhere,
        ram_bytes: 1 << 20,
        disk: None,
    });
    for tokens in sequences {
        let whole = tokens.len() / BLOCK * BLOCK;
        let ends = (BLOCK..=whole).step_by(BLOCK).map(|end| (end, Kind::Block));
        for (end, kind) in ends.chain([(tokens.len(), Kind::Tail)]) {
            if let Some(entry) = store.missing("", &tokens[..end], kind) {
                store.insert(entry, vec![0], Origin::New);
            }
        }
    }
    store
}

/// What the prompt is tokenized to when these sequences are stored; `None` if they are of no use.
fn tokens(sequences: &[Vec<Token>], template: &str) -> Option<Vec<Token>> {
    let (text, controls) = outline(template);
    let outline = Outline {
        text: &text,
        begin_token: None,
        controls,
    };
    let stored = outline.find(&Toy, &store(sequences), "")?;
    let rest = |begin: usize| Ok::<_, Infallible>(template.get(begin..).map(plain));
    let Ok(tokens) = stored.complete(rest);
    tokens
}

#[test]
fn a_reply_keeps_the_tokens_that_were_generated() {
    let reply = [plain("<user:hi><"), letters("a:oooooooooo")].concat();
    let next = "<user:hi><a:oooooooooo><user:ooo><a:";
    let found = tokens(std::slice::from_ref(&reply), next).unwrap();
    assert_eq!(found, [reply.clone(), plain("><user:ooo><a:")].concat());

    // The last token of a reply is never computed, and a stop string or white space at its end does not come back.
    let found = tokens(&[reply[..reply.len() - 1].to_vec()], next).unwrap();
    assert_eq!(found, [reply.clone(), plain("><user:ooo><a:")].concat());
    let longer = [reply.clone(), letters("\n\nuser:")].concat();
    let found = tokens(&[longer], next).unwrap();
    assert_eq!(found, [reply.clone(), plain("><user:ooo><a:")].concat());

    // A reply that was changed is cut anew behind its header.
    let changed = "<user:hi><a:ooooo but then it went on in quite another way>";
    assert_eq!(tokens(&[reply], changed), Some(plain(changed)));
}

#[test]
fn what_was_typed_does_not_pose_as_the_template() {
    let stored = [
        plain("<user:hi><"),
        letters("a:oooooooooo"),
        plain("><user:"),
    ]
    .concat();
    let typed = "<user:hi}{a:oooooooooo}{user:ooo><a:";
    let found = tokens(std::slice::from_ref(&stored), typed).unwrap();
    assert_eq!(found, plain(typed));
    // Nor the other way round.
    let typed = plain("<user:hi}{a:oooooooooo}{user:ooo><a:");
    let template = "<user:hi><a:oooooooooo><user:ooo><a:";
    assert_eq!(tokens(&[typed], template), Some(plain(template)));
}

#[test]
fn a_word_that_goes_on_otherwise_is_not_cut_where_the_other_one_was() {
    let stored = plain("<user:unhappily><a:");
    assert_eq!(stored[3..5], [503, 504]);
    for template in [
        "<user:unhappy><a:",
        "<user:un><a:",
        "<user:unhappilyooo><a:",
    ] {
        assert_eq!(
            tokens(std::slice::from_ref(&stored), template),
            Some(plain(template))
        );
        // Where it was cancelled there.
        for end in 2..stored.len() {
            let cancelled = stored[..end].to_vec();
            assert_eq!(tokens(&[cancelled], template), Some(plain(template)));
        }
    }
}

#[test]
fn characters_are_not_cut_in_two() {
    let reply = [plain("<a:"), letters("oooooooooo\u{e4}")].concat();
    let half = reply[..reply.len() - 1].to_vec();
    let found = tokens(&[half], "<a:oooooooooo\u{e4}>").unwrap();
    assert_eq!(found, [reply, vec![CLOSE]].concat());
}

#[test]
fn nothing_is_taken_for_a_prompt_without_control_tokens() {
    assert_eq!(tokens(&[letters("user:oooooo")], "user:oooooo and"), None);
    assert_eq!(tokens(&[], "<user:oooooo>"), None);
}

/// Some spelling of a template's text.
fn spelled() -> impl Strategy<Value = Vec<Token>> {
    let token = prop_oneof![
        Just(OPEN),
        Just(CLOSE),
        500..500 + WORDS.len() as Token,
        prop::sample::select(b"<>ouser:".as_slice()).prop_map(Token::from),
    ];
    prop::collection::vec(token, 1..30)
}

proptest! {
    #[test]
    fn whatever_is_stored_the_tokens_spell_the_text(
        stored in prop::collection::vec(spelled(), 1..6),
        pick in any::<prop::sample::Index>(),
        more in spelled(),
    ) {
        let template: String = stored[pick.index(stored.len())]
            .iter()
            .chain(&more)
            .map(|token| match *token {
                60 => "{".to_owned(),
                62 => "}".to_owned(),
                other => spell(&[other]),
            })
            .collect();
        let (text, controls) = outline(&template);
        if let Some(tokens) = tokens(&stored, &template) {
            prop_assert_eq!(spell(&tokens), text);
            let found: Vec<Token> = tokens.into_iter().filter(|token| Toy.is_control(*token)).collect();
            let wanted: Vec<Token> = controls.iter().map(|control| control.token).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
