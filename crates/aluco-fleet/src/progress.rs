//! How far a generation has come, over all workers that had a part in it. Pure.

use std::time::{Duration, Instant};

use aluco_proto::{GenerationEvent, Resume, ResumeChoice, Speculated, Timings, Token};

use crate::blame::Place;

/// Events go through this on their way to the client: what it has had already is left out.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    accepted: Option<Accepted>,
    /// Of the prompt, as the client knows.
    shown_tokens: u32,
    /// Of the prompt, in the present worker.
    computed_tokens: u32,
    choices: Vec<ResumeChoice>,
    /// What the workers before the present one have guessed, and what that one has.
    guessed_before: Speculated,
    guessed: Speculated,
    first_delta: Option<Instant>,
    last_delta: Option<Instant>,
    /// The present worker is not the first.
    is_resumed: bool,
    /// What the present worker does with it.
    stage: Stage,
}

/// What a worker does with a request that it has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: it waits for its preparation, or behind that for its turn.
    Waiting,
    /// Its prompt is rendered and tokenized.
    Preparing,
    /// It is computed.
    Running,
}

/// What the first worker that accepted the request said.
#[derive(Debug)]
struct Accepted {
    at: Instant,
    prompt_tokens: u32,
    cached_tokens: u32,
    seed: u32,
    prompt: Vec<Token>,
}

impl Progress {
    pub(crate) fn new(choices: u32, now: Instant) -> Self {
        Self {
            began: now,
            accepted: None,
            shown_tokens: 0,
            computed_tokens: 0,
            // A request for absurdly many is refused by the worker; it need not cost memory first.
            choices: vec![ResumeChoice::default(); choices.min(1024) as usize],
            guessed_before: Speculated::default(),
            guessed: Speculated::default(),
            first_delta: None,
            last_delta: None,
            is_resumed: false,
            stage: Stage::Waiting,
        }
    }

    /// True if the present worker does something for it; else it only waits there.
    pub(crate) fn is_at_work(&self) -> bool {
        self.stage != Stage::Waiting
    }

    /// Its prompt is being prepared, or has been.
    pub(crate) fn prepare(&mut self, is_over: bool) {
        self.stage = if is_over {
            Stage::Waiting
        } else {
            Stage::Preparing
        };
    }

    /// Notes an event; what is left of it is for the client.
    pub(crate) fn note(&mut self, event: GenerationEvent, now: Instant) -> Option<GenerationEvent> {
        match event {
            GenerationEvent::Started {
                prompt_tokens,
                cache,
                seed,
                prompt,
            } => {
                self.stage = Stage::Running;
                self.computed_tokens = cache.cached_tokens();
                if self.accepted.is_some() {
                    return None;
                }
                self.accepted = Some(Accepted {
                    at: now,
                    prompt_tokens,
                    cached_tokens: cache.cached_tokens(),
                    seed,
                    prompt,
                });
                Some(GenerationEvent::Started {
                    prompt_tokens,
                    cache,
                    seed,
                    prompt: Vec::new(),
                })
            }
            GenerationEvent::Prefill {
                processed_tokens, ..
            } => {
                self.computed_tokens = processed_tokens;
                let is_news = processed_tokens > self.shown_tokens || !self.is_resumed;
                self.shown_tokens = self.shown_tokens.max(processed_tokens);
                is_news.then_some(event)
            }
            GenerationEvent::Delta {
                choice,
                ref text,
                ref tokens,
                speculated,
                ..
            } => {
                self.guessed = speculated.unwrap_or(self.guessed);
                if let Some(choice) = self.choices.get_mut(choice as usize) {
                    choice.tokens.extend(tokens);
                    choice.text_bytes += text.len() as u64;
                }
                self.first_delta.get_or_insert(now);
                self.last_delta = Some(now);
                Some(event)
            }
            GenerationEvent::Finished { choice, ref reason } => {
                if let Some(choice) = self.choices.get_mut(choice as usize) {
                    choice.finished = Some(reason.clone());
                }
                Some(event)
            }
            GenerationEvent::Done { usage, timings } if self.is_resumed => {
                let mut usage = usage;
                usage.drafted_tokens += self.guessed_before.drafted_tokens;
                usage.accepted_tokens += self.guessed_before.accepted_tokens;
                if let Some(accepted) = &self.accepted {
                    usage.prompt_tokens = accepted.prompt_tokens;
                    usage.cached_tokens = accepted.cached_tokens;
                }
                let timings = self.timings(timings);
                Some(GenerationEvent::Done { usage, timings })
            }
            GenerationEvent::Done { .. } | GenerationEvent::Failed(_) => Some(event),
        }
    }

