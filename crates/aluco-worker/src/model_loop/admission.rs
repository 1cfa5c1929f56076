//! Who may run: sequences and KV cells are given, promised and taken back.

use std::time::{Duration, Instant};

use aluco_prefix::{Fetched, Origin};
use aluco_proto::{CacheReport, GenerationEvent, RequestId, ResumeChoice};
use aluco_schedule::fairness::{ClientId, Waiting};

use super::{Generation, ModelLoop, Start, beginning::Beginning};
use crate::{
    ffi::{EngineError, SequenceId},
    memory::MemoryClass,
    stream::{Bounds, Kept, Stream, catch_up::CatchUp, lookup::Lookup},
    text::TextStream,
};

/// Cells promised to a stream beyond its prompt when it is admitted. More would leave cells idle while others wait, fewer would
/// make streams give their cells back more often.
const RESERVE_TOKENS: u32 = 256;

/// A prompt that is shorter than this and begins like nothing stored is taken for a request on the side.
const SIDE_TOKENS_MAX: u32 = 1024;

/// A conversation has come back if it begins with so many tokens that were computed before.
const RETURNING_TOKENS_MIN: u32 = 256;

/// Where the messages of a prompt are not known, so many tokens are taken for what is its own at the end.
const END_TOKENS: u32 = 512;

/// Nearer to what is computed already, a state is not worth keeping.
const BORDER_TOKENS_MIN: u32 = 32;

/// What became of a waiting stream.
enum Admission {
    Admitted,
    /// It waits for cells, a sequence, or for what another stream computes.
    Waits,
}

impl ModelLoop {
    pub(super) fn enqueue(&mut self, start: Start) {
        let prompt_tokens = start.prompt.tokens.len() as u32;
        let mut stop = start.stop;
        stop.extend(start.prompt.stops);
        let bounds = Bounds {
            tokens_max: start.tokens_max,
            context_tokens: self.context.context_tokens(),
        };
        let mut choices_left = 0;
        for choice in 0..start.choices {
            let mut stream = Stream {
                request: start.request,
                choice,
                tokens: start.prompt.tokens.clone(),
                prompt_tokens,
                computed_tokens: 0,
                sequence: None,
                promised_tokens: 0,
                borders: self.borders(&start.prompt.borders, prompt_tokens),
                checkpoints: Vec::new(),
                kept: Kept::default(),
                spent: Duration::ZERO,
                origin: Origin::New,
                finished: false,
                text: TextStream::new(stop.clone()),
                sent_bytes: 0,
                catch_up: CatchUp::Prefill,
                lookup: Lookup::default(),
            };
            let resumed = start.resume.get(choice as usize);
            if resumed.is_none_or(|resumed| self.take_up(&mut stream, resumed, &stop, bounds)) {
                self.waiting.push(stream);
                choices_left += 1;
            }
        }
        let generated_tokens = start
            .resume
            .iter()
            .map(ResumeChoice::generated_tokens)
            .sum();
        self.arrivals += 1;
        self.generations.insert(
            start.request,
            Generation {
                sampling: start.sampling,
                seed: start.seed,
                stop,
                bounds,
                logprobs: start.logprobs,
                prompt_tokens,
                dropped_tokens: start.prompt.dropped_tokens,
                client: self.fairness.enter(&start.client),
                namespace: start.namespace.into(),
                arrival: self.arrivals,
                fetched: start.fetched,
                cache: CacheReport::default(),
                tells_prompt: start.tells_prompt,
                choices_left,
                generated_tokens,
                drafted_tokens: 0,
                accepted_tokens: 0,
                arrived: start.arrived,
                first_step: None,
                first_token: None,
                last_token: None,
            },
        );
        if choices_left == 0 {
            self.done(start.request);
        }
    }

    /// Puts a choice to where another worker had come with it; false if it had come to its end.
    fn take_up(
        &self,
        stream: &mut Stream,
        resumed: &ResumeChoice,
        stop: &[String],
        bounds: Bounds,
    ) -> bool {
        if resumed.finished.is_some() {
            return false;
        }
        let model = self.context.model();
        let bytes = |token| model.token_bytes(token, false);
        stream.catch_up = CatchUp::with(resumed.tokens.len());
        let (text, finished) =
            stream.replay(&resumed.tokens, resumed.text_bytes, bytes, stop, bounds);
        let choice = stream.choice;
        if !text.is_empty() {
            let event = GenerationEvent::Delta {
                choice,
                text,
                tokens: Vec::new(),
                logprobs: Vec::new(),
                speculated: None,
            };
            self.outbox.generation(stream.request, event);
        }
        let Some(reason) = finished else {
            return true;
        };
        let event = GenerationEvent::Finished { choice, reason };
        self.outbox.generation(stream.request, event);
        false
    }

