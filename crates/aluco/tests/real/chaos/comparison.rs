//! Replies beside those of an undisturbed run: the same, or other from a near tie on.
//!
//! Which streams share a batch moves the last bits of logits, disturbed or not. So a text may differ where two tokens were nearly as good as each
//! other, and there only. What gives a wrong text away is the distribution from which the first other token was drawn: after a token too
//! many or too few, or a wrong cell of the KV cache, it is another altogether.

use std::{fmt, sync::Arc};

use super::reply::{Drawn, Job, Reply};

/// So many tokens of one run are looked for among all that another tells of.
const LIKELIEST: usize = 5;

/// What replies are compared with.
pub(super) struct Comparison {
    jobs: Arc<Vec<Job>>,
    /// One per job.
    expected: Vec<Reply>,
}

/// What a comparison came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) replies: usize,
    pub(super) tokens: usize,
    /// Largest difference of the logprobs of a token, all tokens before it being the same.
    pub(super) shift_max: f64,
    /// Where texts began to differ.
    pub(super) forks: Vec<Fork>,
}

/// Where the text of a reply began to differ.
#[derive(Debug)]
pub(super) struct Fork {
    pub(super) job: usize,
    pub(super) at_token: usize,
    /// How much better the one token was than the other, as a logprob, in the run that preferred it by more. `None`: they were drawn, or one ended there.
    pub(super) gap: Option<f64>,
    /// Largest difference of logprobs between the runs there.
    pub(super) shift: f64,
}

impl Comparison {
    pub(super) fn new(jobs: &Arc<Vec<Job>>, replies: Vec<(usize, Reply)>) -> Self {
        let mut expected: Vec<Option<Reply>> = vec![None; jobs.len()];
        for (job, reply) in replies {
            expected[job] = Some(reply);
        }
        Self {
            jobs: jobs.clone(),
            expected: expected.into_iter().map(Option::unwrap).collect(),
        }
    }

    pub(super) fn compare(&self, replies: &[(usize, Reply)]) -> Tally {
        let mut tally = Tally::default();
        for (job, reply) in replies {
            self.add(&mut tally, *job, reply);
        }
        tally
    }

    fn add(&self, tally: &mut Tally, job: usize, reply: &Reply) {
        tally.replies += 1;
        tally.tokens += reply.tokens.len();
        let expected = &self.expected[job];
        let pairs = || expected.tokens.iter().zip(&reply.tokens);
        let same = pairs().take_while(|(one, other)| one.bytes == other.bytes);
        let at_token = same.count();
        // The next ones were computed from the same tokens, too.
        let shifts = pairs()
            .take(at_token + 1)
            .map(|(one, other)| shift(one, other));
        tally.shift_max = shifts.fold(tally.shift_max, f64::max);
        if expected.text == reply.text && expected.tokens.len() == reply.tokens.len() {
            assert_eq!(expected.finish_reason, reply.finish_reason);
            return;
        }
        let pair = pairs().nth(at_token);
        let is_greedy = self.jobs[job].temperature == 0.0;
        tally.forks.push(Fork {
            job,
            at_token,
            gap: pair.filter(|_| is_greedy).map(|(one, other)| {
                let gaps = [gap(one, &other.bytes), gap(other, &one.bytes)];
                gaps.into_iter().fold(0.0, f64::max)
            }),
            shift: pair.map_or(0.0, |(one, other)| shift(one, other)),
        });
    }
}

/// How much likelier the token was than another one; at least, if that is not among the likeliest: it comes behind the last of them.
fn gap(drawn: &Drawn, other: &[u8]) -> f64 {
    let listed = drawn.best.iter().find(|(bytes, _)| bytes == other);
    let (_, logprob) = listed.or(drawn.best.last()).unwrap();
    drawn.logprob - logprob
}

/// Largest difference of the logprobs that two runs gave to the likeliest tokens of either; without end if those are others altogether.
fn shift(one: &Drawn, other: &Drawn) -> f64 {
    shift_from(one, other).max(shift_from(other, one))
}

fn shift_from(one: &Drawn, other: &Drawn) -> f64 {
    let mut largest: f64 = 0.0;
    let likeliest = &one.best[..one.best.len().min(LIKELIEST)];
    let mut met = 0;
    for (bytes, logprob) in likeliest {
        let listed = other.best.iter().find(|(other, _)| other == bytes);
        if let Some((_, beside)) = listed {
            largest = largest.max((logprob - beside).abs());
            met += 1;
        } else if let Some((_, last)) = other.best.last() {
            // It comes behind that one.
            largest = largest.max(logprob - last);
        }
    }
    if met * 2 < likeliest.len() {
        return f64::INFINITY;
    }
    largest
}

impl Tally {
    /// Replies that said the same.
    pub(super) fn same(&self) -> usize {
        self.replies - self.forks.len()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of {} replies the same ({} tokens), logprobs differ by {:.2e} at most",
            self.same(),
            self.replies,
            self.tokens,
            self.shift_max
        )?;
        for fork in &self.forks {
            write!(
                formatter,
                "\n  job {} from token {} on: gap {:.2e}, shift {:.2e}",
                fork.job,
                fork.at_token,
                fork.gap.unwrap_or(f64::NAN),
                fork.shift
            )?;
        }
        Ok(())
    }
}