    /// The worker is lost: what comes next comes from another one.
    pub(crate) fn lost(&mut self) {
        self.is_resumed |= self.accepted.is_some();
        let guessed = std::mem::take(&mut self.guessed);
        self.guessed_before.drafted_tokens += guessed.drafted_tokens;
        self.guessed_before.accepted_tokens += guessed.accepted_tokens;
        self.computed_tokens = 0;
        self.stage = Stage::Waiting;
    }

    /// What the next worker has to know; `None` if none has accepted the request.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let accepted = self.accepted.as_ref()?;
        Some(Resume {
            prompt: accepted.prompt.clone(),
            seed: accepted.seed,
            choices: self.choices.clone(),
        })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        let tokens =
            |(index, choice): (usize, &ResumeChoice)| (index as u32, choice.generated_tokens());
        let choices = || self.choices.iter().enumerate();
        let running = choices().filter(|(_, choice)| choice.finished.is_none());
        let mut generated_tokens: Vec<_> = running.map(tokens).collect();
        if generated_tokens.is_empty() {
            generated_tokens = choices().map(tokens).collect();
        }
        Place {
            is_prepared: self.stage != Stage::Preparing,
            prompt_tokens: self.computed_tokens,
            generated_tokens,
        }
    }

    /// Tokens generated so far, of all choices.
    pub(crate) fn generated_tokens(&self) -> u32 {
        let choices = self.choices.iter();
        choices.map(ResumeChoice::generated_tokens).sum()
    }

    /// Times as the client saw them, pauses included. The last worker's own are of its part alone.
    fn timings(&self, of_last: Timings) -> Timings {
        let Some(accepted) = &self.accepted else {
            return of_last;
        };
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let first = self.first_delta.unwrap_or(accepted.at);
        Timings {
            queue_ms: ms(accepted.at - self.began),
            prefill_ms: ms(first - accepted.at),
            decode_ms: ms(self.last_delta.unwrap_or(first) - first),
            first_token_ms: ms(first - self.began),
        }
    }
}

#[cfg(test)]
mod tests {
    use aluco_proto::{CacheReport, FinishReason, Usage};

    use super::*;
    use crate::generation::delta;

    fn started(cached: u32) -> GenerationEvent {
        GenerationEvent::Started {
            prompt_tokens: 10,
            cache: CacheReport {
                device_tokens: cached,
                ..CacheReport::default()
            },
            seed: 5,
            prompt: vec![1, 2, 3],
        }
    }

    fn prefill(processed_tokens: u32) -> GenerationEvent {
        GenerationEvent::Prefill {
            processed_tokens,
            prompt_tokens: 10,
        }
    }

    /// One before which so many were guessed in its worker, and were right.
    fn speculated(drafted_tokens: u32, accepted_tokens: u32) -> GenerationEvent {
        GenerationEvent::Delta {
            choice: 0,
            text: String::new(),
            tokens: vec![7],
            logprobs: Vec::new(),
            speculated: Some(Speculated {
                drafted_tokens,
                accepted_tokens,
            }),
        }
    }

    #[test]
    fn a_request_that_no_worker_accepted_begins_anew() {
        let mut progress = Progress::new(1, Instant::now());
        progress.lost();
        assert_eq!(progress.resume(), None);
        assert!(progress.note(started(0), Instant::now()).is_some());
        assert!(progress.is_at_work());
        progress.lost();
        assert!(!progress.is_at_work());
    }

