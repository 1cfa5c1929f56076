//! What goes into the next step: a pure function from the state of the running sequences to the shape of the batch.

use crate::fairness::Standing;

/// What a running sequence has to compute next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is generating.
    Decode {
        /// The last token, and those drafted after it.
        rows: u32,
    },
    /// It has a prompt, or a part of its own text, to compute.
    Prefill {
        /// Tokens left to compute.
        left: u32,
        /// Tokens until the next position at which its state is to be kept, at least 1; `u32::MAX` if there is none. A step never computes
        /// across that position.
        until_border: u32,
        /// Whose it is: an index into the clients that [`plan`] is given.
        client: usize,
        /// Orders the prefills of a client: the least came first.
        arrival: u64,
    },
}

/// Bounds of a step, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens in a step; at least the rows of all decoding sequences together, and one more.
    pub batch_tokens: u32,
    /// Most prompt tokens in a step when nothing decodes. A micro-batch: larger steps are not faster, and cancelling waits for their end.
    pub prefill_tokens: u32,
    /// Most prompt tokens in a step beside decoding sequences, so that these keep their pace; 0 leaves prefill out of this step.
    pub prefill_beside_decode_tokens: u32,
}

/// Tokens that each sequence gets in the next step, in the order of `needs`; 0 for one that has to wait.
///
/// Decoding sequences come first and always get all their rows. What room is left goes to the prefills: to the client that stands first
/// ([`Standing`]) and there to its oldest; what that leaves over goes to whoever stands first then. `clients` holds the standing of each client
/// that a need names.
///
/// A share ends where the room, the prompt or the next border ends. It is not rounded beyond that: the budget is round already, and the rest of a
/// rounded share would cost a step of its own.
pub fn plan(needs: &[Need], limits: &Limits, clients: &[Standing]) -> Vec<u32> {
    let mut shares = vec![0; needs.len()];
    let mut standings = clients.to_vec();
    let mut decode_rows = 0;
    let mut prefills = Vec::new();
    for (index, need) in needs.iter().enumerate() {
        match *need {
            Need::Decode { rows } => {
                shares[index] = rows;
                decode_rows += rows;
            }
            Need::Prefill {
                left,
                until_border,
                client,
                arrival,
            } => {
                // A border at the current position is behind us, whether or not the state was kept there.
                prefills.push((index, left.min(until_border.max(1)), client, arrival));
            }
        }
    }
    let prefill_max = if decode_rows == 0 {
        limits.prefill_tokens
    } else {
        limits.prefill_beside_decode_tokens
    };
    let mut room = prefill_max.min(limits.batch_tokens.saturating_sub(decode_rows));
    while room > 0 {
        let Some(first) = (0..prefills.len()).min_by_key(|&candidate| {
            let (index, _, client, arrival) = prefills[candidate];
            (standings[client], arrival, index)
        }) else {
            break;
        };
        let (index, most, client, _) = prefills.swap_remove(first);
        shares[index] = most.min(room);
        room -= shares[index];
        standings[client].serve(shares[index]);
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fairness::{CLIENT_WAIT_STEPS_MAX, Fairness};

    const LIMITS: Limits = Limits {
        batch_tokens: 2048,
        prefill_tokens: 512,
        prefill_beside_decode_tokens: 128,
    };

    fn prefill(left: u32, client: usize, arrival: u64) -> Need {
        Need::Prefill {
            left,
            until_border: u32::MAX,
            client,
            arrival,
        }
    }

    #[test]
    fn a_lone_prompt_goes_in_micro_batches() {
        let clients = [Standing::default()];
        assert_eq!(plan(&[prefill(1000, 0, 0)], &LIMITS, &clients), [512]);
        assert_eq!(plan(&[prefill(488, 0, 0)], &LIMITS, &clients), [488]);
    }

    #[test]
    fn decoding_goes_first_and_keeps_prefill_small() {
        let needs = [
            prefill(1000, 0, 0),
            Need::Decode { rows: 1 },
            Need::Decode { rows: 5 },
        ];
        assert_eq!(plan(&needs, &LIMITS, &[Standing::default()]), [128, 1, 5]);
    }

    #[test]
    fn within_a_client_the_oldest_goes_first_and_the_rest_fills_up() {
        let clients = [Standing::default()];
        assert_eq!(
            plan(&[prefill(900, 0, 2), prefill(100, 0, 1)], &LIMITS, &clients),
            [412, 100]
        );
        assert_eq!(
            plan(&[prefill(900, 0, 2), prefill(600, 0, 1)], &LIMITS, &clients),
            [0, 512]
        );
    }

    #[test]
    fn the_client_with_the_least_service_goes_first() {
        let mut served = Standing::default();
        served.serve(700);
        let clients = [served, Standing::default()];
        assert_eq!(
            plan(&[prefill(900, 0, 1), prefill(300, 1, 2)], &LIMITS, &clients),
            [212, 300]
        );
    }

    #[test]
    fn many_small_prompts_of_one_client_leave_room_for_another() {
        let mut needs: Vec<Need> = (0..20).map(|arrival| prefill(100, 0, arrival)).collect();
        needs.push(prefill(100, 1, 99));
        let shares = plan(&needs, &LIMITS, &[Standing::default(); 2]);
        assert_eq!(shares[0], 100);
        assert_eq!(shares[20], 100);
    }

    #[test]
    fn a_share_ends_at_a_border() {
        let bordered = Need::Prefill {
            left: 1000,
            until_border: 40,
            client: 0,
            arrival: 0,
        };
        let needs = [bordered, prefill(1000, 0, 1)];
        assert_eq!(plan(&needs, &LIMITS, &[Standing::default()]), [40, 472]);
    }

    fn needs(clients: usize) -> impl Strategy<Value = Vec<Need>> {
        let one = prop_oneof![
            (1_u32..10).prop_map(|rows| Need::Decode { rows }),
            (1_u32..5000, 1_u32..600, 0..clients, 0_u64..100).prop_map(
                |(left, until_border, client, arrival)| Need::Prefill {
                    left,
                    until_border,
                    client,
                    arrival
                }
            ),
        ];
        prop::collection::vec(one, 1..40)
    }

    proptest! {
        #[test]
        fn a_plan_keeps_the_limits_and_always_moves(
            needs in needs(5), served in prop::collection::vec(0_u32..9999, 5),
            batch_tokens in 400_u32..4096, prefill_tokens in 1_u32..1024, beside in 0_u32..256,
        ) {
            let limits = Limits { batch_tokens, prefill_tokens, prefill_beside_decode_tokens: beside };
            let clients: Vec<Standing> = served.iter().map(|tokens| {
                let mut standing = Standing::default();
                standing.serve(*tokens);
                standing
            }).collect();
            let shares = plan(&needs, &limits, &clients);
            prop_assert_eq!(shares.len(), needs.len());
            prop_assert!(shares.iter().sum::<u32>() <= batch_tokens);
            prop_assert!(shares.iter().sum::<u32>() > 0);
            let (mut decoded, mut prefilled, mut could) = (0, 0, 0);
            for (need, share) in needs.iter().zip(&shares) {
                match need {
                    Need::Decode { rows } => {
                        prop_assert_eq!(share, rows);
                        decoded += rows;
                    }
                    Need::Prefill { left, until_border, .. } => {
                        prop_assert!(share <= left && share <= until_border);
                        prefilled += share;
                        could += left.min(until_border);
                    }
                }
            }
            // No room is wasted either.
            let most = if decoded > 0 { beside } else { prefill_tokens };
            prop_assert_eq!(prefilled, could.min(most).min(batch_tokens - decoded));
        }

        #[test]
        fn no_client_starves_whatever_others_send(
            // Per step: new prompts as (name, tokens). Names 1 to 40 come and go; name 0 is the one that is watched.
            arrivals in prop::collection::vec(prop::collection::vec((1_usize..40, 1_u32..3000), 0..4), 100..300),
            decodes in any::<bool>(), border in 1_u32..700,
        ) {
            const RUNNING_MAX: usize = 16;
            let mut fairness = Fairness::default();
            let mut running = vec![(fairness.enter("0"), 20_000_u32, 0_u64)];
            // The worst case: the watched client was just served a lot.
            fairness.account([(running[0].0, 5_000)]);
            let mut waited = 0;
            for (step, new) in arrivals.iter().enumerate() {
                for (name, tokens) in new {
                    if running.len() < RUNNING_MAX {
                        running.push((fairness.enter(&name.to_string()), *tokens, step as u64));
                    }
                }
                let mut needs: Vec<Need> = running.iter().map(|(client, left, arrival)| Need::Prefill {
                    left: *left, until_border: border, client: client.index(), arrival: *arrival,
                }).collect();
                if decodes {
                    needs.push(Need::Decode { rows: 1 });
                }
                let shares = plan(&needs, &LIMITS, &fairness.standings());
                fairness.account(running.iter().zip(&shares).map(|((client, ..), share)| (*client, *share)));
                waited = if shares[0] == 0 { waited + 1 } else { 0 };
                prop_assert!(waited <= CLIENT_WAIT_STEPS_MAX + RUNNING_MAX as u32, "waited {waited} steps");
                for ((_, left, _), share) in running.iter_mut().zip(&shares) {
                    *left -= share;
                }
                if running[0].1 == 0 {
                    break;
                }
                running.retain(|(client, left, _)| {
                    if *left == 0 {
                        fairness.leave(*client);
                    }
                    *left > 0
                });
            }
        }
    }

    #[test]
    fn clients_with_unequal_prompts_get_equal_shares() {
        let mut fairness = Fairness::default();
        let (long, short) = (fairness.enter("long"), fairness.enter("short"));
        let mut served = [0_u32; 2];
        // One sends a prompt of 100,000 tokens, the other one small prompt after the next.
        for step in 0..100 {
            let needs = [
                prefill(100_000, long.index(), 0),
                prefill(300, short.index(), step),
            ];
            let shares = plan(&needs, &LIMITS, &fairness.standings());
            fairness.account([(long, shares[0]), (short, shares[1])]);
            served[0] += shares[0];
            served[1] += shares[1];
        }
        assert_eq!(served.iter().sum::<u32>(), 51_200);
        assert!(served[0].abs_diff(served[1]) <= 512, "{served:?}");
    }
}
