//! Choosing a token from logits: a pure function of logits, history, settings and position.
//!
//! Nothing is remembered between tokens. The random number of a draw depends on the seed and the position alone, so a stream that is
//! taken up again at any position goes on as if it had never stopped. The order of the rules and their defaults are llama.cpp's:
//! bias, penalties, top-k, top-p, min-p, temperature, draw.

use std::collections::HashMap;

use aluco_proto::{Alternative, Sampling, Token, TokenLogprob};

/// Why no token could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the model computed no usable logits (all are NaN or minus infinity): its output cannot be trusted"
)]
pub struct NoFiniteLogit;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    logit: f32,
}

/// Working memory, kept between calls so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Chooses the token at `position` (the number of tokens generated before it). `history` is the prompt and what was generated;
    /// `forbidden` tokens are never chosen.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[Token],
        sampling: &Sampling,
        seed: u32,
        position: u64,
        forbidden: impl Fn(Token) -> bool,
    ) -> Result<Token, NoFiniteLogit> {
        let penalised = penalises(sampling);
        if sampling.temperature <= 0.0
            && !penalised
            && sampling.logit_bias.is_empty()
            && !sampling.ignore_end
        {
            return likeliest(logits);
        }
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .filter(|(_, logit)| !logit.is_nan() && **logit < f32::INFINITY)
                .map(|(token, logit)| Candidate {
                    token: token as Token,
                    logit: *logit,
                }),
        );
        if self.candidates.len() < logits.len() {
            // A single NaN or infinity means that something upstream is broken; the rest is not to be trusted either.
            return Err(NoFiniteLogit);
        }
        // Up to here index and token agree.
        if sampling.ignore_end {
            for candidate in &mut self.candidates {
                if forbidden(candidate.token) {
                    candidate.logit = f32::NEG_INFINITY;
                }
            }
        }
        for (token, bias) in &sampling.logit_bias {
            if let Some(candidate) = usize::try_from(*token)
                .ok()
                .and_then(|token| self.candidates.get_mut(token))
            {
                candidate.logit += bias;
            }
        }
        if penalised {
            penalise(&mut self.candidates, history, sampling);
        }
        if sampling.temperature <= 0.0 {
            return self
                .candidates
                .iter()
                .copied()
                .reduce(|best, candidate| {
                    if candidate.logit > best.logit {
                        candidate
                    } else {
                        best
                    }
                })
                .filter(|best| best.logit > f32::NEG_INFINITY)
                .map(|best| best.token)
                .ok_or(NoFiniteLogit);
        }
        self.keep_top_k(sampling.top_k);
        if self
            .candidates
            .first()
            .is_none_or(|best| best.logit == f32::NEG_INFINITY)
        {
            return Err(NoFiniteLogit);
        }
        self.keep_top_p(sampling.top_p);
        self.keep_min_p(sampling.min_p);
        self.weigh(sampling.temperature);
        Ok(self.draw(uniform(seed, position)))
    }

    /// Sorts by falling logit and keeps the k likeliest (0: all).
    fn keep_top_k(&mut self, top_k: u32) {
        // Equal logits keep the order of their ids, so that the result does not depend on the sorting method.
        let falling =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let k = top_k as usize;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, falling);
            self.candidates.truncate(k);
        }
        self.candidates.sort_unstable_by(falling);
    }

    /// Fills `weights` with the unnormalised probabilities of the sorted candidates; returns their sum.
    fn weigh(&mut self, temperature: f32) -> f64 {
        let best = self.candidates[0].logit;
        self.weights.clear();
        self.weights.extend(
            self.candidates
                .iter()
                .map(|candidate| f64::from((candidate.logit - best) / temperature).exp()),
        );
        self.weights.iter().sum()
    }

    /// Keeps the likeliest whose probabilities first reach `top_p`.
    fn keep_top_p(&mut self, top_p: f32) {
        if top_p >= 1.0 {
            return;
        }
        let limit = self.weigh(1.0) * f64::from(top_p.max(0.0));
        let mut sum = 0.0;
        let kept = self
            .weights
            .iter()
            .position(|weight| {
                sum += weight;
                sum >= limit
            })
            .map_or(self.candidates.len(), |last| last + 1);
        self.candidates.truncate(kept);
    }

    /// Drops what is less likely than `min_p` times the likeliest.
    fn keep_min_p(&mut self, min_p: f32) {
        if min_p > 0.0 {
            let floor = self.candidates[0].logit + min_p.min(1.0).ln();
            let kept = self
                .candidates
                .partition_point(|candidate| candidate.logit >= floor)
                .max(1);
            self.candidates.truncate(kept);
        }
    }

    /// Draws by the weights; `uniform` is in [0, 1).
    fn draw(&self, uniform: f64) -> Token {
        let target = uniform * self.weights.iter().sum::<f64>();
        let mut sum = 0.0;
        for (candidate, weight) in self.candidates.iter().zip(&self.weights) {
            sum += weight;
            if target < sum {
                return candidate.token;
            }
        }
        // Rounding may leave the target at the very end.
        self.candidates[self.candidates.len() - 1].token
    }
}

