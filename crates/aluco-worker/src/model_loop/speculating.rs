//! Drafts: computed beside the last token, and kept as far as sampling comes to the same.
//!
//! Every row is sampled as it would be without drafts, from the tokens before it, the seed and the count: a draft can make a reply
//! faster, never another. What was drafted in vain is cut off, so drafts need memory that can be cut at any token. They take what room is left:
//! nobody is preempted for them.

use std::time::Duration;

use aluco_proto::{RequestId, Token};
use aluco_schedule::{
    planner::Need,
    speculation::{self, Candidate, DRAFT_TOKENS_MAX, STREAMS_MAX, Speculation},
};

use super::ModelLoop;
use crate::{memory::MemoryClass, stream::Stream};

/// The rows of a stream in the batch that are sampled from.
pub(super) struct Rows {
    pub(super) request: RequestId,
    pub(super) choice: u32,
    /// That of its last token.
    pub(super) first: usize,
    /// What is in the rows after it.
    pub(super) drafts: Vec<Token>,
}

impl Rows {
    fn are_of(&self, stream: &Stream) -> bool {
        stream.request == self.request && stream.choice == self.choice
    }
}

/// What became of the drafts of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement {
    /// How many were the same as what was sampled.
    accepted: u32,
    /// False if the stream ended before all were accepted or one rejected.
    is_complete: bool,
}

/// What is to be computed with these drafts, one for each need and empty for a prefill.
pub(super) fn with_drafts(needs: &[Need], drafts: &[Vec<Token>]) -> Vec<Need> {
    let add = |(need, drafts): (&Need, &Vec<Token>)| match *need {
        Need::Decode { rows } => Need::Decode {
            rows: rows + drafts.len() as u32,
        },
        prefill @ Need::Prefill { .. } => prefill,
    };
    needs.iter().zip(drafts).map(add).collect()
}

impl ModelLoop {
    /// A controller, if drafts can be taken back.
    pub(super) fn speculation(is_wanted: bool, class: MemoryClass) -> Option<Speculation> {
        (is_wanted && class == MemoryClass::Blocks).then(Speculation::default)
    }

    /// What to draft for each running stream in the next step. `needs` are without drafts.
    pub(super) fn drafts(&mut self, needs: &[Need]) -> Vec<Vec<Token>> {
        let mut drafts = vec![Vec::new(); needs.len()];
        let room = self.draft_room(needs.len() as u32);
        let Some(speculation) = &self.speculation else {
            return drafts;
        };
        let all_decode = needs.iter().all(|need| matches!(need, Need::Decode { .. }))
            // One that is retraced has its next tokens already.
            && self.running.iter().all(|stream| stream.pending_tokens() == 1);
        if !all_decode || needs.len() > STREAMS_MAX as usize {
            return drafts;
        }
        let mut candidates = Vec::with_capacity(needs.len());
        for (stream, draft) in self.running.iter_mut().zip(&mut drafts) {
            let bounds = self.generations[&stream.request].bounds;
            // The row of the last token brings one token without any draft.
            let useful = stream.room_tokens(bounds).saturating_sub(1);
            let most = DRAFT_TOKENS_MAX.min(room).min(useful);
            *draft = stream.lookup.draft(&stream.tokens, most as usize);
            candidates.push(Candidate {
                history: stream.lookup.history,
                available: draft.len() as u32,
            });
        }
        let planned = speculation.plan(&candidates, false);
        for (draft, tokens) in drafts.iter_mut().zip(planned) {
            draft.truncate(tokens as usize);
        }
        drafts
    }

    /// Rows that each of so many decoding streams can have for drafts, by what is free of the cells and the batch.
    fn draft_room(&self, streams: u32) -> u32 {
        let cells = self.context.context_tokens();
        let free = cells.saturating_sub(self.cells.used() + streams);
        let rows = self.context.batch_tokens().saturating_sub(streams + 1);
        free.min(rows) / streams.max(1)
    }

    /// Samples from the rows of a stream, one after the other, for as long as each brings what was drafted; then cuts off the rest.
    pub(super) fn judge(&mut self, rows: &Rows) -> Judgement {
        let mut judgement = Judgement {
            accepted: 0,
            is_complete: false,
        };
        // Counted as it goes, since each delta tells how much was guessed before it.
        self.generation(rows.request).drafted_tokens += rows.drafts.len() as u32;
        for at in 0..=rows.drafts.len() {
            self.sample(rows.request, rows.choice, rows.first + at);
            // It is gone if sampling failed.
            let Some(stream) = self.running.iter().find(|stream| rows.are_of(stream)) else {
                return judgement;
            };
            let draft = rows.drafts.get(at);
            if draft.is_none() || stream.tokens.last() != draft {
                judgement.is_complete = true;
                break;
            }
            let is_finished = stream.finished;
            judgement.accepted += 1;
            self.generation(rows.request).accepted_tokens += 1;
            if is_finished {
                break;
            }
        }
        if !rows.drafts.is_empty() {
            self.settle(rows);
        }
        judgement
    }

    /// Takes the rejected drafts of a stream out of its sequence.
    fn settle(&mut self, rows: &Rows) {
        let drafted = rows.drafts.len() as u32;
        let Some(stream) = self.running.iter_mut().find(|stream| rows.are_of(stream)) else {
            return;
        };
        let sequence = stream.sequence.expect("a running stream has a sequence");
        let computed = stream.computed_tokens + drafted;
        // The last token is computed with the next step, even if it was drafted and the stream ends with it.
        stream.computed_tokens = stream.tokens.len() as u32 - 1;
        if stream.computed_tokens == computed {
            return;
        }
        self.cells.truncate(sequence, stream.computed_tokens);
        let cut = self
            .context
            .truncate_sequence(sequence, stream.computed_tokens);
        if let Err(error) = cut {
            self.fail(rows.request, &error);
        }
    }

    /// Notes what came of a step in which nothing but these rows was computed.
    pub(super) fn learn(&mut self, steps: &[(Rows, Judgement)], took: Duration) {
        let Some(speculation) = &mut self.speculation else {
            return;
        };
        // The time is that of all rows, so it tells nothing if some were not judged.
        let is_complete = steps.iter().all(|(_, judgement)| judgement.is_complete);
        if steps.len() > STREAMS_MAX as usize || !is_complete {
            return;
        }
        let mut outcomes: Vec<speculation::Outcome<'_>> = self
            .running
            .iter_mut()
            .filter_map(|stream| {
                let (rows, judgement) = steps.iter().find(|(rows, _)| rows.are_of(stream))?;
                Some(speculation::Outcome {
                    history: &mut stream.lookup.history,
                    drafted: rows.drafts.len() as u32,
                    accepted: judgement.accepted,
                })
            })
            .collect();
        if outcomes.len() == steps.len() {
            speculation.observe(&mut outcomes, took);
        }
    }
}

#[cfg(test)]
mod tests;
