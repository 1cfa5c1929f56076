//! In which order requests go on when some of them are suspected of killing workers. Pure.
//!
//! The most suspect one goes first, alone in the fresh worker, while all others wait: what happens then is its doing, or chance. Once it has left
//! the place of the deaths the others follow, the next few suspects one after the other and the rest together, so that nobody waits for many
//! trials. If the worker dies with the rest, only those who were at their place again are suspects, and they have become more so.

use std::time::{Duration, Instant};

/// Suspects that are tried one after the other in one worker, at most; the others follow together.
pub(crate) const TRIALS_MAX: usize = 3;

/// How long anybody waits for one trial. A prompt that takes longer to compute is tried in company.
const TRIAL_MAX: Duration = Duration::from_secs(20);

/// Names a suspect until its trial is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

/// Suspects of kind `S`, of which the greater one is tried first; of equals the one that came last.
#[derive(Debug)]
pub(crate) struct Docket<S> {
    /// By turns, the next one last.
    waiting: Vec<(S, Ticket)>,
    /// How many of them are still to be tried one by one.
    trials_left: usize,
    on_trial: Option<Trial<S>>,
    last: u64,
}

#[derive(Debug)]
struct Trial<S> {
    suspect: (S, Ticket),
    /// Nobody else may be in the worker.
    is_alone: bool,
    /// When it got into the worker.
    since: Option<Instant>,
}

/// What a request that wants to go on has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Go on.
    Go,
    /// Go on, on trial.
    GoOnTrial,
    /// Wait for a change, or until then.
    Wait(Option<Instant>),
}

impl<S> Trial<S> {
    /// What those do who wait for it.
    fn call_others(&self, now: Instant) -> Call {
        match self.since.map(|since| since + TRIAL_MAX) {
            Some(until) if until <= now => Call::Go,
            until => Call::Wait(until),
        }
    }
}

impl<S> Default for Docket<S> {
    fn default() -> Self {
        Self {
            waiting: Vec::new(),
            trials_left: 0,
            on_trial: None,
            last: 0,
        }
    }
}

impl<S: Ord> Docket<S> {
    /// A worker has died, and these are suspects, beside those who still wait for their turn. Those that were in the worker must have left.
    pub(crate) fn convene(&mut self, suspects: impl IntoIterator<Item = S>) -> Vec<Ticket> {
        let before = self.on_trial.take().map(|trial| trial.suspect);
        self.waiting.extend(before);
        let tickets: Vec<_> = suspects
            .into_iter()
            .map(|suspect| {
                self.last += 1;
                self.waiting.push((suspect, Ticket(self.last)));
                Ticket(self.last)
            })
            .collect();
        self.waiting
            .sort_by(|(one, first), (other, second)| one.cmp(other).then(first.0.cmp(&second.0)));
        self.trials_left = TRIALS_MAX;
        self.call_next(true);
        tickets
    }

    fn call_next(&mut self, is_alone: bool) {
        if self.trials_left == 0 {
            // The rest goes on together.
            self.waiting.clear();
        }
        self.trials_left = self.trials_left.saturating_sub(1);
        self.on_trial = self.waiting.pop().map(|suspect| Trial {
            suspect,
            is_alone,
            since: None,
        });
    }

    /// Whether a suspect may go on. One whose turn is over is like anybody else.
    pub(crate) fn call(&self, ticket: Ticket, now: Instant) -> Call {
        match &self.on_trial {
            Some(trial) if trial.suspect.1 == ticket => Call::GoOnTrial,
            Some(trial) if self.waits(ticket) => trial.call_others(now),
            _ => self.call_others(now),
        }
    }

    fn waits(&self, ticket: Ticket) -> bool {
        self.waiting.iter().any(|(_, other)| *other == ticket)
    }

    /// Whether somebody may go on who is no suspect.
    pub(crate) fn call_others(&self, now: Instant) -> Call {
        match &self.on_trial {
            Some(trial) if trial.is_alone => trial.call_others(now),
            _ => Call::Go,
        }
    }

    /// The one that was called is in the worker.
    pub(crate) fn begin(&mut self, ticket: Ticket, now: Instant) {
        if let Some(trial) = &mut self.on_trial
            && trial.suspect.1 == ticket
        {
            trial.since = Some(now);
        }
    }

    /// Its trial is over, or it does not want to go on any more. Doing it twice does nothing.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        match &self.on_trial {
            Some(trial) if trial.suspect.1 == ticket => self.call_next(false),
            _ => self.waiting.retain(|(_, other)| *other != ticket),
        }
    }
}

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of these tickets, then of the others.
    fn calls(docket: &Docket<u32>, tickets: &[Ticket]) -> Vec<Call> {
        let now = Instant::now();
        let suspects = tickets.iter().map(|ticket| docket.call(*ticket, now));
        suspects.chain([docket.call_others(now)]).collect()
    }

    const WAIT: Call = Call::Wait(None);

    #[test]
    fn the_most_suspect_one_goes_first_and_alone_then_some_by_turns_then_all() {
        use Call::{Go, GoOnTrial};
        let mut docket = Docket::default();
        let tickets = docket.convene([1, 5, 1, 1, 1]);
        assert_eq!(
            calls(&docket, &tickets),
            [WAIT, GoOnTrial, WAIT, WAIT, WAIT, WAIT]
        );
        docket.leave(tickets[1]);
        assert_eq!(
            calls(&docket, &tickets),
            [WAIT, Go, WAIT, WAIT, GoOnTrial, Go]
        );
        docket.leave(tickets[4]);
        assert_eq!(
            calls(&docket, &tickets),
            [WAIT, Go, WAIT, GoOnTrial, Go, Go]
        );
        docket.leave(tickets[3]);
        assert_eq!(calls(&docket, &tickets), [Go; 6]);
    }

    #[test]
    fn one_that_leaves_before_its_turn_holds_up_nobody() {
        let mut docket = Docket::default();
        let tickets = docket.convene([1, 2]);
        docket.leave(tickets[0]);
        docket.leave(tickets[1]);
        docket.leave(tickets[1]);
        assert_eq!(calls(&docket, &tickets), [Call::Go; 3]);
    }

    #[test]
    fn the_next_death_begins_all_over_with_those_who_still_wait() {
        let mut docket = Docket::default();
        let tickets = docket.convene([1, 3, 2]);
        docket.leave(tickets[1]);
        docket.leave(tickets[2]);
        let more = docket.convene([9]);
        assert_eq!(
            calls(&docket, &[tickets[0], more[0]]),
            [WAIT, Call::GoOnTrial, WAIT]
        );
    }

    #[test]
    fn nobody_waits_without_end_for_a_trial() {
        let mut docket = Docket::default();
        let tickets = docket.convene([1, 2]);
        let now = Instant::now();
        docket.begin(tickets[1], now);
        let until = now + TRIAL_MAX;
        assert_eq!(docket.call_others(now), Call::Wait(Some(until)));
        assert_eq!(docket.call_others(until), Call::Go);
        let waiting = tickets[0];
        assert_eq!(docket.call(waiting, now), Call::Wait(Some(until)));
        assert_eq!(docket.call(waiting, until), Call::Go);
    }
}
