//! What a killed worker was saying is said to the end by another, as if nothing had happened.

mod support;

use std::path::Path;

use aluco_proto::{
    CacheOptions, Event, FlashAttention, GenerationSpec, KvType, LoadOptions, Prompt, RequestId,
    Resume, ResumeChoice, Sampling, Speculation,
};
use support::{Outcome, Worker, gate::Gate, greedy, model_path, tiny, turns, without_cache};
use tiny::Kind;

const SEED: u32 = 7;

fn spec(prompt: Prompt, tokens_max: u32, temperature: f32) -> GenerationSpec {
    let mut spec = greedy(prompt, tokens_max);
    spec.sampling = Sampling {
        temperature,
        seed: Some(SEED),
        ignore_end: true,
        ..spec.sampling
    };
    spec
}

/// Asks all at once; gives what came of them.
fn undisturbed(file: &Path, options: &LoadOptions, specs: &[GenerationSpec]) -> Vec<Outcome> {
    let options = LoadOptions {
        cache: without_cache(),
        ..options.clone()
    };
    let (mut worker, requests) = ask(file, options, |worker| generate(worker, specs));
    worker.finish(&requests)
}

/// A worker that has been asked all of this before it computes any of it. How much of a prompt goes into a step beside streams is a matter of
/// time; so these meet before the first of them is one.
fn ask(
    file: &Path,
    options: LoadOptions,
    ask: impl FnOnce(&mut Worker) -> Vec<RequestId>,
) -> (Worker, Vec<RequestId>) {
    let gate = Gate::at(1);
    let mut worker = Worker::with_gate(&gate);
    worker.load_file(file, options);
    let requests = worker.ask_at_once(&gate, ask);
    (worker, requests)
}

fn generate(worker: &mut Worker, specs: &[GenerationSpec]) -> Vec<RequestId> {
    let generate = |spec: &GenerationSpec| worker.generate(spec.clone());
    specs.iter().map(generate).collect()
}

/// Asks all at once, and kills the worker when each reply has so many tokens; gives what was said by then.
fn interrupted(
    file: &Path,
    options: &LoadOptions,
    specs: &[GenerationSpec],
    tokens: usize,
) -> Vec<Outcome> {
    let (mut worker, requests) = ask(file, options.clone(), |worker| generate(worker, specs));
    let mut outcomes: Vec<Outcome> = specs.iter().map(|_| Outcome::default()).collect();
    let is_short = |outcome: &Outcome| outcome.tokens.first().is_none_or(|it| it.len() < tokens);
    while outcomes.iter().any(is_short) {
        if let Event::Generation { request, event } = worker.event() {
            let index = requests.iter().position(|it| *it == request);
            if let Some(index) = index {
                outcomes[index].take(event);
            }
        }
    }
    worker.kill();
    outcomes
}

fn resume(said: &Outcome) -> Resume {
    Resume {
        prompt: Vec::new(),
        seed: SEED,
        choices: vec![ResumeChoice {
            tokens: said.tokens[0].clone(),
            text_bytes: said.text[0].len() as u64,
            finished: None,
        }],
    }
}

fn check(expected: &Outcome, said: &Outcome, rest: &Outcome) {
    assert_eq!((&rest.failure, &expected.failure), (&None, &None));
    let tokens = [&*said.tokens[0], &rest.tokens[0]].concat();
    assert_eq!(tokens, expected.tokens[0]);
    let text = format!("{}{}", said.text[0], rest.text[0]);
    assert_eq!(text, expected.text[0]);
    assert_eq!(rest.reasons, expected.reasons);
    assert_eq!(rest.usage.generated_tokens, expected.usage.generated_tokens);
}

/// The weights of this model are quantised, so in other batches it would say something else sooner or later.
#[test]
fn a_lone_stream_of_a_real_model_goes_on_with_the_same_words() {
    let options = LoadOptions {
        context_tokens: Some(1024),
        threads: Some(1),
        speculation: Speculation::Off,
        ..LoadOptions::default()
    };
    for temperature in [0.0, 0.9] {
        let story = Prompt::Text("Once upon a time there was an owl who".to_owned());
        let specs = [spec(story, 80, temperature)];
        let expected = undisturbed(&model_path(), &options, &specs);
        let said = interrupted(&model_path(), &options, &specs, 40);
        let mut worker = Worker::start();
        worker.load(options.clone());
        let request = worker.resume(specs[0].clone(), resume(&said[0]));
        let rest = worker.finish(&[request]);
        check(&expected[0], &said[0], &rest[0]);
        let prompt_tokens = u64::from(rest[0].usage.prompt_tokens);
        assert_eq!(worker.activity().prefill_tokens, prompt_tokens);
        assert_eq!(worker.complaints, [] as [String; 0]);
    }
}

/// Eight streams are killed and go on side by side.
fn eight_go_on(kind: Kind) {
    const PROMPT_TOKENS: usize = 100;
    const REPLY_TOKENS: u32 = 400;
    let folder = tempfile::tempdir().unwrap();
    let options = LoadOptions {
        kv_type_k: KvType::F32,
        kv_type_v: KvType::F32,
        flash_attention: FlashAttention::Off,
        sequences_max: 8,
        // All that is known of all of them.
        micro_batch_tokens: 2048,
        cache: CacheOptions {
            folder: Some(folder.path().to_owned()),
            // Else a disk that is nearly full is complained of.
            disk_bytes: Some(1 << 30),
            ..CacheOptions::default()
        },
        ..tiny::options(8192)
    };
    let specs: Vec<GenerationSpec> = (0..8)
        .map(|index| {
            let prompt = Prompt::Tokens(turns::text(index, PROMPT_TOKENS));
            spec(prompt, REPLY_TOKENS, if index < 4 { 0.0 } else { 0.8 })
        })
        .collect();
    let expected = undisturbed(&tiny::path(kind), &options, &specs);
    let said = interrupted(&tiny::path(kind), &options, &specs, 60);

    let (mut worker, requests) = ask(&tiny::path(kind), options, |worker| {
        let both = specs.iter().zip(&said);
        both.map(|(spec, said)| worker.resume(spec.clone(), resume(said)))
            .collect()
    });
    let rest = worker.finish(&requests);
    for ((expected, said), rest) in expected.iter().zip(&said).zip(&rest) {
        assert!(!said.ended, "a reply is to be killed in its middle");
        check(expected, said, rest);
    }
    let activity = worker.activity();
    let cache = &activity.cache;
    let put_back = cache.device_hit_tokens + cache.ram_hit_tokens + cache.disk_hit_tokens;
    let sent_tokens: u64 = said.iter().map(|it| it.tokens[0].len() as u64).sum();
    // Those of the first step belong to another request.
    let known = (specs.len() * PROMPT_TOKENS) as u64 + sent_tokens + 1;
    let computed_at_once = put_back + activity.prefill_tokens;
    eprintln!("{kind}: {computed_at_once} of {known} at once, {put_back} put back");
    // A last token that is left is computed as all after it are.
    let least = known - specs.len() as u64;
    assert!(
        (least..=known).contains(&computed_at_once),
        "{least}..={known}"
    );
    assert_eq!(worker.complaints, [] as [String; 0]);
}

#[test]
fn eight_streams_go_on_beside_each_other() {
    eight_go_on(Kind::FullAttention);
}

#[test]
fn eight_streams_with_recurrent_state_go_on_beside_each_other() {
    eight_go_on(Kind::HybridDeltaNet);
}
