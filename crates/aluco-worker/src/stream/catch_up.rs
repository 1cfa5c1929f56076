//! How a stream that another worker began comes back to where it was.
//!
//! Its reply so far is known and has to be computed before the next token can be sampled. One by one, each token is computed in a batch of the same
//! shape as the first time, and logits come out the same to the last bit; in chunks they differ there, and now and then a token
//! with them. But one by one takes a step for each token, and the shapes are the same only if the stream has the model to itself: beside others
//! it would be slow, slow the others down, and not be exact either.

/// A longer reply is computed in chunks in any case: sooner, and with other last bits of logits.
const RETRACED_TOKENS_MAX: usize = 256;

/// How the tokens are computed that a stream brought from another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// Its reply one by one, as the first time.
    Retrace,
    /// In chunks, as a prompt.
    #[default]
    Prefill,
}

impl CatchUp {
    /// For a reply of so many tokens.
    pub fn with(reply_tokens: usize) -> Self {
        if reply_tokens <= RETRACED_TOKENS_MAX {
            Self::Retrace
        } else {
            Self::Prefill
        }
    }

    /// How it goes on in a model that has so many streams, running or waiting, this one among them. Who has once had company goes on
    /// in chunks for good.
    #[must_use]
    pub fn among(self, streams: usize) -> Self {
        if streams == 1 { self } else { Self::Prefill }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_short_reply_is_retraced() {
        assert_eq!(CatchUp::with(1), CatchUp::Retrace);
        assert_eq!(CatchUp::with(RETRACED_TOKENS_MAX), CatchUp::Retrace);
        assert_eq!(CatchUp::with(RETRACED_TOKENS_MAX + 1), CatchUp::Prefill);
    }

    #[test]
    fn only_a_stream_that_was_never_beside_others_is_retraced() {
        let alone = CatchUp::Retrace.among(1);
        assert_eq!(alone, CatchUp::Retrace);
        let beside_another = alone.among(2);
        assert_eq!(beside_another, CatchUp::Prefill);
        assert_eq!(beside_another.among(1), CatchUp::Prefill);
        assert_eq!(CatchUp::Prefill.among(1), CatchUp::Prefill);
    }
}
