//! From words to a tree, by precedence: `or`, `and`, `not`, comparisons, sums, products.

use regex::Regex;

use super::{
    Arithmetic, Comparison, Expression, Function, Value,
    lex::{Token, tokens},
};

/// How deep parentheses and calls may nest.
const DEPTH_MAX: usize = 64;

/// Reads an expression; the error says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let expression = parser.alternatives()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expression),
        Some(token) => Err(format!("unexpected {token:?}")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn alternatives(&mut self) -> Result<Expression, String> {
        self.deeper()?;
        let mut left = self.conjunction()?;
        while self.take_word("or") {
            left = Expression::Or(Box::new(left), Box::new(self.conjunction()?));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("too deeply nested".to_owned());
        }
        Ok(())
    }

    fn conjunction(&mut self) -> Result<Expression, String> {
        let mut left = self.negation()?;
        while self.take_word("and") {
            left = Expression::And(Box::new(left), Box::new(self.negation()?));
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Expression, String> {
        let mut negations = 0_usize;
        while self.take_word("not") {
            negations += 1;
        }
        let comparison = self.comparison()?;
        Ok(if negations.is_multiple_of(2) {
            comparison
        } else {
            Expression::Not(Box::new(comparison))
        })
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let left = self.sum()?;
        let comparisons = [
            ("==", Comparison::Equal),
            ("!=", Comparison::Unequal),
            ("<", Comparison::Less),
            ("<=", Comparison::LessOrEqual),
            (">", Comparison::Greater),
            (">=", Comparison::GreaterOrEqual),
        ];
        for (symbol, comparison) in comparisons {
            if self.take_symbol(symbol) {
                let right = self.sum()?;
                return Ok(Expression::Compare(
                    comparison,
                    Box::new(left),
                    Box::new(right),
                ));
            }
        }
        if self.take_word("matches") {
            let Some(Token::Text(pattern)) = self.tokens.get(self.at) else {
                return Err("`matches` wants a text".to_owned());
            };
            let pattern = Regex::new(pattern).map_err(|error| error.to_string())?;
            self.at += 1;
            return Ok(Expression::Matches(Box::new(left), pattern));
        }
        if self.take_word("contains") {
            return Ok(Expression::Contains(Box::new(left), Box::new(self.sum()?)));
        }
        if self.take_word("in") {
            return Ok(Expression::Contains(Box::new(self.sum()?), Box::new(left)));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expression, String> {
        let mut left = self.product()?;
        loop {
            let operation = if self.take_symbol("+") {
                Arithmetic::Add
            } else if self.take_symbol("-") {
                Arithmetic::Subtract
            } else {
                return Ok(left);
            };
            left = Expression::Arithmetic(operation, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expression, String> {
        let mut left = self.atom()?;
        loop {
            let operation = if self.take_symbol("*") {
                Arithmetic::Multiply
            } else if self.take_symbol("/") {
                Arithmetic::Divide
            } else {
                return Ok(left);
            };
            left = Expression::Arithmetic(operation, Box::new(left), Box::new(self.atom()?));
        }
    }

    fn atom(&mut self) -> Result<Expression, String> {
        if self.take_symbol("(") {
            let inner = self.alternatives()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take_symbol("[") {
            return Ok(Expression::List(self.sequence("]")?));
        }
        if self.take_symbol("-") {
            self.deeper()?;
            let zero = Expression::Literal(Value::Number(0.0));
            let negated = self.atom()?;
            self.depth -= 1;
            return Ok(Expression::Arithmetic(
                Arithmetic::Subtract,
                Box::new(zero),
                Box::new(negated),
            ));
        }
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        match token {
            Some(Token::Number(number)) => Ok(Expression::Literal(Value::Number(number))),
            Some(Token::Text(text)) => Ok(Expression::Literal(Value::Text(text))),
            Some(Token::Version(version)) => Ok(Expression::Literal(Value::Version(version))),
            Some(Token::Word(word)) => self.word(&word),
            Some(token @ Token::Symbol(_)) => Err(format!("unexpected {token:?}")),
            None => Err("it ends too early".to_owned()),
        }
    }

    fn word(&mut self, word: &str) -> Result<Expression, String> {
        if self.take_symbol("(") {
            let (function, least, most) =
                Function::named(word).ok_or_else(|| format!("no function is called {word:?}"))?;
            let arguments = self.sequence(")")?;
            if !(least..=most).contains(&arguments.len()) {
                return Err(format!("{word} takes {least} to {most} arguments"));
            }
            if function == Function::Capture {
                let Expression::Literal(Value::Text(pattern)) = &arguments[1] else {
                    return Err("capture wants a text".to_owned());
                };
                Regex::new(pattern).map_err(|error| error.to_string())?;
            }
            return Ok(Expression::Call(function, arguments));
        }
        match word {
            "true" => Ok(Expression::Literal(Value::Bool(true))),
            "false" => Ok(Expression::Literal(Value::Bool(false))),
            "none" => Ok(Expression::Literal(Value::None)),
            "and" | "or" | "not" | "matches" | "contains" | "in" => {
                Err(format!("unexpected {word:?}"))
            }
            path => {
                let segments: Vec<String> = path.split('.').map(str::to_owned).collect();
                if segments.iter().any(String::is_empty) {
                    return Err(format!("{path:?} is no path"));
                }
                Ok(Expression::Path(segments))
            }
        }
    }

    fn sequence(&mut self, close: &'static str) -> Result<Vec<Expression>, String> {
        let mut items = Vec::new();
        if self.take_symbol(close) {
            return Ok(items);
        }
        loop {
            items.push(self.alternatives()?);
            if !self.take_symbol(",") {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), String> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        let found = self.tokens.get(self.at);
        Err(format!("expected {symbol:?}, found {found:?}"))
    }

    fn take_symbol(&mut self, wanted: &str) -> bool {
        let taken =
            matches!(self.tokens.get(self.at), Some(Token::Symbol(symbol)) if *symbol == wanted);
        self.at += usize::from(taken);
        taken
    }

    fn take_word(&mut self, wanted: &str) -> bool {
        let taken = matches!(self.tokens.get(self.at), Some(Token::Word(word)) if word == wanted);
        self.at += usize::from(taken);
        taken
    }
}
