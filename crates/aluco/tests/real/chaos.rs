//! Workers that die again and again while eight streams are in flight, over HTTP, with a real model: every stream completes, without a token twice or
//! missing, and says what it would have said. `make chaos` kills fifty; `ALUCO_CHAOS_KILLS` and `ALUCO_CHAOS_SEED` choose others.

mod comparison;
mod crowd;
mod culprit;
mod journal;
mod killing;
mod reply;
mod supervisor;
mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use aluco_tiny_models::Kind;

use self::{
    comparison::{Comparison, Tally},
    crowd::{Crowd, Outcome, STREAMS},
    journal::Life,
    killing::{Chance, Mortal, Pause, Way, kill_again_and_again},
    reply::{Job, Reply},
    waiting::Waits,
};
use crate::served::{FULL_PRECISION, PATIENCE, Served, model, model_in_full_precision};

/// From a death to the next worker, without the load of its model, on a machine that has nothing else to do.
const RESTART_MAX: Duration = Duration::from_secs(1);

/// Until a worker that a signal has stopped is noticed: two seconds without an answer, and the heartbeat that comes next.
const STOP_NOTICED_MAX: Duration = Duration::from_secs(3);

/// The end of the process after that.
const END_MAX: Duration = Duration::from_millis(200);

/// How far other neighbours in a batch may move the logprobs of the likeliest tokens of the quantised test model, whose activations are rounded
/// to eight bits: 0.6 to 1.5 at most was measured, of undisturbed runs as of disturbed ones.
const SHIFT_MAX: f64 = 3.0;

/// The same where a text began to differ, of the tokens between which it fell the other way: 0.8 at most was measured.
const NEAR_TIE: f64 = 1.5;

fn from_environment(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |text| text.parse().unwrap())
}

/// True if the environment says how many are to die: then figures are wanted, and time does not matter as much.
fn is_long() -> bool {
    std::env::var_os("ALUCO_CHAOS_KILLS").is_some()
}

/// Which model, how, and how much of it makes for a few seconds of work.
struct Scene<'a> {
    model: &'a str,
    options: &'a [&'a str],
    /// Texts are the same whatever runs beside them.
    is_exact: bool,
    /// Different questions and ways to answer them.
    jobs: usize,
    /// Deaths, unless the environment says otherwise.
    kills: u64,
    /// Tokens of the shortest reply.
    tokens_least: u64,
    /// Latest step in which a worker aborts; the first ones are prompts, and what was said already.
    step_max: u64,
}

/// Most jobs of a scene.
const JOBS_MAX: usize = 16;

/// Two of each question: greedy, and drawn.
fn jobs(count: usize, tokens_least: u64, alternatives: u32) -> Arc<Vec<Job>> {
    let questions = [
        "Why is the sky blue?",
        "Tell me a story about a lighthouse keeper.",
        "Explain how a bicycle stays upright.",
        "Write a Python function that reverses a list, and explain it.",
        "What did people eat in ancient Rome?",
        "Name the planets and say a sentence about each.",
        "How does a refrigerator work?",
        "Describe a walk through a forest in autumn.",
    ];
    let jobs = questions.iter().enumerate().flat_map(|(index, question)| {
        let index = index as u64;
        [0.0, 0.8].map(|temperature| Job {
            question: (*question).to_owned(),
            temperature,
            seed: 100 + index,
            // Of different lengths, so that streams do not end and begin all at once.
            tokens_max: tokens_least + index * tokens_least / 7,
            alternatives,
        })
    });
    Arc::new(jobs.take(count).collect())
}

/// The replies, each of which has to be whole.
fn whole(outcomes: Vec<Outcome>, served: &Served) -> Vec<(usize, Reply)> {
    let replies = outcomes.into_iter().map(|(job, outcome)| match outcome {
        Ok(reply) => (job, reply),
        Err(error) => panic!("job {job}: {error}\n{}", journal::tail(&served.log())),
    });
    replies.collect()
}

/// The comparisons of disturbed replies with undisturbed ones, and maybe one of undisturbed ones with each other.
async fn chaos(scene: &Scene<'_>) -> Vec<Tally> {
    let model = scene.model;
    let kills = from_environment("ALUCO_CHAOS_KILLS", scene.kills) as usize;
    let seed = from_environment("ALUCO_CHAOS_SEED", 1);
    eprintln!("{kills} kills, seed {seed}");
    let mortal = Mortal::new();
    let path = mortal.path();
    let mut args = vec!["--worker", path.to_str().unwrap(), "--context", "8192"];
    args.extend(["--parallel", "8"]);
    args.extend_from_slice(scene.options);
    let served = Served::start(&args);
    // Where texts are the same there is nothing to look for among them.
    let alternatives = if scene.is_exact { 5 } else { 20 };
    let jobs = jobs(scene.jobs, scene.tokens_least, alternatives);
    let mut tallies = Vec::new();

    let begun = Instant::now();
    let calm = Crowd::start(&served, model, &jobs, 1).ended().await;
    // To take everything up again is the same work as to say it, and a death in the midst of that has it done twice.
    let patience = PATIENCE.max(3 * begun.elapsed());
    let comparison = Comparison::new(&jobs, whole(calm, &served));
    // Once more, for what difference neighbours alone make.
    if is_long() || !scene.is_exact {
        let again = Crowd::start(&served, model, &jobs, 1).ended().await;
        let noise = comparison.compare(&whole(again, &served));
        eprintln!("undisturbed: {noise}");
        tallies.push(noise);
    }

    let mut chance = Chance(seed);
    let ways = ways(kills, &mut chance);
    let crowd = Crowd::start(&served, model, &jobs, usize::MAX);
    let started = SystemTime::now();
    journal::told(&served, "first tokens", |_| crowd.next_tokens(started)).await;
    let pauses = kill_again_and_again(
        patience,
        &served,
        &mortal,
        &crowd,
        &ways,
        scene.step_max,
        &mut chance,
    )
    .await;
    let outcomes = crowd.stopped().await;
    assert!(outcomes.len() >= STREAMS);
    let replies = whole(outcomes, &served);
    let chaotic = comparison.compare(&replies);
    eprintln!("disturbed: {chaotic}");
    tallies.push(chaotic);
    killing::print(&pauses);
    let waits = Waits::of(&pauses, &replies);
    eprintln!("{waits}");
    assert_eq!(pauses.len(), kills);
    assert_eq!(journal::lives(&served.log()).len(), kills + 1);
    for pause in &pauses {
        assert_is_short(pause);
    }
    waits.assert_short(&pauses);
    tallies
}

