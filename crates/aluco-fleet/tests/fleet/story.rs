//! A story that workers tell, and what a client sees of it.

use aluco_fake_worker::Script;
use aluco_fleet::proto::{FinishReason, GenerationEvent, GenerationSpec, TokenLogprob, Usage};

use crate::world::{World, events, within};

/// What a client saw of one generation.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) starts: usize,
    pub(crate) texts: Vec<String>,
    pub(crate) tokens: Vec<Vec<i32>>,
    pub(crate) logprobs: Vec<Vec<TokenLogprob>>,
    pub(crate) finished: Vec<Option<FinishReason>>,
    pub(crate) usage: Option<Usage>,
}

/// All of a generation, which must come to its end.
pub(crate) fn seen(events: &[GenerationEvent], choices: usize) -> Seen {
    let mut seen = Seen {
        texts: vec![String::new(); choices],
        tokens: vec![Vec::new(); choices],
        logprobs: vec![Vec::new(); choices],
        finished: vec![None; choices],
        ..Seen::default()
    };
    let mut shown = 0;
    for event in events {
        match event.clone() {
            GenerationEvent::Started { prompt, .. } => {
                assert!(prompt.is_empty(), "the prompt's tokens are not for clients");
                seen.starts += 1;
            }
            GenerationEvent::Prefill {
                processed_tokens, ..
            } => {
                assert!(processed_tokens >= shown, "prefill goes backwards");
                shown = processed_tokens;
            }
            GenerationEvent::Delta {
                choice,
                text,
                tokens,
                logprobs,
                ..
            } => {
                let choice = choice as usize;
                assert_eq!(seen.finished[choice], None, "text behind the end");
                seen.texts[choice] += &text;
                seen.tokens[choice].extend(tokens);
                seen.logprobs[choice].extend(logprobs);
            }
            GenerationEvent::Finished { choice, reason } => {
                let before = seen.finished[choice as usize].replace(reason);
                assert_eq!(before, None, "two ends");
            }
            GenerationEvent::Done { usage, .. } => seen.usage = Some(usage),
            GenerationEvent::Failed(failure) => panic!("{failure}"),
        }
    }
    seen
}

pub(crate) fn story() -> Script {
    Script {
        tokens: (0..20).map(|word| format!(" w{word}é")).collect(),
        delay_ms: 1,
        prefill_events: 3,
        ..Script::default()
    }
}

/// What a request gives whose worker is never harmed.
pub(crate) async fn undisturbed(script: &Script, spec: GenerationSpec) -> Seen {
    let world = World::new();
    let model = world.model("m", script);
    let fleet = world.fleet();
    let choices = spec.choices as usize;
    let generation = within(fleet.generate(&model, spec)).await.unwrap();
    seen(&events(generation).await, choices)
}

/// The same script without its accidents.
pub(crate) fn story_of(script: &Script) -> Script {
    Script {
        crash_after: None,
        hang_after: None,
        ..script.clone()
    }
}
