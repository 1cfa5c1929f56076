//! How often drafted tokens are accepted, by their place in the draft.

use super::DRAFT_TOKENS_MAX;

/// The part of an estimate that a new observation replaces.
const GAIN: f64 = 0.1;

/// What is assumed of a place at which nothing was observed, relative to the place before it.
const NEXT_PLACE: f64 = 0.9;

/// What is assumed of the first place when nothing was observed at all.
const UNKNOWN: f64 = 0.3;

/// How many observations of a stream count as much as all that is known of its model.
const MODEL_WORTH: f64 = 4.0;

/// Chances that the token at each place of a draft is accepted if all before it were.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Acceptance {
    places: [Place; DRAFT_TOKENS_MAX as usize],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Place {
    chance: f64,
    observations: u32,
}

impl Acceptance {
    /// Notes the outcome of a draft.
    pub(super) fn observe(&mut self, drafted: u32, accepted: u32) {
        for (place, estimate) in (0..drafted).zip(&mut self.places) {
            let outcome = f64::from(u8::from(place < accepted));
            estimate.observations = estimate.observations.saturating_add(1);
            // The mean of the first few, then one that forgets.
            let gain = GAIN.max(1.0 / f64::from(estimate.observations));
            estimate.chance += gain * (outcome - estimate.chance);
            if place >= accepted {
                break;
            }
        }
    }

    /// The chances at all places, for a stream of a model with the chances `model`.
    pub(super) fn chances(stream: &Self, model: &Self) -> [f64; DRAFT_TOKENS_MAX as usize] {
        let mut chances = [0.0; DRAFT_TOKENS_MAX as usize];
        let mut before = UNKNOWN / NEXT_PLACE;
        for (place, chance) in chances.iter_mut().enumerate() {
            let assumed = before * NEXT_PLACE;
            let known = model.places[place].blended(assumed);
            *chance = stream.places[place].blended(known);
            before = *chance;
        }
        chances
    }
}

impl Place {
    fn blended(self, otherwise: f64) -> f64 {
        let observations = f64::from(self.observations);
        (observations * self.chance + MODEL_WORTH * otherwise) / (observations + MODEL_WORTH)
    }
}

/// Mean tokens of a step for a draft of each length, from none to the longest: those accepted, and the one that the model adds.
pub(super) fn tokens_by_draft(
    chances: &[f64; DRAFT_TOKENS_MAX as usize],
) -> [f64; DRAFT_TOKENS_MAX as usize + 1] {
    let mut tokens = [1.0; DRAFT_TOKENS_MAX as usize + 1];
    let mut reached = 1.0;
    for (place, chance) in chances.iter().enumerate() {
        reached *= chance;
        tokens[place + 1] = tokens[place] + reached;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_learnt_by_place() {
        let mut acceptance = Acceptance::default();
        for _ in 0..50 {
            acceptance.observe(4, 2);
        }
        let chances = Acceptance::chances(&acceptance, &acceptance);
        assert!(chances[0] > 0.95 && chances[1] > 0.95, "{chances:?}");
        assert!(chances[2] < 0.05 && chances[3] < 0.05, "{chances:?}");
    }

    #[test]
    fn a_new_stream_is_taken_for_one_like_the_others() {
        let (mut model, mut stream) = (Acceptance::default(), Acceptance::default());
        for _ in 0..50 {
            model.observe(3, 3);
        }
        assert!(Acceptance::chances(&stream, &model)[0] > 0.9);
        for _ in 0..20 {
            stream.observe(3, 0);
        }
        assert!(Acceptance::chances(&stream, &model)[0] < 0.25);
    }

    #[test]
    fn tokens_add_up_over_places() {
        let mut chances = [0.0; DRAFT_TOKENS_MAX as usize];
        chances[0] = 0.5;
        chances[1] = 0.5;
        assert_eq!(tokens_by_draft(&chances)[..4], [1.0, 1.5, 1.75, 1.75]);
    }
}