    #[test]
    fn the_preparation_of_a_prompt_is_work_and_a_place_of_its_own() {
        let mut progress = Progress::new(1, Instant::now());
        assert!(!progress.is_at_work());
        progress.prepare(false);
        assert!(progress.is_at_work() && !progress.place().is_prepared);
        progress.prepare(true);
        assert!(!progress.is_at_work() && progress.place().is_prepared);
        progress.prepare(false);
        progress.lost();
        assert!(!progress.is_at_work() && progress.place().is_prepared);
    }

    #[test]
    fn the_client_sees_one_start_and_a_prompt_that_only_grows() {
        let now = Instant::now();
        let mut progress = Progress::new(1, now);
        let shown = progress.note(started(2), now);
        assert!(
            matches!(shown, Some(GenerationEvent::Started { prompt, .. }) if prompt.is_empty()),
            "its tokens are not for the client"
        );
        assert!(progress.note(prefill(4), now).is_some());
        progress.lost();
        assert_eq!(progress.note(started(0), now), None);
        assert_eq!(progress.note(prefill(2), now), None);
        assert_eq!(progress.place().prompt_tokens, 2);
        assert_eq!(progress.note(prefill(6), now), Some(prefill(6)));
    }

    #[test]
    fn what_was_sent_is_what_the_next_worker_is_told() {
        let now = Instant::now();
        let mut progress = Progress::new(2, now);
        for event in [
            started(2),
            delta(0, "ab"),
            delta(1, ""),
            delta(0, "é"),
            GenerationEvent::Finished {
                choice: 0,
                reason: FinishReason::EndOfGeneration,
            },
        ] {
            progress.note(event, now);
        }
        let resume = progress.resume().unwrap();
        assert_eq!((resume.seed, resume.prompt), (5, vec![1, 2, 3]));
        assert_eq!(resume.choices[0].tokens, [7, 7]);
        assert_eq!(resume.choices[0].text_bytes, 4);
        assert_eq!(
            resume.choices[0].finished,
            Some(FinishReason::EndOfGeneration)
        );
        assert_eq!(resume.choices[1].tokens, [7]);
        assert_eq!(progress.generated_tokens(), 4);
    }

    #[test]
    fn guesses_of_lost_workers_count() {
        let now = Instant::now();
        let mut progress = Progress::new(1, now);
        for event in [started(2), speculated(3, 1), speculated(9, 4), delta(0, "")] {
            progress.note(event, now);
        }
        progress.lost();
        progress.note(speculated(2, 2), now);
        progress.lost();
        // This one has guessed nothing yet.
        progress.lost();
        let usage = Usage {
            drafted_tokens: 10,
            accepted_tokens: 5,
            ..Usage::default()
        };
        let done = GenerationEvent::Done {
            usage,
            timings: Timings::default(),
        };
        let Some(GenerationEvent::Done { usage, .. }) = progress.note(done, now) else {
            panic!("no end");
        };
        assert_eq!((usage.drafted_tokens, usage.accepted_tokens), (21, 11));
    }

    #[test]
    fn the_end_has_the_sums_of_the_whole() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut progress = Progress::new(1, began);
        progress.note(started(2), at(10));
        progress.note(delta(0, "a"), at(30));
        progress.lost();
        progress.note(started(9), at(5000));
        progress.note(delta(0, "b"), at(5030));
        let done = GenerationEvent::Done {
            usage: Usage {
                prompt_tokens: 10,
                cached_tokens: 9,
                generated_tokens: 2,
                ..Usage::default()
            },
            timings: Timings::default(),
        };
        let Some(GenerationEvent::Done { usage, timings }) = progress.note(done, at(5030)) else {
            panic!("no end");
        };
        assert_eq!((usage.cached_tokens, usage.generated_tokens), (2, 2));
        assert_eq!((timings.queue_ms, timings.prefill_ms), (10.0, 20.0));
        assert_eq!((timings.first_token_ms, timings.decode_ms), (30.0, 5000.0));
    }
}
