//! What is left out of a prompt that does not fit the context, where that is asked for.
//!
//! Up to an eighth more goes than has to. A prompt that grows from turn to turn would otherwise lose another piece at each turn, and as
//! everything behind a gap must be computed anew when the gap moves, so would the whole prompt be. In steps, the gap stays for many turns.

use aluco_proto::Token;

/// Room for an answer of unknown length, in tokens.
const ANSWER_TOKENS: u32 = 256;

/// Steps in which a prompt is shortened, as a share of what fits.
const STEP_SHARE: usize = 8;

/// The longest prompt that leaves room for the answer, in tokens. An answer gets no more than half of the context: many clients ask for
/// the longest that can be.
pub(super) fn fitting_tokens(context_tokens: u32, tokens_max: Option<u32>) -> usize {
    let answer = tokens_max.unwrap_or(ANSWER_TOKENS);
    (context_tokens - answer.min(context_tokens / 2)) as usize
}

/// How many tokens of a prompt should go so that `fitting` are left, or somewhat fewer.
pub(super) fn tokens_to_drop(prompt: usize, fitting: usize) -> usize {
    let step = (fitting / STEP_SHARE).max(1);
    prompt.saturating_sub(fitting).next_multiple_of(step)
}

/// Leaves out of the middle of a prompt what does not fit: the first quarter of what fits stays, and the end.
pub(super) fn without_middle(mut tokens: Vec<Token>, fitting: usize) -> Vec<Token> {
    let begin = fitting / 4;
    let dropped = tokens_to_drop(tokens.len(), fitting);
    let end = (begin + dropped).min(tokens.len());
    tokens.drain(begin.min(end)..end);
    tokens
}

/// Messages of a conversation that can only go together, the oldest first: from a message of the user to the next one, so that calls of
/// tools stay with their results. What the system says stays, as do the last message of the user and everything behind it.
pub(super) fn exchanges(roles: &[&str]) -> Vec<Vec<usize>> {
    let Some(last) = roles.iter().rposition(|role| *role == "user") else {
        return Vec::new();
    };
    let mut exchanges: Vec<Vec<usize>> = Vec::new();
    for (index, role) in roles[..last].iter().enumerate() {
        match (*role, exchanges.last_mut()) {
            ("system" | "developer", _) => {}
            ("user", _) | (_, None) => exchanges.push(vec![index]),
            (_, Some(exchange)) => exchange.push(index),
        }
    }
    exchanges
}

/// The messages that are in none of these exchanges, of so many in all.
pub(super) fn others(messages: usize, exchanges: &[Vec<usize>]) -> Vec<usize> {
    let mut is_kept = vec![true; messages];
    for index in exchanges.iter().flatten() {
        is_kept[*index] = false;
    }
    (0..messages).filter(|index| is_kept[*index]).collect()
}

/// The result of `attempt` for the least number from 1 to `most` for which it is good enough, or for `most` if it never is. What is
/// good enough for one number must be so for greater ones.
pub(super) fn least<T, E>(
    most: usize,
    mut attempt: impl FnMut(usize) -> Result<T, E>,
    is_enough: impl Fn(&T) -> bool,
) -> Result<T, E> {
    let mut range = (1, most);
    let mut best = None;
    while range.0 < range.1 {
        let middle = usize::midpoint(range.0, range.1);
        let result = attempt(middle)?;
        if is_enough(&result) {
            range.1 = middle;
            best = Some(result);
        } else {
            range.0 = middle + 1;
        }
    }
    match best {
        Some(best) => Ok(best),
        None => attempt(most),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn exchanges_go_from_one_message_of_the_user_to_the_next() {
        let roles = [
            "system",
            "user",
            "assistant",
            "tool",
            "assistant",
            "user",
            "assistant",
            "user",
        ];
        let exchanges = exchanges(&roles);
        assert_eq!(exchanges, [vec![1, 2, 3, 4], vec![5, 6]]);
        assert_eq!(others(roles.len(), &exchanges[..1]), [0, 5, 6, 7]);
        assert_eq!(others(roles.len(), &exchanges), [0, 7]);
    }

    #[test]
    fn what_the_system_says_stays_wherever_it_stands() {
        let roles = ["user", "system", "assistant", "developer", "user"];
        assert_eq!(exchanges(&roles), [[0, 2]]);
    }

    #[test]
    fn the_last_message_of_the_user_and_all_behind_it_stay() {
        let roles = ["system", "user", "assistant", "tool", "assistant", "tool"];
        assert_eq!(exchanges(&roles), Vec::<Vec<usize>>::new());
        assert_eq!(
            exchanges(&["system", "assistant"]),
            Vec::<Vec<usize>>::new()
        );
    }

    #[test]
    fn what_comes_before_the_first_message_of_the_user_goes_first() {
        let roles = [
            "assistant",
            "assistant",
            "user",
            "user",
            "assistant",
            "user",
        ];
        assert_eq!(exchanges(&roles), [vec![0, 1], vec![2], vec![3, 4]]);
    }

    #[test]
    fn the_answer_gets_what_it_asks_for_up_to_half_of_the_context() {
        assert_eq!(fitting_tokens(4096, Some(96)), 4000);
        assert_eq!(fitting_tokens(4096, None), 4096 - 256);
        assert_eq!(fitting_tokens(4096, Some(u32::MAX)), 2048);
        assert_eq!(fitting_tokens(1, None), 1);
    }

    #[test]
    fn a_prompt_without_its_middle_fits_and_keeps_both_ends() {
        for fitting in [1, 2, 7, 100, 1000] {
            for length in [fitting + 1, 2 * fitting, 50 * fitting + 3] {
                let tokens: Vec<Token> = (0..length as Token).collect();
                let left = without_middle(tokens.clone(), fitting);
                assert!(left.len() <= fitting, "{} of {fitting}", left.len());
                assert!(left.len() >= fitting - fitting / STEP_SHARE);
                let begin = fitting / 4;
                assert_eq!(left[..begin], tokens[..begin]);
                let end = left.len() - begin;
                assert_eq!(left[begin..], tokens[length - end..]);
            }
        }
    }

    #[test]
    fn a_prompt_that_fits_stays_as_it_is() {
        let tokens: Vec<Token> = (0..100).collect();
        assert_eq!(without_middle(tokens.clone(), 100), tokens);
    }

    #[test]
    fn a_prompt_that_grows_is_cut_at_the_same_place_for_many_turns() {
        let cut = |length: Token| without_middle((0..length).collect(), 800);
        let turns: Vec<_> = (910..=1000).step_by(10).map(cut).collect();
        for turn in turns.windows(2) {
            assert!(turn[1].starts_with(&turn[0]));
        }
    }

    #[test]
    fn the_least_number_that_is_enough_is_found_in_few_attempts() {
        for most in 1..40 {
            for wanted in 1..=most + 1 {
                let mut attempts = 0;
                let found = least(
                    most,
                    |number| {
                        attempts += 1;
                        Ok::<_, Infallible>(number)
                    },
                    |number| *number >= wanted,
                );
                assert_eq!(found, Ok(wanted.min(most)));
                assert!(attempts <= 7, "{attempts} attempts");
            }
        }
    }
}
