//! How long streams waited for their next token after a death, and what for.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use super::{
    killing::{Pause, Way, spread},
    reply::{Loss, Reply},
};

/// What a death may cost beside the load of the model and the restore of what was said already, on a machine that has nothing else to do.
const EXCESS_MAX: Duration = Duration::from_secs(1);

/// Steps by which the next token may be late beside that: a client hears of it when the worker and the server have had their turn
/// on a machine that does other things beside, and what slows them slows steps as well.
const EXCESS_STEPS_MAX: u32 = 2;

/// To restore costs no more than it took to say it in the first place: a step per token of the longest stream, as all go on side by side, with
/// room for a machine that is three times as busy then, and for steps that begin late, which count where there is little to restore. It stands
/// still for as long as it may otherwise, too.
const RESTORE_FACTOR_MAX: u32 = 3;
const RESTORE_STEPS_BESIDE: u32 = 64;

/// A request that is at one place (or this few tokens from it) in two deaths that may be the fault of a request is tried: it goes on before all
/// others, until it has come further than that.
const SAME_PLACE_TOKENS: u32 = 2;

/// What one stream waited for after one death.
#[derive(Debug, Clone)]
struct Wait {
    job: usize,
    at_token: usize,
    /// Which death.
    death: usize,
    way: Way,
    /// From the death to the next token.
    waited: Duration,
    /// Of that, the load of the model.
    load: Duration,
    /// Of that, from when the worker was given the stream.
    restored: Duration,
    /// Tokens that had to be there for the next one.
    context_tokens: u32,
    /// The others may have had to wait until it had been tried.
    is_suspect: bool,
}

impl Wait {
    /// What neither the load nor the restore took.
    fn excess(&self) -> Duration {
        self.waited.saturating_sub(self.load + self.restored)
    }
}

/// What all streams waited for after all deaths.
#[derive(Debug)]
pub(super) struct Waits {
    waits: Vec<Wait>,
    /// Of one decode step while nothing was restored, on average.
    step: Duration,
}

impl Waits {
    pub(super) fn of(pauses: &[Pause], replies: &[(usize, Reply)]) -> Self {
        let waits = replies
            .iter()
            .flat_map(|(job, reply)| waits_of(pauses, *job, reply))
            .collect();
        Self {
            waits,
            step: step(replies),
        }
    }

    /// The streams of one death.
    fn of_death(&self, death: usize) -> impl Iterator<Item = &Wait> {
        self.waits.iter().filter(move |wait| wait.death == death)
    }

    /// Each death made streams wait, and none of them longer than the load, the restore and a second.
    pub(super) fn assert_short(&self, pauses: &[Pause]) {
        for (death, pause) in pauses.iter().enumerate() {
            let is_felt = self.of_death(death).next().is_some();
            assert!(
                is_felt || pause.is_interrupted,
                "nobody waited after {pause:?}"
            );
        }
        for wait in &self.waits {
            let suspects = self.of_death(wait.death).filter(|it| it.is_suspect);
            let trials = suspects.map(|it| it.restored + (SAME_PLACE_TOKENS + 1) * self.step);
            let beside_max = EXCESS_MAX.mul_f64(pauses[wait.death].crowding);
            let excess_max = beside_max + EXCESS_STEPS_MAX * self.step + trials.sum::<Duration>();
            assert!(wait.excess() <= excess_max, "{wait}, not {excess_max:?}");
            let longest = self.of_death(wait.death).map(|it| it.context_tokens).max();
            let steps_max = longest.unwrap_or_default() * RESTORE_FACTOR_MAX + RESTORE_STEPS_BESIDE;
            let restored_max = self.step * steps_max + beside_max;
            assert!(
                wait.restored <= restored_max,
                "{wait}, not {restored_max:?}"
            );
        }
    }
}

fn waits_of(pauses: &[Pause], job: usize, reply: &Reply) -> Vec<Wait> {
    let mut waits = Vec::new();
    let mut last_at_fault: Option<usize> = None;
    for Loss { at_token, restored } in &reply.losses {
        let heard = reply.heard.get(*at_token);
        let (Some(heard), Some(restored)) = (heard, *restored) else {
            // Which death that was is not told, so it may have been one at fault.
            last_at_fault = Some(*at_token);
            continue;
        };
        let before = |pause: &Pause| pause.ended <= *heard;
        let Some(death) = pauses.iter().rposition(before) else {
            panic!("job {job} lost a worker before any was killed");
        };
        let pause = &pauses[death];
        let is_suspect = matches!(pause.way, Way::Segv | Way::Abort);
        let was_near = last_at_fault.is_some_and(|it| it + SAME_PLACE_TOKENS as usize >= *at_token);
        if is_suspect {
            last_at_fault = Some(*at_token);
        }
        waits.push(Wait {
            job,
            at_token: *at_token,
            death,
            way: pause.way,
            waited: since(pause.at, *heard),
            load: pause.load,
            restored,
            context_tokens: reply.prompt_tokens + *at_token as u32,
            is_suspect: is_suspect && was_near,
        });
    }
    waits
}

/// The mean time between two tokens, but for those before which a worker died.
fn step(replies: &[(usize, Reply)]) -> Duration {
    let (mut time, mut steps) = (Duration::ZERO, 0);
    for (_, reply) in replies {
        for (index, pair) in reply.heard.windows(2).enumerate() {
            if reply.losses.iter().all(|loss| loss.at_token != index + 1) {
                time += since(pair[0], pair[1]);
                steps += 1;
            }
        }
    }
    time / steps.max(1)
}

fn since(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, at_token, .. } = self;
        write!(
            formatter,
            "job {job} waited {:?} for token {at_token} after death {} ({:?}): {:?} for the load, {:?} for {} tokens to be restored, and {:?} beside",
            self.waited,
            self.death,
            self.way,
            self.load,
            self.restored,
            self.context_tokens,
            self.excess(),
        )
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step_ms = self.step.as_secs_f64() * 1e3;
        write!(
            formatter,
            "milliseconds from a death to a stream's next token, median/maximum; then restored, and beside load and restore (a step takes {step_ms:.1})"
        )?;
        for way in Way::ALL {
            let of_way: Vec<&Wait> = self.waits.iter().filter(|it| it.way == way).collect();
            if of_way.is_empty() {
                continue;
            }
            let column = |part: &dyn Fn(&Wait) -> Duration| {
                let (median, most) = spread(of_way.iter().map(|wait| part(wait)).collect());
                format!("{:>6}/{:<6}", median.as_millis(), most.as_millis())
            };
            let suspects = of_way.iter().filter(|wait| wait.is_suspect).count();
            write!(
                formatter,
                "\n{:>3} x {:<5} {} {} {}  {suspects} suspects",
                of_way.len(),
                format!("{way:?}"),
                column(&|wait| wait.waited),
                column(&|wait| wait.restored),
                column(&Wait::excess),
            )?;
        }
        Ok(())
    }
}