fn penalises(sampling: &Sampling) -> bool {
    #[expect(clippy::float_cmp, reason = "these exact values switch the rules off")]
    let off = sampling.repeat_penalty == 1.0
        && sampling.presence_penalty == 0.0
        && sampling.frequency_penalty == 0.0;
    !off && sampling.penalty_tokens > 0
}

fn penalise(candidates: &mut [Candidate], history: &[Token], sampling: &Sampling) {
    let recent = &history[history
        .len()
        .saturating_sub(sampling.penalty_tokens as usize)..];
    let mut counts = HashMap::<Token, u32>::new();
    for token in recent {
        *counts.entry(*token).or_default() += 1;
    }
    for (token, count) in counts {
        let Some(candidate) = usize::try_from(token)
            .ok()
            .and_then(|token| candidates.get_mut(token))
        else {
            continue;
        };
        // Dividing a negative logit would make the token likelier.
        if candidate.logit <= 0.0 {
            candidate.logit *= sampling.repeat_penalty;
        } else {
            candidate.logit /= sampling.repeat_penalty;
        }
        candidate.logit -= count as f32 * sampling.frequency_penalty + sampling.presence_penalty;
    }
}

/// The token with the largest logit, the first of equals.
fn likeliest(logits: &[f32]) -> Result<Token, NoFiniteLogit> {
    let mut best = f32::NEG_INFINITY;
    let mut token = None;
    for (index, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return Err(NoFiniteLogit);
        }
        if *logit > best {
            best = *logit;
            token = Some(index as Token);
        }
    }
    token.ok_or(NoFiniteLogit)
}

