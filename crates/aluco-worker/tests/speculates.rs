//! Drafting tokens changes how fast a reply comes, and nothing of what it says.

mod support;

use aluco_proto::{
    FinishReason, GenerationSpec, LoadOptions, Prompt, RequestId, Sampling, Speculation,
};
use support::{Outcome, Worker, gate::Gate, greedy};

/// Made so that the likeliest next token is far ahead of the second: the last bits of logits differ with the number of rows.
const LIST: &str = "1. apples\n2. pears\n3. plums\n4. figs\n5. dates\n6. limes\n";
const CODE: &str = "let x = [1, 2, 3];\nlet y = [1, 2, 3];\n";

/// How far ahead, at least, in log probabilities. These were seen to differ by 0.1 with the number of rows.
const LEAD_MIN: f32 = 1.0;

fn load(worker: &mut Worker, speculation: Speculation) {
    worker.load(LoadOptions {
        context_tokens: Some(2048),
        threads: Some(2),
        speculation,
        ..LoadOptions::default()
    });
}

fn repetitive(text: &str, tokens_max: u32) -> GenerationSpec {
    let mut spec = greedy(Prompt::Text(text.repeat(6)), tokens_max);
    spec.sampling.ignore_end = true;
    spec.logprobs = Some(2);
    spec
}

/// What each of these comes to without drafts and with them, all beside each other.
fn both(specs: &[GenerationSpec]) -> [Vec<Outcome>; 2] {
    [Speculation::Off, Speculation::Auto].map(|speculation| {
        let gate = Gate::at(1);
        let mut worker = Worker::with_gate(&gate);
        load(&mut worker, speculation);
        let requests: Vec<RequestId> = worker.ask_at_once(&gate, |worker| {
            let generate = |spec: &GenerationSpec| worker.generate(spec.clone());
            specs.iter().map(generate).collect()
        });
        let outcomes = worker.finish(&requests);
        assert!(outcomes.iter().all(|outcome| outcome.failure.is_none()));
        outcomes
    })
}

/// The model was so sure of each token that it would have said the same with other last bits.
fn check_lead(outcome: &Outcome) {
    for (at, token) in outcome.logprobs.iter().flatten().enumerate() {
        let lead = token.top[0].logprob - token.top[1].logprob;
        assert!(
            token.token == token.top[0].token && lead > LEAD_MIN,
            "token {at} is no sure one: {token:?}"
        );
    }
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

/// The same, for greedy replies.
fn same_and_sure(specs: &[GenerationSpec]) -> Vec<Outcome> {
    let drafted = same(specs);
    drafted.iter().for_each(check_lead);
    drafted
}

#[test]
fn what_repeats_is_drafted_and_comes_out_the_same() {
    let outcome = same_and_sure(&[repetitive(LIST, 256)]).remove(0);
    assert!(
        outcome.usage.accepted_tokens > 0,
        "a list that repeats itself is foreseen: {:?}",
        outcome.usage
    );
}

#[test]
fn two_streams_and_two_choices_are_drafted_beside_each_other() {
    let outcomes = same_and_sure(&[repetitive(LIST, 200), repetitive(CODE, 200)]);
    let drafted: u32 = outcomes.iter().map(|it| it.usage.drafted_tokens).sum();
    assert!(drafted > 0, "two streams are few enough");
    let mut choices = repetitive(LIST, 160);
    choices.choices = 2;
    let outcome = same_and_sure(&[choices]).remove(0);
    assert_eq!(outcome.text[0], outcome.text[1]);
    assert!(outcome.usage.drafted_tokens > 0);
}

#[test]
fn a_seed_gives_the_same_reply_with_drafts() {
    let digits: Vec<_> = {
        let mut worker = Worker::start();
        load(&mut worker, Speculation::Off);
        let digits = ["1", "2", "3"];
        digits.map(|digit| worker.tokenize(digit, false)[0]).into()
    };
    let mut spec = greedy(Prompt::Tokens(digits.repeat(8)), 200);
    spec.sampling = Sampling {
        temperature: 1.0,
        seed: Some(17),
        ignore_end: true,
        // No logit adds anything to so large a number: each is as likely as the others, to the last bit.
        logit_bias: digits.iter().map(|digit| (*digit, 1e9)).collect(),
        ..Sampling::default()
    };
    let outcome = same(&[spec]).remove(0);
    assert!(digits.iter().all(|it| outcome.tokens[0].contains(it)));
    assert!(outcome.usage.drafted_tokens > 0);
}

#[test]
fn limits_and_stop_strings_hold_amid_drafts() {
    for tokens_max in [97, 98, 99, 100] {
        let outcome = same_and_sure(&[repetitive(LIST, tokens_max)]).remove(0);
        assert_eq!(outcome.tokens[0].len(), tokens_max as usize);
        assert_eq!(outcome.reasons, [Some(FinishReason::Length)]);
        assert!(outcome.usage.drafted_tokens > 0);
    }
    let mut spec = repetitive(LIST, 400);
    spec.stop = vec!["4. figs\n5. dates\n6. limes\n1. apples\n2".to_owned()];
    let outcome = same_and_sure(&[spec.clone()]).remove(0);
    let [Some(FinishReason::StopString(stop))] = &outcome.reasons[..] else {
        panic!("{:?}", outcome.reasons);
    };
    assert_eq!(*stop, spec.stop[0]);
    assert!(outcome.usage.drafted_tokens > 0);
}

#[test]
fn the_next_turn_goes_on_behind_what_was_drafted() {
    let [plain, drafted] = [Speculation::Off, Speculation::Auto].map(|speculation| {
        let mut worker = Worker::start();
        load(&mut worker, speculation);
        let first = worker.run(repetitive(LIST, 150));
        let mut next = repetitive(LIST, 40);
        next.prompt = Prompt::Text(format!("{}{}\n\n{LIST}", LIST.repeat(6), first.text[0]));
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
        check_lead(plain);
    }
    assert!(drafted[0].usage.drafted_tokens > 0);
}
