//! Conversations of token ids, and how few tokens of them would have to be computed.

use std::collections::HashMap;

use aluco_proto::Token;

/// Made-up text of so many tokens of the tiny models, another for each seed.
pub fn text(seed: u64, tokens: usize) -> Vec<Token> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..tokens)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            32 + (state % 95) as Token
        })
        .collect()
}

/// The same as a string.
pub fn words(seed: u64, tokens: usize) -> String {
    text(seed, tokens)
        .into_iter()
        .map(|token| char::from(token as u8))
        .collect()
}

/// Everything that was computed, as a trie: whoever knows it computes each token in its place once.
#[derive(Debug, Default)]
pub struct Known {
    children: HashMap<(usize, Token), usize>,
    nodes: usize,
}

impl Known {
    /// How many tokens of a prompt must be computed by whoever knows all so far. The last one always, as the next comes from it.
    pub fn unknown(&self, prompt: &[Token]) -> u32 {
        let mut at = 0;
        let known = prompt.iter().take_while(|token| {
            let next = self.children.get(&(at, **token));
            at = next.copied().unwrap_or(0);
            next.is_some()
        });
        prompt.len() as u32 - (known.count() as u32).min(prompt.len() as u32 - 1)
    }

    /// Notes what was computed.
    pub fn add(&mut self, tokens: &[Token]) {
        let mut at = 0;
        for token in tokens {
            at = *self.children.entry((at, *token)).or_insert_with(|| {
                self.nodes += 1;
                self.nodes
            });
        }
    }
}