/// A number in [0, 1) that depends on seed and position alone: SplitMix64 (Steele, Lea, Flood 2014) used as a counter-based generator.
fn uniform(seed: u32, position: u64) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let stream = mix(u64::from(seed).wrapping_add(0x9e37_79b9_7f4a_7c15));
    let bits =
        mix(stream.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Told for a token that cannot come, since JSON has no infinities; OpenAI's API has the same.
const LOGPROB_MIN: f32 = -9999.0;

/// The log probability of `token` and the `count` likeliest, in the model's own distribution.
pub fn logprobs(
    logits: &[f32],
    token: Token,
    count: usize,
    bytes: impl Fn(Token) -> Vec<u8>,
) -> TokenLogprob {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - best).exp())
        .sum();
    let norm = f64::from(best) + sum.ln();
    let logprob = |token: Token| {
        usize::try_from(token)
            .ok()
            .and_then(|index| logits.get(index))
            .map_or(LOGPROB_MIN, |logit| (f64::from(*logit) - norm) as f32)
            .max(LOGPROB_MIN)
    };
    let mut order: Vec<Token> = (0..logits.len() as Token).collect();
    let falling = |a: &Token, b: &Token| {
        logits[*b as usize]
            .total_cmp(&logits[*a as usize])
            .then(a.cmp(b))
    };
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, falling);
    }
    order.truncate(count);
    order.sort_unstable_by(falling);
    TokenLogprob {
        token,
        bytes: bytes(token),
        logprob: logprob(token),
        top: order
            .into_iter()
            .map(|token| Alternative {
                token,
                bytes: bytes(token),
                logprob: logprob(token),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..Sampling::default()
        }
    }

    fn sample(
        logits: &[f32],
        history: &[Token],
        sampling: &Sampling,
        seed: u32,
        position: u64,
    ) -> Result<Token, NoFiniteLogit> {
        Sampler::default().sample(logits, history, sampling, seed, position, |_| false)
    }

    #[test]
    fn draws_follow_the_distribution() {
        let probabilities = [0.5_f32, 0.25, 0.15, 0.1];
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        let mut counts = [0_u32; 4];
        let draws = 40_000;
        for position in 0..draws {
            counts[sample(&logits, &[], &plain(), 7, position).unwrap() as usize] += 1;
        }
        for (count, probability) in counts.iter().zip(probabilities) {
            let share = f64::from(*count) / draws as f64;
            // Five standard deviations of a binomial share.
            let deviation =
                (f64::from(probability) * (1.0 - f64::from(probability)) / draws as f64).sqrt();
            assert!(
                (share - f64::from(probability)).abs() < 5.0 * deviation,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn rules_cut_as_described() {
        let logits: Vec<f32> = [0.4_f32, 0.3, 0.2, 0.1].iter().map(|p| p.ln()).collect();
        let reachable = |sampling: &Sampling| {
            let mut seen: Vec<Token> = (0..2000)
                .map(|position| sample(&logits, &[], sampling, 1, position).unwrap())
                .collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(reachable(&plain()), [0, 1, 2, 3]);
        assert_eq!(
            reachable(&Sampling {
                top_k: 2,
                ..plain()
            }),
            [0, 1]
        );
        assert_eq!(
            reachable(&Sampling {
                top_p: 0.65,
                ..plain()
            }),
            [0, 1]
        );
        assert_eq!(
            reachable(&Sampling {
                top_p: 0.0,
                ..plain()
            }),
            [0]
        );
        assert_eq!(
            reachable(&Sampling {
                min_p: 0.45,
                ..plain()
            }),
            [0, 1, 2]
        );
        assert_eq!(
            reachable(&Sampling {
                min_p: 1.0,
                ..plain()
            }),
            [0]
        );
        assert_eq!(
            reachable(&Sampling {
                temperature: 0.01,
                ..plain()
            }),
            [0]
        );
        assert_eq!(
            reachable(&Sampling {
                logit_bias: vec![(3, 100.0)],
                ..plain()
            }),
            [3]
        );
        assert_eq!(
            reachable(&Sampling {
                logit_bias: vec![(0, -100.0), (99, 5.0), (-1, 5.0)],
                ..plain()
            }),
            [1, 2, 3]
        );
    }

    #[test]
    fn penalties_are_those_of_llama_cpp() {
        let greedy = |penalty: Sampling| Sampling {
            temperature: 0.0,
            ..penalty
        };
        // A repeated token loses: positive logits are divided, negative ones multiplied.
        assert_eq!(
            sample(
                &[1.0, 0.9],
                &[0],
                &greedy(Sampling {
                    repeat_penalty: 1.2,
                    ..plain()
                }),
                0,
                0
            ),
            Ok(1)
        );
        assert_eq!(
            sample(
                &[-1.0, -1.1],
                &[0],
                &greedy(Sampling {
                    repeat_penalty: 1.2,
                    ..plain()
                }),
                0,
                0
            ),
            Ok(1)
        );
        // Frequency counts, presence does not.
        let frequency = greedy(Sampling {
            frequency_penalty: 0.06,
            ..plain()
        });
        assert_eq!(sample(&[1.0, 0.9], &[0], &frequency, 0, 0), Ok(0));
        assert_eq!(sample(&[1.0, 0.9], &[0, 0], &frequency, 0, 0), Ok(1));
        let presence = greedy(Sampling {
            presence_penalty: 0.06,
            ..plain()
        });
        assert_eq!(sample(&[1.0, 0.9], &[0, 0, 0], &presence, 0, 0), Ok(0));
        // Only the last tokens count.
        let window = greedy(Sampling {
            presence_penalty: 5.0,
            penalty_tokens: 1,
            ..plain()
        });
        assert_eq!(sample(&[1.0, 0.9], &[0, 1], &window, 0, 0), Ok(0));
    }

    #[test]
    fn broken_logits_are_an_error_and_no_token() {
        for sampling in [
            plain(),
            Sampling {
                temperature: 0.0,
                ..plain()
            },
        ] {
            assert_eq!(
                sample(&[f32::NAN, f32::NAN], &[], &sampling, 0, 0),
                Err(NoFiniteLogit)
            );
            assert_eq!(
                sample(&[1.0, f32::NAN], &[], &sampling, 0, 0),
                Err(NoFiniteLogit)
            );
            assert_eq!(
                sample(&[f32::NEG_INFINITY; 2], &[], &sampling, 0, 0),
                Err(NoFiniteLogit)
            );
        }
    }

    #[test]
    fn forbidden_tokens_are_never_chosen_when_the_end_is_ignored() {
        let sampling = Sampling {
            temperature: 0.0,
            ignore_end: true,
            ..plain()
        };
        let mut sampler = Sampler::default();
        assert_eq!(
            sampler.sample(&[5.0, 1.0], &[], &sampling, 0, 0, |token| token == 0),
            Ok(1)
        );
    }

    #[test]
    fn logprobs_are_a_log_softmax() {
        let logits: Vec<f32> = [0.1_f32, 0.6, 0.3].iter().map(|p| p.ln() + 3.0).collect();
        let entry = logprobs(&logits, 2, 2, |token| vec![token as u8]);
        assert!((entry.logprob.exp() - 0.3).abs() < 1e-6);
        assert_eq!(
            entry.top.iter().map(|top| top.token).collect::<Vec<_>>(),
            [1, 2]
        );
        assert!((entry.top[0].logprob.exp() - 0.6).abs() < 1e-6);
        assert_eq!(logprobs(&logits, 0, 0, |_| Vec::new()).top, []);
    }

    proptest! {
        #[test]
        fn a_draw_depends_on_seed_and_position_alone(
            logits in prop::collection::vec(-10.0_f32..10.0, 1..200), seed: u32, position in 0_u64..1_000_000, other in prop::collection::vec(-5.0_f32..5.0, 1..50)
        ) {
            let mut used = Sampler::default();
            used.sample(&other, &[], &plain(), 3, 9, |_| false).unwrap();
            let again = used.sample(&logits, &[], &Sampling::default(), seed, position, |_| false);
            prop_assert_eq!(again, sample(&logits, &[], &Sampling::default(), seed, position));
        }

        #[test]
        fn greedy_takes_the_maximum_by_either_path(logits in prop::collection::vec(-10.0_f32..10.0, 1..200)) {
            let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
            let fast = sample(&logits, &[], &greedy, 0, 0).unwrap();
            let slow = sample(&logits, &[], &Sampling { logit_bias: vec![(0, 0.0)], ..greedy }, 0, 0).unwrap();
            prop_assert_eq!(fast, slow);
            prop_assert!(logits.iter().all(|logit| *logit <= logits[fast as usize]));
        }
    }
}
