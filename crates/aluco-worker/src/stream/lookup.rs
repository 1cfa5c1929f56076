//! Where the drafts of a stream come from.

use aluco_proto::Token;
use aluco_schedule::{ngram::NgramIndex, speculation::DraftHistory};

/// Tokens that are indexed per step at most: half a millisecond. A long prompt is indexed over the first steps of its reply, which none of them
/// feels; drafts begin once that is done.
const TOKENS_PER_STEP: usize = 1024;

/// A stream's own text, indexed as far as drafts need it, and what came of its drafts.
#[derive(Debug, Default)]
pub struct Lookup {
    /// What came of the drafts.
    pub history: DraftHistory,
    index: NgramIndex,
    indexed_tokens: usize,
}

impl Lookup {
    /// Proposes what follows `tokens`, at most `most` tokens. They are indexed on the way, a piece at each call; until all are, there is
    /// no proposal.
    pub fn draft(&mut self, tokens: &[Token], most: usize) -> Vec<Token> {
        let end = tokens.len().min(self.indexed_tokens + TOKENS_PER_STEP);
        self.index.update(&tokens[..end]);
        self.indexed_tokens = end;
        self.index.draft(tokens, most)
    }

    /// Frees the index; it is built again when it is needed again.
    pub fn release(&mut self) {
        self.index = NgramIndex::default();
        self.indexed_tokens = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_indexed_over_several_steps() {
        let mut tokens: Vec<Token> = (0..2500).collect();
        tokens.extend([7, 8, 9]);
        let mut lookup = Lookup::default();
        assert!(lookup.draft(&tokens, 2).is_empty());
        assert!(lookup.draft(&tokens, 2).is_empty());
        assert_eq!(lookup.draft(&tokens, 2), [10, 11]);
        tokens.push(10);
        assert_eq!(lookup.draft(&tokens, 2), [11, 12]);
    }

    #[test]
    fn a_released_index_is_built_again() {
        let tokens = [1, 2, 3, 1, 2];
        let mut lookup = Lookup::default();
        assert_eq!(lookup.draft(&tokens, 1), [3]);
        lookup.release();
        assert_eq!(lookup.indexed_tokens, 0);
        assert_eq!(lookup.draft(&tokens, 1), [3]);
    }
}