    /// Where the state of a prompt is kept, if it cannot be cut afterwards: at the borders of its messages. Where none are known, at its end
    /// and some way before it, as others may begin like it and end otherwise.
    fn borders(&self, of_messages: &[u32], prompt_tokens: u32) -> Vec<u32> {
        if self.archive.class() != MemoryClass::Checkpoints {
            return Vec::new();
        }
        let mut borders: Vec<u32> = of_messages
            .iter()
            .copied()
            .filter(|border| (BORDER_TOKENS_MIN..prompt_tokens).contains(border))
            .collect();
        if borders.is_empty() {
            // The same prompt again wants all but its last token. One that has only its beginning in common is half paid for by a state in
            // the middle; more of them would cost more than they save.
            let ends = [(END_TOKENS, END_TOKENS), (1, BORDER_TOKENS_MIN)];
            let ends = ends.iter().filter_map(|(before, least)| {
                let border = prompt_tokens.checked_sub(*before);
                border.filter(|border| border >= least)
            });
            borders.extend(ends);
            borders.extend(Some(prompt_tokens / 2).filter(|middle| *middle >= END_TOKENS));
        }
        borders.sort_unstable();
        borders.dedup();
        borders
    }

    /// Cells that running streams hold or were promised.
    pub(super) fn cells_committed(&self) -> u32 {
        let outstanding: u32 = self
            .running
            .iter()
            .map(|stream| {
                // Whoever is over the promise wants cells for the next step all the same.
                let wanted = stream.promised_tokens.max(stream.tokens.len() as u32);
                wanted.saturating_sub(stream.computed_tokens)
            })
            .sum();
        self.cells.used() + outstanding
    }

    /// The length for which a stream is promised cells.
    pub(super) fn promise(&self, stream: &Stream) -> u32 {
        let bounds = self.generations[&stream.request].bounds;
        let left = bounds.tokens_max.map_or(u32::MAX, |most| {
            most.saturating_sub(stream.generated_tokens())
        });
        (stream.tokens.len() as u32)
            .saturating_add(left.min(RESERVE_TOKENS))
            .min(bounds.context_tokens)
    }

    /// True if `stream` had better wait for a sibling that computes the very same prompt.
    fn waits_for_sibling(&self, stream: &Stream) -> bool {
        stream.generated_tokens() == 0
            && self.running.iter().any(|other| {
                other.request == stream.request
                    && other.generated_tokens() == 0
                    && other.pending_tokens() > 0
            })
    }

    /// Gives sequences and promises of cells to waiting streams, fairly between clients.
    pub(super) fn admit(&mut self) {
        if self.running.is_empty() && self.free_sequences.is_empty() && self.parked.is_empty() {
            // Only after every sequence was given up by `free_sequence`.
            let lost = EngineError::Failed {
                call: "llama_memory_seq_rm",
                reason: "no sequence is left; load the model again".to_owned(),
            };
            let requests: Vec<RequestId> = self.generations.keys().copied().collect();
            for request in requests {
                self.fail(request, &lost);
            }
        }
        self.running_max = self.running_max.filter(|most| self.running.len() >= *most);
        if self.running_max.is_some() {
            return;
        }
        while !self.waiting.is_empty() && self.has_sequence_to_give() {
            // Streams that wait for what a sibling computes are not in line.
            let candidates: Vec<usize> = (0..self.waiting.len())
                .filter(|index| !self.waits_for_sibling(&self.waiting[*index]))
                .collect();
            let waiting: Vec<Waiting> = candidates
                .iter()
                .map(|index| {
                    let generation = &self.generations[&self.waiting[*index].request];
                    Waiting {
                        client: generation.client,
                        arrival: generation.arrival,
                    }
                })
                .collect();
            let order = self
                .fairness
                .order(&waiting, |client| self.held_cells(client));
            let admitted = order
                .into_iter()
                .find(|place| matches!(self.try_admit(candidates[*place]), Admission::Admitted));
            let Some(place) = admitted else { return };
            self.fairness.admitted(&waiting, place);
        }
    }

    fn has_sequence_to_give(&self) -> bool {
        !self.free_sequences.is_empty() || !self.parked.is_empty()
    }

    fn held_cells(&self, client: ClientId) -> u32 {
        self.running
            .iter()
            .filter(|stream| self.generations[&stream.request].client == client)
            .map(|stream| stream.computed_tokens)
            .sum()
    }

    fn try_admit(&mut self, index: usize) -> Admission {
        let request = self.waiting[index].request;
        let fetched = self.generations[&request].fetched.clone();
        let mut beginning = self.beginning(&self.waiting[index], &fetched);
        if self.waits_for_prefill(index, beginning.tokens()) {
            return Admission::Waits;
        }
        let promised_tokens = self.promise(&self.waiting[index]);
        let needed = promised_tokens.saturating_sub(beginning.shared_tokens());
        let room = self.context.context_tokens().saturating_sub(needed);
        // What is parked is not given up for a stream that has to wait all the same.
        let committed_min = self.cells_committed() - self.cells_parked(beginning.sequence());
        if committed_min > room && !self.running.is_empty() {
            return Admission::Waits;
        }
        while self.cells_committed() > room && self.give_up_parked(beginning.sequence()) {}
        let goes_on = matches!(beginning, Beginning::Continue { .. });
        if !goes_on && self.free_sequences.is_empty() && !self.give_up_parked(beginning.sequence())
        {
            // The last one is what this stream would share: it is stored and given up, and the beginning put back from there.
            if !self.give_up_parked(None) {
                return Admission::Waits;
            }
            beginning = self.beginning(&self.waiting[index], &fetched);
        }
        self.start_stream(index, beginning, promised_tokens)
    }

