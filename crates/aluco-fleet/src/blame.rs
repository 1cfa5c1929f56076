//! Which request makes workers die. Pure.
//!
//! Most deaths are nobody's fault, so a request is judged by what repeats: a worker that dies again and again when the same request is at the
//! same place. The first death is forgiven to all. From the second one at the same place on a request is a suspect, and is tried (`docket`): it
//! goes on before others do, until it has left that place. One death on trial may be chance. A request is convicted by the second one at that
//! place, if nobody else was in the worker: an innocent one would have to be hit twice in the few tokens of its trials, and the second of them
//! is the first thing that a fresh worker does. Rendering and tokenizing a prompt is a place too, for templates and tokenizers crash as well;
//! who only waits in the worker is at none. A death anywhere else speaks against the configuration, not against the request.

/// Deaths are at the same place if a choice of the request has come on by no more tokens between them.
const SAME_PLACE_TOKENS: u32 = 2;

/// The same within a prompt, which is computed in portions of up to so many tokens.
const SAME_PORTION_TOKENS: u32 = 2048;

/// Deaths at one place from which on a request is a suspect.
const DEATHS_OF_SUSPECT: u32 = 2;

/// Deaths on trial that convict, the last of them without company.
const TRIALS_LOST: u32 = 2;

/// Deaths on trial that convict, whoever else was there: a trial that takes very long does not keep the others out to its end.
const TRIALS_LOST_IN_COMPANY: u32 = 3;

/// How far a request is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Its prompt is rendered and tokenized.
    pub(crate) is_prepared: bool,
    /// Tokens of the prompt that are computed.
    pub(crate) prompt_tokens: u32,
    /// Tokens that are generated, of each choice that has not ended; of all choices if all have.
    pub(crate) generated_tokens: Vec<(u32, u32)>,
}

impl Place {
    fn is_in_prompt(&self) -> bool {
        self.generated_tokens.iter().all(|(_, tokens)| *tokens == 0)
    }

    /// Whether any choice is where it was.
    fn is_near(&self, before: &Self) -> bool {
        if self.is_prepared != before.is_prepared {
            return false;
        }
        let is_near = |choice: &(u32, u32)| {
            let then = before.of(choice.0);
            then.is_some_and(|tokens| tokens.abs_diff(choice.1) <= SAME_PLACE_TOKENS)
        };
        self.generated_tokens.iter().any(is_near)
            && (self.prompt_tokens.abs_diff(before.prompt_tokens) <= SAME_PORTION_TOKENS
                || !self.is_in_prompt())
    }

    /// Whether all choices have come on from where they were.
    fn is_past(&self, before: &Self) -> bool {
        if self.is_prepared != before.is_prepared {
            return self.is_prepared;
        }
        let has_left = |choice: &(u32, u32)| {
            let then = before.of(choice.0);
            then.is_none_or(|tokens| choice.1 > tokens + SAME_PLACE_TOKENS)
        };
        if self.is_in_prompt() && before.is_in_prompt() {
            self.prompt_tokens > before.prompt_tokens + SAME_PORTION_TOKENS
        } else {
            self.generated_tokens.iter().all(has_left)
        }
    }

    fn of(&self, choice: u32) -> Option<u32> {
        let mut choices = self.generated_tokens.iter();
        choices
            .find(|(index, _)| *index == choice)
            .map(|(_, tokens)| *tokens)
    }
}

/// What is held against one request.
#[derive(Debug, Default)]
pub(crate) struct Record {
    place: Place,
    /// Deaths at that place.
    deaths: u32,
    /// Of these, those on trial, and those of workers that had nothing else to do.
    trials_lost: u32,
    /// How its model was run then.
    configuration: usize,
    is_on_trial: bool,
}

/// What is known of a death, beside the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Nothing that the worker did for this request can have brought it about.
    pub(crate) is_external: bool,
    /// Requests that may have brought it about.
    pub(crate) requests: usize,
    /// Which way of running the model it was; the next safer one is a new chance for all.
    pub(crate) configuration: usize,
}

/// How a request that was in the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// At once.
    GoOn,
    /// On trial.
    Trial(Suspicion),
    /// Not at all: it has killed so many workers.
    Convicted { deaths: u32 },
}

/// How much is held against a suspect; the greater of two is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Suspicion {
    trials_lost: u32,
    deaths: u32,
    /// Most suspect is what has proven least: a prompt, the further it has come.
    is_in_prompt: bool,
    prompt_tokens: u32,
}