/// All ways in turn, in an order of chance. The script that dooms a worker does so once, so two do not abort in a row.
fn ways(kills: usize, chance: &mut Chance) -> Vec<Way> {
    let rounds = (0..kills.div_ceil(Way::ALL.len())).flat_map(|_| {
        let mut round = Way::ALL;
        for index in (1..round.len()).rev() {
            round.swap(index, chance.below(index as u64 + 1) as usize);
        }
        if round[0] == Way::Abort {
            round.reverse();
        }
        round
    });
    rounds.take(kills).collect()
}

fn assert_is_short(pause: &Pause) {
    let restart_max = RESTART_MAX.mul_f64(pause.crowding);
    let noticed_max = match pause.way {
        Way::Stop => (STOP_NOTICED_MAX + END_MAX).mul_f64(pause.crowding),
        _ => restart_max,
    };
    assert!(pause.noticed <= noticed_max, "{pause:?}");
    assert!(pause.restarted <= restart_max, "{pause:?}");
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn streams_of_a_model_in_full_precision_say_the_same_over_all_deaths() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    aluco_tiny_models::write(Kind::FullAttention, &path).unwrap();
    let tallies = chaos(&Scene {
        model: path.to_str().unwrap(),
        options: &FULL_PRECISION,
        is_exact: true,
        jobs: JOBS_MAX,
        kills: 12,
        tokens_least: 400,
        step_max: 800,
    })
    .await;
    for tally in tallies {
        assert!(tally.forks.is_empty(), "{tally}");
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn streams_of_a_trained_model_in_full_precision_say_the_same_over_all_deaths() {
    let tallies = chaos(&Scene {
        model: &model_in_full_precision(),
        options: &FULL_PRECISION,
        is_exact: true,
        // Each computes hundreds of millions of numbers per token.
        jobs: if is_long() { JOBS_MAX } else { STREAMS },
        kills: 4,
        tokens_least: 100,
        step_max: 100,
    })
    .await;
    for tally in tallies {
        assert!(tally.forks.is_empty(), "{tally}");
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn streams_of_a_quantised_model_differ_only_from_near_ties_on() {
    let tallies = chaos(&Scene {
        model: &model(),
        options: &[],
        is_exact: false,
        jobs: JOBS_MAX,
        kills: 4,
        tokens_least: 60,
        step_max: 150,
    })
    .await;
    for tally in &tallies {
        assert!(tally.shift_max <= SHIFT_MAX, "{tally}");
        for fork in &tally.forks {
            let is_near_tie = match fork.gap {
                Some(gap) => gap <= NEAR_TIE,
                // A number was drawn, and may lie between any two tokens.
                None => fork.shift <= SHIFT_MAX,
            };
            assert!(is_near_tie, "{fork:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs the worker and a model: make test"]
async fn streams_outlive_workers_that_die_while_they_load_and_while_streams_are_taken_up() {
    let served = Served::start(&["--context", "8192", "--parallel", "8"]);
    let mut chance = Chance(from_environment("ALUCO_CHAOS_SEED", 1));
    let jobs = jobs(JOBS_MAX, 40, 5);
    let crowd = Crowd::start(&served, &model(), &jobs, usize::MAX);
    let mut deaths = 0;
    let mut round = 0;
    // On a machine where loads are short, chance alone may not hit one.
    while round < 3 || unloaded(&journal::lives(&served.log())) == 0 {
        round += 1;
        assert!(round < 20, "no worker dies while it loads");
        let begun = SystemTime::now();
        journal::told(&served, "token of each", |_| crowd.next_tokens(begun)).await;
        // One that works, and the two that follow it within a moment of their start.
        for later_ms in [0, 200, 700] {
            let lives = |lives: &[Life]| lives.get(deaths)?.started;
            journal::told(&served, "worker", lives).await;
            tokio::time::sleep(Duration::from_millis(chance.below(1 + later_ms))).await;
            Way::Kill.signal(served.worker_pid().await);
            deaths += 1;
            let ended = |lives: &[Life]| lives.get(deaths - 1)?.ended;
            journal::told(&served, "end of it", ended).await;
        }
    }
    let begun = SystemTime::now();
    journal::told(&served, "token of each", |_| crowd.next_tokens(begun)).await;
    let replies = whole(crowd.stopped().await, &served);
    assert!(replies.len() >= STREAMS);
    let lives = journal::lives(&served.log());
    eprintln!(
        "{} workers, of which {} died while they loaded",
        lives.len(),
        unloaded(&lives)
    );
    assert!(unloaded(&lives) >= 1);
}

/// How many died while they loaded.
fn unloaded(lives: &[Life]) -> usize {
    let has_died = |life: &&Life| life.ended.is_some() && life.loaded.is_none();
    lives.iter().filter(has_died).count()
}
