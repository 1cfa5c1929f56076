//! What goes into the next step: a pure function from the state of the running sequences to the shape of the batch.

/// What a running sequence has to compute next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// One token: it is generating.
    Decode,
    /// This many prompt tokens are left.
    Prefill(u32),
}

/// Bounds of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in a step.
    pub batch_tokens: u32,
    /// Most prompt tokens in a step when nothing decodes. A micro-batch: larger steps are not faster, and cancelling waits for their end.
    pub prefill_tokens: u32,
    /// Most prompt tokens in a step beside decoding sequences, so that these keep their pace.
    pub prefill_beside_decode_tokens: u32,
}

/// Tokens that each sequence gets in the next step, in the order of `needs`; 0 for one that has to wait.
///
/// Decoding sequences come first and always get their token (there are never more of them than `batch_tokens`); what room is left goes
/// to prefills in their order, oldest first.
pub fn plan(needs: &[Need], limits: &Limits) -> Vec<u32> {
    let decoding = needs.iter().filter(|need| **need == Need::Decode).count() as u32;
    let prefill_max = if decoding == 0 {
        limits.prefill_tokens
    } else {
        limits.prefill_beside_decode_tokens
    };
    let mut room = prefill_max.min(limits.batch_tokens.saturating_sub(decoding));
    needs
        .iter()
        .map(|need| match need {
            Need::Decode => 1,
            Need::Prefill(left) => {
                let share = (*left).min(room);
                room -= share;
                share
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        batch_tokens: 2048,
        prefill_tokens: 512,
        prefill_beside_decode_tokens: 128,
    };

    #[test]
    fn a_lone_prompt_goes_in_micro_batches() {
        assert_eq!(plan(&[Need::Prefill(1000)], &LIMITS), [512]);
        assert_eq!(plan(&[Need::Prefill(488)], &LIMITS), [488]);
    }

    #[test]
    fn decoding_goes_first_and_keeps_prefill_small() {
        assert_eq!(
            plan(&[Need::Prefill(1000), Need::Decode, Need::Decode], &LIMITS),
            [128, 1, 1]
        );
    }

    #[test]
    fn the_oldest_prompt_goes_first_and_the_rest_fills_up() {
        assert_eq!(
            plan(&[Need::Prefill(100), Need::Prefill(900)], &LIMITS),
            [100, 412]
        );
        assert_eq!(
            plan(&[Need::Prefill(600), Need::Prefill(900)], &LIMITS),
            [512, 0]
        );
    }

    proptest! {
        #[test]
        fn a_plan_keeps_the_limits_and_always_moves(
            needs in prop::collection::vec(prop_oneof![Just(Need::Decode), (1_u32..5000).prop_map(Need::Prefill)], 1..40),
            batch_tokens in 40_u32..4096, prefill_tokens in 1_u32..1024, beside in 1_u32..256,
        ) {
            let limits = Limits { batch_tokens, prefill_tokens, prefill_beside_decode_tokens: beside };
            let shares = plan(&needs, &limits);
            prop_assert_eq!(shares.len(), needs.len());
            prop_assert!(shares.iter().sum::<u32>() <= batch_tokens);
            prop_assert!(shares.iter().sum::<u32>() > 0);
            for (need, share) in needs.iter().zip(&shares) {
                match need {
                    Need::Decode => prop_assert_eq!(*share, 1),
                    Need::Prefill(left) => prop_assert!(share <= left),
                }
            }
        }
    }
}