impl Record {
    /// A worker has died with the request at this place.
    pub(crate) fn died(&mut self, place: &Place, circumstances: Circumstances) -> Judgement {
        let was_on_trial = std::mem::take(&mut self.is_on_trial);
        if circumstances.is_external {
            return self.judgement(place);
        }
        let is_again = self.deaths > 0
            && place.is_near(&self.place)
            && circumstances.configuration == self.configuration;
        if !is_again {
            *self = Self {
                place: place.clone(),
                configuration: circumstances.configuration,
                ..Self::default()
            };
        }
        let is_alone = circumstances.requests == 1;
        self.deaths += 1;
        self.trials_lost += u32::from(is_alone || (was_on_trial && is_again));
        if self.deaths >= DEATHS_OF_SUSPECT
            && (is_alone && self.trials_lost >= TRIALS_LOST
                || self.trials_lost >= TRIALS_LOST_IN_COMPANY)
        {
            return Judgement::Convicted {
                deaths: self.deaths,
            };
        }
        self.judgement(place)
    }

    fn judgement(&self, place: &Place) -> Judgement {
        if self.deaths < DEATHS_OF_SUSPECT {
            return Judgement::GoOn;
        }
        let is_in_prompt = place.is_in_prompt();
        Judgement::Trial(Suspicion {
            trials_lost: self.trials_lost,
            deaths: self.deaths,
            is_in_prompt,
            prompt_tokens: if is_in_prompt { place.prompt_tokens } else { 0 },
        })
    }

    /// The trial begins.
    pub(crate) fn begin_trial(&mut self) {
        self.is_on_trial = true;
    }

    /// The trial has not begun after all: the worker was gone before.
    pub(crate) fn adjourn(&mut self) {
        self.is_on_trial = false;
    }

