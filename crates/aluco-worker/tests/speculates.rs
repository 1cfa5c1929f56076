//! Drafting tokens changes how fast a reply comes, and nothing of what it says.

mod support;

use aluco_proto::{
    FinishReason, GenerationSpec, LoadOptions, Prompt, RequestId, Sampling, Speculation,
};
use support::{Outcome, Worker, greedy};

/// Made so that the likeliest next token is far ahead of the second: the last bits of logits differ with the number of rows.
const LIST: &str = "one apple, two pears, three plums, four figs, five dates, six limes, seven \
    nuts, eight eggs, nine beans, ten peas.\n";

fn worker(speculation: Speculation) -> Worker {
    let mut worker = Worker::start();
    worker.load(LoadOptions {
        context_tokens: Some(2048),
        threads: Some(2),
        speculation,
        ..LoadOptions::default()
    });
    worker
}

fn repetitive(tokens_max: u32) -> GenerationSpec {
    let mut spec = greedy(Prompt::Text(LIST.repeat(4)), tokens_max);
    spec.sampling.ignore_end = true;
    spec
}

/// What each of these comes to without drafts and with them, all at the same time.
fn both(specs: &[GenerationSpec]) -> [Vec<Outcome>; 2] {
    [Speculation::Off, Speculation::Auto].map(|speculation| {
        let mut worker = worker(speculation);
        let requests: Vec<RequestId> = specs
            .iter()
            .map(|spec| worker.generate(spec.clone()))
            .collect();
        let outcomes = worker.finish(&requests);
        assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
        outcomes
    })
}

/// The replies are the same; gives those with drafts.
fn same(specs: &[GenerationSpec]) -> Vec<Outcome> {
    let [plain, drafted] = both(specs);
    for (plain, drafted) in plain.iter().zip(&drafted) {
        assert_eq!(plain.text, drafted.text);
        assert_eq!(plain.tokens, drafted.tokens);
        assert_eq!(plain.reasons, drafted.reasons);
        assert_eq!(plain.usage.generated_tokens, drafted.usage.generated_tokens);
        assert_eq!(
            (plain.usage.drafted_tokens, plain.usage.accepted_tokens),
            (0, 0)
        );
        assert!(drafted.usage.accepted_tokens <= drafted.usage.drafted_tokens);
    }
    drafted
}

#[test]
fn what_repeats_is_drafted_and_comes_out_the_same() {
    let outcome = same(&[repetitive(256)]).remove(0);
    assert!(
        outcome.usage.accepted_tokens > 0,
        "a list that repeats itself is foreseen: {:?}",
        outcome.usage
    );
}

#[test]
fn two_streams_and_two_choices_are_drafted_beside_each_other() {
    let mut other = repetitive(200);
    other.prompt = Prompt::Text("let x = [1, 2, 3];\nlet y = [1, 2, 3];\n".repeat(6));
    let outcomes = same(&[repetitive(200), other]);
    let drafted: u32 = outcomes.iter().map(|it| it.usage.drafted_tokens).sum();
    assert!(drafted > 0, "two streams are few enough");
    let mut choices = repetitive(160);
    choices.choices = 2;
    let outcome = same(&[choices]).remove(0);
    assert_eq!(outcome.text[0], outcome.text[1]);
    assert!(outcome.usage.drafted_tokens > 0);
}

#[test]
fn a_seed_gives_the_same_reply_with_drafts() {
    // Where two tokens are about as likely, other batch shapes can bring the other one: no further than the list is sure.
    let mut spec = repetitive(72);
    spec.sampling = Sampling {
        temperature: 0.5,
        seed: Some(17),
        ignore_end: true,
        ..Sampling::default()
    };
    let outcome = same(&[spec]).remove(0);
    assert!(outcome.usage.drafted_tokens > 0);
}

#[test]
fn limits_and_stop_strings_hold_amid_drafts() {
    for tokens_max in [97, 98, 99, 100] {
        let outcome = same(&[repetitive(tokens_max)]).remove(0);
        assert_eq!(outcome.tokens[0].len(), tokens_max as usize);
        assert_eq!(outcome.reasons, [Some(FinishReason::Length)]);
    }
    let mut spec = repetitive(400);
    spec.stop = vec!["seven nuts, eight eggs, nine beans, ten peas.\none apple, two".to_owned()];
    let outcome = same(&[spec.clone()]).remove(0);
    let [Some(FinishReason::StopString(stop))] = &outcome.reasons[..] else {
        panic!("{:?}", outcome.reasons);
    };
    assert_eq!(*stop, spec.stop[0]);
}

#[test]
fn the_next_turn_goes_on_behind_what_was_drafted() {
    let [plain, drafted] = [Speculation::Off, Speculation::Auto].map(|speculation| {
        let mut worker = worker(speculation);
        let first = worker.run(repetitive(150));
        let mut next = repetitive(40);
        next.prompt = Prompt::Text(format!("{}{}\n\none apple,", LIST.repeat(4), first.text[0]));
        let second = worker.run(next);
        assert!(
            second.usage.cached_tokens >= first.usage.prompt_tokens + 100,
            "{:?}",
            second.usage
        );
        [first, second]
    });
    for (plain, drafted) in plain.iter().zip(&drafted) {
        assert_eq!(plain.tokens, drafted.tokens);
    }
}
