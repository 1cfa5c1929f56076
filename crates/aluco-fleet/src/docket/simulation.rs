//! Whole lives of requests, deaths and trials, step by step, with the very decisions that the fleet takes.

use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::blame::{Circumstances, Judgement, Place, Record, Suspicion};

/// Steps that it takes to bring a request back to where it was.
const RESTORE_STEPS: u32 = 2;

/// Steps of the longest trial.
const TRIAL_STEPS: u32 = RESTORE_STEPS + 4;

/// One request.
struct Stream {
    tokens: u32,
    tokens_max: u32,
    /// The token before which it kills its worker.
    kills_at: Option<u32>,
    record: Record,
    ticket: Option<Ticket>,
    stage: Stage,
    is_on_trial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Outside,
    Running { restore_steps: u32 },
    Done,
    Convicted,
}

#[derive(Default)]
struct Outcome {
    deaths: u32,
    /// Those that the culprit caused while it was on trial.
    trials_lost: u32,
    /// Most trials that began in one worker.
    trials_in_worker: usize,
    trials: usize,
    stages: Vec<Stage>,
}

/// Runs all streams to their ends. `gaps`: steps of each worker before it crashes by itself; the last ones live for ever.
fn run(streams: &[(u32, Option<u32>)], gaps: &[u32]) -> Outcome {
    let now = Instant::now();
    let mut streams: Vec<Stream> = streams
        .iter()
        .map(|&(tokens_max, kills_at)| Stream {
            tokens: 0,
            tokens_max,
            kills_at,
            record: Record::default(),
            ticket: None,
            stage: Stage::Outside,
            is_on_trial: false,
        })
        .collect();
    let mut docket: Docket<Suspicion> = Docket::default();
    let mut outcome = Outcome::default();
    let mut gaps = gaps.iter().copied();
    let (mut left, mut trials) = (gaps.next(), 0);
    for _ in 0..100_000 {
        for stream in &mut streams {
            if stream.stage != Stage::Outside {
                continue;
            }
            let call = match stream.ticket {
                Some(ticket) => docket.call(ticket, now),
                None => docket.call_others(now),
            };
            if call == Call::GoOnTrial {
                stream.record.begin_trial();
                stream.is_on_trial = true;
                trials += 1;
                outcome.trials += 1;
            }
            if matches!(call, Call::Go | Call::GoOnTrial) {
                stream.stage = Stage::Running {
                    restore_steps: RESTORE_STEPS,
                };
            }
        }
        let crashes_by_itself = left == Some(0);
        let mut is_dead = crashes_by_itself;
        left = left.map(|left| left.saturating_sub(1));
        for stream in &mut streams {
            if let Stage::Running { restore_steps: 0 } = stream.stage
                && stream.kills_at == Some(stream.tokens)
            {
                is_dead = true;
                outcome.trials_lost += u32::from(stream.is_on_trial && !crashes_by_itself);
            }
        }
        if is_dead {
            outcome.deaths += 1;
            outcome.trials_in_worker = outcome.trials_in_worker.max(std::mem::take(&mut trials));
            left = gaps.next();
            bury(&mut streams, &mut docket);
        } else {
            for stream in &mut streams {
                advance(stream, &mut docket);
            }
        }
        if streams
            .iter()
            .all(|it| matches!(it.stage, Stage::Done | Stage::Convicted))
        {
            break;
        }
    }
    outcome.stages = streams.iter().map(|stream| stream.stage).collect();
    outcome
}

fn place(stream: &Stream) -> Place {
    Place {
        is_prepared: true,
        prompt_tokens: 10,
        generated_tokens: vec![(0, stream.tokens)],
    }
}

fn advance(stream: &mut Stream, docket: &mut Docket<Suspicion>) {
    let Stage::Running { restore_steps } = &mut stream.stage else {
        return;
    };
    if *restore_steps > 0 {
        *restore_steps -= 1;
        return;
    }
    stream.tokens += 1;
    let is_over = stream.tokens == stream.tokens_max;
    if is_over {
        stream.stage = Stage::Done;
    }
    if stream.is_on_trial && (is_over || stream.record.is_acquitted(&place(stream))) {
        stream.is_on_trial = false;
        docket.leave(stream.ticket.take().expect("who is tried has a ticket"));
    }
}