    fn start_stream(
        &mut self,
        index: usize,
        beginning: Beginning,
        promised_tokens: u32,
    ) -> Admission {
        let free = if matches!(beginning, Beginning::Continue { .. }) {
            None
        } else {
            self.free_sequences.pop()
        };
        let tokens = std::mem::take(&mut self.waiting[index].tokens);
        let begun = self.begin(&tokens, beginning, free);
        self.waiting[index].tokens = tokens;
        let Some((sequence, mut report, parked)) = begun else {
            self.free_sequences.extend(free);
            return Admission::Waits;
        };
        let mut stream = self.waiting.remove(index);
        let cached = report.cached_tokens();
        stream.sequence = Some(sequence);
        stream.promised_tokens = promised_tokens;
        stream.computed_tokens = cached;
        stream.checkpoints = parked.map_or_else(Vec::new, |parked| parked.checkpoints);
        if stream.generated_tokens() == 0 {
            stream.origin = match cached {
                RETURNING_TOKENS_MIN.. => Origin::Returning,
                _ if stream.prompt_tokens < SIDE_TOKENS_MAX => Origin::Side,
                _ => Origin::New,
            };
        }
        let is_first = self.generations[&stream.request].first_step.is_none();
        if is_first {
            report.miss = self.miss(&stream, cached);
            self.count(&report);
        }
        self.keep_state_at_difference(&mut stream);
        if let Some(store) = &self.store
            && cached >= RETURNING_TOKENS_MIN
        {
            let namespace = &self.generations[&stream.request].namespace;
            store.touch(namespace, &stream.tokens[..cached as usize]);
        }
        let now = Instant::now();
        let generation = self.generation(stream.request);
        if is_first {
            generation.first_step = Some(now);
            generation.cache = report;
            generation.fetched = Fetched::default();
            let started = GenerationEvent::Started {
                prompt_tokens: generation.prompt_tokens,
                cache: report,
                seed: generation.seed,
                prompt: if generation.tells_prompt {
                    stream.tokens[..stream.prompt_tokens as usize].to_vec()
                } else {
                    Vec::new()
                },
            };
            self.outbox.generation(stream.request, started);
        }
        self.running.push(stream);
        Admission::Admitted
    }

    /// Where other prompts went another way, the next one will go a third: if the state cannot be cut there later, it is kept now.
    fn keep_state_at_difference(&self, stream: &mut Stream) {
        if self.archive.class() != MemoryClass::Checkpoints {
            return;
        }
        let wanted = &stream.tokens[..stream.tokens.len() - 1];
        let namespace = &self.generations[&stream.request].namespace;
        let common = self.common(namespace, wanted).tokens;
        if common >= stream.computed_tokens + BORDER_TOKENS_MIN {
            stream.add_border(common);
        }
        let nearest = stream.computed_tokens + BORDER_TOKENS_MIN;
        let end = stream.prompt_tokens - 1;
        stream
            .borders
            .retain(|border| *border >= nearest || *border == end);
    }

    fn count(&self, report: &CacheReport) {
        let mut cache = self.activity.cache();
        cache.device_hit_tokens += u64::from(report.device_tokens);
        cache.ram_hit_tokens += u64::from(report.ram_tokens);
        cache.disk_hit_tokens += u64::from(report.disk_tokens);
        let reason = report.miss.map_or("new", aluco_proto::Miss::name);
        *cache.misses.entry(reason.to_owned()).or_default() += 1;
    }

    /// Takes the cells of the youngest stream back; it waits first in line.
    pub(super) fn preempt_youngest(&mut self) {
        if let Some(mut stream) = self.running.pop() {
            tracing::debug!(
                request = stream.request.0,
                "cells ran out, the youngest stream waits"
            );
            self.park(&mut stream);
            self.waiting.insert(0, stream);
            self.give_up_parked(None);
        }
    }

    /// Frees the sequence and cells of a stream.
    pub(super) fn free(&mut self, stream: &mut Stream) {
        if let Some(sequence) = stream.release() {
            self.free_sequence(sequence);
        }
    }

    /// Frees a sequence and the cells that no other shares.
    pub(super) fn free_sequence(&mut self, sequence: SequenceId) {
        if let Err(error) = self.context.remove_sequence(sequence) {
            // The cells are lost until the model is loaded again; the sequence must not be used with them.
            tracing::error!("sequence {sequence} could not be freed and is given up: {error}");
            return;
        }
        self.cells.remove(sequence);
        self.free_sequences.push(sequence);
    }
}

#[cfg(test)]
mod tests;
