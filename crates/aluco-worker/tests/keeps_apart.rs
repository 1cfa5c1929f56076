//! Who may use what others have computed, and what is told of why something had to be computed.

mod support;

use aluco_proto::{CacheOptions, GenerationSpec, LoadOptions, Miss, Prompt, Token};
use support::{Worker, greedy, tiny, turns};
use tiny::Kind;

fn spec(prompt: &[Token], namespace: &str) -> GenerationSpec {
    let mut spec = greedy(Prompt::Tokens(prompt.to_vec()), 4);
    spec.sampling.ignore_end = true;
    namespace.clone_into(&mut spec.namespace);
    spec
}

fn worker(kind: Kind, cache: CacheOptions) -> Worker {
    let mut worker = Worker::start();
    worker.load_file(
        &tiny::path(kind),
        LoadOptions {
            cache,
            ..tiny::options(8192)
        },
    );
    worker
}

#[test]
fn a_namespace_learns_nothing_of_another() {
    for kind in [Kind::FullAttention, Kind::SlidingWindow, Kind::Hybrid] {
        let mut worker = worker(kind, CacheOptions::default());
        // Too long to be taken for a request on the side.
        let prompt = turns::text(1, 1100);

        // From a prompt that runs, and from one that is being computed.
        let mut long = spec(&prompt, "one");
        long.tokens_max = Some(300);
        let running = worker.generate(long);
        let other = worker.generate(spec(&prompt, "two"));
        let outcomes = worker.finish(&[other, running]);
        for outcome in &outcomes {
            assert_eq!(outcome.usage.cached_tokens, 0, "{kind}: {outcome:?}");
            assert_eq!(outcome.cache.miss, Some(Miss::NothingStored));
        }
        // From one that ended.
        let third = worker.run(spec(&prompt, "three"));
        assert_eq!(third.usage.cached_tokens, 0, "{kind}");
        // From the store.
        worker.wait_until("it is stored", |activity| activity.cache.ram_bytes > 0);
        let fourth = worker.run(spec(&prompt, ""));
        assert_eq!(fourth.usage.cached_tokens, 0, "{kind}");
        assert_eq!(fourth.cache.miss, Some(Miss::NothingStored));
        // And each from itself.
        for namespace in ["one", "two", "three", ""] {
            let again = worker.run(spec(&prompt, namespace));
            assert!(again.usage.cached_tokens > 300, "{kind} {again:?}");
        }
    }
}

#[test]
fn the_reason_of_a_miss_is_told() {
    for kind in [Kind::FullAttention, Kind::SlidingWindow, Kind::Hybrid] {
        let mut worker = worker(kind, CacheOptions::default());
        let miss = |worker: &mut Worker, prompt: &[Token]| worker.run(spec(prompt, "")).cache.miss;
        let prompt = turns::text(1, 600);
        assert_eq!(miss(&mut worker, &prompt), Some(Miss::NothingStored));
        // What only goes on is new from there on.
        let longer = [&*prompt, &*turns::text(2, 100)].concat();
        assert_ne!(miss(&mut worker, &prompt), Some(Miss::NothingStored));
        let reason = miss(&mut worker, &longer);
        let is_new = matches!(reason, None | Some(Miss::Diverged { at: 600 }));
        assert!(is_new, "{kind} {reason:?}");

        // Where memory cannot be cut at the difference, that is the reason, until a state was kept there.
        let mut other = prompt.clone();
        other.truncate(300);
        other.extend(turns::text(3, 300));
        let reason = miss(&mut worker, &other);
        let expected = if tiny::is_cut_anywhere(kind) {
            Miss::Diverged { at: 300 }
        } else {
            Miss::NoCheckpoint
        };
        assert_eq!(reason, Some(expected), "{kind}");
        other.truncate(300);
        other.extend(turns::text(4, 300));
        let reason = miss(&mut worker, &other);
        assert_eq!(reason, Some(Miss::Diverged { at: 300 }), "{kind}");

        // A few tokens that change, and the same again behind them.
        let mut changed = turns::text(5, 700);
        assert_eq!(miss(&mut worker, &changed), Some(Miss::NothingStored));
        for hour in 0..2 {
            changed[100..104].copy_from_slice(&[32 + hour, 33, 34 + hour, 35]);
            let reason = miss(&mut worker, &changed);
            let is_told = matches!(
                reason,
                Some(Miss::Volatile { at: 100 } | Miss::NoCheckpoint)
            );
            assert!(is_told, "{kind} {reason:?}");
        }
        assert_eq!(worker.complaints, [] as [String; 0]);
    }
}

#[test]
fn what_there_was_no_room_for_is_told() {
    for kind in [
        Kind::FullAttention,
        Kind::SlidingWindow,
        Kind::Hybrid,
        Kind::Recurrent,
    ] {
        // Room for about one of the prompts.
        let mut worker = worker(
            kind,
            CacheOptions {
                device_tokens: Some(0),
                ram_bytes: Some(1_200_000),
                ..CacheOptions::default()
            },
        );
        let prompts: Vec<_> = (0..6).map(|seed| turns::text(seed, 1100)).collect();
        for prompt in &prompts {
            let outcome = worker.run(spec(prompt, ""));
            assert_eq!(outcome.failure, None);
            worker.wait_until("nothing is kept on the device", |activity| {
                activity.cells_used == 0
            });
        }
        let activity = worker.activity();
        assert!(activity.cache.ram_bytes <= 1_200_000, "{activity:?}");
        let first = worker.run(spec(&prompts[0], ""));
        assert_eq!(first.cache.miss, Some(Miss::Evicted), "{kind} {first:?}");
        assert_eq!(worker.complaints, [] as [String; 0]);
    }
}