    /// True if the trial is over because the request has left the place; then nothing is held against it any more.
    pub(crate) fn is_acquitted(&mut self, place: &Place) -> bool {
        let has_left = self.is_on_trial && place.is_past(&self.place);
        if has_left {
            *self = Self::default();
        }
        has_left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CROWD: Circumstances = Circumstances {
        is_external: false,
        requests: 8,
        configuration: 0,
    };
    const ALONE: Circumstances = Circumstances {
        requests: 1,
        ..CROWD
    };
    const EXTERNAL: Circumstances = Circumstances {
        is_external: true,
        ..ALONE
    };

    fn at(generated_tokens: u32) -> Place {
        Place {
            is_prepared: true,
            prompt_tokens: 10,
            generated_tokens: vec![(0, generated_tokens)],
        }
    }

    fn in_prompt(prompt_tokens: u32) -> Place {
        Place {
            is_prepared: true,
            prompt_tokens,
            generated_tokens: vec![(0, 0)],
        }
    }

    fn is_trial(judgement: Judgement) -> bool {
        matches!(judgement, Judgement::Trial(_))
    }

    #[test]
    fn a_lone_request_that_kills_two_workers_at_one_place_is_convicted() {
        let mut record = Record::default();
        assert_eq!(record.died(&at(7), ALONE), Judgement::GoOn);
        assert_eq!(
            record.died(&at(8), ALONE),
            Judgement::Convicted { deaths: 2 }
        );
    }

    #[test]
    fn in_a_crowd_a_suspect_is_convicted_by_two_deaths_alone() {
        let mut culprit = Record::default();
        assert_eq!(culprit.died(&at(7), CROWD), Judgement::GoOn);
        assert!(is_trial(culprit.died(&at(7), CROWD)));
        culprit.begin_trial();
        assert!(!culprit.is_acquitted(&at(8)));
        assert!(is_trial(culprit.died(&at(7), ALONE)), "it may be chance");
        culprit.begin_trial();
        assert_eq!(
            culprit.died(&at(7), ALONE),
            Judgement::Convicted { deaths: 4 }
        );
    }

    #[test]
    fn a_death_on_trial_at_another_place_convicts_nobody() {
        let mut innocent = Record::default();
        for deaths in [ALONE, CROWD] {
            innocent.died(&at(7), deaths);
        }
        innocent.begin_trial();
        assert_eq!(innocent.died(&at(40), ALONE), Judgement::GoOn);
    }

    #[test]
    fn beside_others_it_takes_three_trials() {
        let mut culprit = Record::default();
        culprit.died(&at(7), CROWD);
        for _ in 0..3 {
            assert!(is_trial(culprit.died(&at(7), CROWD)));
            culprit.begin_trial();
        }
        assert_eq!(
            culprit.died(&at(7), CROWD),
            Judgement::Convicted { deaths: 5 }
        );
    }

    #[test]
    fn whoever_leaves_the_place_is_acquitted() {
        let mut innocent = Record::default();
        innocent.died(&at(7), CROWD);
        innocent.died(&at(7), CROWD);
        innocent.begin_trial();
        assert!(innocent.is_acquitted(&at(10)));
        assert_eq!(innocent.died(&at(10), ALONE), Judgement::GoOn);
    }

    #[test]
    fn a_prompt_that_has_not_come_to_the_place_is_not_acquitted() {
        let mut record = Record::default();
        record.died(&in_prompt(9000), CROWD);
        record.died(&in_prompt(9000), CROWD);
        record.begin_trial();
        assert!(!record.is_acquitted(&in_prompt(512)));
        assert!(!record.is_acquitted(&in_prompt(9000)));
        assert!(record.is_acquitted(&in_prompt(9000 + SAME_PORTION_TOKENS + 1)));
    }

    #[test]
    fn a_prompt_that_kills_while_it_is_prepared_is_convicted_and_one_that_gets_through_is_not() {
        let unprepared = Place {
            is_prepared: false,
            ..in_prompt(0)
        };
        for place in [in_prompt(0), at(9)] {
            let mut innocent = Record::default();
            innocent.died(&unprepared, CROWD);
            assert!(is_trial(innocent.died(&unprepared, CROWD)));
            innocent.begin_trial();
            assert!(!innocent.is_acquitted(&unprepared));
            assert!(innocent.is_acquitted(&place));
            assert_eq!(innocent.died(&place, ALONE), Judgement::GoOn);
        }
        let mut culprit = Record::default();
        culprit.died(&unprepared, ALONE);
        assert_eq!(
            culprit.died(&unprepared, ALONE),
            Judgement::Convicted { deaths: 2 }
        );
    }

    #[test]
    fn a_request_leaves_a_place_with_all_of_its_choices() {
        let choices = |tokens: [u32; 2]| Place {
            is_prepared: true,
            prompt_tokens: 10,
            generated_tokens: vec![(0, tokens[0]), (1, tokens[1])],
        };
        let mut record = Record::default();
        record.died(&choices([7, 7]), CROWD);
        assert!(is_trial(record.died(&choices([30, 7]), CROWD)));
        record.begin_trial();
        assert!(!record.is_acquitted(&choices([90, 9])));
        let one_has_ended = Place {
            generated_tokens: vec![(0, 90)],
            ..choices([0, 0])
        };
        assert!(record.is_acquitted(&one_has_ended));
    }

    #[test]
    fn a_suspect_whose_turn_has_not_come_stays_one() {
        let mut waiting = Record::default();
        waiting.died(&at(7), CROWD);
        waiting.died(&at(7), CROWD);
        assert!(is_trial(waiting.died(&at(7), CROWD)));
    }

    #[test]
    fn another_way_to_run_the_model_is_a_new_chance() {
        let mut record = Record::default();
        record.died(&at(7), ALONE);
        let safer = Circumstances {
            configuration: 1,
            ..ALONE
        };
        assert_eq!(record.died(&at(7), safer), Judgement::GoOn);
    }

    #[test]
    fn kills_from_outside_are_held_against_nobody() {
        let mut record = Record::default();
        for _ in 0..50 {
            assert_eq!(record.died(&at(7), EXTERNAL), Judgement::GoOn);
        }
        // Nor does one in the midst of a trial convict.
        record.died(&at(7), CROWD);
        record.died(&at(7), CROWD);
        record.begin_trial();
        assert!(is_trial(record.died(&at(7), EXTERNAL)));
    }

    #[test]
    fn fifty_crashes_at_random_places_convict_nobody() {
        let mut seed = 1_u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut records: Vec<(Record, u32)> = (0..8).map(|_| (Record::default(), 0)).collect();
        for _ in 0..50 {
            for (record, place) in &mut records {
                *place += 3 + random() % 40;
                assert_eq!(record.died(&at(*place), CROWD), Judgement::GoOn);
            }
        }
    }

    #[test]
    fn within_a_prompt_the_place_is_a_portion() {
        let mut record = Record::default();
        record.died(&in_prompt(4096), ALONE);
        assert_eq!(record.died(&in_prompt(9000), ALONE), Judgement::GoOn);
        assert_eq!(
            record.died(&in_prompt(8800), ALONE),
            Judgement::Convicted { deaths: 2 }
        );
    }

    proptest! {
        #[test]
        fn deaths_of_which_each_is_elsewhere_convict_nobody_whatever_the_circumstances(
            deaths in prop::collection::vec((3_u32..500, 1_usize..9, any::<bool>()), 0..60),
        ) {
            let (mut record, mut place) = (Record::default(), 0);
            for (tokens, requests, is_on_trial) in deaths {
                place += tokens;
                if is_on_trial {
                    record.begin_trial();
                }
                let circumstances = Circumstances { requests, ..CROWD };
                prop_assert_eq!(record.died(&at(place), circumstances), Judgement::GoOn);
            }
        }
    }
}
