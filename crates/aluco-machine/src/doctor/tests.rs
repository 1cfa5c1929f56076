//! The rule files as they are built in.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Catalogue,
    expression::{
        Certainty, Expression, Operand, Scope, Unknown, Value, certainty, evaluate, parse,
    },
};

/// A scope of three facts, of which one is unknown and one is absent.
struct Three;

impl Scope for Three {
    fn fact(&self, path: &[String]) -> Operand {
        match path.join(".").as_str() {
            "seven" => Ok(Value::Number(7.0)),
            "text" => Ok(Value::Text("6.18.4-200.fc43".to_owned())),
            "list" => Ok(Value::List(vec![Value::Number(1.0), Value::Number(2.0)])),
            "absent" => Err(Unknown::new("absent", "there is none", true)),
            other => Err(Unknown::new(other, "no permission", false)),
        }
    }

    fn bound(&self, _: &str) -> Option<&Expression> {
        None
    }

    fn row(&self, _: &str, _: &Value) -> Operand {
        Ok(Value::None)
    }
}

fn ask(text: &str) -> Certainty {
    certainty(&parse(text).unwrap(), &Three)
}

#[test]
fn what_is_unknown_makes_unknown_only_what_depends_on_it() {
    for yes in [
        "seven == 7",
        "seven > 6 or hidden",
        "hidden or seven > 6",
        "not (seven < 1)",
        "not known(hidden) and known(seven)",
        "absent(absent) and not absent(seven)",
        "default(absent, 3) == 3",
        "text >= v6.18.4 and text < v6.18.10",
        "any(list, it == 2) and not all(list, it == 2) and count(list) == 2",
        "2 in list and list contains 1",
        "max(list) + min(seven, 9) * 2 == 16",
        "4 GiB == 4096 MiB",
        "0x10 == 16",
        "if(seven == 7, true, hidden)",
        "capture(text, \"^([0-9.]+)\") == \"6.18.4\"",
        "text matches \"fc4[0-9]$\"",
    ] {
        assert_eq!(ask(yes), Certainty::Yes, "{yes}");
    }
    for no in [
        "hidden and seven < 1",
        "seven < 1 and hidden",
        "none",
        "text == \"6\"",
        "none matches \"a\"",
        "any([], true)",
    ] {
        assert_eq!(ask(no), Certainty::No, "{no}");
    }
    for unknown in [
        "hidden",
        "not hidden",
        "hidden or seven < 1",
        "hidden > 3",
        "absent > 3",
        "absent(hidden)",
        "default(hidden, 1) == 1",
        "any(list, it == hidden)",
        "text + 1 == 2",
        "seven / 0 > 1",
        "seven",
        "none < 1",
    ] {
        assert!(matches!(ask(unknown), Certainty::Unknown(_)), "{unknown}");
    }
}

#[test]
fn both_reasons_are_told_if_two_facts_are_missing() {
    let Certainty::Unknown(unknown) = ask("hidden or absent") else {
        panic!("it is unknown");
    };
    let missing: BTreeMap<_, _> = unknown.0;
    assert_eq!(missing["hidden"].why, "no permission");
    assert_eq!(missing["absent"].why, "there is none");
}

#[test]
fn what_is_no_expression_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "ends too early"),
        ("a ==", "ends too early"),
        ("(a", "expected \")\""),
        ("a b", "unexpected"),
        ("\"open", "not closed"),
        ("GiB", "needs a number"),
        ("nothing(1)", "no function"),
        ("known()", "takes 1 to 1"),
        ("a matches b", "wants a text"),
        ("a matches \"(\"", "regex"),
        ("a..b", "no path"),
        ("a ; b", "not understood"),
        ("v7x-", ""),
    ] {
        match parse(text) {
            Err(error) => assert!(error.contains(reason), "{text}: {error}"),
            Ok(_) => assert!(reason.is_empty(), "{text} was taken"),
        }
    }
    for deep in ["(", "-", "known(", "["] {
        let error = parse(&deep.repeat(100_000)).unwrap_err();
        assert!(error.contains("deeply"), "{deep}: {error}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_of_expressions_panic(text in "[a-z0-9 .\"()<>=!+*/|,\\[\\]-]{0,60}") {
        if let Ok(expression) = parse(&text) {
            let _ = evaluate(&expression, &Three);
            let _ = expression.paths();
        }
    }
}

#[test]
fn every_rule_file_is_sound() {
    let catalogue = Catalogue::embedded();
    assert!(catalogue.rules().len() >= 60, "{}", catalogue.rules().len());
}