fn bury(streams: &mut [Stream], docket: &mut Docket<Suspicion>) {
    let is_running = |stream: &&mut Stream| matches!(stream.stage, Stage::Running { .. });
    let mut dead: Vec<&mut Stream> = streams.iter_mut().filter(is_running).collect();
    let circumstances = Circumstances {
        is_external: false,
        requests: dead.len(),
        configuration: 0,
    };
    let mut suspects = Vec::new();
    for stream in &mut dead {
        if let Some(ticket) = stream.ticket.take() {
            docket.leave(ticket);
        }
        stream.is_on_trial = false;
        stream.stage = Stage::Outside;
        let place = place(stream);
        match stream.record.died(&place, circumstances) {
            Judgement::GoOn => {}
            Judgement::Trial(suspicion) => suspects.push((stream, suspicion)),
            Judgement::Convicted { .. } => stream.stage = Stage::Convicted,
        }
    }
    let tickets = docket.convene(suspects.iter().map(|(_, suspicion)| *suspicion));
    for ((stream, _), ticket) in suspects.into_iter().zip(tickets) {
        stream.ticket = Some(ticket);
    }
}

/// Steps after which the trials that began with a worker are over.
const QUIET_STEPS: u32 = 40;

/// Workers that die by themselves, but not so often that no trial comes to its end.
fn steady() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(TRIAL_STEPS..60, 0..30)
}

/// The same, but for deaths at once out of quiet, which make suspects of all.
fn gusty() -> impl Strategy<Value = Vec<u32>> {
    let gaps = prop::collection::vec(0_u32..60, 0..30);
    gaps.prop_map(|mut gaps| {
        let mut is_quiet = true;
        for gap in &mut gaps {
            if !is_quiet {
                *gap = TRIAL_STEPS.max(*gap);
            }
            is_quiet = *gap >= QUIET_STEPS;
        }
        gaps
    })
}

fn lengths() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1_u32..200, 1..12)
}

#[test]
fn two_deaths_in_a_row_make_suspects_of_all_and_most_are_let_go_together() {
    let outcome = run(&[(100, None); 8], &[20, 3]);
    assert_eq!((outcome.deaths, outcome.trials), (2, TRIALS_MAX));
    assert_eq!(outcome.stages, [Stage::Done; 8]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn crashes_at_random_places_convict_nobody_and_everybody_completes(
        lengths in lengths(),
        gaps in gusty(),
    ) {
        // Two that stay to the end: a lone one that comes to nothing between two deaths is convicted, and rightly.
        let lengths = lengths.into_iter().chain([5000, 5000]);
        let streams: Vec<_> = lengths.map(|tokens| (tokens, None)).collect();
        let outcome = run(&streams, &gaps);
        prop_assert!(outcome.stages.iter().all(|stage| *stage == Stage::Done), "{:?}", outcome.stages);
        prop_assert!(outcome.trials_in_worker <= TRIALS_MAX);
    }

    #[test]
    fn who_always_kills_at_a_place_is_convicted_after_two_deaths_on_trial_and_the_others_complete(
        lengths in lengths(),
        culprit in any::<prop::sample::Index>(),
        place in 0_u32..150,
    ) {
        let culprit = culprit.index(lengths.len());
        let mut streams: Vec<_> = lengths.into_iter().map(|tokens| (tokens, None)).collect();
        streams[culprit] = (200, Some(place));
        let outcome = run(&streams, &[]);
        for (index, stage) in outcome.stages.iter().enumerate() {
            let expected = if index == culprit { Stage::Convicted } else { Stage::Done };
            prop_assert_eq!(*stage, expected, "{}", index);
        }
        prop_assert!(outcome.trials_lost <= 2, "{}", outcome.trials_lost);
        // Two that make suspects, two that convict, and one for each few that are cleared.
        let deaths_max = 4 + streams.len().div_ceil(TRIALS_MAX) as u32;
        prop_assert!(outcome.deaths <= deaths_max, "{} deaths", outcome.deaths);
        prop_assert!(outcome.trials_in_worker <= TRIALS_MAX);
    }

    #[test]
    fn a_culprit_is_found_among_random_crashes_and_nobody_else_is_convicted(
        lengths in lengths(),
        culprit in any::<prop::sample::Index>(),
        place in 0_u32..150,
        gaps in steady(),
    ) {
        let culprit = culprit.index(lengths.len());
        let mut streams: Vec<_> = lengths.into_iter().map(|tokens| (tokens, None)).collect();
        streams[culprit] = (200, Some(place));
        let outcome = run(&streams, &gaps);
        for (index, stage) in outcome.stages.iter().enumerate() {
            let expected = if index == culprit { Stage::Convicted } else { Stage::Done };
            prop_assert_eq!(*stage, expected, "{}", index);
        }
        prop_assert!(outcome.trials_in_worker <= TRIALS_MAX);
    }
}
