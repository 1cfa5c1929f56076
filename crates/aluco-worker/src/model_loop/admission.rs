//! Who may run: sequences and KV cells are given, promised and taken back.

use std::{collections::HashMap, time::Instant};

use aluco_proto::{GenerationEvent, RequestId};

use super::{Generation, ModelLoop, Start};
use crate::{
    ffi::{EngineError, SequenceId},
    stream::{Bounds, Stream},
    text::TextStream,
};

/// Cells promised to a stream beyond its prompt when it is admitted. More would leave cells idle while others wait, fewer would
/// make streams give their cells back more often.
const RESERVE_TOKENS: u32 = 256;

impl ModelLoop {
    pub(super) fn enqueue(&mut self, start: Start) {
        let prompt_tokens = start.prompt.tokens.len() as u32;
        let mut stop = start.stop;
        stop.extend(start.prompt.stops);
        for choice in 0..start.choices {
            self.waiting.push_back(Stream {
                request: start.request,
                choice,
                tokens: start.prompt.tokens.clone(),
                prompt_tokens,
                computed_tokens: 0,
                shared_tokens: 0,
                share_group: None,
                sequence: None,
                promised_cells: 0,
                finished: false,
                text: TextStream::new(stop.clone()),
            });
        }
        self.generations.insert(
            start.request,
            Generation {
                sampling: start.sampling,
                seed: start.seed,
                stop,
                bounds: Bounds {
                    tokens_max: start.tokens_max,
                    context_tokens: self.context.context_tokens(),
                },
                logprobs: start.logprobs,
                prompt_tokens,
                cached_tokens: 0,
                choices_left: start.choices,
                generated_tokens: 0,
                arrived: start.arrived,
                first_step: None,
                first_token: None,
                last_token: None,
            },
        );
    }

    /// KV cells in use. Cells shared by the choices of a generation count once.
    pub(super) fn cells_used(&self) -> u32 {
        let own: u32 = self.running.iter().map(Stream::own_cells).sum();
        let shared: HashMap<u64, u32> = self
            .running
            .iter()
            .filter_map(|stream| {
                stream
                    .share_group
                    .map(|group| (group, stream.shared_tokens))
            })
            .collect();
        own + shared.values().sum::<u32>() + self.retired_cells()
    }

    /// Cells that running streams hold or were promised.
    pub(super) fn cells_committed(&self) -> u32 {
        let outstanding: u32 = self
            .running
            .iter()
            .map(|stream| stream.promised_cells.saturating_sub(stream.own_cells()))
            .sum();
        self.cells_used() + outstanding
    }

    /// Cells that a stream is promised beyond those it shares.
    pub(super) fn promise(&self, stream: &Stream, shared_tokens: u32) -> u32 {
        let bounds = self.generations[&stream.request].bounds;
        let left = bounds.tokens_max.map_or(u32::MAX, |most| {
            most.saturating_sub(stream.generated_tokens())
        });
        (stream.tokens.len() as u32 - shared_tokens)
            .saturating_add(left.min(RESERVE_TOKENS))
            .min(bounds.context_tokens - shared_tokens)
    }

    /// True if `stream` had better wait for a sibling that computes the very same prompt.
    pub(super) fn waits_for_sibling(&self, stream: &Stream) -> bool {
        stream.generated_tokens() == 0
            && self.running.iter().any(|other| {
                other.request == stream.request
                    && other.generated_tokens() == 0
                    && other.pending_tokens() > 0
            })
    }

    /// Gives sequences and promises of cells to waiting streams, in order: one that does not fit holds up those behind it, so that a
    /// large prompt is not starved by small ones.
    pub(super) fn admit(&mut self) {
        if self.running.is_empty() && self.free_sequences.is_empty() && self.retired.is_empty() {
            // Only after every sequence was given up by `free`.
            let lost = EngineError::Failed {
                call: "llama_memory_seq_rm",
                reason: "no sequence is left; load the model again".to_owned(),
            };
            let requests: Vec<RequestId> = self.generations.keys().copied().collect();
            for request in requests {
                self.fail(request, &lost);
            }
        }
        let mut index = 0;
        while index < self.waiting.len()
            && (!self.free_sequences.is_empty() || self.give_up_retired())
        {
            if self.waits_for_sibling(&self.waiting[index]) {
                index += 1;
                continue;
            }
            let tokens = std::mem::take(&mut self.waiting[index].tokens);
            self.settle(&tokens);
            self.waiting[index].tokens = tokens;
            let promised_cells = self.promise(&self.waiting[index], 0);
            let is_over = |this: &Self| {
                this.cells_committed() + promised_cells > this.context.context_tokens()
            };
            while is_over(self) && self.give_up_retired() {}
            if is_over(self) && !self.running.is_empty() {
                break;
            }
            let (Some(sequence), Some(mut stream)) =
                (self.free_sequences.pop(), self.waiting.remove(index))
            else {
                break;
            };
            let now = Instant::now();
            let restored = self.restore(&stream.tokens, sequence);
            stream.sequence = Some(sequence);
            stream.promised_cells = promised_cells;
            stream.computed_tokens = restored;
            let generation = self.generation(stream.request);
            if generation.first_step.is_none() {
                generation.first_step = Some(now);
                generation.cached_tokens = restored;
                let started = GenerationEvent::Started {
                    prompt_tokens: generation.prompt_tokens,
                    cached_tokens: generation.cached_tokens,
                    seed: generation.seed,
                };
                self.outbox.generation(stream.request, started);
            }
            self.running.push(stream);
        }
    }

    /// Takes the cells of the youngest stream back; it waits first in line.
    pub(super) fn preempt_youngest(&mut self) {
        if let Some(mut stream) = self.running.pop() {
            tracing::debug!(
                request = stream.request.0,
                "cells ran out, the youngest stream waits"
            );
            self.free(&mut stream);
            self.waiting.push_front(stream);
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
        self.free_sequences.push(sequence);
    }
}
