//! Which request makes workers die. Pure.
//!
//! Most deaths are nobody's fault, so a request is judged by what repeats: a worker that dies again and again when the same request is at the
//! same place. The first death is forgiven to all. From the second one at the same place on the request is tried: it goes on when no other
//! suspect does, until it has left that place. If the worker dies once more, or has only had that one request, it is convicted.

/// Deaths are at the same place if a request has come on by no more tokens between them.
const SAME_PLACE_TOKENS: u32 = 2;

/// The same within a prompt, which is computed in portions of hundreds of tokens.
const SAME_PORTION_TOKENS: u32 = 512;

/// Deaths at one place from which on a request is a suspect.
const DEATHS_OF_SUSPECT: u32 = 2;

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// Tokens of the prompt that are computed.
    pub(crate) prompt_tokens: u32,
    /// Tokens that are generated, of all choices.
    pub(crate) generated_tokens: u32,
}

impl Place {
    fn is_near(self, other: Self) -> bool {
        let generated = self.generated_tokens.abs_diff(other.generated_tokens);
        let prompt = self.prompt_tokens.abs_diff(other.prompt_tokens);
        generated <= SAME_PLACE_TOKENS
            && (prompt <= SAME_PORTION_TOKENS || self.generated_tokens > 0)
    }
}

/// What is held against one request.
#[derive(Debug, Default)]
pub(crate) struct Record {
    place: Place,
    deaths: u32,
    is_on_trial: bool,
}

/// What is known of a death, beside the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Nothing that the worker did for this request can have brought it about.
    pub(crate) is_external: bool,
    /// Requests that may have brought it about.
    pub(crate) requests: usize,
}

/// How a request that was in the worker goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// At once.
    GoOn,
    /// When no other suspect is on trial.
    Trial,
    /// Not at all: it has killed so many workers.
    Convicted { deaths: u32 },
}

impl Record {
    /// A worker has died with the request at this place.
    pub(crate) fn died(&mut self, place: Place, circumstances: Circumstances) -> Judgement {
        let was_on_trial = std::mem::take(&mut self.is_on_trial);
        if circumstances.is_external {
            return self.judgement();
        }
        if self.deaths > 0 && place.is_near(self.place) {
            self.deaths += 1;
        } else {
            self.deaths = 1;
            self.place = place;
        }
        let is_alone = was_on_trial || circumstances.requests == 1;
        if is_alone && self.deaths >= DEATHS_OF_SUSPECT {
            return Judgement::Convicted {
                deaths: self.deaths,
            };
        }
        self.judgement()
    }

    fn judgement(&self) -> Judgement {
        if self.deaths >= DEATHS_OF_SUSPECT {
            Judgement::Trial
        } else {
            Judgement::GoOn
        }
    }

    /// The trial begins.
    pub(crate) fn try_alone(&mut self) {
        self.is_on_trial = true;
    }

    /// True if the trial is over because the request has left the place; then nothing is held against it any more.
    pub(crate) fn is_acquitted(&mut self, place: Place) -> bool {
        let has_left = self.is_on_trial && !place.is_near(self.place);
        if has_left {
            *self = Self::default();
        }
        has_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: Circumstances = Circumstances {
        is_external: false,
        requests: 8,
    };
    const ALONE: Circumstances = Circumstances {
        is_external: false,
        requests: 1,
    };
    const EXTERNAL: Circumstances = Circumstances {
        is_external: true,
        requests: 1,
    };

    fn at(generated_tokens: u32) -> Place {
        Place {
            prompt_tokens: 10,
            generated_tokens,
        }
    }

    #[test]
    fn a_lone_request_that_kills_two_workers_at_one_place_is_convicted() {
        let mut record = Record::default();
        assert_eq!(record.died(at(7), ALONE), Judgement::GoOn);
        assert_eq!(
            record.died(at(8), ALONE),
            Judgement::Convicted { deaths: 2 }
        );
    }

    #[test]
    fn in_a_crowd_a_suspect_is_tried_alone_before_it_is_convicted() {
        let mut culprit = Record::default();
        assert_eq!(culprit.died(at(7), CROWD), Judgement::GoOn);
        assert_eq!(culprit.died(at(7), CROWD), Judgement::Trial);
        culprit.try_alone();
        assert!(!culprit.is_acquitted(at(8)));
        assert_eq!(
            culprit.died(at(7), CROWD),
            Judgement::Convicted { deaths: 3 }
        );
    }

    #[test]
    fn whoever_leaves_the_place_is_acquitted() {
        let mut innocent = Record::default();
        innocent.died(at(7), CROWD);
        innocent.died(at(7), CROWD);
        innocent.try_alone();
        assert!(innocent.is_acquitted(at(10)));
        assert_eq!(innocent.died(at(10), ALONE), Judgement::GoOn);
    }

    #[test]
    fn a_suspect_whose_turn_has_not_come_stays_one() {
        let mut waiting = Record::default();
        waiting.died(at(7), CROWD);
        waiting.died(at(7), CROWD);
        assert_eq!(waiting.died(at(7), CROWD), Judgement::Trial);
    }

    #[test]
    fn kills_from_outside_are_held_against_nobody() {
        let mut record = Record::default();
        for _ in 0..50 {
            assert_eq!(record.died(at(7), EXTERNAL), Judgement::GoOn);
        }
        // Nor does one in the midst of a trial convict.
        record.died(at(7), CROWD);
        record.died(at(7), CROWD);
        record.try_alone();
        assert_eq!(record.died(at(7), EXTERNAL), Judgement::Trial);
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
                assert_eq!(record.died(at(*place), CROWD), Judgement::GoOn);
            }
        }
    }

    #[test]
    fn within_a_prompt_the_place_is_a_portion() {
        let prompt = |prompt_tokens| Place {
            prompt_tokens,
            generated_tokens: 0,
        };
        let mut record = Record::default();
        record.died(prompt(4096), ALONE);
        assert_eq!(record.died(prompt(9000), ALONE), Judgement::GoOn);
        assert_eq!(
            record.died(prompt(8800), ALONE),
            Judgement::Convicted { deaths: 2 }
        );
    }
}
